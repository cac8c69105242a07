"""Whether a value of a grounded role is in the catalogue: exactly, by an alias, shortened or misspelt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rapidfuzz import fuzz, process

from task.files import sha256_json
from task.readers import Item
from task.role import Role
from task.spec import Task


@dataclass(frozen=True, slots=True)
class Match:
    """How a text matches a value of the catalogue: `exact`, `alias`, `part` (one word of it) or `fuzzy`.

    Attributes:
        similarity: In [0, 1].
    """

    how: str
    similarity: float


class Grounding:
    """The catalogue values of a task's grounded roles, and the aliases that the task lists for them."""

    def __init__(self, task: Task, catalogue: Iterable[Item], normalise: Callable[[str], str]) -> None:
        self._roles = [r for r in task.roles if r.grounded and r.catalogue]
        self._aliases = {
            r.name: {normalise(alias): normalise(value) for alias, value in r.guard.aliases.items()}
            for r in self._roles
        }
        self._values: defaultdict[str, set[str]] = defaultdict(set)
        self._words: defaultdict[str, set[str]] = defaultdict(set)
        self._found: dict[tuple[str, str], Match | None] = {}
        for item in catalogue if self._roles else ():
            for role in self._roles:
                for value in item.values(role.catalogue or ""):
                    self._values[role.name].add(normalise(value))
        for name, values in self._values.items():
            self._words[name] = {w for v in values for w in v.split(" ") if len(w) > 3}

    def fingerprint(self) -> str:
        """Changes when a value is added or removed."""
        return sha256_json({k: sorted(v) for k, v in self._values.items()})

    def match(self, role: Role, text: str) -> Match | None:
        """How a normalised text matches a value of a role, or None."""
        key = (role.name, text)
        if key not in self._found:
            self._found[key] = self._look_up(role, text)
        return self._found[key]

    def _look_up(self, role: Role, text: str) -> Match | None:
        values, words = self._values[role.name], self._words[role.name]
        if text in values:
            return Match("exact", 1.0)
        if self._aliases[role.name].get(text) in values:
            return Match("alias", 0.95)
        if text in words:
            return Match("part", 0.9)
        found = [
            process.extractOne(text, pool, scorer=fuzz.ratio, score_cutoff=role.guard.fuzzy) for pool in (values, words)
        ]
        best = max((f[1] for f in found if f is not None), default=None)
        return None if best is None else Match("fuzzy", best / 100.0)
