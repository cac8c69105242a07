"""The versioned normaliser: which two texts count as the same query, value or cache key.

A version is frozen once a bundle uses it: a cache built with `v1` must always find its keys, so a change of behaviour
is a new entry in `NORMALISERS`, never an edit.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Final

_SPACE = re.compile(r"\s+")
_TYPOGRAPHY = str.maketrans(
    {"‘": "'", "’": "'", "ʼ": "'", "“": '"', "”": '"', "–": "-", "—": "-", "‐": "-", "‑": "-", "\u00ad": None}
)


def normalize_v1(text: str) -> str:
    """NFKC, typographic quotes and dashes to ASCII, control characters to spaces, case folded, spaces collapsed.

    Idempotent: case folding can undo a composition (`ᾳ`), so the steps are repeated until nothing changes.
    """
    if text.isascii() and text.isprintable():  # most queries: nothing to compose, to translate or to replace
        return " ".join(text.lower().split())
    for _ in range(4):
        folded = unicodedata.normalize("NFKC", text).translate(_TYPOGRAPHY).casefold()
        printable = "".join(" " if unicodedata.category(c) in {"Cc", "Zl", "Zp"} else c for c in folded)
        result = _SPACE.sub(" ", printable).strip()
        if result == text:
            break
        text = result
    return text


NORMALISERS: Final[Mapping[str, Callable[[str], str]]] = {"v1": normalize_v1}


def normaliser(version: str) -> Callable[[str], str]:
    """The normaliser of a version; `KeyError` names the known ones."""
    if version not in NORMALISERS:
        raise KeyError(f"unknown normaliser {version!r}; known: {', '.join(NORMALISERS)}")
    return NORMALISERS[version]


def remembering(normalise: Callable[[str], str]) -> Callable[[str], str]:
    """The same function with a cache, for texts that recur, such as the values of labels."""
    known: dict[str, str] = {}

    def found(text: str) -> str:
        out = known.get(text)
        if out is None:
            out = known[text] = normalise(text)
        return out

    return found
