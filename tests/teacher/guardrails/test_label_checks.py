from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task.labels import Example, Label
from task.readers import Item
from teacher.guardrails.label_checks import Guardrails, VerdictCounts
from teacher.guardrails.validator import TeacherAnswer, make_validator
from teacher.retrieval.embedder import Embedder
from tests.conftest import make_task
from tests.strategies import QUERIES, examples

ROLES: list[dict[str, Any]] = [
    {"name": "brand", "multiple": False, "catalogue": "brand", "grounded": True}, {"name": "product"},
    {"name": "aisle", "kind": "closed", "values": ["dairy", "drinks"]},
]
ITEMS = [Item("1", "Oat milk", "Verdant Machine"), Item("2", "Milk", "Simple")]


def check(query: str, *labels: Label) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    kept, verdicts = Guardrails(make_task(roles=ROLES), ITEMS).check(query, labels)
    return [(k.label.role, k.label.text) for k in kept], [(v.verdict, v.reason.split(":")[0]) for v in verdicts]


def test_what_is_right_passes_with_its_span() -> None:
    kept, verdicts = check("verdant machine oat milk", Label("product", "oat milk"), Label("brand", "verdant machine"))
    assert kept == [("brand", "verdant machine"), ("product", "oat milk")]
    assert verdicts == [("accept", "as it stands")] * 2


def test_case_blanks_and_small_edits_are_repaired_and_invention_rejected() -> None:
    assert check("OAT milk", Label("product", "oat milk")) == ([("product", "OAT milk")], [("repaired", "span")])
    assert check("oatmilk 1l", Label("product", "oat milk")) == ([("product", "oatmilk")], [("repaired", "span")])
    assert check("oat milk 1l", Label("product", "milk ")) == ([("product", "milk")], [("repaired", "span")])
    assert check("chedar chese", Label("product", "cheddar cheese"))[0] == [("product", "chedar chese")]
    assert check("oat milk", Label("product", "soy milk")) == ([], [("rejected", "span")])
    assert check("oat milk", Label("product", " ")) == ([], [("rejected", "span")])
    assert check("oat milk", Label("flavour", "oat")) == ([], [("rejected", "schema")])


def test_a_closed_value_snaps_to_its_nearest_or_is_rejected() -> None:
    assert check("oat milk", Label("aisle", "Dairy")) == ([("aisle", "dairy")], [("repaired", "closed set")])
    assert check("oat milk", Label("aisle", "drinkss")) == ([("aisle", "drinks")], [("repaired", "closed set")])
    assert check("oat milk", Label("aisle", "pets")) == ([], [("rejected", "closed set")])


@pytest.mark.parametrize(("text", "reason"), [
    ("500 ml", None), ("0,5l", None), ("900 l", "units"), ("5 tons", "pattern"), ("big", "pattern"),
])
def test_patterns_and_units_keep_nonsense_out(text: str, reason: str | None) -> None:
    guard = {"must_match": True, "units": {"ml": [1, 5000], "l": [0.1, 20]}}
    roles = [{"name": "size", "pattern": r"\d+([.,]\d+)?\s?(ml|l)", "guard": guard}]
    kept, (verdict,) = Guardrails(make_task(roles=roles)).check(f"milk {text}", [Label("size", text)])
    assert verdict.reason.split(":")[0] == (reason or "as it stands")
    assert len(kept) == (reason is None)


def test_a_closed_value_that_comes_twice_is_kept_once() -> None:
    kept, verdicts = check("oat milk", Label("aisle", "dairy"), Label("aisle", "Dairy"), Label("aisle", "drinks"))
    assert kept == [("aisle", "dairy"), ("aisle", "drinks")]
    assert verdicts == [("accept", "as it stands"), ("rejected", "twice"), ("accept", "as it stands")]


@pytest.mark.parametrize(("most", "passes"), [(None, True), (2, True), (1, False)])
def test_a_value_of_too_many_words_is_rejected(most: int | None, passes: bool) -> None:
    task = make_task(roles=[{"name": "product", "guard": {"max_words": most}}])
    kept, verdicts = Guardrails(task).check("cheap oat milk", [Label("product", "oat milk")])
    assert [k.label.text for k in kept] == ["oat milk"] * passes
    assert [v.reason for v in verdicts] == ["as it stands" if passes else "length: too many words"]


