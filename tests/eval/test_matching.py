"""Our matcher against seqeval and nervaluate, and against itself in another order."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.evaluation import tags
from eval.matching import SCHEMES, count, tables
from eval.metrics import macro_f1, micro, prf, weighted_f1
from eval.quality import label_agreement, paired, paired_difference, quality
from eval.semeval import pair
from eval.slices import slices_of
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


def nervaluates(gold: list[Example], predicted: list[Example]) -> dict[str, tuple[float, int, int]]:
    """(credit, actual, possible) by scheme, as nervaluate has it."""
    from nervaluate import Evaluator

    found = Evaluator([tags(g) for g in gold], [tags(p) for p in predicted], ["brand", "product"], "list").evaluate()
    names = {"span": "strict", "exact": "exact", "partial": "partial", "type": "ent_type"}
    out = {}
    for ours, theirs in names.items():
        r = found["overall"][theirs]
        half = r.partial if ours == "partial" else 0
        out[ours] = (r.correct + 0.5 * half, r.actual, r.possible)
    return out


def ours(gold: list[Example], predicted: list[Example]) -> dict[str, tuple[float, int, int]]:
    out = {}
    for scheme, table in tables(gold, predicted, ROLES, normalize_v1).items():
        if scheme in ("span", "exact", "partial", "type"):
            tp, fp, fn = table.sum(axis=(0, 1)) / (2 if scheme == "partial" else 1)
            out[scheme] = (tp, tp + fp, tp + fn)
    return out


def plain(gold: Example, predicted: Example) -> bool:
    """Whether no label has characters in common with two of the other side: then there is nothing to choose."""
    def most(a: Example, b: Example) -> int:
        return max((sum(x.start < y.end and y.start < x.end for y in b.labels) for x in a.labels), default=0)  # type: ignore[operator]

    return most(gold, predicted) <= 1 and most(predicted, gold) <= 1


def test_lenient_schemes_equal_nervaluate_where_its_order_cannot_matter() -> None:
    gold, predicted = random_rows(4, 10_000)
    kept = [(g, p) for g, p in zip(gold, predicted, strict=True) if plain(g, p)]
    assert len(kept) > 5_000
    sides = [g for g, _ in kept], [p for _, p in kept]
    assert ours(*sides) == nervaluates(*sides)


def test_elsewhere_they_equal_the_best_that_nervaluate_gives_in_any_order() -> None:
    """Its greedy walk depends on the order of both sides; over all orders its best is the optimum that we find."""
    gold, predicted = random_rows(5, 400)
    hard = [(g, p) for g, p in zip(gold, predicted, strict=True)
            if not plain(g, p) and len(g.labels) <= 3 and len(p.labels) <= 3][:25]
    assert len(hard) > 15
    for g, p in hard:
        exactly = ours([g], [p])
        for scheme in ("exact", "partial", "type"):
            best = max(
                in_order(a, b, scheme)
                for a in itertools.permutations(g.labels) for b in itertools.permutations(p.labels)
            )
            assert (exactly[scheme][0], in_pairs(g, p, scheme)) == best, (scheme, g, p)


def in_order(gold: tuple[Label, ...], predicted: tuple[Label, ...], scheme: str) -> tuple[float, int]:
    """(credit, pairs) by nervaluate's strategy, labels taken in this order."""
    from nervaluate.entities import Entity
    from nervaluate.strategies import EntityTypeEvaluation, ExactEvaluation, PartialEvaluation

    strategy = {"exact": ExactEvaluation, "partial": PartialEvaluation, "type": EntityTypeEvaluation}[scheme]()
    sides = [[Entity(x.role, x.start, x.end - 1) for x in side] for side in (gold, predicted)]  # type: ignore[operator]
    r, _ = strategy.evaluate(*sides, ["brand", "product"])
    return r.correct + 0.5 * r.partial, r.correct + r.partial + r.incorrect


def in_pairs(gold: Example, predicted: Example, scheme: str) -> int:
    return len(pair(gold.labels, predicted.labels, scheme))  # type: ignore[arg-type]


def test_lenient_schemes_on_nested_repeated_and_closed_labels() -> None:
    query = "oat milk oat milk"
    gold = [Example(query, (Label("product", "oat milk", 0, 8), Label("brand", "oat", 0, 3), Label("aisle", "dairy")))]
    guess = [Example(query, (
        Label("product", "oat", 0, 3), Label("product", "milk oat", 4, 12), Label("aisle", "drinks"),
    ))]
    found = {s: t.sum(axis=(0, 1)).tolist() for s, t in tables(gold, guess, ROLES, normalize_v1).items()}
    assert found["span"] == [0, 3, 3]
    assert found["exact"] == [1, 2, 2]  # `oat` has its own span right, whatever its role
    assert found["type"] == [1, 2, 2]  # one product found, the other pair is of different roles
    assert found["partial"] == [3, 3, 3]  # in halves: one whole, one half, the closed role wrong


