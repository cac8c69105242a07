from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from task.labels import Example
from task.model_store import fetch
from task.readers import Conversion, Item
from task.settings import Retrieval
from teacher.backends.job import Sources
from teacher.label import label_queries
from teacher.ledger.ledger import Ledger
from teacher.retrieval import hybrid_search as retrieval
from teacher.retrieval import nearest_neighbours as vectors_module
from teacher.retrieval.context import ContextFinder
from teacher.retrieval.embedding_store import EmbeddingStore
from teacher.retrieval.evidence import EvidenceFinder
from teacher.retrieval.hybrid_search import HybridIndex, item_text, write_hybrid, write_lexical
from teacher.retrieval.index import Index, build_index
from tests.conftest import make_task
from tests.llm_client.fake_api import FakeApi
from tests.teacher.test_label import PROMPT

ITEMS = [
    Item("1", "Verdant Machine Berry Smoothie", "verdant machine", "Drinks > smoothie", {"size": "1 l"}),
    Item("2", "Plain Oat Milk 1 l", "oatly", "Dairy > oat milk", {"size": "1 l"}),
    Item("3", "Toilet Tissue 8 Pack", "soft", "Home > toilet tissue"),
]


def test_an_item_is_searched_by_what_its_title_leaves_out() -> None:
    assert item_text(ITEMS[0]) == "Verdant Machine Berry Smoothie Drinks > smoothie 1 l"
    assert item_text(ITEMS[1]) == "Plain Oat Milk 1 l Dairy > oat milk"


def test_the_lists_are_fused_by_reciprocal_rank(tmp_path: Path) -> None:
    """The lexical list knows the words, the dense one a direction; first in both scores one."""
    vectors = np.eye(3, dtype=np.float32)
    write_hybrid(tmp_path, [item_text(i) for i in ITEMS], vectors, np.arange(3))
    index = HybridIndex(tmp_path, Retrieval(items=3, depth=3))
    (found,) = index.search(["toilet tissue"], vectors[[2]])
    assert (found[0].row, found[0].score) == (2, 1.0)
    (other,) = index.search(["toilet tissue"], vectors[[0]])
    assert {h.row for h in other[:2]} == {0, 2}
    (nothing,) = index.search(["xyzzy"], vectors[[1]])
    assert nothing[0].row == 1
    assert nothing[0].score == pytest.approx(0.5)


@pytest.mark.parametrize("count", [1, 7, 8, 150, 299, 300])
def test_of_equal_bm25_scores_the_lower_row_comes_first_and_is_never_left_out(
    tmp_path: Path, count: int
) -> None:
    """Rows 0, 3, 6, … score highest for both words, 1, 4, 7, … for the first word only, 2, 5, 8, … not at all."""
    texts = ["oat milk", "oat tea", "rice tea"] * 100
    write_lexical(tmp_path, texts)
    index = HybridIndex(tmp_path, Retrieval())
    assert index.lexical(["oat milk"], count) == [[*range(0, 300, 3), *range(1, 300, 3)][:count]]
    assert index.lexical(["rice", "xyzzy"], count) == [[*range(2, 300, 3)][:count], []]


def test_queries_without_a_word_find_nothing_and_keep_nobody_from_finding(tmp_path: Path) -> None:
    """Punctuation alone, beside other queries and by itself, where no item is without words and where one is."""
    for name, texts in (("words", ["oat milk", "rye bread", "rice"]), ("none", ["oat milk", "!!!", "rice"])):
        write_hybrid(tmp_path / name, texts, np.eye(3, dtype=np.float32), np.arange(3))
        index = HybridIndex(tmp_path / name, make_task().teacher.retrieval)
        assert index.lexical(["???", "milk", "", "..."], 2) == [[], [0], [], []]
        assert index.lexical(["???"], 2) == [[]]


def test_ties_go_to_the_lower_row_after_fusion_as_before(tmp_path: Path) -> None:
    texts = ["oat milk"] * 40
    vectors = np.tile(np.eye(1, 4, dtype=np.float32), (40, 1))
    write_hybrid(tmp_path, texts, vectors, np.arange(40))
    found = HybridIndex(tmp_path, Retrieval(items=6, depth=12)).search(["milk", "oat"], vectors[:2])
    assert [[h.row for h in hits] for hits in found] == [[0, 1, 2, 3, 4, 5]] * 2


