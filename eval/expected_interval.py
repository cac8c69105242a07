"""How wide the interval of a comparison will be, before anything is measured."""

from __future__ import annotations

import math

# Half of the 95 % interval of ΔF1 against the teacher, in the report of configs/market.yaml, and its number of rows.
_HALF, _ROWS = 0.005, 2_000


def half_interval(rows: int) -> float:
    """Half of the 95 % interval of ΔF1 to expect on so many rows, if two systems differ as in the market's report."""
    return _HALF * math.sqrt(_ROWS / max(1, rows))