@given(st.data())
@settings(deadline=None)
def test_the_order_of_labels_and_rows_does_not_matter(data: st.DataObject) -> None:
    gold = data.draw(examples())
    other = data.draw(examples())
    guess = Example(gold.query, tuple(x for x in gold.labels if x.text) + tuple(
        x for x in other.labels if x.start is None
    ))
    shuffled = Example(gold.query, tuple(data.draw(st.permutations(guess.labels))))
    one, other = (tables([gold], [g], ROLES, normalize_v1) for g in (guess, shuffled))
    for scheme in SCHEMES:
        unit = 2 if scheme == "partial" else 1
        assert np.array_equal(one[scheme], other[scheme])
        assert one[scheme][..., 0].sum() + one[scheme][..., 2].sum() == unit * len(gold.labels)
        assert one[scheme][..., 0].sum() + one[scheme][..., 1].sum() == unit * len(guess.labels)


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
    found = quality(gold, predicted, task, slices={"traffic": ["head"] * 100 + ["tail"] * 200})
    support = sum(r["support"] for r in found["value"]["roles"].values())
    assert support == sum(len(g.labels) for g in gold)
    parts = found["slices"]["traffic"]
    assert {name: part["rows"] for name, part in parts.items()} == {"head": 100, "tail": 200}


def test_paired_difference_of_equal_systems_is_zero_and_agreement_one() -> None:
    gold, predicted = random_rows(3, 100)
    task = make_task(eval={"resamples": 100})
    assert paired_difference(gold, predicted, predicted, task) == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert label_agreement(predicted, predicted) == 1.0
    assert label_agreement(gold, predicted) < 1.0


def test_the_whole_comparison_of_two_systems() -> None:
    gold, predicted = random_rows(6, 400)
    task = make_task(eval={"resamples": 500})
    found = paired(gold, gold, predicted, task)
    assert found["f1"]["low"] > 0
    assert found["p"] == pytest.approx(2 / 501, abs=1e-6)
    assert found["p_randomisation"] == pytest.approx(1 / 501, abs=1e-6)
    assert found["mcnemar"]["only_b"] == 0
    assert set(found["roles"]) == {"brand", "product"}  # the closed roles occur in neither
    assert all(v["p_holm"] <= 0.05 for v in found["roles"].values())
    assert 0 < found["detectable"] < 0.2


def test_macro_leaves_out_roles_that_gold_does_not_have_and_weighted_weighs_by_support() -> None:
    table = np.array([[8, 2, 2], [1, 1, 1], [0, 4, 0]])
    assert macro_f1(table) == pytest.approx((0.8 + 0.5) / 2)
    assert weighted_f1(table) == pytest.approx((10 * 0.8 + 2 * 0.5) / 12)


def test_raw_and_normalised_values_stand_side_by_side() -> None:
    task = make_task(eval={"resamples": 20})
    gold = [Example("Oat Milk", (Label("product", "Oat Milk", 0, 8),))]
    made_up = [Example("Oat Milk", (Label("product", "oat  milk"),))]
    found = quality(gold, made_up, task, invalid=[None])
    assert (found["value"]["f1"]["value"], found["raw"]["f1"]["value"]) == (1.0, 0.0)
    assert found["hallucinated"]["value"] == 1.0  # the query has no such characters
    assert found["invalid"]["value"] == 0.0
    assert quality(gold, gold, task)["hallucinated"]["value"] == 0.0


def test_slices_cover_every_row_once_and_what_does_not_cut_is_left_out() -> None:
    task = make_task()
    gold = [
        Example("oat milk", (Label("product", "oat milk", 0, 8),)), Example("verdant machine oat milk 1l pack"),
        Example("rye", (Label("product", "rye", 0, 3),)),
    ]
    log = [Example("oat milk", count=9), Example("rye", count=3)]
    found = slices_of(gold, task, log=log, train=gold[:1], columns={"shop": ["a", "b", "a"], "same": ["x"] * 3})
    assert found["words"] == ["2-3 words", "6+ words", "1 word"]
    assert found["labels"] == ["1 label", "0 labels", "1 label"]
    assert found["values"] == ["all seen", "no value", "some unseen"]
    assert found["shop"] == ["a", "b", "a"]
    assert "same" not in found
    assert "traffic" not in slices_of(gold, task, log=[Example("a"), Example("b")])