@pytest.mark.slow
def test_a_large_catalogue_is_searched_like_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another BM25 backend, and vectors searched in parts: the same words win, and the same vectors."""
    random = np.random.default_rng(0)
    words = [f"w{i}" for i in range(60)]
    texts = [" ".join(random.choice(words, 6)) for _ in range(3_000)]
    vectors = random.normal(size=(3_000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries, asked = texts[:40], vectors[:40]
    write_hybrid(tmp_path / "small", texts, vectors, np.arange(3_000))
    small = HybridIndex(tmp_path / "small", Retrieval())
    monkeypatch.setattr(retrieval, "_COMPILED_FROM", 1_000)
    monkeypatch.setattr(vectors_module, "_ROWS_AT_ONCE", 1_000)
    write_hybrid(tmp_path / "large", texts, vectors, np.arange(3_000))
    large = HybridIndex(tmp_path / "large", Retrieval())
    assert [found[0].row for found in large.search(queries, asked)] == list(range(40))
    few = [*queries, "w1", "w2 w3", "xyzzy"]  # most lists of a single word end among equal scores
    for count in (1, 5, 50):
        assert small.lexical(few, count) == large.lexical(few, count)
    assert small.dense(asked, 10) == large.dense(asked, 10)


@pytest.mark.slow
def test_evidence_comes_from_items_purchases_and_neighbours(tmp_path: Path) -> None:
    task = make_task()
    log = [Example("oat drink"), Example("oat drinks"), Example("bathroom paper")]
    bought = [Conversion("oat drink", "2", 4)]
    model = fetch("all-MiniLM-L6-v2")
    index = Index(build_index(ITEMS, bought, model=model, folder=tmp_path))
    finder = EvidenceFinder(task.teacher.retrieval, index, EmbeddingStore(tmp_path, model=model))
    texts = [q.query for q in log]
    first, second, third = finder.find(texts, finder.vectors(texts))
    assert first.conversions == {1: 4}
    assert second.conversions == {}
    assert second.neighbours[0][0] == "oat drink"
    assert set(second.neighbour_conversions) == {1}
    assert first.items[0].row == 1
    assert third.items[0].row == 2


@pytest.mark.slow
def test_the_prompt_shows_evidence_and_the_nearest_gold_examples(tmp_path: Path) -> None:
    shown = [Example("oat milk 1l"), Example("toilet paper")]
    with FakeApi() as api, Ledger(tmp_path / "ledger.sqlite") as ledger:
        openai = {"base_url": api.url, "prompt": str(PROMPT), "few_shot": 1}
        task = make_task(teacher={"backend": "openai", "openai": openai})
        sources = Sources([Example("oat drink")], ITEMS, [Conversion("oat drink", "2", 4)], calibration=shown)
        rows = list(label_queries(task, sources, ledger, tmp_path, fetch).rows)
        prompt = api.bodies[0]["messages"][0]["content"]
    assert rows[0].status == "accepted"
    assert "Plain Oat Milk 1 l" in prompt.split("Bought after it:")[1]
    assert "Query: oat milk 1l" in prompt
    assert "toilet paper" not in prompt


@pytest.mark.slow
def test_no_example_is_an_evaluation_query_or_a_near_duplicate_of_one_or_of_the_query_itself(tmp_path: Path) -> None:
    gold = [Example("oat milks"), Example("milk oat 1l"), Example("soy milk")]
    task = make_task(teacher={"backend": "openai", "openai": {"prompt": str(PROMPT), "few_shot": 3}})
    held_out = frozenset({"milk oat 1l"})
    model = fetch("all-MiniLM-L6-v2")
    index = Index(build_index((), (), model=model, folder=tmp_path))
    finder = ContextFinder(task, gold, held_out, index, EmbeddingStore(tmp_path, model=model))
    ((first, second),) = finder.find([Example("oat milk"), Example("tea")])
    assert [e["query"] for e in first["examples"]] == ["soy milk"]
    assert {e["query"] for e in second["examples"]} == {"oat milks", "soy milk"}
