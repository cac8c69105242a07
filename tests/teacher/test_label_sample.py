"""The label page: queries of every status, role and confidence, with what the teacher saw, and text as text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from eval.report import write_labels
from llm_client.attempt import Attempt
from task.labels import Label
from task.readers import Item
from teacher.label_sample import sample, shown_context
from teacher.ledger.ledger import Ledger
from teacher.ledger.records import STATUSES, LedgerRow

MARKUP = "<script>alert(1)</script> & <img src=x>"


@pytest.fixture
def ledger() -> Ledger:
    """A thousand rows; every status, a rare role, and one query and one title with markup."""
    rows = [
        LedgerRow(f"q{i}", 1, "", STATUSES[i % 5], (Label("brand", f"q{i}", confidence=i / 1000),), i / 1000)
        for i in range(1000)
    ]
    rows[500] = LedgerRow("rare", 1, "", "accepted", (Label("mark", "vegan"),), 0.5)
    rows[999] = LedgerRow(
        MARKUP, 1, "", "failed", (Label("brand", MARKUP),), 1.0, reason=MARKUP,
        verdicts=[{"role": "brand", "text": MARKUP, "verdict": "rejected", "reason": "not grounded"}],
    )
    out = Ledger(Path(":memory:"))
    out.record([Attempt(
        request="k", query=MARKUP, backend="openai", model="m", reply="{}", evidence={"items": ["1", "2"]}
    )], rows)
    return out


def test_the_sample_has_every_status_and_role_from_the_least_to_the_most_confident(ledger: Ledger) -> None:
    rows = list(ledger.all_rows())
    found = sample(rows, ["brand", "mark", "absent"], ledger, [Item("1", f"Title {MARKUP}")])
    assert len(found) < 80
    assert len({q["query"] for q in found}) == len(found)
    for status in STATUSES:
        confidence = [q["confidence"] for q in found if q["status"] == status]
        assert confidence == sorted(confidence)
        assert (confidence[0] < 0.01, confidence[-1] > 0.99) == (True, True)
        assert any(0.4 < c < 0.6 for c in confidence)
    assert any(q["query"] == "rare" for q in found)
    assert sample(reversed(rows), ["brand", "mark"], ledger, [])[0]["query"] == found[0]["query"]
    (strange,) = (q for q in found if q["query"] == MARKUP)
    assert strange["evidence"] == f"items: Title {MARKUP}; 2"


def test_context_by_role_is_shown_with_its_values_and_examples_as_text(ledger: Ledger) -> None:
    context = {
        "converted": {"brand": ["Abus", "Kryptonite"], "colour": ["black", "red", "blue", "green", "pink"]},
        "examples": [
            {"query": "abus lock", "labels": [{"role": "brand", "text": "abus"}]}, {"query": "?", "labels": []},
        ],
        "neighbours": ["bike lock"], "similar": {}, "conversions": {"1": 7, "unknown": 2},
    }
    ledger.record([Attempt(request="r", query="rare", backend="openai", model="m", reply="{}", evidence=context)])
    shown = shown_context(ledger, [Item("1", "Abus lock 20 cm")], ["rare"])["rare"].split(" · ")
    assert shown == [
        "conversions: Abus lock 20 cm (7); unknown (2)",
        "converted: brand Abus, Kryptonite; colour black, red, blue, green",
        "examples: abus lock (brand abus); ? (nothing)", "neighbours: bike lock",
    ]


def page_of(folder: Path, rows: int, sample: Any, **spent: float) -> str:
    write_labels(folder, {
        "task": MARKUP, "backend": "openai", "rows": rows, "statuses": dict.fromkeys(STATUSES, 200),
        "spent": {"attempts": 1, "prompt_tokens": 0, "completion_tokens": 0, "cost": 0.0, **spent}, "confidence": None,
        "verdicts": [{"role": "brand", "verdict": "rejected", "reason": MARKUP, "count": 1, "examples": [MARKUP]}],
        "sample": sample, "level": 0.95, "finished": "now",
    })
    return (folder / "report.html").read_text()


@pytest.mark.parametrize(("spent", "said"), [
    ({}, "No LLM was asked: nothing was spent."),  # of labels from a file or from the catalogue
    ({"prompt_tokens": 2_000, "completion_tokens": 3}, "1 attempts, 2,000 prompt tokens, 3 completion tokens, 0.00"),
    ({"cost": 0.5}, "1 attempts, 0 prompt tokens, 0 completion tokens, 0.50 dollars."),
])
def test_the_page_says_what_an_llm_was_asked_and_only_then(
    tmp_path: Path, spent: dict[str, float], said: str
) -> None:
    page = page_of(tmp_path, 1_000, [], **spent)
    assert said in page
    assert ("No LLM" in page) != (" attempts, " in page)


def test_the_page_shows_markup_as_text_and_fetches_nothing(ledger: Ledger, tmp_path: Path) -> None:
    rows = list(ledger.all_rows())
    shown = sample(rows, ["brand"], ledger, [Item("1", MARKUP)])
    page = page_of(tmp_path, len(rows), shown, prompt_tokens=2, completion_tokens=3, cost=0.5)
    assert "<img" not in page
    assert page.count("<script>") == 1  # the page's own filter
    assert not re.search(r'(src|href)="(?!#)', page)
    assert page.count("&lt;img src=x&gt;") >= 6  # task, query, label, reason, verdict, title
    for q in shown:
        assert f"{q['confidence']:.3f}" in page
    assert "rejected, not grounded" in page
    assert '<a href="#queries">Queries</a>' in page
