"""Tables of the benchmarks that are about evaluation itself."""

from __future__ import annotations

from pathlib import Path

from eval.formatting import milliseconds
from tools.table_text import read


def speed(result: Path) -> str:
    """The table of `benchmarks/evaluation.py`."""
    r = read(result)

    def spread(key: str) -> str:
        return "{median:,.1f} [{low:,.1f}, {high:,.1f}]".format(**r[key])

    slices = ", ".join(f"{k} ({n})" for k, n in r["slices"].items())
    return "\n".join([
        f"| {r['rows']:,} queries, median and range of {r['rounds']} rounds | seconds |", "|---|---|",
        f"| Limbeck: six schemes, roles, slices by {slices}, {r['resamples']:,} resamples each | {spread('ours_s')} |",
        f"| seqeval, strict F1 once, no interval | {spread('seqeval_once_s')} |",
        f"| seqeval in a naive bootstrap, {r['resamples']:,} resamples (reckoned from {r['peer_resamples']}) "
        f"| {spread('seqeval_naive_s')} |",
    ])


def generator(result: Path) -> str:
    """The table of `benchmarks/load_generator.py`."""
    r = read(result)
    head = "| server | requests | mean, ms: theory | measured | p99, ms: theory | measured |"
    lines = [head, "|---|---|---|---|---|---|"]
    names = {"constant": "20 ms each", "mm1": "M/M/1 at 70 % load", "stall": "stands still one second in ten"}
    for key, name in names.items():
        x = r[key]
        t = x["theory"]
        mean, tail = (f"{t[k]:g}" + (" [{:g}, {:g}]".format(*t[f"{k}_95"]) if f"{k}_95" in t else "")
                      for k in ("mean", "p99"))
        lines.append(f"| {name} | {x['requests']:,} | {mean} | {x['mean']:g} | {tail} | {milliseconds(x['p99'])} |")
    if r["wrk"]:
        w = r["wrk"]
        name = "the same, by wrk (8 connections, corrected afterwards)"
        lines.append(f"| {name} | {w['requests']:,} | 50 | – | 900 | {w['p99']:g} |")
    c = r["closed"]
    lines.append(f"| the same, by a closed loop (8 connections) | {c['requests']:,} | 50 | {c['mean']:g} | 900 "
                 f"| {milliseconds(c['p99_ms'])} |")
    lines += ["", "| the generator's own limit | requests/s | p50, ms | p99, ms | dispatch delay p99, ms | cores |",
              "|---|---|---|---|---|---|"]
    for x in r["limit"]:
        h, n = x["held"], x["processes"]
        name = f"{n} process{'es' if n > 1 else ''}"
        lines.append(f"| {name} | {h['rate']:,} | {milliseconds(h['p50'])} | {milliseconds(h['p99'])} "
                     f"| {h['dispatch_delay_ms']['p99']} | {h['cpu']} |" if h else f"| {name} | none held | | | | |")
    return "\n".join(lines)


def gate(result: Path) -> str:
    """The table of `benchmarks/gate.py`."""
    r = read(result)
    names = {
        "same": "the same, made again", "flipped": "1 % of the labels flipped", "perturbed": "one layer perturbed",
        "codec": "another codec", "cache": "the cache of another task", "slower": "a fifth slower",
    }
    lines = ["| candidate | gate | rules that stopped it | what they found |", "|---|---|---|---|"]
    for key, name in names.items():
        x = r[key]
        said = "; ".join(x["found"][:2])
        lines.append(f"| {name} | {'passed' if x['ok'] else 'refused'} | {', '.join(x['rules'])} | {said} |")
    a = r["aa"]
    stopped = ", ".join(f"{k} {n}" for k, n in a["stopped"].items() if n) or "none"
    said = f"A/A: {a['passed']} of {a['repetitions']} repetitions pass (stopped by: {stopped})."
    return "\n".join([*lines, "", said])


def drift(result: Path) -> str:
    """The tables of `benchmarks/drift.py`."""
    r = read(result)

    def share(found: dict[str, float]) -> str:
        value, low, high = (100 * found[k] for k in ("value", "low", "high"))
        return f"{value:.1f} [{low:.1f}, {high:.1f}]"

    def by(found: dict[str, int]) -> str:
        return ", ".join(f"{name} {count}" for name, count in found.items()) or "–"

    same = r["same"]
    head = ["| weeks compared | pairs | alarms, % | that call for a round, % | what moved |", "|---|---|---|---|---|"]
    calm = (
        f"| of one month | {same['alarms']['of']} | {share(same['alarms'])} | {share(same['rounds'])} "
        f"| {by(same['by'])} |"
    )
    lines = [
        "| the month's change | noticed after a week, % | two | three | four | by, after four weeks |",
        "|---|---|---|---|---|---|",
    ]
    for change in r["changes"]:
        cells = " | ".join(share(week["noticed"]) for week in change["weeks"])
        lines.append(f"| {change['change']} | {cells} | {by(change['weeks'][-1]['by'])} |")
    return "\n".join([*head, calm, "", *lines])
