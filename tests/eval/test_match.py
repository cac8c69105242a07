"""Our matcher against seqeval and nervaluate, and against itself in another order."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.match import count
from eval.metrics import bootstrap, interval, micro, prf, resample_weights
from eval.quality import label_agreement, paired_difference, quality
from task.labels import Example, Label, ordered
from task.normalize import normalize_v1
from tests.conftest import make_task
from tests.strategies import examples

ROLES = ("brand", "product", "aisle", "mark")


def random_rows(seed: int, rows: int) -> tuple[list[Example], list[Example]]:
    """Gold and predictions over the same queries, spans on word borders, no overlap."""
    rng = random.Random(seed)
    out: tuple[list[Example], list[Example]] = ([], [])
    for row in range(rows):
        query = " ".join(f"w{row}x{i}" for i in range(rng.randint(1, 8)))
        words = query.split()
        starts = [sum(len(w) + 1 for w in words[:i]) for i in range(len(words))]
        for side in out:
            labels, at = [], 0
            while at < len(words):
                end = min(len(words), at + rng.randint(1, 3))
                role = rng.choice([None, "brand", "product"])
                if role:
                    s, e = starts[at], starts[end - 1] + len(words[end - 1])
                    labels.append(Label(role, query[s:e], s, e))
                at = end
            side.append(Example(query, ordered(labels)))
    return out


def tags(example: Example) -> list[str]:
    out, at = [], 0
    for word in example.query.split():
        tag = "O"
        for x in example.labels:
            if x.start is not None and x.end is not None and x.start <= at < x.end:
                tag = f"{'B' if x.start == at else 'I'}-{x.role}"
        out.append(tag)
        at += len(word) + 1
    return out


def test_strict_spans_equal_seqeval_on_10000_labellings() -> None:
    from seqeval.metrics import f1_score, precision_score, recall_score
    from seqeval.scheme import IOB2

    gold, predicted = random_rows(0, 10_000)
    table = count(gold, predicted, ROLES, "span", normalize_v1)
    ours = micro(table.sum(axis=0))
    y, p = [tags(g) for g in gold], [tags(x) for x in predicted]
    theirs = [f(y, p, mode="strict", scheme=IOB2) for f in (precision_score, recall_score, f1_score)]
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_strict_spans_equal_nervaluate() -> None:
    from nervaluate import Evaluator

    gold, predicted = random_rows(1, 500)
    table = count(gold, predicted, ROLES, "span", normalize_v1).sum(axis=(0, 1))
    found = Evaluator([tags(g) for g in gold], [tags(p) for p in predicted], ["brand", "product"], "list").evaluate()
    strict = found["overall"]["strict"]
    assert (table[0], table[0] + table[1], table[0] + table[2]) == (strict.correct, strict.actual, strict.possible)


@given(st.data())
@settings(deadline=None)
def test_the_order_of_labels_and_rows_does_not_matter(data: st.DataObject) -> None:
    gold = data.draw(examples())
    other = data.draw(examples())
    guess = Example(gold.query, tuple(x for x in gold.labels if x.text) + tuple(
        x for x in other.labels if x.start is None
    ))
    shuffled = Example(gold.query, tuple(data.draw(st.permutations(guess.labels))))
    tables = [count([gold], [g], ROLES, "value", normalize_v1) for g in (guess, shuffled)]
    assert np.array_equal(*tables)
    assert tables[0][..., 0].sum() + tables[0][..., 2].sum() == len(gold.labels)
    assert tables[0][..., 0].sum() + tables[0][..., 1].sum() == len(guess.labels)


def test_a_failed_row_is_wrong_not_absent() -> None:
    gold = [Example("oat milk", (Label("product", "oat milk", 0, 8),))] * 2
    table = count(gold, [gold[0], Example("oat milk")], ROLES, "value", normalize_v1)
    precision, recall, _ = prf(table.sum(axis=(0, 1)))
    assert (precision, recall) == (1.0, 0.5)


def test_values_are_compared_normalised_and_as_a_multiset() -> None:
    gold = [Example("Oat milk oat milk", (Label("product", "Oat milk", 0, 8), Label("product", "oat milk", 9, 17)))]
    once = [Example("Oat milk oat milk", (Label("product", "oat milk", 9, 17),))]
    assert count(gold, once, ROLES, "value", normalize_v1).sum(axis=(0, 1)).tolist() == [1, 0, 1]


def test_rows_that_are_not_about_the_same_query_are_refused() -> None:
    with pytest.raises(ValueError, match="row 1"):
        count([Example("a")], [Example("b")], ROLES, "value", normalize_v1)


def test_per_role_counts_sum_to_the_total_and_slices_cover_all() -> None:
    gold, predicted = random_rows(2, 300)
    task = make_task(eval={"resamples": 50})
    found = quality(gold, predicted, task, ["head"] * 100 + ["tail"] * 200)
    support = sum(r["support"] for r in found["value"]["roles"].values())
    assert support == sum(len(g.labels) for g in gold)
    assert found["slices"]["head"]["rows"] + found["slices"]["tail"]["rows"] == 300


def test_the_interval_covers_a_known_f1_about_as_often_as_it_says() -> None:
    """Rows are right with probability 0.8: true precision = recall = F1 = 0.8."""
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        right = rng.random(200) < 0.8
        table = np.zeros((200, 1, 3), dtype=np.int64)
        table[:, 0, 0], table[:, 0, 1], table[:, 0, 2] = right, ~right, ~right
        samples = bootstrap(table, resample_weights(200, 400, trial), micro)[:, 2]
        low, high = interval(samples, 0.95)
        covered += low <= 0.8 <= high
    assert 0.91 <= covered / 300 <= 0.98


def test_paired_difference_of_equal_systems_is_zero_and_agreement_one() -> None:
    gold, predicted = random_rows(3, 100)
    task = make_task(eval={"resamples": 100})
    assert paired_difference(gold, predicted, predicted, task) == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert label_agreement(predicted, predicted) == 1.0
    assert label_agreement(gold, predicted) < 1.0
