"""Reports: each one HTML file without network, drawn from the JSON beside it."""

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
        content: Everything that the report says, JSON-ready; `report.html.j2` reads it.
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
    write_text(folder / "report.html", _page("report.html.j2", r=value, plots=drawn))


def write_labels(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `report.html` of a labelling job: statuses, confidence, verdicts."""
    drawn = {"reliability": "", "risk": ""}
    if content["confidence"]:
        found = content["confidence"]["report"]["label"]
        drawn["reliability"] = plots.reliability(found["reliability"])
        drawn["risk"] = plots.risk_coverage(found["risk_coverage"], content["confidence"]["threshold"])
    write_text(folder / "report.html", _page("labels.html.j2", r=content, plots=drawn))


def write_audit(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `audit.json` and `audit.html`: what each kind of context is worth, overall and by slice."""
    write_json(folder / "audit.json", {"schema": SCHEMA, **content})
    rows = [
        (f"{v['name'].removeprefix('without ')}, {s['name']}", v["worth"])
        for s in content["slices"] for v in s["variants"] if v["worth"]
    ]
    plot = plots.differences(rows, "what it is worth: F1 points with it, less those without")
    write_text(folder / "audit.html", _page("audit.html.j2", r=content, plot=plot))


def write_ablation(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `ablation.json` and `ablation.html`: orders and weightings over seeds."""
    write_json(folder / "ablation.json", {"schema": SCHEMA, **content})
    rows = [(v["name"], v["less_reference"]) for v in content["variants"] if v["less_reference"]]
    plot = plots.differences(rows, f"F1 points more than {content['reference']}") if rows else ""
    write_text(folder / "ablation.html", _page("ablation.html.j2", r=content, plot=plot))


def write_sweep(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `sweep.json` and `sweep.html`: what each adapter costs and is worth."""
    write_json(folder / "sweep.json", {"schema": SCHEMA, **content})
    plot = plots.cost_and_worth(content["variants"], content["recommended"])
    write_text(folder / "sweep.html", _page("sweep.html.j2", r=content, plot=plot))


def write_composition(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `composition.json` and `composition.html`: adapters of several tasks made into one."""
    write_json(folder / "composition.json", {"schema": SCHEMA, **content})
    rows = [
        (f"{a['name']} on {t}", found["less_own"])
        for a in content["adapters"] for t, found in a["tasks"].items() if found["less_own"]
    ]
    plot = plots.differences(rows, "F1 points more than the task's own adapter")
    write_text(folder / "composition.html", _page("composition.html.j2", r=content, plot=plot))


def _page(template: str, **values: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "plain": plain, "ms": milliseconds}
    return environment.get_template(template).render(**values)


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
