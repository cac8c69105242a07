"""Units: the pieces of a query that get one symbol each.

A unit never contains whitespace. `whitespace` is the coarsest segmentation and gives the shortest prompt; `words`
splits at Unicode word boundaries, so that `milk,eggs` is three units; `characters` can represent every span and is
needed for scripts without spaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal

from task.labels import Example

Segmentation = Literal["whitespace", "words", "characters"]
Span = tuple[int, int]

PATTERNS: Final[Mapping[Segmentation, re.Pattern[str]]] = {
    "whitespace": re.compile(r"\S+"),
    "words": re.compile(r"\w+|[^\w\s]"),
    "characters": re.compile(r"\S"),
}


def units(query: str, segmentation: Segmentation) -> list[Span]:
    """`[start, end)` of every unit, in order."""
    return [m.span() for m in PATTERNS[segmentation].finditer(query)]


def covers(example: Example, segmentation: Segmentation) -> bool:
    """Whether every span of a labelling begins and ends at unit borders and no two spans share a unit."""
    spans = units(example.query, segmentation)
    starts, ends = {s for s, _ in spans}, {e for _, e in spans}
    last = -1
    for start, end in sorted((x.start, x.end or 0) for x in example.labels if x.start is not None):
        if start not in starts or end not in ends or start < last:
            return False
        last = end
    return True


def choose_segmentation(examples: Iterable[Example], tolerance: float = 0.002) -> Segmentation:
    """The coarsest segmentation that loses at most `tolerance` of the labellings that the finest can represent."""
    rows = [x for x in examples if any(label.start is not None for label in x.labels)]
    possible = [x for x in rows if covers(x, "characters")]
    for segmentation in PATTERNS:
        if sum(not covers(x, segmentation) for x in possible) <= tolerance * len(possible):
            return segmentation
    return "characters"
