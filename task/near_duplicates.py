"""Near-duplicate queries: they differ in word order, plural endings, blanks or one typing error only.

Two queries are near-duplicates if they have the same words apart from plural endings, or the same letters apart from
blanks, or all words but one in common and the remaining word, of five letters or more, one edit apart (Damerau 1964: a
letter missing, added, changed, or two swapped). A cluster is a connected component of such pairs. Typing errors cannot
be told from other words, so `honey` and `money` are near-duplicates too: this excludes a few rows from training, but
leaks no near-duplicate.
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
    """A key that is equal for queries that differ only in order, plural endings and blanks between number and unit."""
    return " ".join(sorted(words_of(query, normalise)))


def near(one: str, other: str, normalise: Callable[[str], str]) -> bool:
    """Whether two queries are near-duplicates."""
    return near_words(words_of(one, normalise), words_of(other, normalise))


def near_words(one: Sequence[str], other: Sequence[str]) -> bool:
    """`near` of two queries whose words (`words_of`) are known."""
    return "".join(one) == "".join(other) or _one_typo(one, other)


def clusters(queries: Sequence[str], normalise: Callable[[str], str]) -> list[str]:
    """The cluster of each query, named after the alphabetically first of its members' keys.

    Candidate pairs share a signature with one letter deleted (Mor and Fraenkel 1982, as in SymSpell), so the time is
    linear in the number of queries; memory is about 100 bytes a query word.
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
                    # The alphabetically first key names the cluster, so that names do not depend on the queries' order.
                    first, second = sorted((a, b), key=lambda r: keys[r])
                    parent[second] = first
    return [keys[root(i)] for i in range(len(queries))]


def _candidates(words: Sequence[list[str]], rows: Sequence[int]) -> Iterator[list[int]]:
    """Groups of rows that share a signature; near-duplicates share at least one."""
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
        if _can_have_typo(word):
            rest = sorted([*words[:at], *words[at + 1 :]])
            yield (word, "", *rest)
            for cut in range(len(word)):
                yield (word[:cut] + word[cut + 1 :], "", *rest)


def _one_typo(one: Sequence[str], other: Sequence[str]) -> bool:
    a, b = Counter(one), Counter(other)
    left, right = list((a - b).elements()), list((b - a).elements())
    if not left and not right:
        return True
    if len(left) != 1 or len(right) != 1 or not (_can_have_typo(left[0]) and _can_have_typo(right[0])):
        return False
    return OSA.distance(left[0], right[0], score_cutoff=1) <= 1


def _can_have_typo(word: str) -> bool:
    return len(word) >= _LETTERS and word.isalpha()


def words_of(query: str, normalise: Callable[[str], str]) -> list[str]:
    """Words in the query's order, without plural endings, a number and its unit as one word."""
    words = _UNIT.sub(r"\1", normalise(query)).split(" ")
    return [w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in words]
