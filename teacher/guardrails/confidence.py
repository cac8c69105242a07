"""Confidence: the probability that a label is right, from cheap signals.

Every backend attaches signals in [0, 1] to each label: token probability, agreement of further samples, agreement
without context, the verdict of a verification call, support by retrieval, margin of the guardrails. The confidence that
a model states about itself is not used (the worst signal in published comparisons). A logistic regression over the
log-odds of the signals, fitted on gold calibration rows, combines them to one probability (Platt 1999), optionally with
an isotonic step (Zadrozny and Elkan 2002). A second one does the same for whole labellings.

A calibrator is stored as JSON, not as a pickle.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from task.labels import Example, Labelling
from task.normalize import normaliser
from task.settings import Confidence as Settings
from task.spec import Task
from teacher.ledger.records import UNANSWERED, LedgerRow, Status

# Increase this when the same signals give another confidence: label stages are then run again, at no cost.
VERSION = 1
Floats = npt.NDArray[np.float64]
_CLIP = 0.002  # log-odds stay within +-6.2
_FOLDS = 5
Signals = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrator:
    """A fitted map from signals to a probability.

    Attributes:
        names: Signals that it uses.
        roles: Roles with a column of their own.
        fill: Per signal, the log-odds that replace a missing value: the mean over the rows that have it.
        weights: Of the signals, then of the roles.
        steps: Points (score, probability) of the isotonic step, or none.
    """

    names: tuple[str, ...]
    roles: tuple[str, ...]
    fill: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    steps: tuple[tuple[float, float], ...] = ()

    def apply(self, signals: Sequence[Signals], roles: Sequence[str]) -> Floats:
        """Probabilities, one for each."""
        if not signals:
            return np.zeros(0)
        x = _matrix(signals, roles, names=self.names, kinds=self.roles, fill=self.fill)
        score = x @ np.array(self.weights) + self.bias
        found = 1.0 / (1.0 + np.exp(-score))
        if self.steps:
            found = np.interp(score, [x for x, _ in self.steps], [y for _, y in self.steps])
        return np.asarray(found, dtype=np.float64)

    def to_json(self) -> dict[str, Any]:
        """Everything that `apply` needs, weights by name."""
        return {
            "weights": dict(zip((*self.names, *(f"role={r}" for r in self.roles)), self.weights, strict=True)),
            "bias": self.bias, "fill": dict(zip(self.names, self.fill, strict=True)), "steps": list(self.steps),
        }


@dataclass(frozen=True, slots=True)
class Calibration:
    """The result of the calibration.

    Attributes:
        labels: For single labels.
        whole: For whole labellings.
        threshold: Rows with a label below it become `uncertain`; None if no threshold reaches the target precision.
        report: JSON-ready: out-of-fold AUROC, ECE, Brier, precision and coverage at the threshold, with intervals.
    """

    labels: Calibrator
    whole: Calibrator
    threshold: float | None
    report: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The file `confidence.json` beside the labels."""
        return {
            "threshold": self.threshold, "report": dict(self.report), "label_calibrator": self.labels.to_json(),
            "labelling_calibrator": self.whole.to_json(),
        }


