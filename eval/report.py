"""The report: one HTML file without network, drawn from the JSON beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from eval import plots
from task.files import write_json, write_text

SCHEMA = 1


def write(folder: Path, content: Mapping[str, Any], latencies: Mapping[str, Sequence[float]]) -> None:
    """Write `report.json` and `report.html`.

    Args:
        content: Everything that the report says; see `docs/report.md`.
        latencies: Raw seconds by kind, for the latency plot.
    """
    value = {"schema": SCHEMA, **content}
    write_json(folder / "report.json", value)
    systems = content["systems"]
    drawn = {
        "roles": plots.f1_by_role(systems),
        "slices": plots.f1_by_slice(systems, ("head", "torso", "tail")) if _sliced(systems) else "",
        "latency": plots.latency_cdf(latencies) if any(latencies.values()) else "",
        "learning": plots.learning_curve(content["history"]) if content.get("history") else "",
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "plain": plain, "ms": milliseconds}
    write_text(folder / "report.html", environment.get_template("report.html.j2").render(r=value, plots=drawn))


def _sliced(systems: Mapping[str, Any]) -> bool:
    return any(s.get("slices") for s in systems.values())


def plain(figure: Mapping[str, Any] | None) -> str:
    """The value alone, in per cent."""
    return "–" if figure is None or figure.get("value") is None else f"{100 * figure['value']:.1f}"


def percent(figure: Mapping[str, Any] | None) -> str:
    """`95.1 [94.2, 96.0]`."""
    if figure is None or figure.get("value") is None:
        return "–"
    if figure.get("low") is None:
        return plain(figure)
    return f"{100 * figure['value']:.1f} [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"


def milliseconds(figure: Mapping[str, Any] | None) -> str:
    """`34.1 [33.0, 35.2]`, or a dash where there were too few samples."""
    if figure is None or figure.get("value") is None:
        return "–"
    bounds = "" if figure.get("low") is None or figure.get("high") is None else (
        f" [{figure['low']:.1f}, {figure['high']:.1f}]"
    )
    return f"{figure['value']:.1f}{bounds}"
