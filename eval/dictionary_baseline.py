"""The dictionary baseline: matching known values without a model, which a student must beat.

Longest match, left to right, over the values of each open role; a value that several roles share
goes to the role that has it most often. A closed role takes the value that most often occurs with the matched values.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Self

from task.labels import Example, Label, ordered
from task.normalize import normaliser
from task.readers import Item
from task.segmentation import units
from task.spec import Task


class Dictionary:
    """A longest-match tagger."""

    def __init__(self, records: Iterable[Sequence[tuple[str, str]]], task: Task) -> None:
        """Compile from records, each the (role, value) pairs that belong together."""
        self.task = task
        self._normalise = normaliser(task.normaliser)
        roles: defaultdict[str, Counter[str]] = defaultdict(Counter)
        goes_with: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        closed_names = {r.name for r in task.closed_roles}
        for record in records:
            closed = [(r, v) for r, v in record if r in closed_names]
            for role, value in record:
                if role not in closed_names:
                    key = self._normalise(value)
                    roles[key][role] += 1
                    for closed_role, closed_value in closed:
                        goes_with[closed_role, key][closed_value] += 1
        self._role = {value: counter.most_common(1)[0][0] for value, counter in roles.items()}
        self._goes_with = goes_with
        self._longest = max((len(v.split()) for v in self._role), default=0)

    @classmethod
    def from_catalogue(cls, items: Iterable[Item], task: Task) -> Self:
        """The values of every role's catalogue field."""
        sources = [(r.name, r.catalogue) for r in task.roles if r.catalogue]
        return cls(([(name, v) for name, source in sources for v in item.values(source)] for item in items), task)

    @classmethod
    def from_labels(cls, examples: Iterable[Example], task: Task) -> Self:
        """The values seen in labelled queries, where there is no catalogue."""
        return cls(([(x.role, x.text) for x in e.labels] for e in examples), task)

    def predict(self, queries: Sequence[Example]) -> list[Example]:
        """Label queries; their own labels are not looked at."""
        return [Example(q.query, self._label(q.query), q.count, q.id) for q in queries]

    def _label(self, query: str) -> tuple[Label, ...]:
        spans = units(query, "whitespace")
        out: list[Label] = []
        at = 0
        while at < len(spans):
            for end in range(min(len(spans), at + self._longest), at, -1):
                start, stop = spans[at][0], spans[end - 1][1]
                role = self._role.get(self._normalise(query[start:stop]))
                if role:
                    out.append(Label(role, query[start:stop], start, stop))
                    at = end
                    break
            else:
                at += 1
        for closed in self.task.closed_roles:
            votes: Counter[str] = Counter()
            for label in out:
                found = self._goes_with.get((closed.name, self._normalise(label.text)))
                if found:
                    total = sum(found.values())
                    votes.update({v: n / total for v, n in found.items()})
            if votes:
                best = max(sorted(votes), key=lambda v: votes[v])
                if best in closed.allowed:
                    out.append(Label(closed.name, best))
        return ordered(out)
