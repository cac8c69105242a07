"""The checks of rewrites: each rejects what it is for, and is off where the role does not ask for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task.labels import Example, Label
from task.readers import Item
from task.spec import Task
from teacher.guardrails.label_checks import Guardrails
from teacher.guardrails.validator import TeacherAnswer, make_validator
from tests.conftest import make_task

ITEMS = [
    Item("1", "Verdant Machine oat drink 1 l", "Verdant Machine", "Food > Plant drinks", {"colour": "white"}),
    Item("2", "Simple soy drink 500 ml", "Simple", "Food > Plant drinks"),
    Item("3", "Acme milk 1 l", "Acme", "Food > Dairy"),
]
DATA = {"dir": ".", "labels": "labels.jsonl", "catalogue": "items.jsonl"}


def rewriting(data: dict[str, Any] | None = None, **role: Any) -> Task:
    return make_task(
        roles=[
            {"name": "brand", "catalogue": "brand", "grounded": True},
            {"name": "size", "pattern": r"\d+ ?(ml|l)", "guard": {"units": {"ml": [1, 5000], "l": [0.1, 20]}}},
            {"name": "synonym", "kind": "text"} | role,
        ],
        data=DATA | (data or {}), student={"form": "json"},
    )


def reasons(task: Task, query: str, *texts: str, relevance: float = 0.5) -> list[str]:
    """The reason of each text's verdict; `ok` for one that is accepted."""
    rails = Guardrails(task, ITEMS, lambda _, __: relevance)
    _, verdicts = rails.check(query, [Label("synonym", t) for t in texts])
    return ["ok" if v.verdict == "accept" else v.reason for v in verdicts]


def test_a_text_needs_no_words_of_the_query_but_is_not_the_query_itself() -> None:
    task = rewriting({"max_query_chars": 20})
    assert reasons(task, "oat milk", "oat drink", "Oat  MILK", " ", "x" * 21, " oat  beverage ") == [
        "ok", "same: the query itself", "text: empty", "text: too long", "text: blanks",
    ]


def test_equal_texts_count_once_and_the_most_confident_stay() -> None:
    assert reasons(rewriting(most=2), "oat milk", "oat drink", "OAT drink", "b", "c") == [
        "ok", "twice: the same label again", "ok", "number: more values than `most`",
    ]
    rails = Guardrails(rewriting(most=1), ITEMS)
    given_labels = [Label("synonym", "b", confidence=0.4), Label("synonym", "c", confidence=0.9)]
    kept, verdicts = rails.check("oat milk", given_labels)
    assert [k.label.text for k in kept] == ["c"]
    assert verdicts[0].reason == "number: more values than `most`"
    assert reasons(rewriting(multiple=False), "oat milk", "b", "c") == ["ok", "one value: another is surer"]


@pytest.mark.parametrize(("query", "text", "expected"), [
    ("verdant machine oat milk", "verdant machine oat drink", None), ("verdant machine oat milk", "oat drink", None),
    ("verdant machine oat milk", "simple oat drink", "brand"), ("oat milk", "Acme oat drink", "brand"),
    ("verdnt machine oat milk", "verdant machine oat drink", None),  # misspelt in the query
    ("verdant oat milk", "verdant machine oat drink", None),  # shortened in the query
    ("simple machine cleaner", "verdant machine cleaner", "brand"),  # shares a word, and has a brand of its own
    ("milk 1l", "oat drink 1 L", None), ("milk 1l", "milk 2 l", "size"), ("milk 1l", "milk", None),
    ("milk", "milk 500ml", "size"), ("milk 0,5 l", "oat drink 0.5l", None), ("milk 500 ml", "milk 0.5 l", "size"),
])
def test_brand_and_size_are_kept_or_left_out_but_not_exchanged(query: str, text: str, expected: str | None) -> None:
    keeping = rewriting(guard={"keep": ["brand", "size"]})
    assert reasons(keeping, query, text) == [f"keep: another {expected} than the query's" if expected else "ok"]
    assert reasons(rewriting(), query, text) == ["ok"]
    if expected is not None:
        other = rewriting(guard={"keep": [{"brand": "size", "size": "brand"}[expected]]})
        assert reasons(other, query, text) == ["ok"]


