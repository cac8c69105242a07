"""Every answer that a client is given is captured, whatever path it came by, and nothing else is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from serving.routing.task_routes import Choice, Routes
from serving.telemetry.capture_log import CaptureLog
from serving.telemetry.kept_files import KeptFiles
from task.captures import read_captures
from task.serving_settings import Capturing, Serving
from tests.conftest import make_task
from tests.serving.conftest import Harness, Open


def capturing(h: Harness, folder: Path) -> CaptureLog:
    log = h.gateway.captures = CaptureLog(KeptFiles(folder), rows=100, window_s=60.0)
    return log


def test_answers_of_every_path_are_captured_and_refused_and_blank_queries_are_not(
    harness: Open, tmp_path: Path
) -> None:
    async def run() -> None:
        async with harness() as h:
            log = capturing(h, tmp_path)
            assert (await h.client.get("/readyz")).status_code == 200  # asks the student
            for _ in range(2):
                await h.label("oat milk")
            await h.label("one query")
            await h.label(" ")
            await h.client.post("/v1/label:batch", json={"queries": ["oat milk", "two", "two", "three", ""]})
            await h.client.post("/v1/understand", json={"query": "oat milk"})
            await h.client.post("/v1/understand", json={"query": "four", "stream": True})
            await h.client.post("/v1/chat/completions", json={
                "model": "student", "messages": [{"role": "user", "content": "five"}],
            })
            assert (await h.label("x" * 10_000)).status_code == 422
            h.engine.mood = "gone"
            assert (await h.label("refused")).status_code == 503
            log.turn(end=True)
            log.write()
            found = {(c.query, c.source): c for c in read_captures(tmp_path / "captures")}
            assert {k: c.count for k, c in found.items()} == {
                ("oat milk", "cache"): 4, ("one query", "student"): 1, ("two", "student"): 2, ("three", "student"): 1,
                ("four", "student"): 1, ("five", "student"): 1,
            }
            assert {(c.bundle, c.task) for c in found.values()} == {(h.route.bundle.id, "toy")}
            assert found["oat milk", "cache"].roles == {"product": 1, "aisle": 1}
            assert found["oat milk", "cache"].probability is None
            assert 0.0 < (found["two", "student"].probability or 0.0) <= 1.0

    asyncio.run(run())


def test_a_shadow_is_not_captured(harness: Open, tmp_path: Path) -> None:
    async def run() -> None:
        async with harness() as h:
            log = capturing(h, tmp_path)
            other = h.route  # shadow traffic goes to a route of its own; here the same bundle stands on both sides
            trial = type(other)(other.bundle, other.cache, other.student, other._settings)
            h.gateway.routes = Routes({"toy": Choice(other, trial, shadow=1.0)})
            await h.label("rice milk")
            while len(h.gateway._shadows):
                await asyncio.sleep(0.01)
            assert trial.answered == 1
            log.turn(end=True)
            log.write()
            assert [(c.query, c.count) for c in read_captures(tmp_path / "captures")] == [("rice milk", 1)]

    asyncio.run(run())


@pytest.mark.parametrize("keep", ["query", "hash", "nothing"])
def test_the_privacy_setting_of_the_bundle_holds_for_its_captures(harness: Open, tmp_path: Path, keep: str) -> None:
    async def run() -> None:
        async with harness(certain={"keep": keep}) as h:
            log = capturing(h, tmp_path)
            await h.label("rice milk")
            log.turn(end=True)
            log.write()
            (found,) = read_captures(tmp_path / "captures")
            assert found.query == ("rice milk" if keep == "query" else None)
            assert found.keyed_hash == (KeptFiles(tmp_path).key.hash("rice milk") if keep == "hash" else None)

    asyncio.run(run())


def test_tasks_and_bundles_of_before_are_what_they_were() -> None:
    """A section at its defaults is not dumped: it would change the id of every bundle and the state of every stage."""
    assert "capture" not in make_task().serving.model_dump(mode="json")
    assert '"capture"' not in Serving(certain=Serving().certain).model_dump_json()
    changed = Serving(capture=Capturing(rows=0))
    assert changed.model_dump()["capture"] == {"rows": 0, "window_s": 60.0, "days": 90}
    for settings in (Serving(), changed):
        assert Serving.model_validate_json(settings.model_dump_json()) == settings
