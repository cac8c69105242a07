"""Figures of a taxonomy, checked by hand on four queries."""

from __future__ import annotations

import numpy as np
import pytest

from eval.quality import quality
from eval.taxonomy import hit_at, level_counts, taxonomy_quality
from task.labels import Example, Label
from tests.conftest import make_task

TASK = make_task(
    roles=[
        {"name": "product"},
        {"name": "category", "kind": "closed", "multiple": False, "separator": " > ",
         "values": ["food > milk > oat", "food > milk > cow", "food > bread", "pets > dogs"]},
    ],
    eval={"resamples": 200},
)


def rows(*values: str | None) -> list[Example]:
    return [Example(f"q{i}", () if v is None else (Label("category", v),)) for i, v in enumerate(values)]


GOLD = rows("food > milk > oat", "food > milk > cow", "food > bread", None, "pets > dogs")
#           right                 its parent          a stranger   invented        another leaf of its branch
FOUND = rows("food > milk > oat", "food > milk", "pets > dogs", "food > milk > cow", None)


def test_counts_by_hand() -> None:
    leaf, *levels = level_counts(GOLD, FOUND, TASK, "category").sum(axis=0).tolist()
    assert leaf == [1, 3, 3]  # oat; milk, dogs and cow are wrong; cow, bread and dogs are missed
    assert levels == [
        [2, 2, 2],  # food twice; pets and the invented food are wrong; the food of the bread and pets are missed
        [2, 2, 2],  # milk twice; dogs and the invented milk are wrong; bread and dogs are missed
        [1, 1, 1],  # oat; the invented cow is wrong; the cow that its parent answered is missed
    ]


def test_precision_recall_and_f1_by_hand() -> None:
    found = taxonomy_quality(GOLD, FOUND, TASK, "category")
    assert [x["value"] for x in (found["leaf"]["precision"], found["leaf"]["recall"])] == [0.25, 0.25]
    assert [level["f1"]["value"] for level in found["levels"]] == [0.5, 0.5, 0.5]
    assert [level["support"] for level in found["levels"]] == [4, 4, 2]
    assert found["leaf"]["support"] == 4
    low, high = found["leaf"]["f1"]["low"], found["leaf"]["f1"]["high"]
    assert low is not None
    assert high is not None
    assert low < 0.25 < high
    assert quality(GOLD, FOUND, TASK)["taxonomies"] == {"category": found}


def test_a_task_without_a_taxonomy_has_no_figures_of_one() -> None:
    assert "taxonomies" not in quality([Example("q")], [Example("q")], make_task(eval={"resamples": 10}))
    with pytest.raises(ValueError, match="no taxonomy"):
        level_counts([], [], make_task(), "aisle")
    with pytest.raises(ValueError, match="same queries"):
        level_counts(GOLD, FOUND[::-1], TASK, "category")


def test_a_hit_counts_within_the_first_answers_only() -> None:
    ranked = [["a", "b"], ["b", "a"], [None, "a"], ["b"]]
    assert hit_at(["a", "a", None, "a"], ranked, 1).tolist() == [True, False, True, False]
    assert np.mean(hit_at(["a", "a", None, "a"], ranked, 2)) == 0.75
