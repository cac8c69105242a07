"""The checks of a text role: a rewrite is other words for the query, about the same thing, that find something."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from rapidfuzz import fuzz

from task.files import sha256_json
from task.readers import Item
from task.role import Role
from task.spec import Task
from teacher.retrieval.hybrid_search import item_words

_AMOUNT = re.compile(r"(\d+(?:[.,]\d+)?)\s*([^\d\s.,]+)")
_LETTERS = 4  # of a word that stands for a longer name, as in `catalogue_values`
_PATTERN_WORDS = 4  # of a value that a pattern recognises


class Rewrites:
    """The checks of a task's text roles; without such roles nothing is built."""

    def __init__(self, task: Task, catalogue: Sequence[Item], normalise: Callable[[str], str]) -> None:
        self._normalise = normalise
        self._most_chars = task.data.max_query_chars
        self._any = bool(task.text_roles)
        self._items = item_words(task, catalogue)
        kept = dict.fromkeys(name for r in task.text_roles for name in r.guard.keep)
        self._kept = {name: _KeptRole(task.role(name), catalogue, normalise) for name in kept}

    def fingerprint(self) -> dict[str, str]:
        """Changes with the catalogue, as far as the checks read it; nothing for a task without text roles."""
        if not self._any:
            return {}
        kept = {name: sorted(role.values) for name, role in self._kept.items()}
        return {"rewrites": sha256_json([self._items and self._items.fingerprint, kept])}

    def problem(self, role: Role, query: str, text: str) -> str | None:
        """Why a text cannot be a rewrite of the query, as the reason of a verdict; None if it can."""
        if not text:
            return "text: empty"
        if len(text) > self._most_chars:
            return "text: too long"
        before, after = self._normalise(query), self._normalise(text)
        if before == after:
            return "same: the query itself"
        for name in role.guard.keep:
            if self._kept[name].is_exchanged(before, after):
                return f"keep: another {name} than the query's"
        if role.grounded and self._items is not None and not self._items.has_all_words(text):
            return "grounding: no item has all of its words"
        return None


class _KeptRole:
    """An open role whose values a rewrite must not exchange.

    Attributes:
        values: Its values in the catalogue, normalised.
    """

    def __init__(self, role: Role, catalogue: Sequence[Item], normalise: Callable[[str], str]) -> None:
        field = role.catalogue
        self.values = {normalise(v) for item in catalogue for v in item.values(field)} if field else set[str]()
        self._most_words = max((v.count(" ") + 1 for v in self.values), default=0)
        self._pattern = re.compile(role.pattern, re.IGNORECASE) if role.pattern else None
        self._units = role.guard.units
        self._fuzzy = role.guard.fuzzy

    def is_exchanged(self, query: str, text: str) -> bool:
        """Whether a normalised text has a value of the role that the query does not have."""
        if self._amounts(text) - self._amounts(query):
            return True
        own = {part for _, part in _parts(query, self._most_words + 1)}
        strange = self._names(text) - own
        if not strange:
            return False
        bare = not own & self.values  # then a word of the query may be what is left of a longer name
        words = {w for w in query.split(" ") if len(w) >= _LETTERS}
        return any(
            not (bare and words & set(name.split(" ")))
            and all(fuzz.ratio(name, part) < self._fuzzy for part in own)
            for name in strange
        )

    def _names(self, text: str) -> set[str]:
        """The catalogue's values in a text; of one within another only the longer."""
        out: set[str] = set()
        at = 0
        for start, part in _parts(text, self._most_words):
            if start >= at and part in self.values:
                out.add(part)
                at = start + part.count(" ") + 1
        return out

    def _amounts(self, text: str) -> set[str]:
        """Values by pattern and unit, such as sizes, in a spelling without blanks."""
        out = {
            f"{float(m[1].replace(',', '.')):g}{m[2]}" for m in _AMOUNT.finditer(text) if m[2] in self._units
        }
        if self._pattern is not None:
            found = (part for _, part in _parts(text, _PATTERN_WORDS) if self._pattern.fullmatch(part))
            out |= {part.replace(" ", "").replace(",", ".") for part in found}
        return out


def _parts(text: str, most: int) -> Iterator[tuple[int, str]]:
    """(first word, words) of every run of up to `most` words, from left to right, the longest first."""
    words = text.split(" ")
    for start in range(len(words)):
        for end in range(min(len(words), start + most), start, -1):
            yield start, " ".join(words[start:end])
