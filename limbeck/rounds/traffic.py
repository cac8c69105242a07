"""Captures of two periods as sums by distinct query, which `eval.drift` compares."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eval.drift import Shift, Totals, shifts
from eval.drift_verdict import ROLE
from task.captures import Capture
from task.feedback import Feedback

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Two periods over the same units of chance.

    Attributes:
        units: The distinct queries: by text or hash, or days where neither is kept.
        texts: The text of each unit; None where one of them has none.
        reference: Captures of the reference period, each with the row of its unit.
        current: The same of the current period.
    """

    units: int
    texts: tuple[str, ...] | None
    reference: tuple[tuple[int, Capture], ...]
    current: tuple[tuple[int, Capture], ...]

    @classmethod
    def of(cls, reference: Sequence[Capture], current: Sequence[Capture]) -> Traffic:
        """The traffic of two periods."""
        rows: dict[str, int] = {}
        texts: list[str | None] = []

        def numbered(captures: Sequence[Capture]) -> tuple[tuple[int, Capture], ...]:
            found = []
            for capture in captures:
                name = _unit(capture)
                if name not in rows:
                    rows[name] = len(rows)
                    texts.append(capture.query)
                found.append((rows[name], capture))
            return tuple(found)

        before, now = numbered(reference), numbered(current)
        kept = [t for t in texts if t is not None]
        return cls(len(rows), tuple(kept) if len(kept) == len(texts) else None, before, now)

    def weights(self) -> tuple[Floats, Floats]:
        """Requests of each unit in both periods, shape (units,)."""
        found = []
        for captures in (self.reference, self.current):
            total = np.zeros(self.units)
            for row, capture in captures:
                total[row] += capture.weight
            found.append(total)
        return found[0], found[1]


def answer_shifts(traffic: Traffic, roles: Sequence[str]) -> dict[str, Shift]:
    """What answers alone tell, without texts: the cache, the share of each role, and the expected error."""
    names = ["cache", *(f"{ROLE}{r}" for r in roles), "expected error"]

    def figures(capture: Capture) -> list[float | None]:
        error = None if capture.probability is None else 1 - capture.probability
        return [float(capture.source == "cache"), *(float(capture.roles.get(r, 0) > 0) for r in roles), error]

    def totals(captures: Sequence[tuple[int, Capture]]) -> Totals:
        weights, values = np.zeros((traffic.units, len(names))), np.zeros((traffic.units, len(names)))
        for row, capture in captures:
            for column, value in enumerate(figures(capture)):
                if value is not None:
                    weights[row, column] += capture.weight
                    values[row, column] += capture.weight * value
        return Totals(weights, values)

    found = dict(zip(names, shifts(totals(traffic.reference), totals(traffic.current)), strict=True))
    return {name: s for name, s in found.items() if s.change["value"] is not None}


def verdict_shift(reference: Sequence[Feedback], current: Sequence[Feedback]) -> Shift:
    """The share of the answers that clients call wrong; other labels than the answer's are a wrong.

    The unit of chance is the query; all verdicts without text and hash are one unit.
    """
    rows: dict[str | None, int] = {}
    for f in (*reference, *current):
        rows.setdefault(f.query or f.keyed_hash, len(rows))

    def totals(verdicts: Sequence[Feedback]) -> Totals:
        weights, values = np.zeros((len(rows), 1)), np.zeros((len(rows), 1))
        for f in verdicts:
            row = rows[f.query or f.keyed_hash]
            weights[row] += f.count
            values[row] += f.count * f.wrong
        return Totals(weights, values)

    return shifts(totals(reference), totals(current))[0]


def word_shift(traffic: Traffic, unseen: Sequence[bool]) -> Shift:
    """The share of the traffic that has words never seen.

    Args:
        unseen: Of each unit.
    """
    flags = np.asarray(unseen, dtype=np.float64)[:, None]
    before, now = (Totals(w[:, None], w[:, None] * flags) for w in traffic.weights())
    return shifts(before, now)[0]


def _unit(capture: Capture) -> str:
    if capture.query is not None:
        return f"query {capture.query}"
    if capture.keyed_hash is not None:
        return f"hash {capture.keyed_hash}"
    return f"day {datetime.datetime.fromtimestamp(capture.at, datetime.UTC):%Y-%m-%d}"
