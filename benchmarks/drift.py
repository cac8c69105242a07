"""`limbeck drift` on a market that moves: false alarms in calm weeks, and weeks until each planted change is noticed.

    python -m benchmarks.drift --work DIR [--markets 4] [--pairs 50] [--repeats 5]

Weeks are drawn from months of the synthetic market (`samples.market.months`), whose changes are planned month by month.
A week has 5,000 requests. The share of each query in it varies from week to week by a log-normal factor (σ 0.5), and of
the queries of the tail a sixth are ones that no other week has. Answers are the truth's: each role of the true labels,
and the head cache of the reference month answers its 500 most frequent queries. No student is trained, so the expected
error, one of the five kinds of figures, is not measured; what is noticed here is noticed without it.

`same`: `--pairs` pairs of weeks of month 0, in each of `--markets` markets with seeds of their own. An alarm is any
figure that has moved. `changes`: the reference is a week of a month, the current period one to four weeks of the next
month, `--repeats` times a market. All figures and rules are the product's (`limbeck.rounds.drift.measured`).

Expected: at most 5 % of alarms in calm weeks (Holm's correction at α 0.05, and minima besides); new brands and words in
fashion noticed in the first week by unseen words; the rename, which no query shows, and the data fault, which no query
shows either, not noticed; the season perhaps, by the distance of the queries. Found: the last two as expected but for
calm movements of the traffic; the season is not noticed in any repeat; and with signs in place of exchanges on a common
scale (`eval.drift`) 13 of 100 pairs of calm weeks alarmed.

Embeddings and finished comparisons are kept in `--work`: the same command goes on. Writes
benchmarks/results/drift.json.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy.stats import binomtest

from limbeck.artefacts import RunFolder
from limbeck.environment import device, git_commit, versions
from limbeck.inputs import Inputs
from limbeck.progress_display import ProgressDisplay
from limbeck.rounds.drift import measured
from limbeck.rounds.traffic import Traffic
from limbeck.run import Run
from samples.market.generate import TORSO_END, Ask
from samples.market.months import Month, month_of, write_month
from task.captures import Capture
from task.files import write_json
from task.load import load_task

ROOT: Final = Path(__file__).resolve().parent.parent
RESULT: Final = ROOT / "benchmarks" / "results" / "drift.json"
QUERIES, ITEMS, HEAD, REQUESTS = 8_000, 3_000, 500, 5_000
BURSTS: Final = 0.5  # σ of the logarithm of a query's share
NEW: Final = 1 / 6  # of the tail's queries of a week
WEEKS: Final = 4
CHANGES: Final = {
    1: "new brands and product types", 2: "a season", 3: "words in fashion", 4: "a department renamed",
    5: "a third of the purchases missing", 6: "nothing",
}
Shares = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Weeks:
    """Weeks of a month; `cached` are the queries that the head cache of the reference month answers."""

    month: Month
    log: Sequence[Ask]
    cached: frozenset[str]
    shares: Shares

    @classmethod
    def of(cls, month: Month, cached: frozenset[str]) -> Weeks:
        """Weeks of this month."""
        counts = np.asarray(month.counts, dtype=np.float64)
        return cls(month, month.log, cached, counts / counts.sum())

    def draw(self, rng: np.random.Generator, *, name: str) -> list[Capture]:
        """The captures of one week, one a query.

        Args:
            name: Of the week, which its queries that no other week has are drawn by.
        """
        log = self.log
        bursts = self.shares * rng.lognormal(0.0, BURSTS, len(log))
        counts = rng.multinomial(REQUESTS, bursts / bursts.sum())
        self.month.market.rng.seed(name)
        asked: dict[str, Ask] = {}
        times: Counter[str] = Counter()
        for row in np.flatnonzero(counts):
            place = row / len(log)
            ask = self.month.fresh(place) if place >= TORSO_END and rng.random() < NEW else log[row]
            asked.setdefault(ask.query, ask)
            times[ask.query] += int(counts[row])
        return [self._capture(ask, times[query]) for query, ask in asked.items()]

    def _capture(self, ask: Ask, count: int) -> Capture:
        return Capture(
            query=ask.query, keyed_hash=None, count=count, weight=float(count),
            source="cache" if ask.query in self.cached else "student", status="ok", bundle="b", task="market",
            probability=None, roles=dict(Counter(x["role"] for x in ask.labels())), at=0.0,
        )


def run_of(work: Path, seed: int, number: int, progress: ProgressDisplay) -> Run:
    """A run on the files of a month; all months of a market share the store of embeddings."""
    folder = work / f"market-{seed}" / f"month-{number}"
    if not (folder / "queries.jsonl").exists():
        write_month(folder, seed=seed, queries=QUERIES, items=ITEMS, month=number)
    task = load_task(ROOT / "configs" / "market.yaml").task
    from_files = task.data.model_copy(update={
        "sample": None, "dir": folder, "queries": "queries.jsonl", "catalogue": "catalogue.jsonl",
    })
    task = task.model_copy(update={"data": from_files})
    return Run(task=task, files=RunFolder(work / f"market-{seed}"), inputs=Inputs(task, folder), progress=progress)


def same_weeks(work: Path, seed: int, pairs: int, progress: ProgressDisplay) -> Iterator[tuple[str, Judge]]:
    """Pairs of weeks of month 0."""
    run = run_of(work, seed, 0, progress)
    month = month_of(seed, queries=QUERIES, items=ITEMS, number=0)
    weeks = Weeks.of(month, _head(month))
    for pair in range(pairs):
        key = f"same {seed} {pair}"

        def judge(name: str = key) -> dict[str, Any]:
            return _judged(run, *_drawn(name, [weeks, weeks]))

        yield key, judge


def changed_weeks(
    work: Path, seed: int, number: int, repeats: int, progress: ProgressDisplay
) -> Iterator[tuple[str, Judge]]:
    """A week of the month before, against one to four of the month with this number."""
    run = run_of(work, seed, number - 1, progress)
    before = month_of(seed, queries=QUERIES, items=ITEMS, number=number - 1)
    cached = _head(before)
    now = month_of(seed, queries=QUERIES, items=ITEMS, number=number)
    order = [Weeks.of(before, cached), *[Weeks.of(now, cached)] * WEEKS]
    for repeat in range(repeats):
        for count in range(1, WEEKS + 1):
            key = f"change {number} {seed} {repeat} {count}"
            name = f"change {number} {seed} {repeat}"

            def judge(name: str = name, count: int = count) -> dict[str, Any]:
                reference, *current = _drawn(name, order)
                return _judged(run, reference, [c for week in current[:count] for c in week])

            yield key, judge


Judge = Callable[[], dict[str, Any]]


def _head(month: Month) -> frozenset[str]:
    return frozenset(a.query for a in month.log[:HEAD])


def _drawn(name: str, weeks: Sequence[Weeks]) -> list[list[Capture]]:
    rng = np.random.default_rng(list(name.encode()))
    return [week.draw(rng, name=f"{name} week {i}") for i, week in enumerate(weeks)]


def _judged(run: Run, reference: Sequence[Capture], current: Sequence[Capture]) -> dict[str, Any]:
    found = measured(run, Traffic.of(reference, current))
    return {
        "drifted": found["drifted"], "round": found["round"],
        "moved": sorted(name for name, f in found["figures"].items() if f["drifted"]),
        "change": {name: f["change"]["value"] for name, f in found["figures"].items()},
    }


def rate(successes: int, trials: int) -> dict[str, float]:
    """A share with its exact 95 % interval (Clopper and Pearson 1934)."""
    low, high = binomtest(successes, trials).proportion_ci(0.95, method="exact")
    return {"count": successes, "of": trials, "value": successes / trials, "low": float(low), "high": float(high)}


def summary(done: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The figures of the table."""
    same = [x for key, x in done.items() if key.startswith("same ")]
    changes = []
    for number, name in CHANGES.items():
        weeks = []
        for count in range(1, WEEKS + 1):
            found = [
                x for key, x in done.items()
                if key.startswith(f"change {number} ") and key.endswith(f" {count}")
            ]
            weeks.append({
                "noticed": rate(sum(x["drifted"] for x in found), len(found)),
                "round": rate(sum(x["round"] for x in found), len(found)),
                "by": dict(Counter(m for x in found for m in x["moved"]).most_common()),
                "change": {
                    figure: float(np.median([x["change"][figure] for x in found])) for figure in found[0]["change"]
                },
            })
        changes.append({"month": number, "change": name, "weeks": weeks})
    return {
        "same": {
            "alarms": rate(sum(x["drifted"] for x in same), len(same)),
            "rounds": rate(sum(x["round"] for x in same), len(same)),
            "by": dict(Counter(m for x in same for m in x["moved"]).most_common()),
        },
        "changes": changes,
    }


def main() -> None:
    """Measure what is not there yet, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--markets", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    kept = given.work / "comparisons.jsonl"
    done = {x["key"]: x for x in map(json.loads, kept.read_text().splitlines())} if kept.exists() else {}
    wanted: set[str] = set()
    with ProgressDisplay() as progress, kept.open("a") as out:
        for seed in range(given.markets):
            parts = [same_weeks(given.work, seed, given.pairs, progress)]
            parts += [changed_weeks(given.work, seed, number, given.repeats, progress) for number in CHANGES]
            for key, judge in (x for part in parts for x in part):
                wanted.add(key)
                if key not in done:
                    done[key] = {"key": key, **judge()}
                    out.write(json.dumps(done[key]) + "\n")
                    out.flush()
    write_json(RESULT, {
        **summary({key: x for key, x in done.items() if key in wanted}),
        "settings": {
            "markets": given.markets, "pairs": given.pairs, "repeats": given.repeats, "queries": QUERIES,
            "items": ITEMS, "head": HEAD, "requests_a_week": REQUESTS, "bursts": BURSTS, "new_of_the_tail": NEW,
        },
        "versions": versions(), "device": device(), "git": git_commit(),
    })


if __name__ == "__main__":
    main()
