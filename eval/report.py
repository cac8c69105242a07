"""Reports: each is one self-contained HTML file, rendered from the JSON in the same folder."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from eval import latency_plots, plots
from eval.drawing import both_widths
from eval.formatting import cell, dollars, milliseconds, p_value, percent, plain, points, words
from eval.latency_schema import LatencyBench, RateSweep
from eval.load_samples import Samples
from eval.matching import SCHEMES
from eval.page_schema import STUDIES, Ablation, Audit, Comparison, Composition, LabelReport, RoundsPage, Sweep
from eval.pareto import pareto_front
from eval.quality_schema import Calibration
from eval.report_schema import FormResult, Report
from eval.slices import parts
from task.files import write_json, write_text

_HALF = 4.6  # inches of a plot that has another beside it
_HEADINGS = re.compile(r'<h2 id="([\w-]+)">([^<]+)</h2>')
_CONTENTS = "<!-- contents -->"  # where a page has its links to its headings
_FEW = 10  # queries of a slice; resampling fewer tells nothing of its interval
_POINTS = 4_000  # points per curve; more would only make the page larger


def write(folder: Path, report: Report, samples: Mapping[str, Sequence[Samples]]) -> None:
    """Write `report.json`, `.html`, `.md`, `.csv` and, where latency was measured, the raw `samples.npz`.

    Args:
        report: The only input of the templates.
        samples: Raw samples of the latency run by phase, for the plots.
    """
    write_json(folder / "report.json", report)
    cost, bench = report["cost"], report["bench"]
    drawn = {
        **_quality_plots(report),
        **_latency_plots(samples.get("steady", ()), bench["sweep"] if bench else None),
        "pareto": both_widths(plots.pareto, _forms(report["forms"])) if report["forms"] else "",
        "learning": both_widths(plots.learning_curve, report["history"]) if report["history"] else "",
        "cache": both_widths(plots.cache_sizes, cost["cache_sizes"], cost["cached"]) if cost["cache_sizes"] else "",
        **_calibration_plots(report["student_confidence"]),
    }
    write_text(folder / "report.html", _page("report.html.j2", r=report, plots=drawn))
    write_text(folder / "report.md", _page("report.md.j2", r=report))
    write_text(folder / "report.csv", _csv(report))
    save_samples(folder / "samples.npz", samples)


def _quality_plots(report: Report) -> dict[str, Any]:
    """By role and by slice: the student's difference to the system that it is compared with, else F1 of each system."""
    systems = report["systems"]
    cuts = next(iter(systems.values())).get("slices", {})
    if not report["differences"]:
        roles = {
            system: {r: v["f1"] for r, v in of["value"]["roles"].items() if v["support"]}
            for system, of in systems.items()
        }
        by_slice = {dimension: {
            system: {p: v["f1"] for p, v in of.get("slices", {}).get(dimension, {}).items()}
            for system, of in systems.items()
        } for dimension in cuts}
        return {
            "roles": both_widths(plots.dots, roles, list(next(iter(roles.values())))),
            "slices": {d: both_widths(plots.dots, of, parts(d, cuts[d])) for d, of in by_slice.items()},
        }
    first = report["differences"][0]
    what = f"ΔF1 against the {first['b']}, points"
    rows = [("all queries", first["f1"]), *((role, d["f1"]) for role, d in first["roles"].items())]
    return {"roles": both_widths(plots.differences, rows, what), "slices": {
        d: both_widths(plots.differences, [(p, cut[p]) for p in parts(d, cut)], what, few=[
            p for p in cut if cuts[d][p]["rows"] < _FEW
        ])
        for d in cuts if (cut := first.get("slices", {}).get(d))
    }}


def _latency_plots(steady: Sequence[Samples], sweep: RateSweep | None) -> dict[str, str]:
    groups = _by_kind(steady)
    seconds = {k: [s for _, s in v] for k, v in groups.items()}
    return {
        "latency": both_widths(latency_plots.latency_cdf, seconds) if groups else "",
        "over_time": both_widths(latency_plots.latency_over_time, groups) if groups else "",
        "rates": both_widths(latency_plots.latency_by_rate, sweep["rates"]) if sweep else "",
    }


def save_samples(path: Path, samples: Mapping[str, Sequence[Samples]]) -> None:
    """Raw samples: `PHASE.RUN.FIELD` arrays of `eval.load_samples.Samples`."""
    arrays = {
        f"{phase}.{number}.{f.name}": getattr(run, f.name)
        for phase, runs in samples.items() for number, run in enumerate(runs) for f in fields(Samples)
    }
    if arrays:
        np.savez_compressed(path, **arrays)


def write_bench(folder: Path, found: LatencyBench, samples: Mapping[str, Sequence[Samples]]) -> None:
    """Write `bench.json`, `bench.html` and `samples.npz` of a latency benchmark."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "bench.json", found)
    drawn = _latency_plots(samples["steady"], found["sweep"])
    write_text(folder / "bench.html", _page("bench.html.j2", b=found, plots=drawn))
    save_samples(folder / "samples.npz", samples)


def write_comparison(folder: Path, content: Comparison) -> None:
    """Write `comparison.json`, `.html` and `.md`: systems side by side."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "comparison.json", {"schema": STUDIES, **content})
    timed = [plots.ParetoPoint(s["name"], s["f1"], s["p50_ms"], s["best"]) for s in content["systems"] if s["p50_ms"]]
    rows = [(s["name"], s["less_first"]["f1"]) for s in content["systems"] if s["less_first"]]
    drawn = {
        "pareto": both_widths(plots.pareto, timed) if timed else "",
        "differences": both_widths(plots.differences, rows, f"ΔF1 against {content['first']}, points") if rows else "",
    }
    write_text(folder / "comparison.html", _page("comparison.html.j2", r=content, plots=drawn))
    write_text(folder / "comparison.md", _page("comparison.md.j2", r=content))