def calibrate(task: Task, rows: Sequence[LedgerRow], gold: Mapping[str, Labelling]) -> Calibration | None:
    """Fit on the gold calibration rows; None if there are too few, or if all are right or all are wrong.

    The report is on out-of-fold predictions: no row is scored by a calibrator that was fitted on it.
    """
    from eval.calibration import assess, threshold_for

    settings = task.teacher.confidence
    if obstacle(task, rows, gold) is not None:
        return None
    used = _used(rows, gold)
    signals, roles, right, groups = [], [], [], []
    for number, (row, good_ones) in enumerate(zip(used, _right(task, used, gold), strict=True)):
        for label, signal, good in zip(row.labels, row.label_signals, good_ones, strict=False):
            signals.append(signal)
            roles.append(label.role)
            right.append(good)
            groups.append(number)
    whole_signals = [_whole(r) for r in used]
    all_right = _all_right(task, used, gold)
    numbers = list(range(len(used)))
    fold = _out_of_fold(signals, roles, right, groups, settings)
    whole_fold = _out_of_fold(whole_signals, [""] * len(used), all_right, numbers, settings)
    wanted = settings.threshold
    threshold = threshold_for(fold, np.asarray(right, float), settings.target_precision) if wanted is None else wanted
    options = {"resamples": task.eval.resamples, "seed": task.eval.seed, "level": task.eval.confidence}
    report = {
        "method": settings.method, "target_precision": settings.target_precision, "rows": len(used),
        "label": assess(list(fold), right, groups, threshold=threshold, **options),  # type: ignore[arg-type]
        "labelling": assess(list(whole_fold), all_right, numbers, **options),  # type: ignore[arg-type]
    }
    return Calibration(
        fit(signals, roles, right, settings), fit(whole_signals, [""] * len(used), all_right, settings), threshold,
        report,
    )


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why confidences cannot be calibrated, and what to do about it."""

    why: str
    fix: str


def obstacle(task: Task, rows: Sequence[LedgerRow], gold: Mapping[str, Labelling]) -> Obstacle | None:
    """What keeps `calibrate` from fitting; None if nothing does."""
    used, least = _used(rows, gold), task.teacher.confidence.min_rows
    if len(used) < least:
        return Obstacle(
            f"{len(used):,} of {len(gold):,} gold calibration queries have an answer, and teacher.confidence.min_rows "
            f"is {least:,}", "Add calibration queries",
        )
    labels = [good for part in _right(task, used, gold) for good in part]
    if not labels:
        return Obstacle(
            f"the answers to {len(used):,} gold calibration queries have no label", "See `limbeck ledger TASK`"
        )
    for what, found in (("labels", labels), ("labellings", _all_right(task, used, gold))):
        if len(set(found)) < 2:
            same = f"all {len(found):,} {what} of {len(used):,} answered gold calibration queries are"
            return Obstacle(
                f"{same} right, so that nothing tells right ones from wrong ones",
                "Add calibration queries, hard ones among them",
            ) if found[0] else Obstacle(
                f"{same} wrong, so that nothing tells right ones from wrong ones",
                "Compare an answer with its gold: `limbeck ledger TASK --query QUERY`",
            )
    return None


def _used(rows: Sequence[LedgerRow], gold: Mapping[str, Labelling]) -> list[LedgerRow]:
    return [r for r in rows if r.query in gold and r.status != "skipped"]


def _right(task: Task, used: Sequence[LedgerRow], gold: Mapping[str, Labelling]) -> list[list[bool]]:
    """Whether each label that has signals is right, by row."""
    normalise = normaliser(task.normaliser)
    return [rightness(r, gold[r.query], normalise)[: len(r.label_signals)] for r in used]


def _all_right(task: Task, used: Sequence[LedgerRow], gold: Mapping[str, Labelling]) -> list[bool]:
    from eval.matching import exact

    normalise = normaliser(task.normaliser)
    return [exact(r.labels, gold[r.query], normalise) for r in used]


def fit(signals: Sequence[Signals], roles: Sequence[str], right: Sequence[bool], settings: Settings) -> Calibrator:
    """Fit a calibrator.

    Each role has a column of its own, regularised like every weight, so a rare role falls back to the common fit.
    """
    from sklearn.isotonic import IsotonicRegression
    from sklearn.linear_model import LogisticRegression

    names = tuple(sorted({n for s in signals for n in s}))
    kinds = tuple(sorted(set(roles) - {""}))
    have = {n: [_log_odds(s[n]) for s in signals if n in s] for n in names}
    fill = tuple(float(np.mean(have[n])) for n in names)
    x = _matrix(signals, roles, names=names, kinds=kinds, fill=fill)
    y = np.asarray(right, dtype=np.int64)
    mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-6
    model = LogisticRegression(C=1.0, max_iter=1_000).fit((x - mean) / spread, y)
    weights = model.coef_[0] / spread
    bias = float(model.intercept_[0] - (weights * mean).sum())
    steps: tuple[tuple[float, float], ...] = ()
    if settings.method == "isotonic":
        curve = IsotonicRegression(y_min=0.001, y_max=0.999, out_of_bounds="clip").fit(x @ weights + bias, y)
        steps = tuple(zip(map(float, curve.X_thresholds_), map(float, curve.y_thresholds_), strict=True))
    return Calibrator(
        names=names, roles=kinds, fill=fill, weights=tuple(float(w) for w in weights), bias=bias, steps=steps
    )


def _out_of_fold(
    signals: Sequence[Signals], roles: Sequence[str], right: Sequence[bool], groups: Sequence[int], settings: Settings
) -> Floats:
    """Each row's probability from a calibrator that was not fitted on its query."""
    folds = np.asarray(groups) % _FOLDS
    out = np.full(len(signals), float(np.mean(right)))
    for k in range(_FOLDS):
        inside, outside = np.flatnonzero(folds == k), np.flatnonzero(folds != k)
        seen = [right[i] for i in outside]
        if len(inside) and len(set(seen)) == 2:
            fitted = fit([signals[i] for i in outside], [roles[i] for i in outside], seen, settings)
            out[inside] = fitted.apply([signals[i] for i in inside], [roles[i] for i in inside])
    return out


