"""Reports: each one HTML file without network, drawn from the JSON beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from eval import plots
from eval.load_generator import Samples
from eval.matching import SCHEMES
from eval.pareto import marked
from eval.slices import parts
from task.files import write_json, write_text

SCHEMA = 2  # of report.json, described in docs/report.md
STUDIES = 1  # of the JSON of the other pages
_POINTS = 4_000  # of a curve: more would only make the page large


def write(folder: Path, content: Mapping[str, Any], samples: Mapping[str, Sequence[Samples]]) -> None:
    """Write `report.json`, `.html`, `.md`, `.csv` and, where latency was measured, the raw `samples.npz`.

    Args:
        content: Everything that the report says, JSON-ready; the templates read it and nothing else.
        samples: Raw samples of the latency run by phase, for the plots.
    """
    value = {"schema": SCHEMA, **content}
    write_json(folder / "report.json", value)
    systems = content["systems"]
    cuts = next(iter(systems.values())).get("slices", {})
    groups = _by_kind(samples.get("steady", ()))
    cost = content.get("cost")
    drawn = {
        "roles": plots.f1_by_role(systems),
        "slices": {d: plots.f1_by_slice(systems, d, parts(d, found)) for d, found in cuts.items()},
        "latency": plots.latency_cdf({k: [s for _, s in v] for k, v in groups.items()}) if groups else "",
        "over_time": plots.latency_over_time(groups) if groups else "",
        "rates": plots.latency_by_rate(content["bench"]["sweep"]["rates"])
        if content.get("bench") and content["bench"].get("sweep") else "",
        "pareto": plots.pareto(_forms(content["forms"])) if content.get("forms") else "",
        "learning": plots.learning_curve(content["history"]) if content.get("history") else "",
        "cache": plots.cache_sizes(cost["cache_sizes"], content["cost"].get("cached"))
        if cost and cost["cache_sizes"] else "",
        **_calibration(content.get("student_confidence")),
    }
    write_text(folder / "report.html", _page("report.html.j2", r=value, plots=drawn))
    write_text(folder / "report.md", _page("report.md.j2", r=value))
    write_text(folder / "report.csv", _csv(value))
    save_samples(folder / "samples.npz", samples)


def save_samples(path: Path, samples: Mapping[str, Sequence[Samples]]) -> None:
    """Raw samples: `PHASE.RUN.FIELD` arrays of `eval.generator.Samples`."""
    arrays = {
        f"{phase}.{number}.{f.name}": getattr(run, f.name)
        for phase, runs in samples.items() for number, run in enumerate(runs) for f in fields(Samples)
    }
    if arrays:
        np.savez_compressed(path, **arrays)


def write_bench(folder: Path, found: Mapping[str, Any], samples: Mapping[str, Sequence[Samples]]) -> None:
    """Write `bench.json`, `bench.html` and `samples.npz` of a latency benchmark."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "bench.json", found)
    groups = _by_kind(samples["steady"])
    sweep = found.get("sweep")
    drawn = {
        "latency": plots.latency_cdf({k: [s for _, s in v] for k, v in groups.items()}) if groups else "",
        "over_time": plots.latency_over_time(groups) if groups else "",
        "rates": plots.latency_by_rate(sweep["rates"]) if sweep else "",
    }
    write_text(folder / "bench.html", _page("bench.html.j2", b=found, plots=drawn))
    save_samples(folder / "samples.npz", samples)


