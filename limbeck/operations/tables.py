"""The table that ends a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eval.formatting import milliseconds, percent
from task.files import read_json

if TYPE_CHECKING:
    from limbeck.pipeline import StageState


def print_summary(folder: Path) -> None:
    """Print the summary of an evaluate folder, its answer and the report's path."""
    print(render(folder / "report.json"))
    if found := read_json(folder / "report.json").get("headline"):  # a report of before has none
        print(f"\nMay the student replace the teacher? {found['answer'].capitalize()}: {'; '.join(found['why'])}")
    print(f"\nReport: {folder / 'report.html'}")


def render(report: Path) -> str:
    """The summary as a Markdown table."""
    r = read_json(report)
    lines = ["| system | rows | precision | recall | F1 | strict span F1 |", "|---|---|---|---|---|---|"]
    for name, s in r["systems"].items():
        v = s["value"]
        lines.append(
            f"| {name} | {s['rows']:,} | {percent(v['precision'])} | {percent(v['recall'])} | {percent(v['f1'])} "
            f"| {percent(s['span']['f1'])} |"
        )
    kinds = [("student, one at a time", r["idle"])] if r["idle"] else []
    if kinds:
        lines += ["", "| one query, ms | requests | p50 | p95 | p99 |", "|---|---|---|---|---|"]
    if r["latency"]:
        at = f"at {r['latency']['offered_rate']:g}/s{'' if r['latency']['valid'] else ' (not valid)'}"
        kinds += [(f"cache hit, {at}", r["latency"]["hit"]), (f"student, {at}", r["latency"]["miss"])]
    for name, group in kinds:
        cells = " | ".join(milliseconds(group[p]) for p in ("p50_ms", "p95_ms", "p99_ms"))
        lines.append(f"| {name} | {group['count']} | {cells} |")
    if r["latency"] and not r["latency"]["valid"]:
        lines += ["", f"✗ the latency run is not valid: {r['latency']['problem']}"]
    if r["forms"]:
        lines += ["", render_forms(report)]
    lines += ["", *(f"- {'·' if not v['rule'] else '✓' if v['ok'] else '✗'} {v['text']}" for v in r["verdict"])]
    return "\n".join(lines)


def render_states(states: Sequence[StageState]) -> str:
    """A line for each stage: what a run would do with it, and why."""
    width = max(len(s.name) for s in states)
    return "\n".join(f"  {s.name:{width}}  {_state(s)}" for s in states)


def _state(s: StageState) -> str:
    return {
        "stale": "stale: " + ", ".join(s.why), "not finished": "not finished: " + ", ".join(s.why),
        "waits": "run again if a stage before it gives another result",
    }.get(s.state, s.state)


def render_forms(result: Path) -> str:
    """Answer forms side by side, as a Markdown table; from a report or from `forms.json`."""
    lines = ["| answer form | tokens decoded | F1 | p50, ms | times read |", "|---|---|---|---|---|"]
    lines += [
        f"| {f['form']} | {f['answer_tokens']:.1f} | {percent(f['f1'])} | {milliseconds(f['latency']['p50_ms'])} "
        f"| {f['times_read']:.1f} |"
        for f in read_json(result)["forms"]
    ]
    return "\n".join(lines)


def render_audit(audit: Path) -> str:
    """The context ablation as a Markdown table, a row per variant and slice."""
    r = read_json(audit)
    head = f"| queries ({r['gold']} gold) | context | precision | recall | F1 | worth, F1 points |"
    lines = [head, "|---|---|---|---|---|---|"]
    for part in r["slices"]:
        where = f"{part['name']}, {part['rows']:,}"
        for v in part["variants"]:
            cells = " | ".join(percent(v[k]) for k in ("precision", "recall", "f1", "worth"))
            lines.append(f"| {where} | {v['name']} | {cells} |")
    return "\n".join(lines)


def render_ablation(ablation: Path) -> str:
    """Orders and weightings over seeds, as a Markdown table."""
    r = read_json(ablation)
    what = f"order, weighting ({r['steps']} steps, {r['seeds']} seeds)"
    lines = [f"| {what} | F1 | less {r['reference']} | spread over seeds |", "|---|---|---|---|"]
    for v in r["variants"]:
        spread = "–" if v["f1"]["spread"] is None else f"{100 * v['f1']['spread']:.2f}"
        lines.append(f"| {v['name']} | {percent(v['f1'])} | {percent(v['less_reference'])} | {spread} |")
    return "\n".join([*lines, "", r["verdict"]])


def render_sweep(sweep: Path) -> str:
    """Ranks and target layers, as a Markdown table."""
    r = read_json(sweep)
    head = f"| adapter ({r['steps']} steps) | trained parameters | dev F1 | less the best | rows/s |"
    lines = [head, "|---|---|---|---|---|"]
    for v in r["variants"]:
        name = f"**{v['name']}**" if v["name"] == r["recommended"] else v["name"]
        worth = f"{percent(v['f1'])} | {percent(v['less_best'])}"
        lines.append(f"| {name} | {v['trained']:,} | {worth} | {v['rows_per_s']:.1f} |")
    return "\n".join([*lines, "", r["verdict"]])


def render_composition(composition: Path) -> str:
    """Adapters by task, as a Markdown table."""
    r = read_json(composition)
    lines = [
        "| adapter | " + " | ".join(f"{t} | less its own" for t in r["tasks"]) + " |",
        "|---|" + "---|---|" * len(r["tasks"]),
    ]
    for a in r["adapters"]:
        cells = (f"{percent(a['tasks'][t]['f1'])} | {percent(a['tasks'][t]['less_own'])}" for t in r["tasks"])
        lines.append(f"| {a['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
