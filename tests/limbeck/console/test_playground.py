"""A query is sent to the services, and what they say is drawn on it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from engine.loopback import free_port
from limbeck.console.ask_service import ask
from tests.limbeck.console.consoles import console, secret
from tests.limbeck.console.services import answer, service
from tests.limbeck.console.small_run import make_run
from tests.limbeck.stages.shop import write_shop
from tests.limbeck.test_cli import in_process
from tests.llm_client.fake_api import FakeApi

KNOWN = "verdant oat milk 0"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    make_run(tmp_path / "runs")
    return tmp_path / "runs"


def error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "x", "param": None, "code": None}}


def test_labels_are_drawn_with_where_they_come_from(runs: Path) -> None:
    asked: list[Any] = []
    with service(asked=asked) as url, console(runs, services=(url,)) as browser:
        page = browser.get("/playground", params={"query": "verdant <b>milk"}).text
        browser.get("/playground", params={"query": "x", "run": "shop", "cache": "no"})
    assert '<mark class="c1">verdant<small>brand</small></mark> &lt;b&gt;milk' in page
    assert '<span class="chip c3">dairy<small>aisle</small></span>' in page  # the colours of the task's roles
    for said in ("<b>ok</b>", "from the student", "right with 87.0 %", "task shop, bundle abc123", "90.0 %"):
        assert said in page
    assert asked == [
        ("/v1/label", {"query": "verdant <b>milk", "use_cache": True}, None),
        ("/v1/label", {"query": "x", "use_cache": False, "task": "shop"}, None),
    ]


def test_a_task_without_a_run_has_colours_too(runs: Path) -> None:
    with service(task="elsewhere") as url, console(runs, services=(url,)) as browser:
        page = browser.get("/playground?query=verdant+milk").text
    assert '<mark class="c1">verdant' in page
    assert '<span class="chip c2">dairy' in page


def test_two_services_are_side_by_side_with_what_differs_marked(runs: Path) -> None:
    other = [{"role": "product", "text": "milk", "start": 8, "end": 12, "confidence": None}, answer("x y")["labels"][1]]
    with service() as one, service(labels=other, source="cache", probability=None) as two:
        with console(runs, services=(one, two)) as browser:
            page = browser.get("/playground?query=verdant+milk").text
        with console(runs, services=(one, one)) as browser:
            same = browser.get("/playground?query=verdant+milk").text
    assert '<mark class="c1 only">verdant' in page
    assert '<mark class="c2 only">milk' in page
    assert page.count("<b>only here</b>") == 2
    assert page.count("Not here:") == 2
    assert 'class="chip c3">dairy' in page  # what both say is not marked
    assert "from the head cache" in page
    assert "What the services say differs." in page
    assert "Both say the same." in same


@pytest.mark.parametrize(("status", "body", "said"), [
    (401, error("a key is missing"), "It asks for an API key: a key is missing; start the console with"),
    (422, error("query 0 has 9,000 characters"), "It does not take this query: query 0 has 9,000 characters."),
    (429, error("more than 2 requests"), "of this caller now: more than 2 requests. It may be asked again in 7 s."),
    (503, error("the engine is down"), "It cannot answer now: the engine is down; its engine may be starting"),
    (404, error("no task 'x'; served: y"), "It does not know what is asked for: no task &#39;x&#39;; served: y."),
    (500, b"<html>", "It answers with an error, 500: it does not say why."),
    (200, b"<html>", "What it answers is no labelling."), (200, [], "What it answers is no labelling."),
    (200, {"labels": [{"role": "brand"}]}, "What it answers is no labelling."),
])
def test_what_keeps_a_service_from_answering_is_said(runs: Path, status: int, body: Any, said: str) -> None:
    with service(status, body) as url, service() as well, console(runs, services=(url, well)) as browser:
        page = browser.get("/playground?query=verdant+milk")
    assert page.status_code == 200
    assert said in page.text
    assert "from the student" in page.text  # the other one's answer is shown
    assert "only here" not in page.text


@pytest.mark.parametrize("place", [(1, 8), (0, None), (None, 7), (0, 999), ("a", 7), (-3, 7)])
def test_labels_that_are_nowhere_in_the_query_are_not_drawn(place: tuple[Any, Any]) -> None:
    wrong = [{"role": "brand", "text": "verdant", "start": place[0], "end": place[1], "confidence": 0.5}]
    with service(labels=wrong) as url:
        found = ask(url, "verdant milk", use_cache=True)
    assert found.labels is None
    assert "no labelling" in found.problem


def test_a_service_that_is_down_is_said_to_be(runs: Path) -> None:
    with console(runs, services=(f"http://127.0.0.1:{free_port()}",)) as browser:
        page = browser.get("/playground?query=verdant+milk").text
    assert "It cannot be reached: " in page
    assert "refused" in page


def test_the_key_of_the_environment_is_sent(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMBECK_API_KEY", "k-1")
    asked: list[Any] = []
    with service(asked=asked) as url, console(runs, services=(url,)) as browser:
        page = browser.get("/playground?query=x").text
    assert asked[0][2] == "Bearer k-1"
    assert "k-1" not in page


def test_what_the_teacher_was_shown_is_shown_for_a_query_that_the_run_knows(runs: Path) -> None:
    make_run(runs, name="imported", teacher={"backend": "labels"}, data={"dir": ".", "labels": "labels.jsonl"})
    with console(runs) as browser:
        known = browser.get("/playground", params={"query": KNOWN, "run": "shop"}).text
        new = browser.get("/playground", params={"query": "new", "run": "shop"}).text
        imported = browser.get("/playground", params={"query": "new", "run": "imported"}).text
        nothing = browser.get("/playground", params={"query": "new", "run": "other"})
        bare = browser.get("/playground").text
    assert "<li>Best oat milk</li>" in known  # an item by its title
    assert "<li>oat drink</li>" in known
    assert "The run shop does not know this query." in new
    assert "Show the prompt" in new
    assert "Its teacher is no LLM" in imported
    assert "Show the prompt" not in imported
    assert nothing.status_code == 404
    assert "start the console with <code>--service URL</code>" in bare


def test_the_prompt_of_any_query_is_shown_by_a_command_beside_the_console(tmp_path: Path) -> None:
    with FakeApi(lambda _query, _nth: "ok") as api:
        task = write_shop(tmp_path, ["oat milk"], api.url)
        assert in_process("label", task, "--runs", tmp_path / "runs").returncode == 0
        asked = sum(api.calls.values())
        given = {"run": "shop", "query": "--new \"<i>milk\""}
        with console(tmp_path / "runs") as browser:
            csrf = secret(browser)
            assert "Show the prompt" in browser.get("/playground", params=given).text
            assert browser.post("/playground/context", data=given).status_code == 403
            assert browser.post("/playground/context", data={**given, "csrf": csrf, "query": "a\0b"}).status_code == 400
            done = browser.post("/playground/context", data={**given, "csrf": csrf})
            assert done.status_code == 303
            assert done.headers["location"].endswith("#context")
            address = done.headers["location"].partition("?")[2].partition("#")[0]
            until = time.monotonic() + 240
            while "hx-trigger" in (part := browser.get(f"/playground/context?{address}").text):
                assert time.monotonic() < until
                time.sleep(0.5)
            page = browser.get(done.headers["location"]).text
        assert sum(api.calls.values()) == asked
    assert "Request <i>label</i>" in part, part
    assert "--new &#34;&lt;i&gt;milk&#34;</pre>" in part
    assert part in page
    assert "<i>milk" not in page


def test_a_context_is_not_looked_up_in_another_runs_folder(runs: Path) -> None:
    (runs / "shop").rename(runs / "moved")
    with console(runs) as browser:
        said = browser.post("/playground/context", data={"csrf": secret(browser), "run": "moved", "query": "x"})
    assert said.status_code == 409
    assert "holds a run of task" in said.text
