"""Better and faster at once: which of several systems no other one beats in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def marked(systems: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The systems with `best`: whether no other has at least this F1 at less latency, or more F1 at no more latency.

    Args:
        systems: Each with `f1` and `p50_ms`, figures; one without a latency is never best.
    """
    known = [s for s in systems if s["p50_ms"] is not None]
    return [{**s, "best": s["p50_ms"] is not None and not any(_beats(o, s) for o in known)} for s in systems]


def _beats(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    faster, better = b["p50_ms"]["value"] - a["p50_ms"]["value"], a["f1"]["value"] - b["f1"]["value"]
    return bool((faster > 0 and better >= 0) or (faster >= 0 and better > 0))
