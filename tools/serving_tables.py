"""The tables of `benchmarks/serving.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eval.formatting import milliseconds, percent, points
from tools.table_text import read, table


def hits(result: Path) -> str:
    """Cache hits at rising rates, and the highest rate that the generator itself sustains."""
    r = read(result)["hits"]
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
    """Latency that the gateway adds to a cache miss."""
    g = read(result)["gateway"]
    lines = ["| one query at a time | requests | p50, ms | p95, ms |", "|---|---|---|---|"]
    for name, kind in (("through the gateway", "through"), ("straight to vLLM", "straight")):
        x = g[kind]
        lines.append(f"| {name} | {x['count']} | {milliseconds(x['p50_ms'])} | {milliseconds(x['p95_ms'])} |")
    added = "{value:.2f} ms [{low:.2f}, {high:.2f}]".format(**g["added_ms"])
    return "\n".join([*lines, "", f"Added to a miss, median of pairs: **{added}**."])


def cache(result: Path) -> str:
    """Large head caches."""
    rows = read(result)["cache"]
    head = "| queries | built in, s | on disk, MB | opened in, ms | a look-up that hits, µs | one that misses, µs |"
    return "\n".join([head, "|---|---|---|---|---|---|", *(
        f"| {c['rows']:,} | {c['build_s']:,.0f} | {c['disk_mb']:,} | {c['open_ms']:.1f} | {c['hit_us']:.1f} "
        f"| {c['miss_us']:.1f} |" for c in rows
    )])


def changes(result: Path) -> str:
    """Twenty bundle changes under load."""
    r = read(result)
    c = r["changes"]
    started = [x["seconds"] for x in c["changes"] if x["engine_started"]]
    kept = [x["seconds"] for x in c["changes"] if not x["engine_started"]]
    first = [x["first_new_s"] for x in c["changes"] if x["first_new_s"] is not None]
    answers, total = c["answers"], sum(c["answers"].values())
    failed = sum(v for k, v in c["statuses"].items() if k != "200")
    return "\n".join([
        f"| {len(c['changes'])} changes, the last a rollback, under {r['rate']:g} requests/s | |", "|---|---|",
        f"| requests, of which failed | {c['requests']:,}, {failed} |",
        f"| connections that broke | {c['broken_connections']} |",
        f"| seconds for a change whose engine had to be started ({len(started)}) "
        f"| {min(started):.1f} to {max(started):.1f} |",
        f"| seconds for one whose engine ran ({len(kept)}) | {min(kept):.2f} to {max(kept):.2f} |",
        f"| first answer of the new bundle, seconds after its change was reported | {min(first):.2f} to "
        f"{max(first):.2f} |",
        f"| answers as their bundle gives them alone | {100 * answers.get('same', 0) / total:.2f} % |",
        f"| answers that the other bundle would have given | {answers.get('mixture', 0)} |",
        f"| p99, ms: hits, misses | {milliseconds(c['hits']['p99_ms'])}, {milliseconds(c['misses']['p99_ms'])} |",
    ])


def faults(result: Path) -> str:
    """Effect of each fault on clients."""
    r = read(result)
    head = "| fault | back after, s | hits: failed, slowest ms | misses: answered, refused, slowest ms | schema-false |"
    lines = [head, "|---|---|---|---|---|"]
    for f in r["faults"]:
        hits, misses = f["hits"], f["misses"]
        failed = sum(v for k, v in hits["statuses"].items() if k != "200")
        lines.append(
            f"| {f['fault']} | {f['back_s']:.1f} | {failed} of {hits['count']:,}, {hits['slowest_ms']:,.0f} "
            f"| {misses['statuses'].get('200', 0)}, {misses['statuses'].get('503', 0)}, {misses['slowest_ms']:,.0f} "
            f"| {f['schema_false']} |"
        )
    return "\n".join(lines)


_NAMES = {"0": "closed", "-1": "no answer"}


def fuzz(result: Path) -> str:
    """Malformed and mutated requests."""
    r = read(result)
    s, m = r["schemathesis"], r["mutations"]
    lines = [
        "| | requests | what came of it |", "|---|---|---|",
        f"| schemathesis on `/openapi.json` | {s['requests']:,} | "
        f"{'every check held' if s['ok'] else 'checks failed'} |",
        f"| mutated bodies, headers, methods, paths | {m['requests']:,} | "
        + ", ".join(f"{v:,} × {_NAMES.get(k, k)}" for k, v in m["statuses"].items()) + " |",
    ]
    for before, after in zip(r["workers"]["a tenth"], r["workers"]["the end"], strict=True):
        lines.append(
            f"| a worker's memory and open files, after a tenth and at the end | | {before['rss_kb'] / 1024:.1f} to "
            f"{after['rss_kb'] / 1024:.1f} MB, {before['files']} to {after['files']} |"
        )
    paths = r["vllm_paths"]
    answered = [k for k, v in paths.items() if v != 404]
    lines.append(f"| vLLM's own paths through the gateway | {len(paths)} | {answered or 'all 404'} |")
    return "\n".join(lines)


def start(result: Path) -> str:
    """Start-up time of engines."""
    r = read(result)

    def cell(x: dict[str, float]) -> str:
        return f"{x['median']:.1f} ({x['least']:.1f} to {x['most']:.1f})"

    return "\n".join([
        "| an engine's start | seconds until it labels: median (least to most) |", "|---|---|",
        *(f"| {way} | {cell(x)} |" for way, x in r["seconds"].items()), f"| times as fast | {cell(r['times'])} |",
        f"| the import itself, once for a service | {r['import_s']:.1f} |",
    ])


def ladder(result: Path) -> str:
    """The optimisation steps that run on a CPU."""
    r = read(result)
    rows = []
    for name, x in r["rungs"].items():
        d = x["difference"]
        figures = [100 * d[k] for k in ("value", "low", "high")] if d else []
        less = "{:+.2f} [{:+.2f}, {:+.2f}] to `{}`".format(*figures, x["stands_on"]) if d else "–"
        rates = " and ".join(f"{v:.3g}" for v in x["queries_per_s"])
        rows.append((
            f"`{name}`", *(milliseconds(x[p]) for p in ("p50_ms", "p95_ms", "p99_ms")), rates, percent(x["f1"]), less,
            f"{x['disk_mb']:,}",
        ))
    head = ("rung", "p50, ms", "p95", "p99", "queries/s", "F1, %", "difference, points", "on disk, MB")
    return table(head, rows)


def engines(result: Path) -> str:
    """OpenVINO against vLLM on a CPU."""
    r = read(result)
    lines = [
        "| engine | ready, s | a miss through the gateway: p50, ms | p95 | p99 | batches, queries/s | F1 |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, name in (("openvino", "OpenVINO"), ("vllm", "vLLM")):
        m, b = r["misses"][kind], r["batches"][kind]
        lines.append(
            f"| {name} | {m['ready_s']:.1f} | {milliseconds(m['p50_ms'])} | {milliseconds(m['p95_ms'])} "
            f"| {milliseconds(m['p99_ms'])} | {b['median']:.0f} ({b['low']:.0f} to {b['high']:.0f}) "
            f"| {percent(r['quality']['f1'][kind])} |"
        )
    p50 = r["misses"]["openvino"]["p50_ms"]["value"] / r["misses"]["vllm"]["p50_ms"]["value"]
    ratio, q = r["batches"]["ratio"], r["quality"]
    lines += [
        "", f"Of vLLM's time OpenVINO takes **{p50:.2f}** at p50 and {r['misses']['p99_ratio']:.2f} at p99; batches "
        f"are {ratio['median']:.2f} times as fast ({ratio['low']:.2f} to {ratio['high']:.2f}). "
        f"{100 * q['agreement']:.2f} % of the labels are the same; F1 {points(q['difference'])} points.",
    ]
    if "commands" in r:
        c = r["commands"]
        lines.append(
            f"`limbeck predict` of {c['rows']:,} queries as a command: {c['now']['median']:.1f} s, before "
            f"{c['before']['median']:.1f} s, {c['ratio']['median']:.2f} times ({c['ratio']['low']:.2f} to "
            f"{c['ratio']['high']:.2f})."
        )
    return "\n".join(lines)


def peer(result: Path) -> str:
    """LiteLLM in front of `vllm serve`, against `limbeck serve`."""
    r = read(result)
    rates = [x["rate"] for x in r["ours"]["hits_at"]]
    lines = [
        "| p50 and p99, ms | misses, one by one | hits, one by one | "
        + " | ".join(f"hits at {x:g}/s" for x in rates) + " | hits that reached vLLM |",
        "|---" * (4 + len(rates)) + "|",
    ]
    names = (("theirs", f"`vllm serve`, JSON schema, LiteLLM {r['litellm']}"), ("ours", "`limbeck serve`"))
    for kind, name in names:
        x = r[kind]
        cells = " | ".join(
            f"{milliseconds(c['p50_ms'])}; {milliseconds(c['p99_ms'])}" + (" (saturated)" if c.get("saturated") else "")
            for c in (x["misses"], x["hits"], *x["hits_at"])
        )
        lines.append(f"| {name} | {cells} | {x['hits_that_reached_vllm']} |")
    return "\n".join(lines)


def serve_install(result: Path) -> str:
    """What a service needs with and without torch and vLLM."""
    r = read(result)
    lines = [
        "| packages | engine | size, MB | install, s | first start, s | start, s | memory when ready, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for stack, engine in r["engines"].items():
        figures = [r[stack][k] for k in ("size_mb", "install_s", "first_start_s", "start_s", "memory_mb")]
        lines.append(
            f"| `requirements/{stack}.txt` | {engine} | "
            + " | ".join(f"{f['median']:.0f} ({f['low']:.0f} to {f['high']:.0f})" for f in figures) + " |"
        )
    return "\n".join(lines)


def understand(result: Path) -> str:
    """`POST /v1/understand` for each task alone and for all together."""
    r = read(result)
    lines = ["| asked for | form | p50, ms | p99, ms |", "|---|---|---|---|"]

    def row(name: str, form: str, x: dict[str, Any]) -> str:
        return f"| {name} | {form} | {milliseconds(x['p50_ms'])} | {milliseconds(x['p99_ms'])} |"

    lines += [row(f"`{name}` alone", f"`{form}`", r["seconds"][name]) for name, form in r["forms"].items()]
    lines.append(row("all together", "", r["seconds"]["together"]))
    lines += [row(f"`{name}`, its part of that", f"`{form}`", r["parts"][name]) for name, form in r["forms"].items()]
    return "\n".join([*lines, "", f"{r['queries']} queries, one at a time; in an order that changes."])
