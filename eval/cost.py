"""Cost of labelling, distillation and serving, and the break-even point of the student.

Money spent comes from the ledger, times and rates from the run, prices from the task file or from the dated list
`prices.yaml`. Every assumption is listed in the report.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.report_schema import Assumption, BreakEven, CacheSize, CostReport, Device, PerSystem
from task.settings import Cost

_LIST = Path(__file__).with_name("prices.yaml")


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run measured.

    Attributes:
        queries: Number of queries that the teacher labelled.
        teacher_money: Dollars spent on the teacher, from the ledger: all of it, with trials, audits and gold.
        teacher_each: Dollars that labelling a query once costs; None where only the total is known.
        hours: Hours of the stages, by `label` and `train` (with merging).
        student_rate: Queries per second that the served student answers without the cache.
        traffic: How often each query of the log was asked.
        cache_bytes: Bytes per cached query.
        imported: Whether the labels were made elsewhere: what they cost is known only from `eval.cost`.
    """

    queries: int
    teacher_money: float
    hours: Mapping[str, float]
    student_rate: float
    traffic: Sequence[int]
    cache_bytes: float
    teacher_each: float | None = None
    imported: bool = False


def cost(m: Measured, settings: Cost, device: Device, cached: int) -> CostReport:
    """Dollars per thousand and per million queries, the one-off cost, break-even, and the best cache size.

    Args:
        device: This machine (`limbeck.stage.device`); its list price is taken where the task file gives none.
        cached: Number of queries in the head cache.

    Returns:
        `served` is the mixture of cache hits and student that the log's traffic gives; `break_even` is None where the
        teacher costs no more per query than the student, or where that is not known (`imported`).
    """
    prices, assumptions = _prices(settings, device)
    teacher_money, each_money = m.teacher_money, m.teacher_money / max(1, m.queries)
    if m.teacher_each is not None:
        each_money = m.teacher_each
        assumptions += [
            _line("a query by the teacher, asked once", each_money, "$", "the ledger, without trials and failures"),
            _line("all calls to the teacher", teacher_money, "$", "the ledger, with trials, audits and gold"),
        ]
    if settings.teacher_per_query is not None:
        teacher_money, each_money = settings.teacher_per_query * m.queries, settings.teacher_per_query
        assumptions.append(_line("a query by the teacher", settings.teacher_per_query, "$", "eval.cost"))
    label_machine = m.hours.get("label", 0.0) * prices["label_hour"]
    teacher = each_money + label_machine / max(1, m.queries)
    student = prices["serve_hour"] / 3600 / m.student_rate if m.student_rate else float("nan")
    hit = prices["serve_hour"] / 3600 / settings.cache_rate
    total = float(sum(m.traffic))
    ranked = np.sort(np.asarray(m.traffic, dtype=np.float64))[::-1]
    covered = np.concatenate([[0.0], np.cumsum(ranked)]) / total if total else np.zeros(1)
    share = float(covered[min(cached, len(covered) - 1)])
    assumptions += [
        _line("hits a second on the serving machine", settings.cache_rate, "/s", "eval.cost.cache_rate"),
        _line("days that the log covers", settings.log_days, "d", "eval.cost.log_days"),
        _line("queries a second that the student answers", round(m.student_rate, 2), "/s", "measured, in batches"),
        _line("memory of a cached query", round(m.cache_bytes), "B", "measured"),
    ]
    sizes = _cache_sizes(
        covered, student=student, hit=hit, gib_month=prices["cache_gib_month"], bytes_each=m.cache_bytes,
        a_day=total / settings.log_days,
    )
    served = share * hit + (1 - share) * student
    once = min(teacher_money, each_money * m.queries)
    one_off = {
        "teacher, every query once": once, "teacher, trials, failures, audits and gold": teacher_money - once,
        "labelling machine": label_machine, "training machine": m.hours.get("train", 0.0) * prices["train_hour"],
    }
    saved = teacher - served
    unpriced = m.imported and settings.teacher_per_query is None
    queries = sum(one_off.values()) / saved if saved > 0 and not unpriced else None

    def each(queries: float, digits: int) -> PerSystem:
        return {
            "teacher": round(queries * teacher, digits), "student": round(queries * student, digits),
            "cache": round(queries * hit, digits), "served": round(queries * served, digits),
        }

    break_even: BreakEven | None = None if queries is None else {
        "queries": round(queries), "days": round(queries / (total / settings.log_days), 3) if total else None,
    }
    out: CostReport = {
        "assumptions": assumptions, "per_million": each(1e6, 4), "per_thousand": each(1e3, 7),
        "one_off": {k: round(v, 4) for k, v in one_off.items()}, "one_off_total": round(sum(one_off.values()), 4),
        "cached_share": round(share, 6), "queries_a_day": round(total / settings.log_days, 1),
        "break_even": break_even, "cache_sizes": sizes,
        "best_cache": min(sizes, key=lambda x: x["per_million"])["queries"] if sizes else None, "cached": cached,
    }
    if unpriced:
        out["imported"] = True
    return out


