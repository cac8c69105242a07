"""Cache, then student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from serving.cache import HeadCache
from serving.client import StudentClient
from task.labels import Labelling

Source = Literal["cache", "student"]


@dataclass(frozen=True, slots=True)
class Answer:
    """Labels of one query and who gave them."""

    query: str
    labels: Labelling
    source: Source


class Router:
    """Answers queries; one per event loop."""

    def __init__(self, cache: HeadCache, student: StudentClient) -> None:
        self._cache, self._student = cache, student

    async def answer(self, queries: Sequence[str], *, use_cache: bool = True) -> list[Answer]:
        """Answers in order; the student sees each distinct query that the cache does not hold once."""
        known = {q: self._cache.get(q) for q in dict.fromkeys(queries)} if use_cache else {}
        ask = [q for q in dict.fromkeys(queries) if known.get(q) is None and q.strip()]
        given = dict(zip(ask, await self._student.label(ask), strict=True))
        out = []
        for query in queries:
            cached = known.get(query)
            if cached is not None:
                out.append(Answer(query, cached, "cache"))
            else:
                out.append(Answer(query, given.get(query, ()), "student"))
        return out
