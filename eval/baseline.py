"""The dictionary: what a catalogue gives without any model. A student that does not beat it is not worth serving.

Longest match, left to right, over the values of each open role's catalogue field; a value that several roles share
goes to the one that holds it most often. A closed role takes the value that goes with the matched values most often.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from task.io import Item
from task.labels import Example, Label, ordered
from task.normalize import normaliser
from task.segment import units
from task.spec import Task


class Dictionary:
    """A longest-match tagger compiled from the catalogue."""

    def __init__(self, items: Iterable[Item], task: Task) -> None:
        self.task = task
        self._normalise = normaliser(task.normaliser)
        roles: defaultdict[str, Counter[str]] = defaultdict(Counter)
        goes_with: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for item in items:
            closed = [(r.name, v) for r in task.closed_roles if r.catalogue for v in item.values(r.catalogue)]
            for role in task.open_roles:
                for value in item.values(role.catalogue) if role.catalogue else ():
                    key = self._normalise(value)
                    roles[key][role.name] += 1
                    for closed_role, closed_value in closed:
                        goes_with[closed_role, key][closed_value] += 1
        self._role = {value: counter.most_common(1)[0][0] for value, counter in roles.items()}
        self._goes_with = goes_with
        self._longest = max((len(v.split()) for v in self._role), default=0)

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
                    votes.update({v: n / total for v, n in found.items()})  # type: ignore[arg-type]
            if votes:
                best = max(sorted(votes), key=lambda v: votes[v])
                if best in closed.values:
                    out.append(Label(closed.name, best))
        return ordered(out)