def _cache_sizes(
    covered: Any, *, student: float, hit: float, gib_month: float, bytes_each: float, a_day: float
) -> list[CacheSize]:
    """Share of the traffic and cost of a million queries for caches of rising size."""
    most = len(covered) - 1
    if most < 1 or not np.isfinite(student):
        return []
    wanted = sorted({min(most, round(10 ** (k / 3))) for k in range(3 * 8)} | {0, most})
    out: list[CacheSize] = []
    for size in wanted:
        share = float(covered[size])
        memory = size * bytes_each / 2**30 * gib_month * 12 / 365 / a_day if a_day else 0.0
        money = share * hit + (1 - share) * student + memory
        out.append({"queries": size, "share": round(share, 6), "per_million": round(1e6 * money, 6)})
    return out


def machine_prices(settings: Cost, device: Mapping[str, Any]) -> dict[str, float]:
    """Dollars for an hour of the machines that label, train and serve, and for a GiB of memory for a month.

    Args:
        device: As a manifest describes it; its list price is taken where the settings give none.
    """
    return _prices(settings, device)[0]


def _prices(settings: Cost, device: Mapping[str, Any]) -> tuple[dict[str, float], list[Assumption]]:
    listed = _listed()
    where = f"eval/prices.yaml, {listed['as_of']}"
    gpus = [str(g) for g in device.get("gpus", ())]
    if gpus:
        known = next((name for name in listed["hours"] if name.lower() in gpus[0].lower()), None)
        machine = listed["hours"].get(known, max(listed["hours"].values())) * len(gpus)
        what = f"{len(gpus)} × {gpus[0]}"
    else:
        machine = listed["cpu_core_hour"] * (device.get("cores") or 1)
        what = f"{device.get('cores') or 1} processor cores"
    prices: dict[str, float] = {}
    lines = []
    for name in ("label_hour", "train_hour", "serve_hour"):
        given = getattr(settings, name)
        prices[name] = machine if given is None else given
        source = f"{where}: {what}" if given is None else f"eval.cost.{name}"
        lines.append(_line(f"an hour of the machine that {name.removesuffix('_hour')}s", prices[name], "$", source))
    memory = settings.cache_gib_month
    prices["cache_gib_month"] = listed["gib_month"] if memory is None else memory
    source = where if memory is None else "eval.cost.cache_gib_month"
    lines.append(_line("a GiB of memory for a month", prices["cache_gib_month"], "$", source))
    return prices, lines


def _line(name: str, value: float, unit: str, source: str) -> Assumption:
    return {"name": name, "value": value, "unit": unit, "source": source}


@functools.cache
def _listed() -> Mapping[str, Any]:
    import yaml

    return dict(yaml.safe_load(_LIST.read_text(encoding="utf-8")))