WORDS = st.lists(st.sampled_from(["verdant", "machine", "simple", "acme", "milk", "1l", "2", "l", "500ml"]), max_size=6)


@given(query=WORDS.map(" ".join), kept=st.data())
def test_words_of_the_query_exchange_nothing(query: str, kept: st.DataObject) -> None:
    words = query.split()
    start = kept.draw(st.integers(0, len(words)))
    text = " ".join(words[start : kept.draw(st.integers(start, len(words)))])
    (found,) = reasons(rewriting(guard={"keep": ["brand", "size"]}), query, text)
    assert not found.startswith("keep:")


@pytest.mark.parametrize(("text", "found"), [
    ("oat drink", True), ("White Drink", True), ("plant drinks simple", True), ("unicorn drink", False), ("!?", False),
    ("oat milk", False),  # words of two items
])
def test_a_grounded_text_has_all_its_words_in_one_item(text: str, found: bool) -> None:
    expected = "ok" if found else "grounding: no item has all of its words"
    assert reasons(rewriting(grounded=True), "hafer", text) == [expected]
    assert reasons(rewriting(), "hafer", text) == ["ok"]


@pytest.mark.parametrize(("similarity", "expected"), [
    (0.2, "relevance: too far from the query"), (0.3, "ok"), (0.9, "ok"), (0.95, "relevance: too near to the query"),
])
def test_similarity_within_bounds(similarity: float, expected: str) -> None:
    task = rewriting(guard={"relevance": 0.3, "relevance_max": 0.9})
    assert reasons(task, "oat milk", "oat drink", relevance=similarity) == [expected]
    assert reasons(rewriting(), "oat milk", "oat drink", relevance=similarity) == ["ok"]
    with pytest.raises(ValueError, match="nothing measures it"):
        Guardrails(rewriting(guard={"relevance_max": 0.9}), ITEMS)


def test_length_pattern_and_roles_are_checked_as_for_other_kinds() -> None:
    assert reasons(rewriting(guard={"max_words": 2}), "oat milk", "a b c") == ["length: too many words"]
    letters = rewriting(pattern="[a-z ]+", guard={"must_match": True})
    assert reasons(letters, "oat milk", "oat drink", "drink 2") == ["ok", "pattern: does not match"]
    assert reasons(rewriting(requires=["brand"]), "oat milk", "b") == ["requires: the role it needs is absent"]


def test_the_row_of_the_ledger_has_rewrites_beside_other_labels(tmp_path: Path) -> None:
    answer = TeacherAnswer(query="acme milk", request="k", labels=[
        {"role": "synonym", "text": "acme dairy drink", "start": 0, "end": 4}, {"role": "brand", "text": "acme"},
        {"role": "synonym", "text": "Acme Milk"},
    ])
    validator = make_validator(rewriting(), ITEMS, tmp_path, Path)
    row = validator.row(Example("acme milk"), answer)
    assert [x.key for x in row.labels] == [("brand", "acme", 0, 4), ("synonym", "acme dairy drink", -1, -1)]
    assert [v["reason"] for v in row.verdicts if v["verdict"] == "rejected"] == ["same: the query itself"]
    assert (row.status, row.reason) == ("accepted", "")
    more = [*(answer.labels or ()), {"role": "brand", "text": "simple"}]
    row = validator.row(Example("acme milk"), replace(answer, labels=more))
    assert (row.status, row.reason) == ("partial", "span: not words of the query")


def test_the_fingerprint_follows_what_the_checks_read() -> None:
    more = [*ITEMS, Item("4", "Acme rice drink 1 l", "Acme", "Food > Plant drinks")]
    for task, changed in ((rewriting(grounded=True), True), (rewriting(), False)):
        assert (Guardrails(task, more).fingerprint() != Guardrails(task, ITEMS).fingerprint()) is changed
