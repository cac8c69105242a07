"""`limbeck rounds`: what each round found, cost and changed, as rows for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from eval.formatting import plain
from eval.page_schema import RoundRow, RoundsPage
from eval.report_schema import BreakEven, CostReport, read_report
from limbeck.artefacts import RunFolder
from limbeck.rounds.bill import break_even, machine_money
from limbeck.rounds.history import Round
from task.errors import InputError
from task.files import read_json
from task.settings import Cost
from task.spec import Task

_PRICES: Final = Cost()

STAGES: Final = ("sample", "drift", "picks", "label", "curriculum", "cross-fit", "train", "merge", "bundle", "gate")


def rows_of_rounds(
    rounds: Sequence[Round], settings: Cost = _PRICES, cost: CostReport | None = None
) -> list[RoundRow]:
    """A row a round, in their order.

    Args:
        settings: Prices of machines.
        cost: Of the run's report, for the break-even.
    """
    return [_row(one, settings, cost) for one in rounds]


def page_of(task: Task, rounds: Sequence[Round]) -> RoundsPage:
    """The content of the page."""
    report = read_report(RunFolder(rounds[0].folder.run).evaluate.report) if rounds else None
    rows = rows_of_rounds(rounds, task.eval.cost, None if report is None else report["cost"])
    return {"task": task.name, "level": task.eval.confidence, "rounds": rows, "cost": sum(r["cost"] for r in rows)}


def _row(one: Round, settings: Cost, cost: CostReport | None) -> RoundRow:
    manifests = {name: found for name in STAGES if (found := _manifest(one.folder.folder / name)) is not None}
    figures: Mapping[str, Mapping[str, Any]] = {name: m["figures"] for name, m in manifests.items()}
    judged = read_json(one.folder.judgement) if one.folder.judgement.exists() else {}
    gold, drawn = judged.get("gold") or {}, judged.get("drawn") or {}
    labelled, outcome = figures.get("label", {}), one.outcome
    made = [name for name in STAGES if name in manifests]
    paid, machines = float(labelled.get("cost", 0.0)), machine_money(manifests, settings)
    return {
        "number": one.number, "opened": one.opening.opened, "student": one.opening.student,
        "ending": outcome.ending if outcome else f"after {made[-1]}" if made else "begun",
        "why": outcome.why if outcome else "not finished: the same command goes on with it",
        "bundle": outcome.bundle if outcome else None,
        "drift": str(figures["drift"]["sentence"]) if "drift" in figures else "",
        "labels": sum(int(labelled.get(k, 0)) for k in ("learned", "drawn", "again")),
        "picked": int(labelled.get("learned", 0)), "random": int(labelled.get("drawn", 0)),
        "again": int(labelled.get("again", 0)), "changed": int(labelled.get("changed", 0)),
        "cost": paid, "machines": machines, "break_even": break_even(paid + machines, cost),
        "minutes": round(sum(float(m["wall_s"]) for m in manifests.values()) / 60, 2),
        "begins_from": _start(manifests.get("train")),
        "gold": gold.get("new"), "gold_before": gold.get("released"), "gold_difference": gold.get("difference"),
        "gold_rows": int(gold.get("rows", 0)),
        "drawn": drawn.get("new"), "drawn_before": drawn.get("released"), "drawn_difference": drawn.get("difference"),
        "drawn_rows": int(drawn.get("rows", 0)),
        "failed": list(figures.get("gate", {}).get("failed", [])),
    }


def _start(train: Mapping[str, Any] | None) -> str:
    if train is None:
        return ""
    return "adapter" if "init_adapter" in train["inputs"] else "base"


def _manifest(stage: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = read_json(stage / "manifest.json")
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"not a stage's manifest: {error}", file=stage / "manifest.json") from error
    return found


def table(rows: Sequence[RoundRow]) -> str:
    """The rows as Markdown."""
    lines = [
        "| round | began | ended | labels | paid | machines | break-even | minutes | F1 on gold, before → after "
        "| on draws | why |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        gold, drawn = _f1(r["gold_before"], r["gold"]), _f1(r["drawn_before"], r["drawn"])
        lines.append(
            f"| {r['number']} | {r['opened'][:16]} | {r['ending']} | {r['labels']:,} | {r['cost']:.2f} | "
            f"{r['machines']:.2f} | {_queries(r['break_even'])} | {r['minutes']:.1f} | {gold} | {drawn} | {r['why']} |"
        )
    return "\n".join(lines)


def _queries(found: BreakEven | None) -> str:
    return "–" if found is None else f"{found['queries']:,} queries"


def _f1(before: Any, after: Any) -> str:
    return f"{plain(before)} → {plain(after)}" if after else "–"
