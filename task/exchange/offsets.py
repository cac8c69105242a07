r"""Offsets in the unit in which an annotation tool counts, and in code points, in which we do.

Units: `characters` (Unicode code points: Python, Label Studio), `utf16` (UTF-16 code units: JavaScript, and so doccano,
and Label Studio before 2022) and `graphemes` (what a person sees as one character: doccano's option "Count grapheme
clusters as one character"). Clusters are those of Unicode Standard Annex 29 without its rule GB9c of
2023, as doccano's splitter (grapheme-splitter 1.0, Unicode 10) makes them: a Devanagari conjunct is two clusters. It is
older than some emoji, so sequences that were added after 2017 may be counted differently.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, Final, Literal, get_args

Unit = Literal["characters", "utf16", "graphemes"]
UNITS: Final[tuple[Unit, ...]] = get_args(Unit)
_CLUSTER: Final = (
    r"\r\n|[\r\n\p{GCB=Control}]"
    r"|\p{GCB=Prepend}*(?:\p{RI}\p{RI}"
    r"|\p{GCB=L}*(?:\p{GCB=V}+|\p{GCB=LV}\p{GCB=V}*|\p{GCB=LVT})\p{GCB=T}*|\p{GCB=L}+|\p{GCB=T}+"
    r"|\p{ExtPict}(?:\p{GCB=Extend}*\u200d\p{ExtPict})*|[^\r\n\p{GCB=Control}])[\p{GCB=Extend}\u200d\p{GCB=SpacingMark}]*"
    r"|\p{GCB=Prepend}+"
)


class Offsets:
    """The borders of a text's units: every offset that a tool can name, and the code point at it."""

    def __init__(self, text: str, unit: Unit) -> None:
        sizes = _sizes(text, unit)
        self._points = dict(enumerate(itertools.accumulate(sizes, initial=0))) if sizes is not None else None
        if unit == "utf16" and sizes is not None:  # sizes are units a code point, not code points a unit
            self._points = {at: n for n, at in self._points.items()} if self._points is not None else None
        self._units = None if self._points is None else {point: at for at, point in self._points.items()}
        self._size = len(text)

    def to_points(self, at: int) -> int | None:
        """The code point at an offset of the unit; None where that is outside the text or inside a character."""
        if self._points is None:
            return at if 0 <= at <= self._size else None
        return self._points.get(at)

    def of_point(self, point: int) -> int | None:
        """The offset of the unit at a code point; None inside a unit."""
        if self._units is None:
            return point if 0 <= point <= self._size else None
        return self._units.get(point)


def _sizes(text: str, unit: Unit) -> list[int] | None:
    """UTF-16 units of each code point, or code points of each cluster; None where each unit is one code point."""
    if unit == "characters" or (text.isascii() and "\r\n" not in text):
        return None
    if unit == "utf16":
        return [1 + (ord(x) > 0xFFFF) for x in text]
    return [len(cluster) for cluster in _clusters().findall(text)]


@functools.cache
def _clusters() -> Any:
    import regex  # only for projects that count clusters

    return regex.compile(_CLUSTER)
