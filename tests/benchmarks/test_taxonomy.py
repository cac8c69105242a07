"""The queries of the taxonomy benchmark mean what their gold says, and its figures are those of the scores."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from benchmarks.taxonomy import judged, learn, ratio_of_medians, scores_of, split, task_of
from benchmarks.taxonomy_queries import (
    ROLE,
    Wording,
    leaves_of,
    market_examples,
    market_paths,
    misspelt,
    outliers,
    words_of,
)
from eval.matching import count
from student.inference import Scores
from task.codec import Codec
from task.labels import Example, Label
from task.normalize import normalize_v1
from task.tokenizer import FastTokenizer

PATHS = [
    "Pets", "Pets > Cages", "Pets > Cages > Bird Cages", "Pets > Bird Food", "Toys", "Toys > Dolls",
    "Toys > Dolls > Accessories", "Sport", "Sport > Golf", "Sport > Golf > Accessories",
]
LEAVES = ["Pets > Cages > Bird Cages", "Pets > Bird Food", "Toys > Dolls > Accessories", "Sport > Golf > Accessories"]


def test_leaves_are_the_paths_that_no_other_continues() -> None:
    assert leaves_of(PATHS) == LEAVES


def test_queries_are_the_same_from_the_same_seed_and_others_from_another() -> None:
    wording = Wording(PATHS)
    first = wording.examples(LEAVES, 5, seed=3)
    assert first == Wording(PATHS).examples(LEAVES, 5, seed=3)
    assert first != wording.examples(LEAVES, 5, seed=4)
    assert len({x.query for x in first}) == len(first) == 20
    assert outliers(50, 1) == outliers(50, 1) != outliers(50, 2)
    assert market_examples(30, 1) == market_examples(30, 1)


def test_a_name_that_two_leaves_share_is_told_apart_by_the_nodes_above() -> None:
    telling = Wording(PATHS)._telling
    assert telling(random.Random(0), "Toys > Dolls > Accessories") == ["dolls", "accessories"]
    assert telling(random.Random(0), "Sport > Golf > Accessories") == ["golf", "accessories"]
    assert telling(random.Random(0), "Pets > Bird Food") == ["bird", "food"]


def test_words_are_dropped_only_where_the_others_still_mean_the_leaf() -> None:
    paths = ["A > Steel Garden Chairs", "A > Wooden Garden Chairs", "A > Steel Tables"]
    wording, rng = Wording(paths), random.Random(0)
    found = {tuple(wording._telling(rng, paths[0])) for _ in range(200)}
    assert found == {("steel", "garden", "chairs"), ("steel", "chairs"), ("steel", "garden")}  # not garden chairs


def test_a_typo_changes_one_place_and_spares_short_words() -> None:
    rng = random.Random(0)
    for word in ("accessories", "golf", "food"):
        assert all(abs(len(misspelt(rng, word)) - len(word)) <= 1 for _ in range(50))
    assert {misspelt(rng, "cat") for _ in range(20)} == {"cat"}
    assert words_of("Art & Crafting Tools of the Trade") == ["art", "crafting", "tools", "trade"]


def test_the_market_has_150_leaves_and_its_queries_their_categories() -> None:
    paths = market_paths()
    assert len(paths) == len(set(paths)) >= 150
    rows = market_examples(300, 0)
    assert {x.text for r in rows for x in r.labels} <= set(paths)
    assert 0 < sum(not r.labels for r in rows) < 60


def test_the_training_rows_have_outliers_and_the_judging_ones_do_not() -> None:
    rows = Wording(PATHS).examples(LEAVES, 10, 0)
    learned, gold = split(rows, tested=10, mixed=5)
    assert gold == rows[-10:]
    assert sum(not x.labels for x in learned) == 5
    assert {x.query for x in learned}.isdisjoint(x.query for x in gold)


def scores_for(codec: Codec, value: str | None, strength: float) -> Scores:
    """Scores that choose a value at every level with the same logit."""
    tree = codec.trees[0]
    out = np.zeros((1 + codec.probe_count, len(codec.symbol_ids)), dtype=np.float32)
    for row, code in enumerate(tree.path(value), 1):
        out[row, tree.symbols[code]] = strength
    return out


def test_figures_by_hand(tokenizer: FastTokenizer) -> None:
    task = task_of(PATHS)
    gold = [Example("one", (Label(ROLE, LEAVES[0]),)), Example("two", (Label(ROLE, LEAVES[2]),)), Example("three")]
    codec = Codec.compile(task, gold, tokenizer)
    scores = [scores_for(codec, value, 9.0) for value in (LEAVES[0], "Toys > Dolls", None)]
    other = [("four", scores_for(codec, None, 9.0)), ("five", scores_for(codec, LEAVES[3], 1.0))]
    found = judged(task, codec, gold, scores, other)
    assert (found["rows"], found["with_category"]) == (3, 2)
    assert found["leaf"]["f1"]["value"] == pytest.approx(0.5)  # one of two; the parent is another path
    assert [level["f1"]["value"] for level in found["levels"]] == pytest.approx([1.0, 1.0, 2 / 3], abs=1e-6)
    assert found["hit_at_5"]["value"] == pytest.approx(1.0)  # the leaf that the parent answered is among the next
    assert found["other"]["answered"]["value"] == 0.5
    assert found["other"]["answered_from_half"]["value"] == 0.0
    assert found["other"]["auroc"]["none_of_these"]["value"] == 1.0


def test_the_ratio_is_that_of_the_medians_with_the_range_of_rounds() -> None:
    a, b = [np.array([2.0, 2.0, 4.0]), np.array([3.0, 3.0, 3.0])], [np.array([2.0] * 3), np.array([1.0] * 3)]
    assert ratio_of_medians(a, b) == {"value": 2.0, "low": 1.0, "high": 3.0}


@pytest.mark.slow
def test_a_tiny_student_learns_its_categories(tiny_llama: Path, tmp_path: Path) -> None:
    student = {"base": str(tiny_llama), "epochs": 30.0, "batch_size": 8, "learning_rate": 5e-3, "warmup_steps": 5}
    task = task_of(PATHS, student)
    rows = [Example(f"{word} {n}", (Label(ROLE, leaf),)) for n in range(4) for word, leaf in (
        ("bird cages", LEAVES[0]), ("golf things", LEAVES[3])
    )]
    codec, history = learn(task, [*rows, *outliers(4, 0)], tmp_path, tiny_llama, threads=1)
    assert history[-1]["loss"] < history[0]["loss"] / 4
    scores = scores_of(task, codec, tmp_path, tiny_llama, [x.query for x in rows])
    found = [Example(x.query, codec.decode(x.query, s, task).labels) for x, s in zip(rows, scores, strict=True)]
    assert count(rows, found, [ROLE], "value", normalize_v1).sum(axis=(0, 1)).tolist() == [8, 0, 0]
