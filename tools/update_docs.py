"""Write the measured tables into README.md and docs/benchmarks.md from the JSON in benchmarks/results.

python tools/update_docs.py            write
python tools/update_docs.py --check    exit 1 when something is out of date
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from eval.formatting import milliseconds, percent  # noqa: E402  (the checkout is importable only from here on)
from limbeck.operations.tables import render, render_audit, render_forms  # noqa: E402
from tools import console_tables as console  # noqa: E402
from tools import eval_tables as evaluation  # noqa: E402
from tools import rewrite_tables as rewrites  # noqa: E402
from tools import serving_tables as serving  # noqa: E402
from tools import student_tables as student  # noqa: E402
from tools.table_text import read, table  # noqa: E402


def answer_length(result: Path) -> str:
    """The table of `benchmarks/answer_length.py`."""
    r = read(result)
    ratio = r["median_ratio"]
    return "\n".join([
        "| answer | tokens decoded | queries | p50, ms | p95, ms |",
        "|---|---|---|---|---|",
        f"| `read` | 0 | {r['queries']} | {milliseconds(r['read']['p50_ms'])} | {milliseconds(r['read']['p95_ms'])} |",
        f"| JSON | {r['json_tokens_mean']} | {r['queries']} | {milliseconds(r['json']['p50_ms'])} "
        f"| {milliseconds(r['json']['p95_ms'])} |",
        "",
        f"Median of the per-query ratios: **{ratio['value']}** [{ratio['low']}, {ratio['high']}].",
    ])


def labelling(result: Path) -> str:
    """The tables of `benchmarks/labelling.py`."""
    r = read(result)

    def spread(figure: dict[str, float] | None, digits: int, scale: float = 1.0) -> str:
        if figure is None:
            return "failed"
        return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*(scale * figure[k] for k in ("median", "low", "high")), d=digits)

    def rows_of(run: dict[str, Any]) -> str:
        if run["exit"] == "stopped":
            return f"not done in {r['limit_s']:.0f} s"
        return "failed" if run["rows"] is None else f"{run['rows']:,}"

    names = sorted(r["clients"], key=lambda n: (r["clients"][n]["seconds"] or {"median": 1e9})["median"])
    lines = ["| client | version | seconds | share of the ideal, % | CPU a call, ms |", "|---|---|---|---|---|"]
    for name in names:
        c = r["clients"][name]
        lines.append(
            f"| {name} | {c['version'] or 'this commit'} | {spread(c['seconds'], 2)} "
            f"| {spread(c['share_of_ideal'], 0, 100)} | {spread(c['cpu_ms_a_call'], 2)} |"
        )
    tenth = r["rows"] // 10
    lines += [
        "", f"| client | {tenth} queries answered 400: calls | rows | {tenth} answers cut: calls | rows "
        "| kill -9 half-way and resume: calls | asked twice | rows |", "|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        c = r["clients"][name]
        bad, cut, killed = c["http_400"], c["truncated"], c["killed"]
        cells = [
            f"{bad['calls']:,}", rows_of(bad), f"{cut['calls']:,}", rows_of(cut), f"{killed['calls']:,}",
            f"{killed['asked_twice']:,}", rows_of(killed),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def local_teacher(result: Path) -> str:
    """The table of `benchmarks/local_teacher.py`."""
    r = read(result)
    lines = ["| backend | labels | precision | recall | F1 | precision gained |", "|---|---|---|---|---|---|"]
    for name, found in r["backends"].items():
        for side in ("raw", "guarded"):
            cells = " | ".join(percent(found[side][k]) for k in ("precision", "recall", "f1"))
            gained = percent(found["precision_gain"]) if side == "guarded" else "–"
            lines.append(f"| `{name}` | {side} | {cells} | {gained} |")
    return "\n".join(lines)


def prefix_order(result: Path) -> str:
    """The table of `benchmarks/prefix_order.py`."""
    r = read(result)
    lines = ["| order of the requests | tokens/s | of a prompt's tokens found in the cache |", "|---|---|---|"]
    for order, found in r["orders"].items():
        rate = "{median:,.0f} [{low:,.0f}, {high:,.0f}]".format(**found["tokens_per_s"])
        median, low, high = (100 * found["hits"][k] for k in ("median", "low", "high"))
        hits = f"{median:.1f} % [{low:.1f}, {high:.1f}]"
        lines.append(f"| {order} | {rate} | {hits} |")
    cache, order = ("{value:.2f} [{low:.2f}, {high:.2f}]".format(**r["times"][k]) for k in ("cache", "order"))
    blocks = "; ".join(
        f"{size} tokens: " + ", ".join(f"{100 * share:.1f} % {order}" for order, share in shares.items())
        for size, shares in r["possible"].items()
    )
    said = (f"{r['rows']} queries, {r['rounds']} rounds in turns, {r['device']['cpu']}, commit {r['git'][:7]}. "
            f"Tokens/s with the cache over those without: {cache}; in the order of the prompts over that of the log: "
            f"{order}. What a cache of 8,000 tokens finds of 600 prompts one after another, in blocks of {blocks}.")
    return "\n".join([*lines, "", said])


def retrieval(result: Path) -> str:
    """The table of `benchmarks/retrieval.py`."""
    r = read(result)
    rows = []
    for name, c in r["candidates"].items():
        rate = "{median:,.0f} [{low:,.0f}, {high:,.0f}]".format(**c["contexts_per_s"])
        built = c["build"]
        rows.append((
            name, f"{built['seconds']:,.0f}", f"{built['peak_mb']:,}", f"{built['disk_mb']:,}", f"{c['opened_s']:,.1f}",
            f"{c['peak_mb']:,}", f"{c['recall_at_10']:.3f}", rate,
        ))
    head = ("candidate", "build, s", "building, MB", "on disk, MB", "opening, s", "searching, MB", "recall@10",
            "contexts/s")
    said = (f"{r['items']:,} items; {r['embedded_meanwhile']:,} texts were embedded beforehand in "
            f"{r['embedding_cpu_s']:,.0f} s of CPU time.")
    return f"{said}\n\n{table(head, rows)}"


def teacher(result: Path) -> str:
    """The teacher of a kept report: quality by traffic slice, and calibration of its confidence."""
    r = read(result)
    lines = [by_traffic(r["systems"]["teacher"])]
    if c := r.get("teacher_confidence"):
        lines += [
            "", "| confidence | AUROC, % | ECE, % | threshold | precision from there up | coverage |",
            "|---|---|---|---|---|---|",
            f"| {c['labels']:,} labels | {percent(c['auroc'])} | {percent(c['ece'])} | {c['threshold']:.3f} "
            f"| {percent(c['precision'])} | {percent(c['coverage'])} |",
        ]
    return "\n".join(lines)


def student_by_traffic(result: Path) -> str:
    """The served student of a kept report by traffic slice."""
    r = read(result)
    return by_traffic(r["systems"][r["served"]])


def by_traffic(system: Any) -> str:
    """A system's quality by traffic slice."""
    lines = ["| queries | rows | precision | recall | F1 | exact match |", "|---|---|---|---|---|---|"]
    found = system["slices"]["traffic"]
    slices = ((name, found[name]) for name in ("head", "torso", "tail"))
    for name, part in (("all", system["value"] | {"rows": system["rows"]}), *slices):
        cells = " | ".join(percent(part[k]) for k in ("precision", "recall", "f1", "exact_match"))
        lines.append(f"| {name} | {part['rows']:,} | {cells} |")
    return "\n".join(lines)


