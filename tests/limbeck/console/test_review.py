"""Review without a browser: who gets which query, and what becomes of a decision."""

from __future__ import annotations

import html
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from task.labels import Label
from teacher.ledger.reviews import read_verdicts
from tests.limbeck.console.consoles import add_user, console, secret, sign_in
from tests.limbeck.console.small_run import make_run, rows

UNSURE = sorted((r for r in rows() if r.status != "accepted"), key=lambda r: -(1 - r.confidence) * r.count)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    make_run(tmp_path)
    return tmp_path


@pytest.fixture
def browser(runs: Path) -> Iterator[TestClient]:
    with console(runs) as client:
        wait_for_index(client)
        yield client


def wait_for_index(client: TestClient) -> None:
    """The index of labels is made in the background."""
    index = client.app.state.console.runs.run("shop").index  # type: ignore[attr-defined]
    while index.state().as_of is None:
        time.sleep(0.02)


def form_of(page: str) -> dict[str, str]:
    """The fields of the form that decides."""
    found = re.search(r'<form[^>]*id="decision".*?</form>', page, re.DOTALL)
    assert found, page
    return {
        html.unescape(name): html.unescape(value)
        for name, value in re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', found[0])
    }


def send(
    client: TestClient, form: dict[str, str], decision: str = "keep", queue: str = "uncertain", **more: str
) -> Any:
    return client.post(f"/runs/shop/review/{queue}", data={**form, "decision": decision, **more})


def test_the_queue_begins_with_the_most_expected_errors_and_goes_on_after_each_decision(browser: TestClient) -> None:
    for row in UNSURE[:4]:
        form = form_of(browser.get("/runs/shop/review/uncertain").text)
        assert form["query"] == row.query
        assert form_of(browser.get("/runs/shop/review/uncertain").text)["query"] == row.query  # until it is decided
        done = send(browser, form)
        assert (done.status_code, done.headers["location"]) == (303, "/runs/shop/review/uncertain")


def test_a_decision_is_kept_as_what_it_is(runs: Path, browser: TestClient) -> None:
    kept, changed, rejected, skipped = UNSURE[:4]
    send(browser, form_of(browser.get("/runs/shop/review/uncertain").text))
    product = [{"role": "product", "text": changed.query, "start": 0, "end": len(changed.query)}]
    send(browser, form_of(browser.get("/runs/shop/review/uncertain").text), labels=json.dumps(product))
    send(browser, form_of(browser.get("/runs/shop/review/uncertain").text), "reject")
    send(browser, form_of(browser.get("/runs/shop/review/uncertain").text), "skip")
    found = read_verdicts(runs / "shop" / "ledger.sqlite")
    assert {q: v.outcome for q, v in found.items()} == {
        kept.query: "labels", changed.query: "labels", rejected.query: "rejected",
    }
    assert not found[kept.query].changed
    assert found[changed.query].labels == (Label("product", changed.query, 0, len(changed.query)),)
    assert form_of(browser.get("/runs/shop/review/uncertain").text)["query"] not in {r.query for r in UNSURE[:4]}
    assert skipped.query not in found


def test_a_form_sent_twice_counts_once(runs: Path, browser: TestClient) -> None:
    form = form_of(browser.get("/runs/shop/review/uncertain").text)
    assert [send(browser, form).status_code, send(browser, form, "reject").status_code] == [303, 303]
    (found,) = read_verdicts(runs / "shop" / "ledger.sqlite").values()
    assert found.outcome == "labels"


@pytest.mark.parametrize(("labels", "problem"), [
    ([{"role": "brand", "text": "nowhere"}], "does not occur in the query"),
    ([{"role": "aisle", "text": "garage"}], "is not a value of"), ([{"role": "boss", "text": "x"}], "unknown role"),
    ([{"role": "aisle", "text": "dairy"}, {"role": "aisle", "text": "drinks"}], "two values of"),
    ([{"role": "brand", "text": "verdant", "start": 3, "end": 10}], "its span"),
])
def test_labels_that_the_task_does_not_allow_are_shown_again_with_the_problem(
    runs: Path, browser: TestClient, labels: list[dict[str, Any]], problem: str
) -> None:
    form = form_of(browser.get("/runs/shop/review/uncertain").text)
    again = send(browser, form, labels=json.dumps(labels))
    assert again.status_code == 422
    assert problem in html.unescape(again.text)
    assert json.loads(form_of(again.text)["labels"])[0]["text"] == labels[0]["text"]
    assert read_verdicts(runs / "shop" / "ledger.sqlite") == {}


@pytest.mark.parametrize("change", [
    {"labels": "no json"}, {"labels": '[{"role": 1}]'}, {"labels": '[{"role": "brand", "text": "x", "start": true}]'},
    {"token": "short"}, {"decision": "destroy"}, {"query": "not in the ledger"}, {"csrf": "wrong"},
])
def test_what_no_page_of_ours_sends_changes_nothing(runs: Path, browser: TestClient, change: dict[str, str]) -> None:
    form = form_of(browser.get("/runs/shop/review/uncertain").text)
    done = browser.post("/runs/shop/review/uncertain", data={**form, "decision": "keep", **change})
    assert done.status_code in (400, 403, 404)
    assert read_verdicts(runs / "shop" / "ledger.sqlite") == {}


