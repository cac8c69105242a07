"""Labels drawn on a query: its text in pieces, each with the number of its role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from task.labels import Label, ordered

COLOURS = 12
"""Roles beyond these share colours; each piece also has its role's name."""


class Named(Protocol):
    """A role, as far as it is drawn."""

    @property
    def name(self) -> str:
        """Its name."""


class WithRoles(Protocol):
    """A task, as far as its labels are drawn."""

    @property
    def roles(self) -> Sequence[Named]:
        """Its roles, in their order."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a query.

    Attributes:
        label: None outside of labels.
        colour: Number of the role's colour; 0 outside.
    """

    text: str
    label: Label | None = None
    colour: int = 0


def pieces(query: str, labels: Sequence[Label], task: WithRoles) -> list[Piece]:
    """The whole query in pieces; of labels that overlap the first is drawn, `chips` has the others."""
    out, at = [], 0
    for label in _drawn(labels):
        assert label.start is not None
        assert label.end is not None
        if label.start > at:
            out.append(Piece(query[at : label.start]))
        out.append(Piece(query[label.start : label.end], label, colour(label.role, task)))
        at = label.end
    return [*out, Piece(query[at:])] if at < len(query) else out


def chips(labels: Sequence[Label], task: WithRoles) -> list[Piece]:
    """Labels that are not drawn on the query: of closed and text roles, and those that overlap others."""
    drawn = {x.key for x in _drawn(labels)}
    return [Piece(x.text, x, colour(x.role, task)) for x in ordered(labels) if x.key not in drawn]


def colour(role: str, task: WithRoles) -> int:
    """From 1 to `COLOURS`, by the role's place in the task; 0 for a role that the task does not have."""
    names = [r.name for r in task.roles]
    return 1 + names.index(role) % COLOURS if role in names else 0


def _drawn(labels: Sequence[Label]) -> list[Label]:
    out: list[Label] = []
    for label in ordered(labels):
        if label.start is not None and label.end is not None and (not out or label.start >= (out[-1].end or 0)):
            out.append(label)
    return out