def _by_kind(runs: Sequence[Samples]) -> dict[str, list[tuple[float, float]]]:
    """(scheduled, latency) of hits and of misses, the runs one after the other, thinned to `_POINTS`."""
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


def _forms(forms: Sequence[FormResult]) -> list[plots.ParetoPoint]:
    """Answer forms as points of F1 and latency."""
    front = pareto_front([{"f1": f["f1"], "p50_ms": f["latency"]["p50_ms"]} for f in forms])
    return [
        plots.ParetoPoint(f["form"], f["f1"], f["latency"]["p50_ms"], best)
        for f, best in zip(forms, front, strict=True) if f["latency"]["p50_ms"]
    ]


def _calibration_plots(found: Calibration | None) -> dict[str, str]:
    """The reliability diagram and the risk-coverage curve."""
    if not found:
        return {"reliability": "", "risk": ""}
    return {
        "reliability": plots.reliability(_HALF, found.get("reliability", [])),
        "risk": plots.risk_coverage(_HALF, found.get("risk_coverage", []), found["threshold"]),
    }


def _csv(report: Report) -> str:
    """All figures of all systems, one per row: system, scheme, part, figure, value, low, high."""
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
            for role, figures in found[scheme]["roles"].items() if scheme == "value" or scheme == "span" else ():
                put([system, scheme, f"role {role}"], figures)
        for dimension, names in found.get("slices", {}).items():
            for name, of_part in names.items():
                put([system, "value", f"{dimension} {name}"], of_part)
        for role, taxonomy in found.get("taxonomies", {}).items():
            for level, of_level in enumerate([taxonomy["leaf"], *taxonomy["levels"]]):
                put([system, "value", f"role {role}, {f'level {level}' if level else 'leaf'}"], of_level)
    latency: Mapping[str, Any] = report["latency"] or {}
    for kind in ("hit", "miss", "blended"):
        put([report["served"], "latency", kind], latency.get(kind, {}))
    return out.getvalue()


def write_labels(folder: Path, content: LabelReport) -> None:
    """Write `report.html` of a labelling job: statuses, confidence, verdicts."""
    drawn = _calibration_plots(content["confidence"]["report"]["label"] if content["confidence"] else None)
    write_text(folder / "report.html", _page("labels.html.j2", r=content, plots=drawn))


def write_audit(folder: Path, content: Audit) -> None:
    """Write `audit.json` and `audit.html`: ΔF1 of each kind of context, overall and by slice."""
    write_json(folder / "audit.json", {"schema": STUDIES, **content})
    rows = [
        (f"{v['name'].removeprefix('without ')}, {s['name']}", v["worth"])
        for s in content["slices"] for v in s["variants"] if v["worth"] and v["worth"]["low"] is not None
    ]
    plot = both_widths(plots.differences, rows, "ΔF1 of all context against the variant, points")
    write_text(folder / "audit.html", _page("audit.html.j2", r=content, plot=plot))


def write_ablation(folder: Path, content: Ablation) -> None:
    """Write `ablation.json` and `ablation.html`: orders and weightings over seeds."""
    write_json(folder / "ablation.json", {"schema": STUDIES, **content})
    rows = [(v["name"], v["less_reference"]) for v in content["variants"] if v["less_reference"]]
    plot = both_widths(plots.differences, rows, f"ΔF1 against {content['reference']}, points") if rows else ""
    write_text(folder / "ablation.html", _page("ablation.html.j2", r=content, plot=plot))


def write_sweep(folder: Path, content: Sweep) -> None:
    """Write `sweep.json` and `sweep.html`: parameters and F1 of each adapter."""
    write_json(folder / "sweep.json", {"schema": STUDIES, **content})
    plot = both_widths(plots.f1_by_parameters, content["variants"], content["recommended"])
    write_text(folder / "sweep.html", _page("sweep.html.j2", r=content, plot=plot))


def write_composition(folder: Path, content: Composition) -> None:
    """Write `composition.json` and `composition.html`: adapters of several tasks merged into one."""
    write_json(folder / "composition.json", {"schema": STUDIES, **content})
    rows = [
        (f"{a['name']} on {t}", found["less_own"])
        for a in content["adapters"] for t, found in a["tasks"].items() if found["less_own"]
    ]
    plot = both_widths(plots.differences, rows, "ΔF1 against the task's own adapter, points")
    write_text(folder / "composition.html", _page("composition.html.j2", r=content, plot=plot))


def write_rounds(file: Path, content: RoundsPage) -> None:
    """Write the page of all rounds of a task."""
    judged = any(r["gold"] for r in content["rounds"])
    plot = both_widths(plots.f1_by_round, content["rounds"]) if judged else ""
    write_text(file, _page("rounds.html.j2", r=content, plot=plot))


def _page(template: str, **values: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
        autoescape=jinja2.select_autoescape(enabled_extensions=("html", "html.j2"), disabled_extensions=("md.j2",)),
    )
    environment.filters |= {
        "percent": percent, "plain": plain, "ms": milliseconds, "dollars": dollars, "cell": cell, "p_value": p_value,
        "share": lambda x: plain(None if x is None else {"value": x, "low": None, "high": None}), "points": points,
        "words": words,
    }
    page = environment.get_template(template).render(**values)
    # Only the templates' own headings match: what queries hold is escaped.
    links = (f'<a href="#{anchor}">{title}</a>' for anchor, title in _HEADINGS.findall(page))
    return page.replace(_CONTENTS, " · ".join(links), 1)
