"""Estimates as text for tables and verdict lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval.quality_schema import Estimate


def plain(figure: Estimate | None) -> str:
    """The value alone, in per cent."""
    return "–" if figure is None or figure["value"] is None else f"{100 * figure['value']:.1f}"


def percent(figure: Estimate | None) -> str:
    """`95.1 [94.2, 96.0]`."""
    if figure is None or figure["value"] is None:
        return "–"
    if figure["low"] is None or figure["high"] is None:
        return plain(figure)
    return f"{100 * figure['value']:.1f} [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"


def points(difference: Estimate | None) -> str:
    """A difference in percentage points with its interval: `+1.4 [+1.0, +1.9]`."""
    if difference is None or difference["value"] is None:
        return "–"
    value = f"{100 * difference['value']:+.1f}"
    if difference["low"] is None or difference["high"] is None:
        return value
    return f"{value} [{100 * difference['low']:+.1f}, {100 * difference['high']:+.1f}]"


def beside(value: float, limit: float, decimals: int = 1) -> str:
    """A figure beside its limit, with as many decimals as it takes to be on the same side of it as text."""
    while decimals < 12:
        text = f"{value:.{decimals}f}"
        if (float(text) > limit, float(text) < limit) == (value > limit, value < limit):
            return text
        decimals += 1
    return f"{value:.{decimals}f}"


def dollars(amount: float | None) -> str:
    """Two decimals, or three significant digits for amounts below one dollar."""
    if amount is None or amount != amount:
        return "–"
    return f"{amount:,.2f}" if abs(amount) >= 1 or amount == 0 else f"{amount:.3g}"


def p_value(p: float | None) -> str:
    """Two digits, never zero: `< 1e-12`."""
    if p is None:
        return "–"
    return "< 1e-12" if p < 1e-12 else f"{p:.2g}"


def cell(text: object) -> str:
    """Text for a cell of a Markdown table."""
    return str(text).replace("|", "\\|").replace("\n", " ")


def words(value: object) -> str:
    """A figure of any kind as text, a mapping as its names and values, nothing as a dash."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1 else f"{value:,.2f}".rstrip("0").rstrip(".")
    if isinstance(value, Mapping):
        return ", ".join(f"{str(k).replace('_', ' ')} {words(v)}" for k, v in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(words, value)) or "none"
    return str(value)


def milliseconds(figure: Estimate | None) -> str:
    """`34.1 [33.0, 35.2]`, or a dash where there were too few samples."""
    if figure is None or figure["value"] is None:
        return "–"
    bounds = "" if figure["low"] is None or figure["high"] is None else (
        f" [{figure['low']:.1f}, {figure['high']:.1f}]"
    )
    return f"{figure['value']:.1f}{bounds}"
