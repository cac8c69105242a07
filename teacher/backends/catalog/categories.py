"""Categories of a query from purchases and search, for roles whose values are not words of the query.

Every purchase after the query, every purchase after its neighbours and every search hit is a vote for the category of
its item; so is the category of the items whose open values the query names. In a taxonomy a vote also counts for all
nodes above. The answer is the deepest node with a share of the votes above the threshold; one vote is held by nobody,
so that little evidence is no answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from task.role import Role
from task.spec import Task
from task.value_tree import ancestors
from teacher.retrieval.evidence import Evidence

# Increase this when the same evidence gives other categories.
VERSION = 1
_MOST_PURCHASES = 12.0
_NEIGHBOURS = 2.0  # votes of the neighbours' purchases, if the nearest one is the same text
_LIKENESS = 6  # the power of the similarity that the neighbours' votes go by
_HITS = 3.0  # votes of the search, if its first hit is the first by words and by vectors, and nothing was bought
_NOBODY = 1.0
_PRIOR_PURCHASES = 3.0
Votes = Counter[str]


@dataclass(frozen=True, slots=True)
class Category:
    """A value that the evidence supports, with its probability and the signals for its confidence, each in [0, 1]."""

    value: str
    probability: float
    signals: Mapping[str, float]


def category_roles(task: Task) -> tuple[Role, ...]:
    """The closed roles that are answered by this module.

    These are taxonomies and sets of more values than a role can have symbols; in a task without open roles, whose words
    the other closed roles are answered by, all that the catalogue has.
    """
    return tuple(
        r for r in task.closed_roles if r.catalogue and (r.has_tree or not task.open_roles)
    )


def categories(
    role: Role, evidence: Evidence, rows: Sequence[Mapping[str, str]], named: Votes, threshold: float
) -> tuple[list[Category], float]:
    """The categories of a query: at most one, unless the role can have several.

    Args:
        rows: Of each row of the catalogue role → value.
        named: Votes of the open values in the query.
        threshold: The least probability of an answer, exclusive.

    Returns:
        The categories, and the largest probability of any value: 0 without evidence.
    """
    bought = _votes(role, rows, evidence.conversions.items(), most=_MOST_PURCHASES)
    nearest = max((s for _, s in evidence.neighbours), default=0.0)
    near_most = _NEIGHBOURS * max(nearest, 0.0) ** _LIKENESS / (2.0 if bought else 1.0)
    near = _votes(role, rows, evidence.neighbour_conversions.items(), total=near_most)
    have = bought.total() + near.total() + named.total()
    first = max((h.score for h in evidence.items), default=0.0)
    # The scores of rank fusion are nearly the same from hit to hit: the n-th has 1/n² of the first one's vote.
    ranked = ((h.row, h.score / rank**2) for rank, h in enumerate(evidence.items, 1))
    hits = _votes(role, rows, ranked, total=_HITS * first / (1.0 + have))
    votes = _with_nodes_above(role, bought + near + named + hits)
    weight = have + hits.total() + _NOBODY
    shares = {v: n / weight for v, n in votes.items()}
    found = [v for v in sorted(shares) if shares[v] > threshold]
    if not role.multiple:
        found = sorted(found, key=lambda v: (-_depth(role, v), -shares[v], v))[:1]
    bought_above, hits_above = _with_nodes_above(role, bought), _with_nodes_above(role, hits)
    return [
        Category(v, shares[v], {
            "probability": shares[v], "purchases": bought_above[v] / (bought_above[v] + _PRIOR_PURCHASES),
            "nearest": min(1.0, max(0.0, nearest)), "found": hits_above[v] / hits.total() if hits else 0.0,
        })
        for v in found
    ], max(shares.values(), default=0.0)


def _votes(
    role: Role, rows: Sequence[Mapping[str, str]], counts: Iterable[tuple[int, float]], *, most: float | None = None,
    total: float | None = None,
) -> Votes:
    """Votes for the allowed values of items by catalogue row, scaled down to `most` in all, or to `total` exactly."""
    out: Counter[str] = Counter()
    for row, count in counts:
        value = rows[row].get(role.name)
        if value in role.allowed and count > 0:
            out[value] += count  # type: ignore[assignment]
    have = out.total()
    wanted = have if total is None else total
    scale = min(wanted, most if most is not None else wanted) / have if have else 0.0
    return Counter({v: n * scale for v, n in out.items()}) if scale else Counter()


def _with_nodes_above(role: Role, votes: Votes) -> Votes:
    if role.separator is None:
        return votes
    out: Counter[str] = Counter()
    for value, n in votes.items():
        for node in ancestors(value, role.separator):
            out[node] += n
    return out


def _depth(role: Role, value: str) -> int:
    return 0 if role.separator is None else value.count(role.separator)
