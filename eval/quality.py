"""The quality of one set of predictions against gold, or against the teacher: overall, per role, per slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from eval.bootstrap import Bootstrap, Statistic, draw
from eval.matching import SCHEMES, Counts, Scheme, tables
from eval.metrics import MICRO, exact, macro_f1, of_table, prf, weighted_f1
from eval.significance import Paired, detectable, holm, mcnemar
from eval.slices import Slices, parts
from task.labels import Example
from task.normalize import normaliser
from task.spec import Task

Figure = Mapping[str, float | None]
IN_FULL: Final[tuple[Scheme, ...]] = ("value", "span")  # the other schemes are told in three figures


def quality(
    gold: Sequence[Example], predicted: Sequence[Example], task: Task, slices: Slices | None = None,
    invalid: Sequence[bool] | None = None,
) -> dict[str, Any]:
    """Everything that the report says about one set of predictions.

    Args:
        gold: The truth, or another system that is taken for it; never a mixture.
        predicted: The same queries in the same order; a failed query is one with no labels.
        slices: A part per row, for each dimension.
        invalid: Whether a row's output could not be read as a labelling; such a row has no labels.

    Returns:
        JSON-ready. `value` and `span`: micro precision, recall, F1, `macro_f1`, `weighted_f1`, `exact_match`, `roles`;
        `raw`, `exact`, `partial`, `type`: micro figures; `hallucinated`: share of the predicted open labels whose text
        the query does not have; `invalid`: share of rows; `slices`: by dimension and part. Every figure is
        `{"value", "low", "high"}`, None where it is not defined.
    """
    e = task.eval
    roles = [r.name for r in task.roles]
    found = tables(gold, predicted, roles, normaliser(task.normaliser))
    out: dict[str, Any] = {"rows": len(gold)}
    for scheme in SCHEMES:
        # Summed over roles, rows of counts are few and fast to draw; figures by role need them apart.
        out[scheme] = _micro(draw(found[scheme].sum(axis=1), e.resamples, e.seed), 1, task)
    drawn = draw(np.concatenate([found[s] for s in IN_FULL], axis=1), e.resamples, e.seed)
    for number, scheme in enumerate(IN_FULL):
        out[scheme] |= _in_full(found[scheme], drawn, number, roles, task)
    out["hallucinated"] = _share(*_hallucinated(predicted, task), task)
    if invalid is not None:
        out["invalid"] = _share(np.asarray(invalid, dtype=np.int64), np.ones(len(gold), dtype=np.int64), task)
    if slices is not None:
        out["slices"] = {
            dimension: {name: _part(found["value"], of, name, task) for name in parts(dimension, of)}
            for dimension, of in ((d, np.asarray(v)) for d, v in slices.items())
        }
    return out


def _in_full(table: Counts, drawn: Bootstrap, number: int, roles: Sequence[str], task: Task) -> dict[str, Any]:
    """Figures that need counts by role; those of this scheme are the `number`-th in what was drawn."""
    level, method = task.eval.confidence, task.eval.interval
    support = table[:, :, 0].sum(axis=0) + table[:, :, 2].sum(axis=0)
    width = 3 * len(roles)

    def here(statistic: Statistic) -> Statistic:
        return lambda sums: of_table(statistic, len(roles))(sums[..., number * width :])

    def of_role(i: int, k: int) -> Statistic:
        return here(lambda counts: prf(counts[..., i, :])[k])

    return {
        "macro_f1": drawn.figure(here(macro_f1), level, method),
        "weighted_f1": drawn.figure(here(weighted_f1), level, method),
        "exact_match": _share(exact(table), np.ones(len(table), dtype=np.int64), task),
        "roles": {
            role: {"support": int(support[i])} | {
                name: drawn.figure(of_role(i, k), level, method) for k, name in enumerate(("precision", "recall", "f1"))
            }
            for i, role in enumerate(roles)
        },
    }


def _part(table: Counts, of: Any, name: str, task: Task) -> dict[str, Any]:
    """A slice: its rows are resampled by themselves."""
    rows = table[of == name]
    summed = rows.sum(axis=1, keepdims=True)
    return {
        "rows": len(rows), **_micro(draw(summed, task.eval.resamples, task.eval.seed), 1, task),
        "exact_match": _share(exact(rows), np.ones(len(rows), dtype=np.int64), task),
    }


def _micro(drawn: Bootstrap, roles: int, task: Task) -> dict[str, Any]:
    e = task.eval
    return {name: drawn.figure(of_table(f, roles), e.confidence, e.interval) for name, f in MICRO.items()}


def _share(hits: Any, of: Any, task: Task) -> Figure:
    """Sum over sum, with an interval over rows."""
    drawn = draw(np.stack([hits, of], axis=1), task.eval.resamples, task.eval.seed)

    def ratio(sums: Any) -> Any:
        with np.errstate(invalid="ignore", divide="ignore"):
            return sums[..., 0] / sums[..., 1]

    return drawn.figure(ratio, task.eval.confidence, task.eval.interval)


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


def paired(gold: Sequence[Example], a: Sequence[Example], b: Sequence[Example], task: Task) -> dict[str, Any]:
    """`a` less `b` by value: what differs, how surely, and what could have been seen.

    Returns:
        `precision`, `recall`, `f1` as figures of the difference; `p` of the F1 by bootstrap and by `randomisation`;
        `detectable`, the least difference in F1 that these rows would show (80 % power); `mcnemar` over whole queries;
        `roles`: the difference in F1 with p-values adjusted over roles (Holm).
    """
    e = task.eval
    roles = [r.name for r in task.roles]
    normalise = normaliser(task.normaliser)
    left, right = (tables(gold, side, roles, normalise, ("value",))["value"] for side in (a, b))
    both = Paired.of(left.sum(axis=1), right.sum(axis=1), e.resamples, e.seed)
    micro = {name: of_table(f, 1) for name, f in MICRO.items()}
    out: dict[str, Any] = {name: both.figure(f, e.confidence, e.interval) for name, f in micro.items()}
    out["p"] = _p(both.p_value(micro["f1"]))
    out["p_randomisation"] = _p(both.randomisation(micro["f1"], e.resamples, e.seed))
    out["detectable"] = _p(detectable(both.difference(micro["f1"])(both.drawn.samples), e.confidence))
    out["mcnemar"] = mcnemar(exact(left), exact(right))
    raw: dict[str, float] = {}
    per_role: dict[str, dict[str, Any]] = {}
    for i, role in enumerate(roles):
        one = Paired.of(left[:, i : i + 1], right[:, i : i + 1], e.resamples, e.seed)
        f1 = of_table(MICRO["f1"], 1)
        found = one.figure(f1, e.confidence, e.interval)
        if found["value"] is not None:
            raw[role], per_role[role] = one.p_value(f1), {"f1": found}
    adjusted = holm(raw)
    out["roles"] = {role: v | {"p_holm": _p(adjusted[role])} for role, v in per_role.items()}
    return out


def paired_difference(
    gold: Sequence[Example], a: Sequence[Example], b: Sequence[Example], task: Task, statistic: str = "f1"
) -> Figure:
    """Micro F1 (or `precision`, `recall`) by value of `a` minus `b`, with a paired bootstrap interval."""
    e = task.eval
    roles = [r.name for r in task.roles]
    normalise = normaliser(task.normaliser)
    left, right = (tables(gold, side, roles, normalise, ("value",))["value"] for side in (a, b))
    both = Paired.of(left.sum(axis=1), right.sum(axis=1), e.resamples, e.seed)
    return both.figure(of_table(MICRO[statistic], 1), e.confidence, e.interval)


def _p(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 6)


def label_agreement(a: Sequence[Example], b: Sequence[Example]) -> float:
    """Share of labels that two sets of predictions have in common: |A ∩ B| / |A ∪ B| over (row, label)."""
    left = {(i, x.key) for i, row in enumerate(a) for x in row.labels}
    right = {(i, x.key) for i, row in enumerate(b) for x in row.labels}
    return len(left & right) / len(left | right) if left | right else 1.0