def apply(rows: Sequence[LedgerRow], calibration: Calibration | None, settings: Settings) -> list[LedgerRow]:
    """Rows with the confidence of their labels, and the status `uncertain` if a label is below the threshold.

    Without a calibration a confidence is the teacher's own probability, else the mean of the signals.
    """
    flat = [(s, x.role) for r in rows for x, s in zip(r.labels, r.label_signals, strict=False)]
    whole = [_whole(r) for r in rows]
    if calibration is None:
        label_p = [_raw(s) for s, _ in flat]
        row_p = [s.get("weakest", _raw(s)) for s in whole]
        threshold = settings.threshold
    else:
        label_p = list(calibration.labels.apply([s for s, _ in flat], [r for _, r in flat]))
        row_p = list(calibration.whole.apply(whole, [""] * len(rows)))
        threshold = calibration.threshold
    out, at = [], 0
    for row, whole_p in zip(rows, row_p, strict=True):
        if row.status in UNANSWERED:
            out.append(row)
            continue
        own = label_p[at : at + len(row.labels)]
        at += len(row.labels)
        labels = tuple(replace(x, confidence=round(float(p), 6)) for x, p in zip(row.labels, own, strict=True))
        doubtful = [x for x, p in zip(labels, own, strict=True) if threshold is not None and p < threshold]
        status: Status = row.status
        reason = row.reason
        if status == "uncertain":  # set by an earlier run, perhaps with another threshold
            status, reason = "accepted", ""
        if status == "accepted" and doubtful:
            status, reason = "uncertain", f"confidence: {doubtful[0].role} is below the threshold"
        out.append(
            replace(row, labels=labels, status=status, reason=reason, confidence=round(float(whole_p), 6))
        )
    return out


def rightness(row: LedgerRow, gold: Labelling, normalise: Callable[[str], str]) -> list[bool]:
    """Whether gold has each label, by role and normalised value; each gold label matches once."""
    left = Counter((x.role, normalise(x.text)) for x in gold)
    out = []
    for x in row.labels:
        key = (x.role, normalise(x.text))
        out.append(left[key] > 0)
        left[key] -= 1
    return out


def _whole(row: LedgerRow) -> dict[str, float]:
    """Signals of a labelling: its own, and the minimum of each signal over its labels."""
    least: dict[str, float] = {}
    for part in row.label_signals:
        for name, value in part.items():
            least[f"least {name}"] = min(value, least.get(f"least {name}", math.inf))
    return {**row.row_signals, **least, "labels": min(1.0, len(row.labels) / 8)}


def _raw(signals: Signals) -> float:
    """Confidence without calibration: the teacher's own probability, else the mean of the signals."""
    if "probability" in signals:
        return float(signals["probability"])
    values = [_clipped(v) for n, v in signals.items() if n != "labels"]
    return sum(values) / len(values) if values else 1.0


def _matrix(
    signals: Sequence[Signals], roles: Sequence[str], *, names: Sequence[str], kinds: Sequence[str],
    fill: Sequence[float],
) -> Floats:
    """Shape (rows, signals + roles)."""
    out = np.zeros((len(signals), len(names) + len(kinds)))
    column = {r: len(names) + i for i, r in enumerate(kinds)}
    for i, (s, role) in enumerate(zip(signals, roles, strict=True)):
        for j, name in enumerate(names):
            out[i, j] = _log_odds(s[name]) if name in s else fill[j]
        if role in column:
            out[i, column[role]] = 1.0
    return out


def _clipped(value: float) -> float:
    return min(1.0 - _CLIP, max(_CLIP, value))


def _log_odds(value: float) -> float:
    p = _clipped(value)
    return math.log(p / (1.0 - p))


def gold_of(examples: Sequence[Example]) -> dict[str, Labelling]:
    """Query → labelling; the first if a query occurs twice."""
    out: dict[str, Labelling] = {}
    for e in examples:
        out.setdefault(e.query, e.labels)
    return out
