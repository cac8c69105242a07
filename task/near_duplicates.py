"""Near-duplicate queries: those that say the same in another order, number, spacing, or with a slip of the finger.

Two queries are near when they have the same words but for plural endings, or the same letters but for blanks, or all
words but one in common and that one, of five letters or more, one edit apart (Damerau 1964: a letter missing, added,
changed, or two swapped). A cluster is what such pairs connect. Which of two words is the slip nobody can tell, so
`honey` and `money` are near too: that costs a little when rows are kept apart, and leaks nothing.
"""

from __future__ import annotations

import itertools
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from rapidfuzz.distance import OSA

_LETTERS = 5
_UNIT = re.compile(r"(\d) (?=[^\W\d_]{1,2}\b)")


def cluster_key(query: str, normalise: Callable[[str], str]) -> str:
    """The same for queries that differ in order, plural endings and blanks between number and unit only."""
    return " ".join(sorted(words_of(query, normalise)))


def near(one: str, other: str, normalise: Callable[[str], str]) -> bool:
    """Whether two queries are near-duplicates."""
    return near_words(words_of(one, normalise), words_of(other, normalise))


def near_words(one: Sequence[str], other: Sequence[str]) -> bool:
    """`near` of two queries whose words (`words_of`) are known."""
    return "".join(one) == "".join(other) or _one_slip(one, other)


def clusters(queries: Sequence[str], normalise: Callable[[str], str]) -> list[str]:
    """The cluster of each query, named after the first of its members' keys in the alphabet.

    Near pairs are found by what both hold when one letter is taken away (Mor and Fraenkel 1982, as SymSpell does), so
    the time grows with the number of queries and not with its square: about 100 bytes a query word while it runs.
    """
    words = [words_of(q, normalise) for q in queries]
    keys = [" ".join(sorted(w)) for w in words]
    known: dict[str, int] = {}
    parent = [known.setdefault(key, i) for i, key in enumerate(keys)]

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for group in _candidates(words, sorted(set(parent))):
        for n, i in enumerate(group):
            for j in group[n + 1 :]:
                a, b = root(i), root(j)
                if a != b and near_words(words[i], words[j]):
                    # The first key in the alphabet names the cluster, whatever order the queries come in.
                    first, second = sorted((a, b), key=lambda r: keys[r])
                    parent[second] = first
    return [keys[root(i)] for i in range(len(queries))]


def _candidates(words: Sequence[list[str]], rows: Sequence[int]) -> Iterator[list[int]]:
    """Groups of rows that share a signature; near rows share at least one."""
    hashes, owners = array("q"), array("q")
    for row in rows:
        for signature in _signatures(words[row]):
            hashes.append(hash(signature))
            owners.append(row)
    if not hashes:
        return
    values, rows_of = np.frombuffer(hashes, np.int64), np.frombuffer(owners, np.int64)
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    bounds = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1], [True]]))
    for start, end in itertools.pairwise(bounds):
        if end - start > 1:
            yield sorted(set(rows_of[order[start:end]].tolist()))


def _signatures(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    yield ("".join(words),)
    for at, word in enumerate(words):
        if _can_slip(word):
            rest = sorted([*words[:at], *words[at + 1 :]])
            yield (word, "", *rest)
            for cut in range(len(word)):
                yield (word[:cut] + word[cut + 1 :], "", *rest)


def _one_slip(one: Sequence[str], other: Sequence[str]) -> bool:
    a, b = Counter(one), Counter(other)
    left, right = list((a - b).elements()), list((b - a).elements())
    if not left and not right:
        return True
    if len(left) != 1 or len(right) != 1 or not (_can_slip(left[0]) and _can_slip(right[0])):
        return False
    return OSA.distance(left[0], right[0], score_cutoff=1) <= 1


def _can_slip(word: str) -> bool:
    return len(word) >= _LETTERS and word.isalpha()


def words_of(query: str, normalise: Callable[[str], str]) -> list[str]:
    """Words in the query's order, without plural endings, a number and its unit as one word."""
    words = _UNIT.sub(r"\1", normalise(query)).split(" ")
    return [w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in words]
