"""How many entries of its caches a purge takes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from serving.release.head_cache import HeadCache, Hit
from serving.routing.kept_answers import Purges, has_label


def taken_out(cache: HeadCache, *, made: float, before: Purges, after: Purges) -> int:
    """How many entries of a head cache answered before a purge, and not after it.

    Args:
        made: When its bundle was made, in seconds since 1970.
    """
    if before.before > made:
        return 0
    whole = after.before > made
    if whole and not (before.texts or before.labels or before.forgotten):
        return len(cache)
    entries: Iterable[Hit]
    if whole or after.labels - before.labels:
        entries = cache.hits()
    else:
        entries = filter(None, map(cache.find, after.texts - before.texts))
    return sum(
        _answers(hit, before, cache.normalise) and (whole or not _answers(hit, after, cache.normalise))
        for hit in entries
    )


def _answers(hit: Hit, purges: Purges, normalise: Callable[[str], str]) -> bool:
    if purges.have(normalise(hit.query)):
        return False
    return not (purges.labels and has_label(hit.decoded(), purges.labels, normalise))
