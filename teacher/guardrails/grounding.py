"""What the catalogue knows: values of grounded roles, as they are written, misspelt or shortened."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rapidfuzz import fuzz, process

from task.files import sha256_json
from task.readers import Item
from task.spec import Role, Task


@dataclass(frozen=True, slots=True)
class Known:
    """How the catalogue knows a value: `exact`, `alias`, `part` (a telling word of it) or `fuzzy`, and how closely."""

    how: str
    similarity: float


class Grounding:
    """Values of the grounded roles of a task, and what the task says they are also called."""

    def __init__(self, task: Task, catalogue: Iterable[Item], normalise: Callable[[str], str]) -> None:
        self._roles = [r for r in task.roles if r.grounded and r.catalogue]
        self._aliases = {
            r.name: {normalise(alias): normalise(value) for alias, value in r.guard.aliases.items()}
            for r in self._roles
        }
        self._values: defaultdict[str, set[str]] = defaultdict(set)
        self._words: defaultdict[str, set[str]] = defaultdict(set)
        self._found: dict[tuple[str, str], Known | None] = {}
        for item in catalogue if self._roles else ():
            for role in self._roles:
                for value in item.values(role.catalogue or ""):
                    self._values[role.name].add(normalise(value))
        for name, values in self._values.items():
            self._words[name] = {w for v in values for w in v.split(" ") if len(w) > 3}

    def fingerprint(self) -> str:
        """Changes when a value comes or goes."""
        return sha256_json({k: sorted(v) for k, v in self._values.items()})

    def known(self, role: Role, text: str) -> Known | None:
        """How the catalogue knows a normalised text as a value of a role, or None."""
        key = (role.name, text)
        if key not in self._found:
            self._found[key] = self._look_up(role, text)
        return self._found[key]

    def _look_up(self, role: Role, text: str) -> Known | None:
        values, words = self._values[role.name], self._words[role.name]
        if text in values:
            return Known("exact", 1.0)
        if self._aliases[role.name].get(text) in values:
            return Known("alias", 0.95)
        if text in words:
            return Known("part", 0.9)
        found = [
            process.extractOne(text, pool, scorer=fuzz.ratio, score_cutoff=role.guard.fuzzy) for pool in (values, words)
        ]
        best = max((f[1] for f in found if f is not None), default=None)
        return None if best is None else Known("fuzzy", best / 100.0)
