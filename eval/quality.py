"""The quality of one set of predictions against gold, or against the teacher: overall, per role, per slice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any, Final

import numpy as np

from eval.bootstrap import Bootstrap, Statistic, draw
from eval.matching import SCHEMES, Counts, Scheme, tables
from eval.metrics import MICRO, exact, macro_f1, of_table, prf, weighted_f1
from eval.quality_schema import Difference, Estimate, Micro, Quality, RoleDifference, SchemeQuality, SliceQuality, micro
from eval.significance import Paired, detectable, holm, mcnemar
from eval.slices import Slices, parts
from eval.taxonomy import taxonomy_quality
from task.labels import Example
from task.normalize import normaliser
from task.spec import Task
from task.validation import FaultKind

# Schemes with all figures; of the others only micro precision, recall and F1 are reported.
IN_FULL: Final[tuple[Scheme, ...]] = ("value", "span")


def quality(
    gold: Sequence[Example], predicted: Sequence[Example], task: Task, *, slices: Slices | None = None,
    invalid: Sequence[FaultKind | None] | None = None,
) -> Quality:
    """Score one set of predictions.

    Args:
        gold: The reference labels: gold, or another system's predictions; never a mixture.
        predicted: The same queries in the same order; a failed query is one with no labels.
        slices: A part per row, for each dimension.
        invalid: Why each answer is invalid, None for a valid one; such an answer has no labels.
    """
    e = task.eval
    roles = [r.name for r in task.roles]
    found = tables(gold, predicted, roles, normaliser(task.normaliser))
    # Summed over roles, few rows of counts are distinct and they are fast to draw; figures by role need them apart.
    summed = {s: _micro(draw(found[s].sum(axis=1), resamples=e.resamples, seed=e.seed), task) for s in SCHEMES}
    drawn = draw(np.concatenate([found[s] for s in IN_FULL], axis=1), resamples=e.resamples, seed=e.seed)
    full = {s: _in_full(found[s], summed[s], drawn, number, roles, task) for number, s in enumerate(IN_FULL)}
    out: Quality = {
        "rows": len(gold), "value": full["value"], "raw": summed["raw"], "span": full["span"],
        "exact": summed["exact"], "partial": summed["partial"], "type": summed["type"],
        "hallucinated": _share(*_hallucinated(predicted, task), task),
    }
    taxonomies = {r.name: taxonomy_quality(gold, predicted, task, r.name) for r in task.roles if r.separator}
    if taxonomies:
        out["taxonomies"] = taxonomies
    if invalid is not None:
        wrong = np.array([fault is not None for fault in invalid], dtype=np.int64)
        out["invalid"] = _share(wrong, np.ones(len(gold), dtype=np.int64), task)
        out["invalid_kinds"] = dict(sorted(Counter(fault for fault in invalid if fault is not None).items()))
    if slices is not None:
        out["slices"] = {
            dimension: {name: _part(found["value"], of, name, task) for name in parts(dimension, of)}
            for dimension, of in ((d, np.asarray(v)) for d, v in slices.items())
        }
    return out


def _in_full(
    table: Counts, summed: Micro, drawn: Bootstrap, number: int, roles: Sequence[str], task: Task
) -> SchemeQuality:
    """Add the figures that need counts by role; this scheme's counts are the `number`-th block of those drawn."""
    level, method = task.eval.confidence, task.eval.interval
    support = table[:, :, 0].sum(axis=0) + table[:, :, 2].sum(axis=0)
    width = 3 * len(roles)

    def here(statistic: Statistic) -> Statistic:
        return lambda sums: of_table(statistic, len(roles))(sums[..., number * width :])

    def of_role(i: int, k: int) -> Statistic:
        return here(lambda counts: prf(counts[..., i, :])[k])

    return {
        **summed,
        "macro_f1": drawn.estimate(here(macro_f1), level, method),
        "weighted_f1": drawn.estimate(here(weighted_f1), level, method),
        "exact_match": _share(exact(table), np.ones(len(table), dtype=np.int64), task),
        "roles": {
            role: {
                "support": int(support[i]), **micro([drawn.estimate(of_role(i, k), level, method) for k in range(3)])
            }
            for i, role in enumerate(roles)
        },
    }


def _part(table: Counts, of: Any, name: str, task: Task) -> SliceQuality:
    """A slice; only its own rows are resampled."""
    rows = table[of == name]
    summed = rows.sum(axis=1, keepdims=True)
    return {
        "rows": len(rows), **_micro(draw(summed, resamples=task.eval.resamples, seed=task.eval.seed), task),
        "exact_match": _share(exact(rows), np.ones(len(rows), dtype=np.int64), task),
    }


def _micro(drawn: Bootstrap, task: Task) -> Micro:
    e = task.eval
    return micro([drawn.estimate(of_table(f, 1), e.confidence, e.interval) for f in MICRO.values()])


