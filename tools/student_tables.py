"""Tables of the benchmarks that are about the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.formatting import milliseconds, percent
from tools.table_text import read


def training(result: Path) -> str:
    """The table of `benchmarks/training.py`, processor by processor."""
    lines = [
        "| processor | trainer and answer | examples/s | times `trl-write` | times `trl-write-eager` | final loss "
        "| dev F1 | matmul rate |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rates = []
    for processor, r in sorted(read(result).items()):
        for name, c in r["clients"].items():
            rate = "{median:.1f} [{low:.1f}, {high:.1f}]".format(**c["examples_per_s"])
            times = " | ".join(_times(r.get(which, {}).get(name)) for which in ("times_trl", "times_trl_eager"))
            loss = "–" if c.get("loss") is None else f"{c['loss']:.4f}"
            share = "–" if c.get("share_of_matmul_rate") is None else f"{100 * c['share_of_matmul_rate']:.0f} %"
            lines.append(
                f"| {processor} | {name} | {rate} | {times} | {loss} | {percent(c.get('dev_f1'))} | {share} |"
            )
        rates.append(f"{r['matmul_gflops']:,} GFLOP/s on {processor} ({r['rounds']} rounds, commit {r['git'][:7]})")
    return "\n".join([
        *lines, "", f"Clients in turn; the least and the most of single rounds in brackets. bf16 matrix products reach "
        f"{', '.join(rates)}."
    ])


def _times(ratio: Mapping[str, float] | None) -> str:
    return "–" if ratio is None else "{value:.2f} [{low:.2f}, {high:.2f}]".format(**ratio)


def packed_forward(result: Path) -> str:
    """The table of `benchmarks/packed_forward.py`, processor by processor."""
    lines = [
        "| processor | model | padded, rows/s | packed, rows/s | times | times without the check | labels equal "
        "| logits |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rates = []
    for where, r in sorted(read(result).items()):
        for name, m in r["models"].items():
            speeds = f"{m['padded_rows_per_s']:.0f} | {m['packed_rows_per_s']:.0f}"
            times = " | ".join(_times(m[k]) for k in ("times", "times_without_check"))
            lines.append(
                f"| {where} | {name} | {speeds} | {times} | {100 * m['label_agreement']:.1f} % "
                f"| {m['check']['logit_error']:.2g} |"
            )
        rates.append(
            f"{r['matmul_gflops']:,} GFLOP/s on {where} ({r['rows']:,} rows of {r['tokens_per_row']:.0f} tokens, "
            f"{r['rounds']} rounds, commit {r['git'][:7]})"
        )
    return "\n".join([
        *lines, "", "In turns; the least and the most of single rounds in brackets. `logits`: the difference of the "
        f"logits of the checked sample over their size. bf16 matrix products of 1,024 reach {', '.join(rates)}."
    ])


def queryner(result: Path) -> str:
    """The tables of `benchmarks/queryner.py`."""
    parts = read(result)
    r = parts["seeds"]
    f = r["strict_f1"]
    lines = [
        f"Strict F1 on the {r['gold']} development rows: **{percent(f)}**, mean of "
        f"{', '.join(f'{100 * x:.1f}' for x in f['seeds'])} (standard deviation {100 * (f['spread'] or 0):.2f}); "
        f"{', '.join(f'{m:.0f}' for m in r['minutes'])} minutes each on {r['rows']:,} rows.",
    ]
    if tried := parts.get("tried"):
        lines += ["", *_tried(f"tried, on {tried['held_out']} held-out training rows", tried["variants"])]
    if decoded := r.get("decoded"):
        seeds = len(f["seeds"])
        lines += ["", *_tried(f"{seeds} seeds' students on the {r['gold']} development rows", decoded)]
    return "\n".join(lines)


def _tried(head: str, variants: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = (f"| {v['name']} | {percent(v['strict_f1'])} | {percent(v['less_recipe'])} |" for v in variants)
    return [f"| {head} | strict F1 | less the recipe |", "|---|---|---|", *rows]


def read_forms(result: Path) -> str:
    """The table of `benchmarks/read_forms.py`."""
    r = read(result)
    lines = [
        f"| way of reading ({r['rows']:,} rows) | strict F1 | less `echo` | p50, ms | vLLM = transformers |",
        "|---|---|---|---|---|",
    ]
    for w in r["ways"]:
        p50, same = "–", "–"
        if w["latency"] is not None:
            p50, same = milliseconds(w["latency"]["p50_ms"]), f"{100 * w['latency']['agreement']:.1f} %"
        lines.append(f"| {w['name']} | {percent(w['strict_f1'])} | {percent(w['less_echo'])} | {p50} | {same} |")
    return "\n".join(lines)


def taxonomy(result: Path) -> str:
    """The tables of `benchmarks/taxonomy.py`."""
    r = read(result)
    names = {"market": "market", "paths": "Shopify"}
    parts = {name: r[part] for part, name in names.items() if part in r}
    lines = ["| taxonomy | place | gold labels | precision | recall | F1 |", "|---|---|---|---|---|---|"]
    for name, p in parts.items():
        for at, level in enumerate([p["leaf"], *p["levels"]]):
            figures = " | ".join(percent(level[k]) for k in ("precision", "recall", "f1"))
            lines.append(f"| {name} | {f'level {at}' if at else 'leaf'} | {level['support']:,} | {figures} |")
    lines += [
        "", "| taxonomy | values | leaves asked about | rows learned from | minutes | hit@5 | ECE "
        "| other domain: AUROC, none of these | AUROC, best category | answered |", "|---" * 10 + "|",
    ]
    for name, p in parts.items():
        o = p["other"]
        lines.append(
            f"| {name} | {p['paths']:,} | {p['leaves']:,} | {p['learned']:,} | {p['minutes']:.0f} "
            f"| {percent(p['hit_at_5'])} | {percent(p['ece'])} | {percent(o['auroc']['none_of_these'])} "
            f"| {percent(o['auroc']['best_category'])} | {percent(o['answered'])} |"
        )
    if "cost" in r:
        lines += [
            "",
            "| taxonomy | probe tokens | prompt, tokens | p50, ms | twelve values: prompt, tokens | p50, ms | times |",
            "|---" * 7 + "|",
        ]
        for part, c in ((names[k], r["cost"][k]) for k in names if k in r["cost"]):
            tree, twelve = (
                f"{c['prompt_tokens'][side]:.1f} | {milliseconds(c['latency'][side]['p50_ms'])}"
                for side in ("tree", "twelve")
            )
            lines.append(f"| {part} | {c['probes']['tree']} | {tree} | {twelve} | {_times(c['times'])} |")
    return "\n".join(lines)


def taxonomy_teacher(result: Path) -> str:
    """The table of `benchmarks/taxonomy_teacher.py`."""
    r = read(result).get("teacher")
    if r is None:
        return ""
    lines = [
        "| queries | evidence | precision | recall | F1 | F1 of the first level | worth, F1 points |", "|---" * 7 + "|",
    ]
    for name, part in r["parts"].items():
        for v in part["variants"]:
            figures = " | ".join(percent(v["leaf"][k]) for k in ("precision", "recall", "f1"))
            root = percent(v["root"]["f1"]) if v["root"] else "–"
            lines.append(f"| {name}, {part['rows']:,} | {v['name']} | {figures} | {root} | {percent(v['worth'])} |")
    return "\n".join(lines)


def noise(result: Path) -> str:
    """The table of `benchmarks/noise.py`."""
    r = read(result)
    manners = [m for m in ("plain", "robust", "cross-fit") if any(m in n["f1"] for n in r["rates"])]
    against = {m: ["less teacher"] if m == "plain" else ["less teacher", "less plain"] for m in manners}
    columns = [x for m in manners for x in (f"student, {m}", *against[m])]
    lines = ["| labels spoilt | seeds | teacher | " + " | ".join(columns) + " |", "|---" * (3 + len(columns)) + "|"]
    for n in r["rates"]:
        f = n["f1"]
        cells = [
            percent(table.get(m)) for m in manners for table in (f, *(n[x.replace(" ", "_")] for x in against[m]))
        ]
        seeds = len(f["teacher"]["seeds"])
        lines.append(f"| {100 * n['rate']:g} % | {seeds} | {percent(f['teacher'])} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def qlora_merge(result: Path) -> str:
    """The table of `benchmarks/qlora_merge.py`."""
    r = read(result)
    lines = ["| merged | mean of the logits' differences | largest | equal labels |", "|---|---|---|---|"]
    for name, m in r["merges"].items():
        agree = f"{m['label_agreement']:.2%}"
        lines.append(f"| {name} | {m['mean_logit_delta']:.4f} | {m['max_logit_delta']:.3f} | {agree} |")
    return "\n".join([*lines, "", f"PEFT's own merge into 4 bits is **{r['factor']} times** as far off as ours."])
