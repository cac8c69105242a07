"""The tables of `benchmarks/serving.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eval.report import milliseconds


def hits(result: Path) -> str:
    """Cached queries at rising rates, and what the generator can hold by itself."""
    r = json.loads(result.read_text(encoding="utf-8"))["hits"]
    head = "| offered, requests/s | seconds | requests | p50, ms | p99, ms | left late, % | sustained |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    lines += [_row(x) for x in (r["steady"], *r["rates"][1:])]
    best = max((x for x in r["generator"] if x["sustained"]), key=lambda x: x["rate"])
    lines += [
        "", f"{r['workers']} workers. Against a server that answers with a constant the generator holds "
        f"{best['rate']:,} requests/s with a p99 of {milliseconds(best['p99_ms'])} ms, {best['generator_cpu']:.0%} of "
        "a core; it looks at the clock once a millisecond, which is in every figure.",
    ]
    return "\n".join(lines)


def _row(x: dict[str, Any]) -> str:
    return (
        f"| {x['rate']:,} | {x['seconds']:g} | {x['count']:,} | {milliseconds(x['p50_ms'])} "
        f"| {milliseconds(x['p99_ms'])} | {100 * x['late']:.1f} | {'yes' if x['sustained'] else 'no'} |"
    )


def gateway(result: Path) -> str:
    """What the gateway adds to a miss."""
    g = json.loads(result.read_text(encoding="utf-8"))["gateway"]
    lines = ["| one query at a time | requests | p50, ms | p95, ms |", "|---|---|---|---|"]
    for name, kind in (("through the gateway", "through"), ("straight to vLLM", "straight")):
        x = g[kind]
        lines.append(f"| {name} | {x['count']} | {milliseconds(x['p50_ms'])} | {milliseconds(x['p95_ms'])} |")
    d = g["added_p50_ms"]
    return "\n".join([*lines, "", f"Added to the median: **{d['value']:.2f} ms [{d['low']:.2f}, {d['high']:.2f}]**."])


def cache(result: Path) -> str:
    """Large head caches."""
    rows = json.loads(result.read_text(encoding="utf-8"))["cache"]
    head = "| queries | built in, s | on disk, MB | opened in, ms | a look-up that hits, µs | one that misses, µs |"
    return "\n".join([head, "|---|---|---|---|---|---|", *(
        f"| {c['rows']:,} | {c['build_s']:,.0f} | {c['disk_mb']:,} | {c['open_ms']:.1f} | {c['hit_us']:.1f} "
        f"| {c['miss_us']:.1f} |" for c in rows
    )])
