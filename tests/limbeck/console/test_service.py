"""The page of the service: what its operators' port says, and what keeps it from saying it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.loopback import free_port
from serving.telemetry.metrics import Metrics
from tests.limbeck.console.consoles import add_user, console, sign_in
from tests.serving.local_http import Handler, listening

AT = "2026-11-28T10:00:00+00:00"
ACTIVE = {
    "bundle": "abc", "folder": "/x", "model": "m", "runs_on": "openvino", "engine": "ready", "pid": 1, "restarts": 2,
    "log": "/l", "why": None, "gate": "passed",
}
TASK: dict[str, Any] = {
    "active": ACTIVE, "trial": ACTIVE | {"bundle": "new"}, "kept": None, "asked": True, "since": AT, "canary": 0.05,
    "shadow": 0.0, "refused": {"id": "bad", "why": "failed on <b>9 %</b>", "at": AT},
}


def status(**task: Any) -> bytes:
    news = [{"at": AT, "text": f"event {i}", "failed": i == 9} for i in range(10)]
    return json.dumps({"tasks": {"shop": TASK | task}, "generation": 1, "workers": [], "news": news}).encode()


def metrics() -> bytes:
    found = Metrics()
    found.count(found.answers, "abc", "cache", "ok")
    found.observe(found.seconds, 0.0012, "/v1/label", "cache")
    found.count(found.refused, "rate")
    return found.text()


@contextmanager
def operators(said: bytes, figures: bytes) -> Iterator[str]:
    """An operators' port that says this."""

    class Port(Handler):
        def get(self) -> None:
            self.reply({"/status": said, "/metrics": figures}[self.path])

    with listening(Port) as url:
        yield url


def test_what_is_served_and_how(tmp_path: Path) -> None:
    with operators(status(), metrics()) as url, console(tmp_path, operators=url) as browser:
        page = browser.get("/service").text
        part = browser.get("/service/now").text
        paused = browser.get("/service?paused=yes").text
    assert 'hx-get="/service/now" hx-trigger="every 3s"' in page
    assert "hx-trigger" not in paused
    assert "<html" not in part
    for said in (
        "<b>abc</b> since 2026-11-28 10:00 UTC · gate: passed", "2 restarts", "<b>new</b>, engine ready",
        "canary: it answers 5.0 % of the queries", "failed on &lt;b&gt;9 %&lt;/b&gt;", "100.0 %",
        "1 request refused: rate", "interpolated within its buckets", "event 9", "event 2",
    ):
        assert said in page, said
        assert said in part
    assert "event 1<" not in page  # the last eight


def test_a_service_of_before_says_less(tmp_path: Path) -> None:
    old = {k: v for k, v in TASK.items() if k not in ("since", "canary", "shadow", "refused", "trial")}
    said = json.dumps({"tasks": {"shop": old}, "news": []}).encode()
    with operators(said, metrics()) as url, console(tmp_path, operators=url) as browser:
        page = browser.get("/service")
    assert page.status_code == 200
    assert "<b>abc</b> · gate: passed" in page.text


def test_a_task_whose_engine_is_down_is_said_to_answer_from_caches(tmp_path: Path) -> None:
    active = ACTIVE | {"engine": "starting", "why": "it was killed"}
    with operators(status(asked=False, active=active), metrics()) as url, console(tmp_path, operators=url) as browser:
        page = browser.get("/service").text
    assert '<span class="bad">starting</span>' in page
    assert "it was killed" in page
    with operators(status(active=None), metrics()) as url, console(tmp_path, operators=url) as browser:
        assert "nothing yet" in browser.get("/service").text


@pytest.mark.parametrize(("said", "figures", "problem"), [
    (b"<html>", metrics(), "/status answers is not what a service says"), (b"[]", b"", "is not what a service says"),
    (b'{"tasks": {"a": {"active": 1}}, "news": []}', metrics(), "is not what a service says"),
    (status(), b"<html>", "/metrics answers is not what a service says"),
])
def test_an_address_of_something_else_is_said_to_be(tmp_path: Path, said: bytes, figures: bytes, problem: str) -> None:
    with operators(said, figures) as url, console(tmp_path, operators=url) as browser:
        page = browser.get("/service")
    assert page.status_code == 200
    assert problem in page.text


def test_what_cannot_be_reached_is_said(tmp_path: Path) -> None:
    with console(tmp_path, operators=f"http://127.0.0.1:{free_port()}") as browser:
        assert "/status cannot be reached: " in browser.get("/service").text
    with console(tmp_path) as browser:
        page = browser.get("/service").text
        assert browser.get("/service/now").text.strip() == ""
    assert "<code>--operators URL</code>" in page
    assert "<code>--pointer FILE</code>" in page


def test_the_pointer_is_shown_and_a_broken_one_does_not_hide_the_service(tmp_path: Path) -> None:
    pointer = tmp_path / "live.json"
    add_user(tmp_path, "ada", "look")
    with operators(status(), metrics()) as url, console(tmp_path, operators=url, pointer=pointer) as browser:
        sign_in(browser, "ada")
        page = browser.get("/service").text
        assert "nothing has been released yet" in page
        assert "Releases and rollbacks need the role" in page
        assert "/service/release" not in page
        pointer.write_text("{}")
        page = browser.get("/service").text
        assert "not a release pointer" in page
        assert "<b>abc</b>" in page