def test_undo_takes_back_the_last_decision_and_shows_its_query(runs: Path, browser: TestClient) -> None:
    form = form_of(browser.get("/runs/shop/review/uncertain").text)
    send(browser, form)
    undo = {"csrf": form["csrf"], "token": form["token"]}
    done = browser.post("/runs/shop/review/uncertain/undo", data=undo)
    assert form_of(browser.get(done.headers["location"]).text)["query"] == form["query"]
    assert read_verdicts(runs / "shop" / "ledger.sqlite") == {}
    assert browser.post("/runs/shop/review/uncertain/undo", data=undo).status_code == 409
    assert form_of(browser.get("/runs/shop/review/uncertain").text)["query"] == form["query"]


def test_an_audit_makes_gold_and_draws_the_same_queries_for_everybody(runs: Path, browser: TestClient) -> None:
    order = []
    for _ in range(5):
        form = form_of(browser.get("/runs/shop/review/audit").text)
        order.append(form["query"])
        send(browser, form, queue="audit")
    assert all(v.gold for v in read_verdicts(runs / "shop" / "ledger.sqlite").values())
    assert order != sorted(order)
    with console(runs, state=runs / "other") as other:
        wait_for_index(other)
        assert form_of(other.get("/runs/shop/review/audit").text)["query"] not in order


def test_mistakes_on_gold_come_with_what_the_student_said(runs: Path, browser: TestClient) -> None:
    page = browser.get("/runs/shop/review/mistakes").text
    assert "student, merged and served differs from gold" in page
    form = form_of(page)
    assert form["query"] == "gold oat milk"
    send(browser, form, queue="mistakes", labels="[]")
    assert read_verdicts(runs / "shop" / "ledger.sqlite")["gold oat milk"].labels == ()
    send(browser, form_of(browser.get("/runs/shop/review/mistakes").text), queue="mistakes")
    assert "Nothing is left in this queue" in browser.get("/runs/shop/review/mistakes").text


def test_two_people_get_different_queries_and_with_two_for_each_query_the_same(runs: Path) -> None:
    for name in ("ada", "ben", "cyd"):
        add_user(runs, name, "look", "label")
    for people in (1, 2):
        with console(runs, people=people) as ada:
            wait_for_index(ada)
            sign_in(ada, "ada")
            ben = TestClient(ada.app, base_url="http://127.0.0.1", follow_redirects=False)
            cyd = TestClient(ada.app, base_url="http://127.0.0.1", follow_redirects=False)
            sign_in(ben, "ben")
            sign_in(cyd, "cyd")
            got = [form_of(who.get("/runs/shop/review/uncertain").text)["query"] for who in (ada, ben, cyd)]
            assert len(set(got)) == (3 if people == 1 else 2)
            if people == 2:
                assert got[0] == got[1] == UNSURE[0].query


def test_people_who_disagree_are_settled_by_somebody(runs: Path) -> None:
    for name in ("ada", "ben", "cyd"):
        add_user(runs, name, "look", "label")
    with console(runs, people=2) as ada:
        wait_for_index(ada)
        ben = TestClient(ada.app, base_url="http://127.0.0.1", follow_redirects=False)
        for name, who, labels in (("ada", ada, None), ("ben", ben, "[]")):
            sign_in(who, name)
            form = form_of(who.get("/runs/shop/review/uncertain").text)
            send(who, form, **({} if labels is None else {"labels": labels}))
        query = UNSURE[0].query
        assert read_verdicts(runs / "shop" / "ledger.sqlite")[query].outcome == "disputed"
        listed = ada.get("/runs/shop/decisions").text
        assert "1 query is disputed" in listed
        assert "ada, ben" in listed
        assert query in ada.get("/runs/shop/settle").text
        page = ada.get("/runs/shop/settle", params={"query": query, "of": "ben"})
        form = form_of(page.text)
        assert (form["labels"], form["to"]) == ("[]", "settle")
        done = send(ada, form, "settle", queue="search")
        assert done.headers["location"] == "/runs/shop/settle"
        assert read_verdicts(runs / "shop" / "ledger.sqlite")[query].outcome == "labels"
        assert "People agree" in ada.get("/runs/shop/settle").text


def test_who_may_only_look_cannot_decide(runs: Path) -> None:
    add_user(runs, "ada", "look")
    with console(runs) as browser:
        sign_in(browser, "ada")
        assert browser.get("/runs/shop/labels").status_code == 200
        for answer in (
            browser.get("/runs/shop/review/uncertain"), browser.get("/runs/shop/settle"),
            browser.post("/runs/shop/review/uncertain", data={"csrf": secret(browser)}),
            browser.post("/runs/shop/review/uncertain/undo", data={"csrf": secret(browser)}),
        ):
            assert answer.status_code == 403
            assert "needs the role `label`" in answer.text
        browser.cookies.clear()
        assert browser.post("/runs/shop/review/uncertain", data={}).status_code == 401
        assert read_verdicts(runs / "shop" / "ledger.sqlite") == {}


def test_values_of_a_closed_role_are_found_by_a_part_of_them(browser: TestClient) -> None:
    assert browser.get("/runs/shop/values", params={"role": "aisle", "text": "RI"}).json() == ["drinks"]
    assert browser.get("/runs/shop/values", params={"role": "mark", "text": "o"}).json() == ["organic", "kosher"]
    assert browser.get("/runs/shop/values", params={"role": "brand", "text": ""}).json() == []


def test_addresses_that_there_are_not_say_so(browser: TestClient) -> None:
    for address in ("/runs/none/labels", "/runs/shop/review/none", "/runs/shop/label?query=none", "/runs/..%2F..",
                    "/runs/shop/settle?query=none", "/runs/shop/review/uncertain?query=none"):
        assert browser.get(address).status_code == 404, address
