"""QueryNER's benchmark: ways of decoding side by side."""

from __future__ import annotations

import numpy as np

from benchmarks.queryner import RECIPE, compared, word_by_word
from task.codec import Codec
from task.labels import Example, Label
from task.tokenizer import FastTokenizer
from tests.conftest import make_task

QUERY = "verdant oat milk"


def test_a_word_by_word_answer_has_spans_that_viterbi_would_not(tokenizer: FastTokenizer) -> None:
    """A continuation without its beginning is likeliest for one word alone: no sequence has it."""
    labelled = Example(QUERY, (Label("product", "oat milk", 8, 16),))
    codec = Codec.compile(make_task(roles=[{"name": "product"}]), [labelled], tokenizer)
    scores = np.full((3, 3), -9.0, dtype=np.float32)  # outside, begins, goes on
    scores[0] = [0.0, -9.0, -9.0]
    scores[1] = [-0.9, -1.6, -1.0]  # nothing is likeliest here, though something begins or goes on
    scores[2] = [-9.0, -9.0, 0.0]
    assert [x.text for x in word_by_word(codec, QUERY, scores).labels] == ["milk"]
    assert [x.text for x in codec.decode_scores(QUERY, scores)] == ["oat milk"]


def test_ways_are_compared_with_the_recipe_student_by_student() -> None:
    task = make_task(eval={"resamples": 200})
    right = [Example(f"milk {i}", (Label("product", "milk", 0, 4),)) for i in range(50)]
    none = [Example(x.query) for x in right]
    half = [x if i % 2 else y for i, (x, y) in enumerate(zip(right, none, strict=True))]
    recipe, other = compared(task, right, {RECIPE: [half, right], "other": [none, half]}, same_students=True)
    assert recipe["less_recipe"] is None
    assert recipe["strict_f1"]["seeds"] == [0.666667, 1.0]
    assert other["strict_f1"]["seeds"] == [0.0, 0.666667]
    assert other["less_recipe"]["value"] == -0.5
    assert other["less_recipe"]["high"] < 0
