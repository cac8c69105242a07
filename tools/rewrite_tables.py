"""Tables of `benchmarks/rewrites.py`."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from eval.formatting import percent
from tools.table_text import read, table

_SYSTEMS = {
    "teacher": "teacher", "unconstrained": "student, unconstrained", "student": "student",
    "sure": "student, least probability",
}
_SHOWN = ("all", "head", "torso", "tail", "unseen brands")


def worth(result: Path) -> str:
    """Coverage and precision by queries and system, what is found by type, and what is wrong."""
    r = read(result).get("judge")
    if r is None:
        return ""
    systems = {name: r["systems"][key] for key, name in _SYSTEMS.items() if key in r["systems"]}
    types = list(systems["student"]["all"]["precision"])
    rows = []
    for part in _SHOWN:
        for name, parts in systems.items():
            p = parts[part]
            some = (percent(p["coverage"][n]) for n in ("all types", *types))
            right = (percent(p["precision"][n]) for n in types)
            rows.append((f"{part}, {p['rows']:,}", name, *some, *right))
    head = ["queries", "system", "coverage", *(f"with a {t}" for t in types), *(f"precision, {t}" for t in types)]
    least = ", ".join(f"{t} {value:g}" for t, value in r["least_probability"].items())
    said = f"Least probabilities, chosen on {r['calibrated']:,} other queries of known brands: {least}."
    return "\n\n".join([
        table(head, rows), f"{_training(r['training'])} {said}", _found(systems), _wrong(r["wrong"]),
    ])


def _found(systems: dict[str, Any]) -> str:
    rows = []
    for part in ("all", "tail"):
        for name, parts in systems.items():
            found = parts[part]["found"]
            for type_, of_type in found["types"].items():
                if name == "student, unconstrained":
                    continue
                at = of_type["at"]["50"]
                figures = (percent(at[key]) for key in ("alone", "rewritten", "gain", "missed"))
                rows.append((f"{part}, {found['queries']:,}", name, type_, *figures))
    return table(
        ("queries with purchases", "system", "type", "bought items found at 50, alone", "with rewrites", "gain",
         "of those missed"), rows,
    )


def _wrong(wrong: dict[str, dict[str, dict[str, int]]]) -> str:
    """What is wrong, the commonest of the student's first."""
    rows = [
        (t, what, *(of[t].get(what, 0) for of in (wrong[k] for k in ("teacher", "student", "sure"))))
        for t in wrong["student"] for what in {**wrong["student"][t], **wrong["teacher"][t]}
    ]
    return table(("type", "what is wrong", "teacher", "student", "student, least probability"), rows)


def _training(t: dict[str, Any]) -> str:
    return (
        f"Trained on {t['rows']:,} rows of {t['tokens_a_row']} tokens in {t['steps']} steps, {t['minutes']} minutes of "
        "2 cores."
    )


def guardrails(result: Path) -> str:
    """What the guardrails stopped, by whether it was right, and the precision before and after."""
    r = read(result).get("data")
    if r is None:
        return ""
    counts: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    passed: dict[str, tuple[int, int]] = {}
    rows = []
    for g in r["guardrails"]:
        counts[g["type"]][0] += g["right"]
        counts[g["type"]][1] += g["wrong"]
        if g["reason"] == "passed":
            passed[g["type"]] = g["right"], g["wrong"]
        else:
            rows.append((g["type"], g["reason"], f"{g['right']:,}", f"{g['wrong']:,}"))
    precision = [
        (t, f"{right + wrong:,}", f"{100 * right / (right + wrong):.1f}", f"{sum(passed[t]):,}",
         f"{100 * passed[t][0] / sum(passed[t]):.1f}") for t, (right, wrong) in counts.items()
    ]
    return "\n\n".join([
        table(("type", "the teacher's texts", "right, %", "passed", "right, %"), precision),
        table(("type", "stopped by", "right", "wrong"), rows),
    ])
