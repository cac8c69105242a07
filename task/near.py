"""Near-duplicate queries: one key for those that say the same in another order or number."""

from __future__ import annotations

from collections.abc import Callable


def cluster_key(query: str, normalise: Callable[[str], str]) -> str:
    """The same for queries that differ in order, plural endings and blanks between number and unit only."""
    words = []
    for word in normalise(query).split(" "):
        word = word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
        words.append(word)
    return " ".join(sorted(words))
