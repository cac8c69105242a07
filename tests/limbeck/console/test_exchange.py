"""Review work goes out to annotation tools and comes back as decisions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from teacher.ledger.reviews import Reviews, read_verdicts
from tests.limbeck.console.consoles import console, secret
from tests.limbeck.console.small_run import make_run, rows
from tests.limbeck.console.test_review import wait_for_index

UNSURE = {r.query for r in rows() if r.status != "accepted"}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    make_run(tmp_path)
    return tmp_path


@pytest.fixture
def browser(runs: Path) -> Iterator[TestClient]:
    with console(runs) as client:
        wait_for_index(client)
        yield client


def exported(client: TestClient, format_: str, what: str = "uncertain") -> bytes:
    found = client.get("/runs/shop/exchange/file", params={"format": format_, "what": what})
    assert found.status_code == 200, found.text
    assert "attachment" in found.headers["content-disposition"]
    return found.content


def imported(client: TestClient, format_: str, content: bytes, queue: str = "uncertain", name: str = "back") -> Any:
    return client.post("/runs/shop/exchange", data={"csrf": secret(client), "format": format_, "queue": queue},
                       files={"file": (name, content)})


@pytest.mark.parametrize("format_", ["doccano", "conll"])
def test_a_queue_goes_out_and_its_decisions_come_back(runs: Path, browser: TestClient, format_: str) -> None:
    content = exported(browser, format_)
    done = imported(browser, format_, content)
    assert done.status_code == 200
    assert f"{len(UNSURE)} decisions taken in" in done.text
    found = read_verdicts(runs / "shop" / "ledger.sqlite")
    assert found.keys() == UNSURE
    assert not any(v.changed for v in found.values())
    again = imported(browser, format_, content)
    assert f"0 decisions taken in, {len(UNSURE)} were there already" in again.text
    with Reviews(runs / "shop" / "ledger.sqlite") as reviews:
        assert len(reviews.latest(100)) == len(UNSURE)
    assert browser.get("/runs/shop/exchange/file?format=conll&what=uncertain").status_code == 404  # nothing is left
    assert len(exported(browser, format_, "decided")) > 100


def test_label_studio_brings_people_times_and_skips(runs: Path, browser: TestClient) -> None:
    tasks = json.loads(exported(browser, "label-studio"))
    assert {t["data"]["text"] for t in tasks} == UNSURE
    for n, task in enumerate(tasks[:3]):
        result = task["predictions"][0]["result"]
        task["annotations"] = [{
            "result": result[:1] if n == 1 else result, "completed_by": {"email": "ada@shop.example"},
            "created_at": "2026-03-01T10:00:00Z", "was_cancelled": n == 2,
        }]
    done = imported(browser, "label-studio", json.dumps(tasks).encode(), name="export.json")
    assert "3 decisions taken in" in done.text
    assert "a prediction that nobody has reviewed" in done.text
    with Reviews(runs / "shop" / "ledger.sqlite") as reviews:
        found = {r.query: r for r in reviews.latest(10)}
        queries = [t["data"]["text"] for t in tasks[:3]]
        assert [found[q].decision for q in queries] == ["accept", "correct", "skip"]
        assert {r.person for r in found.values()} == {"ada@shop.example"}
        assert {r.created for r in found.values()} == {1_772_359_200.0}
    audit = browser.get("/audit").text
    assert "decisions imported" in audit


def test_what_cannot_be_read_is_said_and_nothing_is_taken_in(runs: Path, browser: TestClient) -> None:
    good = exported(browser, "doccano").decode().splitlines()
    bad = "\n".join([*good[:2], '{"text": "x", "label": [[0, 9, "brand"]]}']).encode()
    done = imported(browser, "doccano", bad, name="mine.jsonl")
    assert done.status_code == 400
    assert "mine.jsonl:3" in done.text
    assert read_verdicts(runs / "shop" / "ledger.sqlite") == {}
    for form in ({"format": "xml"}, {"queue": "none"}, {"csrf": "wrong"}):
        answer = browser.post("/runs/shop/exchange", files={"file": ("f", b"x")}, data={
            "csrf": secret(browser), "format": "doccano", "queue": "audit", **form,
        })
        assert answer.status_code in (400, 403)


def test_queries_that_the_run_does_not_know_are_counted_and_audits_become_gold(
    runs: Path, browser: TestClient
) -> None:
    known = rows()[5]
    lines = [json.dumps({"text": q, "label": []}) for q in (known.query, "never heard of")]
    done = imported(browser, "doccano", "\n".join(lines).encode(), queue="audit")
    assert "1 decisions taken in" in done.text
    assert "1 are of queries that the run does not know" in done.text
    (found,) = read_verdicts(runs / "shop" / "ledger.sqlite").values()
    assert (found.query, found.gold, found.labels) == (known.query, True, ())