def write_comparison(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `comparison.json`, `.html` and `.md`: systems side by side."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "comparison.json", {"schema": STUDIES, **content})
    points = [s for s in content["systems"] if s["p50_ms"] and s["f1"]]
    plot = plots.pareto(points) if points else ""
    write_text(folder / "comparison.html", _page("comparison.html.j2", r=content, plot=plot))
    write_text(folder / "comparison.md", _page("comparison.md.j2", r=content))


def _by_kind(runs: Sequence[Samples]) -> dict[str, list[tuple[float, float]]]:
    """(scheduled, latency) of hits and of misses, runs one after the other, thinned where there are very many."""
    out: dict[str, list[tuple[float, float]]] = {}
    start = 0.0
    for run in runs:
        for name, mask in (("cache hit", run.hit), ("student", ~run.hit)):
            places = np.flatnonzero(mask)
            step = max(1, len(places) * len(runs) // _POINTS)
            out.setdefault(name, []).extend(
                (start + float(run.scheduled[i]), float(run.latency[i])) for i in places[::step]
            )
        start += float(run.scheduled[-1]) + 1 if len(run) else 0.0
    return {name: found for name, found in out.items() if found}


def _forms(forms: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Answer forms as systems with a quality and a latency."""
    return marked([{"name": f["form"], "f1": f["f1"], "p50_ms": f["latency"]["p50_ms"]} for f in forms])


def _calibration(found: Mapping[str, Any] | None) -> dict[str, str]:
    if not found:
        return {"reliability": "", "risk": ""}
    return {"reliability": plots.reliability(found["reliability"]), "risk": plots.risk_coverage(
        found["risk_coverage"], found.get("threshold")
    )}


def _csv(report: Mapping[str, Any]) -> str:
    """Every figure of every system as a row: system, scheme, part, figure, value, low, high."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["system", "scheme", "part", "figure", "value", "low", "high"])

    def put(where: list[str], found: Mapping[str, Any]) -> None:
        for name, figure in found.items():
            if isinstance(figure, Mapping) and "value" in figure:
                numbers = (figure[k] for k in ("value", "low", "high"))
                rows.writerow([*where, name, *("" if n is None else n for n in numbers)])

    for system, found in report["systems"].items():
        for scheme in SCHEMES:
            put([system, scheme, "all"], found[scheme])
            for role, figures in found[scheme].get("roles", {}).items():
                put([system, scheme, f"role {role}"], figures)
        for dimension, names in found.get("slices", {}).items():
            for name, figures in names.items():
                put([system, "value", f"{dimension} {name}"], figures)
    latency = report.get("latency") or {}
    for kind in ("hit", "miss", "blended"):
        put([report["served"], "latency", kind], latency.get(kind) or {})
    return out.getvalue()


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
    write_json(folder / "audit.json", {"schema": STUDIES, **content})
    rows = [
        (f"{v['name'].removeprefix('without ')}, {s['name']}", v["worth"])
        for s in content["slices"] for v in s["variants"] if v["worth"]
    ]
    plot = plots.differences(rows, "what it is worth: F1 points with it, less those without")
    write_text(folder / "audit.html", _page("audit.html.j2", r=content, plot=plot))


def write_ablation(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `ablation.json` and `ablation.html`: orders and weightings over seeds."""
    write_json(folder / "ablation.json", {"schema": STUDIES, **content})
    rows = [(v["name"], v["less_reference"]) for v in content["variants"] if v["less_reference"]]
    plot = plots.differences(rows, f"F1 points more than {content['reference']}") if rows else ""
    write_text(folder / "ablation.html", _page("ablation.html.j2", r=content, plot=plot))


def write_sweep(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `sweep.json` and `sweep.html`: what each adapter costs and is worth."""
    write_json(folder / "sweep.json", {"schema": STUDIES, **content})
    plot = plots.cost_and_worth(content["variants"], content["recommended"])
    write_text(folder / "sweep.html", _page("sweep.html.j2", r=content, plot=plot))


def write_composition(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `composition.json` and `composition.html`: adapters of several tasks made into one."""
    write_json(folder / "composition.json", {"schema": STUDIES, **content})
    rows = [
        (f"{a['name']} on {t}", found["less_own"])
        for a in content["adapters"] for t, found in a["tasks"].items() if found["less_own"]
    ]
    plot = plots.differences(rows, "F1 points more than the task's own adapter")
    write_text(folder / "composition.html", _page("composition.html.j2", r=content, plot=plot))


def _page(template: str, **values: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
        autoescape=jinja2.select_autoescape(enabled_extensions=("html", "html.j2"), disabled_extensions=("md.j2",)),
    )
    environment.filters |= {
        "percent": percent, "plain": plain, "ms": milliseconds, "dollars": dollars, "cell": cell, "p_value": p_value,
        "share": lambda x: plain(None if x is None else {"value": x}),
    }
    return environment.get_template(template).render(**values)


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


def dollars(amount: float | None) -> str:
    """Enough digits to tell small amounts apart."""
    if amount is None or amount != amount:
        return "–"
    return f"{amount:,.2f}" if abs(amount) >= 1 or amount == 0 else f"{amount:.3g}"


def p_value(p: float) -> str:
    """Two digits; none is zero, however small."""
    return "< 1e-12" if p < 1e-12 else f"{p:.2g}"


def cell(text: object) -> str:
    """Text for a cell of a Markdown table."""
    return str(text).replace("|", "\\|").replace("\n", " ")


def milliseconds(figure: Mapping[str, Any] | None) -> str:
    """`34.1 [33.0, 35.2]`, or a dash where there were too few samples."""
    if figure is None or figure.get("value") is None:
        return "–"
    bounds = "" if figure.get("low") is None or figure.get("high") is None else (
        f" [{figure['low']:.1f}, {figure['high']:.1f}]"
    )
    return f"{figure['value']:.1f}{bounds}"