def test_roles_that_exclude_or_require_each_other() -> None:
    roles = [{"name": "a", "excludes": ["b"]}, {"name": "b"}, {"name": "c", "requires": ["b"]}]
    guardrails = Guardrails(make_task(roles=roles))
    given = [Label("b", "y", confidence=0.4), Label("a", "x", confidence=0.9), Label("c", "z", confidence=0.9)]
    kept, verdicts = guardrails.check("x y z", given)
    assert [k.label.role for k in kept] == ["a"]
    assert [v.reason.split(":")[0] for v in verdicts] == ["excludes", "as it stands", "requires"]
    kept, _ = guardrails.check("x y z", given[:1] + given[2:])
    assert [k.label.role for k in kept] == ["b", "c"]


def test_an_alias_stands_for_a_value_that_the_catalogue_holds() -> None:
    guard = {"aliases": {"VM": "verdant machine", "pal": "pallas"}}
    roles = [ROLES[0] | {"guard": guard}]
    kept, _ = Guardrails(make_task(roles=roles), ITEMS).check("vm juice", [Label("brand", "vm")])
    assert [(k.label.text, k.margin) for k in kept] == [("vm", 0.95)]
    _, (unknown,) = Guardrails(make_task(roles=roles), ITEMS).check("pal juice", [Label("brand", "pal")])
    assert unknown.reason == "grounding: the catalogue does not know it"


def test_relevance_is_measured_by_the_embedder_of_the_task(embedder_folder: Path, tmp_path: Path) -> None:
    query, values = "lawn mower", ["garden", "pets"]
    asked, *found = Embedder(embedder_folder).encode([query, *values])
    similarity = [float(asked @ v) for v in found]
    guard = {"relevance": sum(similarity) / 2}
    roles = [{"name": "topic", "kind": "closed", "values": values, "guard": guard}]
    task = make_task(roles=roles, teacher={"backend": "labels", "retrieval": {"embedder": str(embedder_folder)}})
    labels = [{"role": "topic", "text": v} for v in values]
    answer = TeacherAnswer(query=query, request="key", labels=labels)
    row = make_validator(task, (), tmp_path, Path).row(Example(query), answer)
    assert [x.text for x in row.labels] == [values[similarity.index(max(similarity))]]
    with pytest.raises(ValueError, match="nothing measures it"):
        Guardrails(task)


def test_a_value_far_from_the_query_is_rejected_and_the_margin_says_how_close_it_was() -> None:
    roles = [{"name": "topic", "kind": "closed", "values": ["garden", "pets"], "guard": {"relevance": 0.2}}]
    guardrails = Guardrails(make_task(roles=roles), relevance=lambda query, value: {"garden": 0.6, "pets": 0.1}[value])
    kept, verdicts = guardrails.check("lawn mower", [Label("topic", "garden"), Label("topic", "pets")])
    assert [(k.label.text, round(k.margin, 2)) for k in kept] == [("garden", 0.5)]
    assert verdicts[1].reason == "relevance: too far from the query"


@pytest.mark.parametrize(("given", "kept"), [
    ("Bird Cages", "Pets > Cages > Bird Cages"), ("cages>bird cages", "Pets > Cages > Bird Cages"),
    ("Cages", "Pets > Cages"), ("pets > cages", "Pets > Cages"), ("Food", None), ("Bird > Food", "Pets > Bird > Food"),
    ("Pets > Dog", "Pets > Dog"), ("Bird Cage", None),
])
def test_the_end_of_a_path_is_completed_where_only_one_has_it(given: str, kept: str | None) -> None:
    paths = ["Pets > Cages > Bird Cages", "Pets > Bird > Food", "Pets > Dog > Food"]
    role = {"name": "category", "kind": "closed", "multiple": False, "separator": " > ", "values": paths}
    found, _ = Guardrails(make_task(roles=[role])).check("something", [Label("category", given)])
    assert [k.label.text for k in found] == ([] if kept is None else [kept])