# Block of docs/benchmarks.md → (result, function that makes its table).
BENCHMARKS = {
    "market": ("market.json", render),
    "market-student": ("market.json", student_by_traffic),
    "forms": ("forms.json", render_forms),
    "teacher": ("market.json", teacher),
    "queryner": ("queryner.json", render),
    "queryner-seeds": ("queryner_student.json", student.queryner),
    "training": ("training.json", student.training),
    "evaluation-speed": ("evaluation.json", evaluation.speed),
    "load-generator": ("load_generator.json", evaluation.generator),
    "gate": ("gate.json", evaluation.gate),
    "packed-forward": ("packed_forward.json", student.packed_forward),
    "read-forms": ("read_forms.json", student.read_forms),
    "taxonomy": ("taxonomy.json", student.taxonomy),
    "taxonomy-teacher": ("taxonomy.json", student.taxonomy_teacher),
    "rewrites": ("rewrites.json", rewrites.worth),
    "rewrites-guardrails": ("rewrites.json", rewrites.guardrails),
    "drift": ("drift.json", evaluation.drift),
    "noise": ("noise.json", student.noise),
    "qlora-merge": ("qlora_merge.json", student.qlora_merge),
    "engines": ("engines.json", serving.engines),
    "understand": ("understand.json", serving.understand),
    "serve-install": ("serve_install.json", serving.serve_install),
    "serving-hits": ("serving.json", serving.hits),
    "serving-gateway": ("serving.json", serving.gateway),
    "serving-cache": ("serving.json", serving.cache),
    "serving-changes": ("serving_changes.json", serving.changes),
    "serving-faults": ("serving_changes.json", serving.faults),
    "serving-fuzz": ("serving_fuzz.json", serving.fuzz),
    "serving-ladder": ("ladder.json", serving.ladder),
    "serving-start": ("engine_start.json", serving.start),
    "serving-peer": ("serving_peer.json", serving.peer),
    "answer-length": ("answer_length.json", answer_length),
    "labelling": ("labelling.json", labelling),
    "audit": ("audit.json", render_audit),
    "prefix-order": ("prefix_order.json", prefix_order),
    "local-teacher": ("local_teacher.json", local_teacher),
    "retrieval-50000": ("retrieval-50000.json", retrieval),
    "retrieval-1000000": ("retrieval-1000000.json", retrieval),
    "console": ("console.json", console.label_list),
}
# (file, block) → the same.
BLOCKS = {
    ("README.md", "demo"): ("market.json", render),
    **{("docs/benchmarks.md", name): made for name, made in BENCHMARKS.items()},
}


def updated(path: Path, name: str, table: str) -> str:
    """The text of a file with one block replaced."""
    text = path.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {name}: .*? -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{path}: no block `<!-- {name}: … -->`")
    return pattern.sub(lambda m: f"{m[1]}\n{table}\n\n{m[2]}", text)


def main() -> int:
    """Write or check every block whose result exists."""
    stale = 0
    for (file, name), (result, table_of) in BLOCKS.items():
        path, source = ROOT / file, ROOT / "benchmarks" / "results" / result
        if not source.exists():
            continue
        new = updated(path, name, table_of(source))
        if new != path.read_text(encoding="utf-8"):
            stale += 1
            if "--check" not in sys.argv:
                path.write_text(new, encoding="utf-8")
            print(f"{file}: {name} {'is out of date' if '--check' in sys.argv else 'written'}")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
