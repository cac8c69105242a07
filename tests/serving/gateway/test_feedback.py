"""`POST /v1/feedback`: what is kept, what is refused and why, and that 200 means that it is in a file."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from serving.gateway.admission import Callers
from serving.gateway.api_keys import make_key, read_keys
from serving.gateway.messages import FeedbackResponse
from serving.telemetry.kept_files import KeptFiles
from task.captures import file_of
from task.feedback import Feedback, read_feedback
from task.labels import Label
from tests.serving.conftest import Harness, Open


@pytest.fixture
def files(tmp_path: Path) -> KeptFiles:
    (tmp_path / "state").mkdir()
    return KeptFiles(tmp_path / "state")


async def said(h: Harness, files: KeptFiles | None, headers: Any = None, **body: Any) -> Any:
    h.gateway.kept = files
    return await h.client.post("/v1/feedback", json={"query": "rice milk", **body}, headers=headers)


def kept(files: KeptFiles) -> list[Feedback]:
    return list(read_feedback(files.feedback))


def test_each_kind_is_kept_with_what_it_says(harness: Open, files: KeptFiles) -> None:
    async def run() -> None:
        async with harness() as h:
            bundle = h.route.bundle.id
            answers = [
                await said(h, files, verdict="right", bundle=bundle), await said(h, files, verdict="wrong"),
                await said(h, files, labels=[{"role": "product", "text": "milk"}, {"role": "aisle", "text": "dairy"}]),
                await said(h, files, labels=[], task="toy"), await said(h, files, item="sku-1", count=3, bundle="old"),
            ]
            assert [a.status_code for a in answers] == [200] * 5, [a.text for a in answers]
            for a in answers:
                FeedbackResponse.model_validate(a.json())
            found = kept(files)
            assert [f.kind for f in found] == [a.json()["kind"] for a in answers]
            assert [f.kind for f in found] == ["right", "wrong", "labels", "labels", "item"]
            assert {(f.query, f.keyed_hash, f.task) for f in found} == {("rice milk", None, "toy")}
            assert [f.bundle for f in found] == [bundle, None, None, None, "old"]
            assert found[2].labels == (Label("product", "milk", 5, 9), Label("aisle", "dairy"))
            assert found[3].labels == ()
            assert (found[4].item, found[4].count) == ("sku-1", 3)
            text = (await h.client.get("/metrics")).text
            assert f'limbeck_feedback_total{{bundle="{bundle}",kind="labels"}} 2.0' in text
            assert 'limbeck_feedback_total{bundle="other",kind="item"} 1.0' in text

    asyncio.run(run())


def test_a_start_chooses_among_equal_words(harness: Open, files: KeptFiles) -> None:
    async def run() -> None:
        async with harness() as h:
            label = {"role": "product", "text": "milk"}
            for start in (None, 10):
                more = {} if start is None else {"start": start}
                assert (await said(h, files, query="milk oats milk", labels=[label | more])).status_code == 200
            assert [f.labels for f in kept(files)] == [
                (Label("product", "milk", 0, 4),), (Label("product", "milk", 10, 14),),
            ]

    asyncio.run(run())


@pytest.mark.parametrize(("body", "message", "param"), [
    ({}, "exactly one of", None), ({"verdict": "right", "item": "a"}, "exactly one of", None),
    ({"verdict": "maybe"}, "right", "verdict"), ({"verdict": "right", "count": 2}, "`count` belongs to `item`", None),
    ({"item": ""}, "at least 1 character", "item"), ({"item": "a", "count": 0}, "greater than or equal to 1", "count"),
    ({"verdict": "right", "query": " "}, "blank", "query"),
    ({"verdict": "right", "query": "x" * 9_000}, "characters", "query"),
    ({"verdict": "right", "surprise": 1}, "Extra inputs", "surprise"),
    ({"labels": [{"role": "size", "text": "milk"}]}, "size", "labels.0"),
    ({"labels": [{"role": "aisle", "text": "dairy"}, {"role": "product", "text": "oat"}]}, "'oat'", "labels.1"),
    ({"labels": [{"role": "aisle", "text": "no such aisle"}]}, "no such aisle", "labels.0"),
    ({"labels": [{"role": "product", "text": "milk", "start": 4}]}, "`start` 4", "labels.0"),
    ({"labels": [{"role": "aisle", "text": "dairy", "start": 0}]}, "no `start`", "labels.0"),
    ({"labels": [{"role": "product", "text": "milk"}, {"role": "product", "text": "milk"}]}, "milk", "labels"),
    ({"labels": [{"role": "product"}]}, "Field required", "labels.0.text"),
])
def test_what_is_wrong_is_refused_with_the_field(
    harness: Open, files: KeptFiles, body: dict[str, Any], message: str, param: str | None
) -> None:
    async def run() -> None:
        async with harness() as h:
            answer = await said(h, files, **body)
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (422, param), error
            assert message in error["message"]
            assert not files.files()

    asyncio.run(run())


def test_an_unknown_task_is_404_and_a_service_without_a_state_folder_keeps_none(
    harness: Open, files: KeptFiles
) -> None:
    async def run() -> None:
        async with harness() as h:
            assert (await said(h, files, verdict="right", task="other")).status_code == 404
            refused = await said(h, None, verdict="right")
            assert (refused.status_code, "no state folder" in refused.text) == (409, True)

    asyncio.run(run())


def test_a_hash_is_kept_in_place_of_the_text_and_labels_which_are_texts_are_refused(
    harness: Open, files: KeptFiles
) -> None:
    async def run() -> None:
        async with harness(certain={"keep": "hash"}) as h:
            assert (await said(h, files, verdict="wrong", query="Secret Name")).status_code == 200
            assert (await said(h, files, item="sku-1", query="Secret Name")).status_code == 200
            refused = await said(h, files, labels=[{"role": "product", "text": "Name"}], query="Secret Name")
            assert (refused.status_code, refused.json()["error"]["param"]) == (409, "labels")
            assert "serving.certain.keep" in refused.json()["error"]["message"]
            assert [(f.query, f.keyed_hash) for f in kept(files)] == [(None, files.key.hash("secret name"))] * 2
            assert b"Secret" not in b"".join(p.read_bytes() for p in files.files())

    asyncio.run(run())


def test_where_nothing_is_to_be_kept_feedback_is_refused(harness: Open, files: KeptFiles) -> None:
    async def run() -> None:
        async with harness(certain={"keep": "nothing"}) as h:
            for body in ({"verdict": "wrong"}, {"item": "a"}, {"labels": []}):
                assert (await said(h, files, **body)).status_code == 409
            assert not files.files()

    asyncio.run(run())


def test_what_the_disk_does_not_take_is_refused_and_an_answer_is_not(harness: Open, files: KeptFiles) -> None:
    async def run() -> None:
        async with harness() as h:
            assert (await said(h, files, verdict="right")).status_code == 200
            path = file_of(files.feedback, kept(files)[0].at)
            path.unlink()
            path.symlink_to("/dev/full")
            refused = await said(h, files, verdict="right")
            assert (refused.status_code, "is not kept" in refused.text) == (503, True)
            assert int(refused.headers["Retry-After"]) >= 1
            assert (await h.label("rice milk")).status_code == 200
            text = (await h.client.get("/metrics")).text
            assert 'limbeck_refused_total{reason="disk"} 1.0' in text
            assert f'limbeck_feedback_total{{bundle="{h.route.bundle.id}",kind="right"}} 1.0' in text

    asyncio.run(run())


def test_feedback_waits_for_a_removal_no_longer_than_its_deadline(harness: Open, files: KeptFiles) -> None:
    async def run() -> None:
        async with harness() as h:
            lock = os.open(files.folder / "kept.lock", os.O_RDWR | os.O_CREAT)
            fcntl.flock(lock, fcntl.LOCK_EX)
            late = await said(h, files, {"X-Request-Timeout-Ms": "50"}, verdict="right")
            assert (late.status_code, "may still be kept" in late.text) == (503, True)
            os.close(lock)

    asyncio.run(run())


def test_feedback_needs_a_key_and_costs_a_query(harness: Open, files: KeptFiles, tmp_path: Path) -> None:
    async def run() -> None:
        async with harness() as h:
            key = make_key(tmp_path / "keys.json", "web", rate=0.001, burst=1, concurrency=4)
            h.gateway.callers = Callers(read_keys(tmp_path / "keys.json"))
            assert (await said(h, files, verdict="right")).status_code == 401
            headers = {"Authorization": f"Bearer {key}"}
            wrong = await said(h, files, headers, labels=[{"role": "none", "text": "milk"}])
            assert wrong.status_code == 422  # costs nothing
            assert (await said(h, files, headers, verdict="right")).status_code == 200
            assert (await said(h, files, headers, verdict="right")).status_code == 429
            assert len(kept(files)) == 1

    asyncio.run(run())
