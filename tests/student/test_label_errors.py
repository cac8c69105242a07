from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from student.label_errors import fold_of, suspects
from task.codec import Codec
from task.labels import Doubt, Example, Label
from task.tokenizer import FastTokenizer
from tests.conftest import make_task


@given(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=60), st.integers(2, 5))
def test_folds_keep_clusters_whole_and_are_nearly_equal(clusters: list[str], folds: int) -> None:
    found = fold_of(clusters, folds)
    assert all(len({f for f, c in zip(found, clusters, strict=True) if c == name}) == 1 for name in set(clusters))
    sizes = [found.count(k) for k in range(folds)]
    assert max(sizes) - min(sizes) <= max(Counter(clusters).values())


def scores(codec: Codec, example: Example, sure: float, seed: int) -> npt.NDArray[np.float32]:
    """Scores of a student that predicts the right answer, with some noise."""
    answer = codec.answer(example)
    table = np.random.default_rng(seed).normal(0.0, 0.3, (len(answer), len(codec.symbol_ids)))
    table[np.arange(len(answer)), answer] += sure
    return table.astype(np.float32)


def true_row(i: int) -> Example:
    words = [("oat", "soy", "nut")[i % 3], "milk", "fresh"][: 2 + i % 2]
    return Example(" ".join(words), (Label("product", "milk", 4, 8), Label("aisle", "dairy")))


def test_what_was_planted_is_found_and_little_else(tokenizer: FastTokenizer) -> None:
    """A wrong role, a label that was dropped, a span too long, a wrong closed value: one row in ten has one of them."""
    truth = [true_row(i) for i in range(400)]
    rows, planted = [], set()
    for i, x in enumerate(truth):
        milk, aisle = x.labels
        if i % 40 == 0:
            rows.append(Example(x.query, (Label("brand", "milk", 4, 8), aisle)))
            planted.add((i, Doubt("brand", 4, 8)))
        elif i % 40 == 10:
            rows.append(Example(x.query, (aisle,)))
            planted.add((i, Doubt("", 4, 8)))
        elif i % 40 == 20:
            rows.append(Example(x.query, (Label("product", x.query[:8], 0, 8), aisle)))
            planted.add((i, Doubt("product", 0, 8)))
        elif i % 40 == 30:
            rows.append(Example(x.query, (milk, Label("aisle", "drinks"))))
            planted.add((i, Doubt("aisle")))
        else:
            rows.append(x)
    codec = Codec.compile(make_task(), rows, tokenizer)
    found = suspects(codec, rows, [scores(codec, t, 4.0, i) for i, t in enumerate(truth)])
    hits = [s for s in found if (s.row, s.doubt) in planted]
    assert len(hits) >= 0.85 * len(planted)
    assert len(hits) >= 0.85 * len(found)
    says = {(s.row % 40, s.says) for s in hits}
    assert {(0, "product"), (10, "product"), (30, "dairy")} <= says
    assert {word for at, word in says if at == 20} <= {"product", "nothing"}


def test_a_student_that_agrees_suspects_nothing(tokenizer: FastTokenizer) -> None:
    rows = [true_row(i) for i in range(60)]
    codec = Codec.compile(make_task(), rows, tokenizer)
    assert suspects(codec, rows, [scores(codec, x, 8.0, i) for i, x in enumerate(rows)]) == []


def test_a_wrong_category_is_found_at_the_level_where_it_leaves_the_right_path(tokenizer: FastTokenizer) -> None:
    task = make_task(roles=[{"name": "product"}, {
        "name": "category", "kind": "closed", "multiple": False, "separator": "/",
        "values": ["food/milk", "food/bread", "pets"],
    }])

    def row(i: int, category: str | None) -> Example:
        return Example(f"thing {i}", (Label("category", category),) if category else ())

    truth = [row(i, ("food/milk", "food/bread", "pets", "food", None)[i % 5]) for i in range(100)]
    given_rows = list(truth)
    given_rows[0], given_rows[1], given_rows[4] = row(0, "food/bread"), row(1, "pets"), row(4, "pets")
    codec = Codec.compile(task, given_rows, tokenizer)
    predicted = [scores(codec, t, 9.0 if i in (0, 1, 4) else 5.0, i) for i, t in enumerate(truth)]
    found = suspects(codec, given_rows, predicted)
    assert {(s.row, s.doubt, s.says) for s in found} == {
        (0, Doubt("category"), "food/milk"), (1, Doubt("category"), "food"), (4, Doubt("category"), "nothing"),
    }
