"""Categories from purchases and search, on a taxonomy where every share can be computed by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from task.labels import Example
from task.normalize import normalize_v1
from task.readers import Conversion, Item
from task.role import Role
from task.spec import Task
from teacher.backends.catalog.backend import CatalogBackend
from teacher.backends.catalog.categories import categories, category_roles
from teacher.backends.catalog.lexicon import Lexicon
from teacher.backends.catalog.segmenter import Segmented, Segmenter
from teacher.backends.job import Sources
from teacher.label import label_queries
from teacher.ledger.ledger import Ledger
from teacher.retrieval.evidence import Evidence
from teacher.retrieval.hybrid_search import Hit
from tests.conftest import make_task

PATHS = ["Food > Dairy > Milk", "Food > Dairy > Cheese", "Food > Bread", "Home > Soap"]
CATEGORY = {
    "name": "category", "kind": "closed", "multiple": False, "catalogue": "category", "separator": " > ",
    "values": PATHS,
}
ITEMS = [Item(str(i), path.rsplit(" > ", 1)[-1], "acme", path) for i, path in enumerate([*PATHS, "Toys > Blocks"])]
MILK, CHEESE, BREAD, SOAP, TOY = range(5)


def task_of(*roles: Mapping[str, object]) -> Task:
    return make_task(roles=list(roles), teacher={"backend": "labels"})


def label(evidence: Evidence, *others: Mapping[str, object], query: str = "something") -> Segmented:
    task = task_of(CATEGORY, *others)
    return Segmenter(task, Lexicon.build(task, ITEMS, normalize_v1)).label(query, evidence)


def found(
    *, bought: Mapping[int, int] | None = None, near: Mapping[int, float] | None = None, similarity: float = 1.0,
    hits: tuple[tuple[int, float], ...] = (),
) -> Evidence:
    neighbours = (("a neighbour", similarity),) if near else ()
    return Evidence(tuple(Hit(*h) for h in hits), bought or {}, neighbours, near or {})


def answer(evidence: Evidence) -> str | None:
    labels = label(evidence).labels
    return labels[0].text if labels else None


def test_the_category_that_was_bought_is_the_answer() -> None:
    assert answer(found(bought={MILK: 9, SOAP: 1})) == "Food > Dairy > Milk"


def test_leaves_that_disagree_are_answered_by_their_parent() -> None:
    assert answer(found(bought={MILK: 5, CHEESE: 5})) == "Food > Dairy"
    assert answer(found(bought={MILK: 3, CHEESE: 2, BREAD: 5})) == "Food"


def test_roots_that_disagree_are_no_answer() -> None:
    result = label(found(bought={MILK: 5, SOAP: 5}))
    assert result.labels == ()
    assert result.undecided == (pytest.approx(5 / 11),)


def test_what_was_bought_after_neighbours_counts_by_their_similarity() -> None:
    assert answer(found(near={CHEESE: 3.0})) == "Food > Dairy > Cheese"
    assert answer(found(near={CHEESE: 3.0}, similarity=0.5)) is None


def test_search_answers_where_words_and_vectors_agree_and_nothing_was_bought() -> None:
    assert answer(found(hits=((BREAD, 1.0), (BREAD, 0.9)))) == "Food > Bread"
    assert answer(found(hits=((BREAD, 0.3), (SOAP, 0.3)))) is None
    assert answer(found(bought={SOAP: 6}, hits=((BREAD, 1.0),))) == "Home > Soap"


def test_nothing_known_and_categories_that_the_task_lacks_are_no_answer() -> None:
    assert label(found()).labels == ()
    assert label(found()).undecided == (0.0,)
    assert answer(found(bought={TOY: 20})) is None


def test_the_probability_is_the_share_of_the_votes_with_one_held_by_nobody() -> None:
    role = task_of(CATEGORY).role("category")
    rows = [{"category": i.category or ""} for i in ITEMS]
    got, best = categories(role, found(bought={MILK: 2, CHEESE: 1}), rows, Counter(), 0.4)
    assert [(c.value, c.probability) for c in got] == [("Food > Dairy > Milk", pytest.approx(2 / 4))]
    assert best == pytest.approx(3 / 4)  # of Food, and of Food > Dairy
    assert all(0.0 <= s <= 1.0 for s in got[0].signals.values())


def test_values_of_open_roles_in_the_query_are_votes_too() -> None:
    product = {"name": "product", "catalogue": "category.leaf"}
    alone = label(found(hits=((BREAD, 0.4),)), product, query="bread")
    assert [(x.role, x.text) for x in alone.labels] == [("product", "bread"), ("category", "Food > Bread")]


def test_closed_roles_of_few_values_stay_with_the_words_where_the_task_has_open_roles() -> None:
    aisle = Role(name="aisle", kind="closed", multiple=False, catalogue="category.root", values=("Food", "Home"))
    product = {"name": "product", "catalogue": "category.leaf"}
    assert category_roles(task_of(aisle.model_dump(), product)) == ()
    assert [r.name for r in category_roles(task_of(aisle.model_dump()))] == ["aisle"]
    flat = aisle.model_copy(update={"values": tuple(f"v{i}" for i in range(1_001))})
    assert [r.name for r in category_roles(task_of(flat.model_dump(), product))] == ["aisle"]


def test_a_task_without_categories_has_the_rules_of_before() -> None:
    backend = CatalogBackend()
    assert "catalog categories" not in backend.rules(task_of({"name": "product", "catalogue": "category.leaf"}))
    assert "catalog categories" in backend.rules(task_of(CATEGORY))


def test_a_log_is_labelled_with_categories_alone(tmp_path: Path, embedder_folder: Path) -> None:
    task = make_task(
        roles=[CATEGORY], data={"dir": ".", "queries": "q.jsonl", "catalogue": "c.jsonl"},
        teacher={"backend": "catalog", "retrieval": {"use": ["bought"]}},
    )
    log = [Example("oat drink"), Example("dairy"), Example("opening times")]
    bought = [Conversion("oat drink", "0", 8), Conversion("dairy", "0", 4), Conversion("dairy", "1", 4)]
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        sources = Sources(log, ITEMS, bought, fingerprint="x")
        rows = list(label_queries(task, sources, ledger, tmp_path, lambda _name: embedder_folder).rows)
    assert {r.query: [x.text for x in r.labels] for r in rows} == {
        "oat drink": ["Food > Dairy > Milk"], "dairy": ["Food > Dairy"], "opening times": [],
    }
    assert {r.query: r.confidence > 0.5 for r in rows} == {
        "oat drink": True, "dairy": True, "opening times": False,
    }
