"""Playground, service's page, release and rollback with a whole service."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from engine.loopback import free_port
from serving.client import served
from serving.release.bundle import Bundle, stamp
from serving.release.pointer import release
from task.files import write_json
from task.serving_settings import Change
from task.tokenizer import FastTokenizer
from tests.limbeck.console.consoles import console
from tests.limbeck.console.test_release import GOOD, form
from tests.serving.bundles import HITS, MISSES, TASK, made

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def until(browser: TestClient, said: str) -> str:
    """The part of the service's page that changes, once it says this."""
    deadline = time.monotonic() + 120
    while said not in (part := browser.get("/service/now").text):
        assert time.monotonic() < deadline, part
        time.sleep(0.5)
    return part


def test_a_service_is_asked_looked_at_changed_and_changed_back(
    tmp_path: Path, tiny_llama: Path, tokenizer: FastTokenizer
) -> None:
    runs, pointer, state, admin = tmp_path / "runs", tmp_path / "live.json", tmp_path / "state", free_port()
    bundles: list[Bundle] = []
    for name, product in (("first", "oat"), ("second", "milk")):
        bundles.append(made(runs / name / "bundle", tiny_llama, tokenizer, product, openvino=True))
        write_json(runs / name / "task.json", TASK.model_dump(mode="json"))
    first, second = bundles
    stamp(second.folder, [GOOD])
    release(pointer, bundle=first.folder, change=Change(), ungated=True)
    with (
        served(pointer, state=state, options=["--admin-port", str(admin), "--set", "request_timeout_s=30"]) as url,
        console(runs, services=(url,), operators=f"http://127.0.0.1:{admin}", pointer=pointer) as browser,
    ):
        page = browser.get("/playground", params={"query": HITS[0]}).text
        assert ">oat<small>product</small></mark>" in page
        assert "from the head cache" in page
        assert f"task toy, bundle {first.id}" in page
        asked = browser.get("/playground", params={"query": MISSES[0], "cache": "no", "run": "first"}).text
        assert "from the student" in asked
        part = until(browser, "/v1/label</td><td>student")
        for said in (f"<b>{first.id}</b> since 20", "gate: no gate has judged it", '<span class="good">ready</span>'):
            assert said in part, said
        assert "50.0 %" in part  # one of two queries was a hit
        assert "nothing to roll back to" in browser.get("/service").text

        page = browser.get("/service/release?run=second&canary=0.5&canary_s=5&keep_s=60").text
        assert browser.post("/service/release", data=form(page)).status_code == 303
        assert "canary: it answers 50.0 % of the queries" in until(browser, "canary: it")
        until(browser, f"<b>{second.id}</b> since")
        page = browser.get("/playground", params={"query": HITS[0]}).text
        assert ">milk<small>product</small></mark>" in page
        until(browser, f"<dd>{first.id}, for a fast rollback")

        page = browser.get("/service/rollback").text
        assert browser.post("/service/rollback", data=form(page)).status_code == 303
        until(browser, f"<b>{first.id}</b> since")
        assert ">oat<small>" in browser.get("/playground", params={"query": HITS[0]}).text
    with console(runs, services=(url,), operators=f"http://127.0.0.1:{admin}") as browser:
        assert "cannot be reached" in browser.get("/service").text
        assert "cannot be reached" in browser.get("/playground?query=x").text