def _share(hits: Any, of: Any, task: Task) -> Estimate:
    """Sum over sum, with an interval over rows."""
    drawn = draw(np.stack([hits, of], axis=1), resamples=task.eval.resamples, seed=task.eval.seed)

    def ratio(sums: Any) -> Any:
        with np.errstate(invalid="ignore", divide="ignore"):
            return sums[..., 0] / sums[..., 1]

    return drawn.estimate(ratio, task.eval.confidence, task.eval.interval)


def _hallucinated(predicted: Sequence[Example], task: Task) -> tuple[Any, Any]:
    """Per row: labels of open roles that are not words of the query; labels of open roles."""
    open_roles = {r.name for r in task.roles if r.kind == "open"}
    made_up = np.zeros(len(predicted), dtype=np.int64)
    all_ = np.zeros(len(predicted), dtype=np.int64)
    for row, example in enumerate(predicted):
        for label in example.labels:
            if label.role in open_roles:
                all_[row] += 1
                made_up[row] += label.start is None and label.text not in example.query
    return made_up, all_


# -- two systems ------------------------------------------------------------------------------------------------------


def paired(gold: Sequence[Example], a: Sequence[Example], b: Sequence[Example], task: Task) -> Difference:
    """`a` minus `b`, scored by value: differences, their significance, and the minimum detectable effect."""
    e = task.eval
    roles = [r.name for r in task.roles]
    normalise = normaliser(task.normaliser)
    left, right = (tables(gold, side, roles, normalise, ("value",))["value"] for side in (a, b))
    both = Paired.of(left.sum(axis=1), right.sum(axis=1), resamples=e.resamples, seed=e.seed)
    f1 = of_table(MICRO["f1"], 1)
    raw: dict[str, float] = {}
    per_role: dict[str, Estimate] = {}
    for i, role in enumerate(roles):
        one = Paired.of(left[:, i : i + 1], right[:, i : i + 1], resamples=e.resamples, seed=e.seed)
        found = one.estimate(f1, e.confidence, e.interval)
        if found["value"] is not None:
            raw[role], per_role[role] = one.p_value(f1), found
    adjusted = holm(raw)
    by_role: dict[str, RoleDifference] = {
        role: {"f1": found, "p_holm": _p(adjusted[role])} for role, found in per_role.items()
    }
    return {
        **micro([both.estimate(of_table(f, 1), e.confidence, e.interval) for f in MICRO.values()]),
        "p": _p(both.p_value(f1)), "p_randomisation": _p(both.randomisation(f1, rounds=e.resamples, seed=e.seed)),
        "detectable": _p(detectable(both.difference(f1)(both.drawn.samples), e.confidence)),
        "mcnemar": mcnemar(exact(left), exact(right)), "roles": by_role,
    }


def paired_difference(
    gold: Sequence[Example], a: Sequence[Example], b: Sequence[Example], task: Task, statistic: str = "f1"
) -> Estimate:
    """Micro F1 (or `precision`, `recall`) by value of `a` minus `b`, with a paired bootstrap interval."""
    e = task.eval
    roles = [r.name for r in task.roles]
    normalise = normaliser(task.normaliser)
    left, right = (tables(gold, side, roles, normalise, ("value",))["value"] for side in (a, b))
    both = Paired.of(left.sum(axis=1), right.sum(axis=1), resamples=e.resamples, seed=e.seed)
    return both.estimate(of_table(MICRO[statistic], 1), e.confidence, e.interval)


def by_slice(
    gold: Sequence[Example], a: Sequence[Example], b: Sequence[Example], task: Task, *, slices: Slices,
    rows: Sequence[int],
) -> dict[str, dict[str, Estimate]]:
    """ΔF1 of `a` minus `b` by dimension and part, on those of the gold rows that both are compared on."""
    out: dict[str, dict[str, Estimate]] = {}
    for dimension, names in slices.items():
        out[dimension] = {}
        for part in parts(dimension, names):
            chosen = [i for i in rows if names[i] == part]
            if chosen:
                truth, ours, theirs = ([x[i] for i in chosen] for x in (gold, a, b))
                out[dimension][part] = paired_difference(truth, ours, theirs, task)
    return out


def _p(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 6)


def label_agreement(a: Sequence[Example], b: Sequence[Example]) -> float:
    """Share of labels that two sets of predictions have in common: |A ∩ B| / |A ∪ B| over (row, label)."""
    left, right = _labels(a), _labels(b)
    return len(left & right) / len(left | right) if left | right else 1.0


def compared_labels(a: Sequence[Example], b: Sequence[Example]) -> int:
    """Number of labels that this share is of: |A ∪ B|."""
    return len(_labels(a) | _labels(b))


def _labels(rows: Sequence[Example]) -> set[tuple[int, Hashable]]:
    return {(i, x.key) for i, row in enumerate(rows) for x in row.labels}