def test_a_category_is_compared_with_the_query_by_its_whole_path() -> None:
    paths = ["Garden > Mowers", "Toys > Mowers"]
    role = {"name": "category", "kind": "closed", "multiple": False, "separator": " > ", "values": paths}
    near = {"Garden > Mowers": 0.7, "Toys > Mowers": 0.1, "Toys": 0.3}
    guardrails = Guardrails(
        make_task(roles=[role | {"guard": {"relevance": 0.4}}]), relevance=lambda query, value: near[value]
    )
    given = [Label("category", path) for path in near]
    kept, verdicts = guardrails.check("lawn mower", given)
    assert [k.label.text for k in kept] == ["Garden > Mowers"]
    assert [v.verdict for v in verdicts] == ["accept", "rejected", "rejected"]


@given(example=examples(), noise=st.lists(st.tuples(st.sampled_from(["brand", "product", "aisle", "x"]), QUERIES)))
def test_whatever_comes_in_what_stays_is_true_to_the_task(example: Example, noise: list[tuple[str, str]]) -> None:
    """Right labels of a gold row stay; whatever else stays is verbatim, allowed and free of overlap."""
    task = make_task()
    given = [*example.labels, *(Label(role, text, confidence=-1.0) for role, text in noise)]
    kept, verdicts = Guardrails(task).check(example.query, given)
    assert len(verdicts) == len(given)
    labels = [k.label for k in kept]
    assert {x.key for x in example.labels if x.role != "brand"} <= {x.key for x in labels}
    for x in labels:
        assert task.label_problem(example.query, x.role, x.text) is None
        assert x.start is None or example.query[x.start : x.end] == x.text
    spans = sorted((x.start, x.end or 0) for x in labels if x.start is not None)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


def test_a_changed_rule_or_catalogue_changes_the_fingerprint() -> None:
    task = make_task(roles=ROLES)
    base = Guardrails(task, ITEMS).fingerprint()
    assert Guardrails(task, ITEMS).fingerprint() == base
    assert Guardrails(task, [*ITEMS, Item("3", "Tea", "Acme")]).fingerprint() != base
    assert Guardrails(task, [*ITEMS, Item("3", "Tea", "Simple")]).fingerprint() == base
    other = make_task(roles=[{**ROLES[0], "guard": {"fuzzy": 95}}, *ROLES[1:]])
    assert Guardrails(other, ITEMS).fingerprint() != base


def test_a_brand_must_be_known_to_the_catalogue_misspelt_or_shortened() -> None:
    for text in ("verdant machine", "verdnt machine", "machine"):
        assert check(f"{text} milk", Label("brand", text))[0] == [("brand", text)]
    assert check("acme milk", Label("brand", "acme")) == ([], [("rejected", "grounding")])


def test_overlaps_and_second_values_go_to_the_surer_label() -> None:
    kept, verdicts = check("oat milk", Label("product", "milk", 4, 8, 0.6), Label("product", "oat milk", 0, 8, 0.9))
    assert kept == [("product", "oat milk")]
    assert ("rejected", "overlap") in verdicts
    kept, verdicts = check("simple machine", Label("brand", "simple", 0, 6, 0.9), Label("brand", "machine", 7, 14, 0.7))
    assert kept == [("brand", "simple")]
    assert ("rejected", "one value") in verdicts


def test_the_summary_counts_by_role_and_reason() -> None:
    labels = [Label("product", "oat"), Label("x", "y")]
    kept, verdicts = Guardrails(make_task(roles=ROLES), ITEMS).check("oat milk", labels)
    tally = VerdictCounts()
    tally.add([k.label for k in kept], [v.to_json() for v in verdicts if v.verdict != "accept"])
    assert {(r["role"], r["verdict"]): r["count"] for r in tally.rows()} == {
        ("product", "accept"): 1, ("x", "rejected"): 1,
    }


@pytest.mark.parametrize(("start", "end"), [(-8, -5), (True, 3), (0, True), (4, 99), (0, None), (4, 7), ("0", "3")])
def test_offsets_of_an_answer_that_are_not_those_of_its_text_are_found_anew(start: object, end: object) -> None:
    """Python's slices accept some of them."""
    query = "oat milk"
    text = "milk" if start == 4 else "oat"
    label = {"role": "product", "text": text, "start": start, "end": end}
    answer = TeacherAnswer(query=query, request="r", labels=[label])
    row = make_validator(make_task(roles=ROLES), ITEMS, Path(), Path).row(Example(query), answer)
    at = query.index(text)
    assert [(x.text, x.start, x.end) for x in row.labels] == [(text, at, at + len(text))]
    assert type(row.labels[0].start) is int
