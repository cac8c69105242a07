"""Rounds on a market that moves: F1 month by month with and without them, on random picks and on the product's.

    python -m benchmarks.rounds --work DIR [--months 6] [--arms never random picks half scratch] [--set A.B=C]

A student is trained on month 0 of the synthetic market (`samples.market.months`) and released. In each later month
the released student answers a week of the traffic (`benchmarks.drift.Weeks`, 5,000 requests), which is captured;
a round follows, and its student is released if it passes its gate on the month's gold rows beside the released one.
Each arm is such a history of its own:

`never` has no rounds. `random` learns from as many queries as `picks`, drawn by traffic among those without a label.
`picks` is `limbeck round` as it is, `half` with half of the labels, `scratch` with `rounds.start: scratch`. The student
that each arm has released is asked the month's gold rows, and after the last month those of month 0.

Expected: `picks` reaches the F1 of `random` with `half` of the labels; less than a point of month 0 is forgotten; the
month in which a third of the purchases is missing gives a worse student, which its gate refuses.

Finished months are kept in `--work`: the same command goes on. Writes benchmarks/results/rounds.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.drift import Weeks
from eval.quality import paired_difference, quality
from limbeck.environment import device, git_commit, versions
from limbeck.pipeline import run_up_to
from limbeck.progress_display import ProgressDisplay
from limbeck.rounds.captured import picks_stage
from limbeck.rounds.history import Opening, rounds_of
from limbeck.rounds.picks import Candidate, Pick, candidates, captures_of
from limbeck.rounds.round import run_round
from limbeck.rounds.view import rows_of_rounds
from limbeck.run import Run
from limbeck.stage import Figures, Stage
from samples.market.months import month_of, write_month
from serving.client import ServedAnswer, answer_all, served
from serving.release.pointer import read_pointer, release
from task.captures import FOLDER, Capture, file_of
from task.files import read_json, write_json, write_jsonl
from task.labels import Example
from task.load import load_task
from task.normalize import normaliser
from task.readers import read_labels
from task.serving_settings import Change
from task.spec import Task

ROOT: Final = Path(__file__).resolve().parent.parent
RESULT: Final = ROOT / "benchmarks" / "results" / "rounds.json"
ARMS: Final = ("never", "random", "picks", "half", "scratch")
START: Final = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC).timestamp()
MONTH_S: Final = 30 * 86_400.0
WEEK_S: Final = 7 * 86_400.0
# As the market's, but for what a single training of this size cannot show, and for latency, which other work changes.
SETTINGS: Final = (
    "gates.min_f1=null", "gates.teacher_margin=null", "gates.slice_margin=null", "gates.slo=null",
    "gates.max_slower=null", "gates.released_margin=0.02", "eval.latency.seconds=0",
)


def task_of(given: argparse.Namespace, month: int, arm: str) -> Task:
    """The task of an arm in a month."""
    labels = given.labels // 2 if arm == "half" else given.labels
    start = "scratch" if arm == "scratch" else "adapter"
    return load_task(ROOT / "configs" / "market.yaml", [
        f"data.sample_queries={given.queries}", f"data.sample_items={given.items}", f"data.sample_month={month}",
        f"rounds.labels={labels}", f"rounds.start={start}", *SETTINGS, *given.set,
    ]).task


def base(given: argparse.Namespace, progress: ProgressDisplay) -> Path:
    """The folder with the run of month 0, and the pointer to its student."""
    folder: Path = given.work / "base"
    if not (folder / "live.json").exists():
        run = Run.of(task_of(given, 0, "picks"), folder / "runs", progress)
        run_up_to(run, "bundle")
        release(folder / "live.json", bundle=run.files.bundle.bundle, change=Change(), ungated=True)
    return folder


def arm_folder(given: argparse.Namespace, arm: str, progress: ProgressDisplay) -> Path:
    """A history of its own, which begins with the run of month 0."""
    folder: Path = given.work / arm
    if not folder.exists():
        shutil.copytree(base(given, progress), folder.with_name(f".{arm}.tmp"), dirs_exist_ok=True)
        folder.with_name(f".{arm}.tmp").rename(folder)
    return folder


def gold_of(given: argparse.Namespace, month: int, task: Task) -> list[Example]:
    """The gold test rows of a month."""
    folder = given.work / "gold" / str(month)
    if not (folder / "gold_test.jsonl").exists():
        write_month(folder, seed=task.data.seed, queries=given.queries, items=given.items, month=month)
    return read_labels(folder / "gold_test.jsonl", task)[: task.eval.max_rows]


def asked(folder: Path, rows: Sequence[Example], progress: ProgressDisplay) -> list[ServedAnswer]:
    """What the released student answers, without its cache."""
    progress.begin("starting the released student")
    with served(folder / "live.json", state=folder / "asked", options=("--set", "self_check=0")) as url:
        progress.begin("asking the released student", len(rows))
        return answer_all(url, rows, batch=64, done=progress.advance)


def capture_week(
    given: argparse.Namespace, folder: Path, month: int, task: Task, progress: ProgressDisplay, *, begin: float
) -> None:
    """A week of a month's traffic as the service of the released student captures it."""
    found = month_of(task.data.seed, queries=given.queries, items=given.items, number=month)
    weeks = Weeks.of(found, frozenset())
    rng = np.random.default_rng([month, 1])
    drawn = weeks.draw(rng, name=f"rounds {month}")
    answers = asked(folder, [Example(c.query or "") for c in drawn], progress)
    bundle = read_pointer(folder / "live.json").current.id
    rows: list[Capture] = []
    for capture, answer in zip(drawn, answers, strict=True):
        roles = {r.name: sum(x.role == r.name for x in answer.row.labels) for r in task.roles}
        rows.append(replace(
            capture, bundle=bundle, task=task.name, probability=answer.probability,
            roles={k: n for k, n in roles.items() if n}, at=begin + float(rng.random()) * WEEK_S,
        ))
    for file in sorted({file_of(folder / "state" / FOLDER, c.at) for c in rows}):
        write_jsonl(file, (c.row() for c in sorted(rows, key=lambda c: c.at)
                           if file_of(folder / "state" / FOLDER, c.at) == file))


def random_picks(opening: Opening, number: int) -> Stage:
    """As many picks to learn from as the product's, drawn by traffic among queries without a label."""
    product = picks_stage(opening, number)

    def work(run: Run, folder: Path) -> Figures:
        normalise = normaliser(run.task.normaliser)
        known = {normalise(x.query) for x in (*run.inputs.queries, *run.inputs.calibration, *run.inputs.test)}
        held = captures_of(run, opening.state, since=opening.since, until=opening.until)
        found = [
            c for c in candidates(held, [], known=known, normalise_with=run.task.normaliser) if not c.known
        ]
        count = min(round(run.task.rounds.labels * (1 - run.task.rounds.random)), len(found))
        rng = np.random.default_rng(number)
        weights = np.array([c.requests for c in found])
        rows = rng.choice(len(found), size=count, replace=False, p=weights / weights.sum())
        draws = _drawn(run, held, known, number, round(run.task.rounds.labels * run.task.rounds.random))
        learned = [Pick(found[i], "errors") for i in rows if found[i].query not in {p.candidate.query for p in draws}]
        write_jsonl(folder / "picks.jsonl", (p.row() for p in (*draws, *learned)))
        return {
            "errors": len(learned), "random": sum(p.draws for p in draws), "new": len(learned), "requests": 0,
            "candidates": len(found), "covered": 0.0, "expected_errors": 0.0,
        }

    return replace(product, work=work)


def _drawn(run: Run, held: Sequence[Capture], known: set[str], number: int, count: int) -> list[Pick]:
    from limbeck.rounds.picks import draws

    every: list[Candidate] = candidates(held, [], known=known, normalise_with=run.task.normaliser)
    return [Pick(every[row], "random", n) for row, n in draws(every, count, seed=number).items()]


def month_of_arm(given: argparse.Namespace, arm: str, month: int, progress: ProgressDisplay) -> dict[str, Any]:
    """One month of an arm: traffic, round, and the F1 of what is released then."""
    folder, task = arm_folder(given, arm, progress), task_of(given, month, arm)
    run = Run.of(task, folder / "runs", progress)
    begin = START + month * MONTH_S
    found: dict[str, Any] = {"arm": arm, "month": month}
    if arm != "never":
        if not (folder / f"captured-{month}").exists():
            capture_week(given, folder, month, task, progress, begin=begin)
            (folder / f"captured-{month}").touch()
        done = [r for r in rounds_of(run.files.folder) if r.opening.until == begin + WEEK_S and r.outcome is not None]
        picks: Callable[[Opening, int], Stage] = random_picks if arm == "random" else picks_stage
        ended = done[0] if done else run_round(
            run, pointer=folder / "live.json", state=folder / "state", clock=lambda: begin + WEEK_S, picks=picks
        )
        found["round"] = dict(rows_of_rounds([ended])[0])
    gold = gold_of(given, month, task)
    answers = [a.row for a in asked(folder, gold, progress)]
    write_jsonl(folder / f"answers-{month}.jsonl", (a.to_json() for a in answers))
    found["f1"] = quality(gold, answers, task)["value"]["f1"]
    if month == given.months:
        first = gold_of(given, 0, task)
        found["f1_of_month_0"] = quality(first, [a.row for a in asked(folder, first, progress)], task)["value"]["f1"]
    return found


def compared(given: argparse.Namespace, one: str, other: str) -> list[dict[str, Any]]:
    """F1 of one arm less that of another, month by month, on the same gold rows."""
    out = []
    for month in range(1, given.months + 1):
        files = [given.work / arm / f"answers-{month}.jsonl" for arm in (one, other)]
        if all(f.exists() for f in files):
            task = task_of(given, month, one)
            a, b = ([Example.from_json(json.loads(x)) for x in f.read_text().splitlines()] for f in files)
            difference = paired_difference(gold_of(given, month, task), a, b, task)
            out.append({"one": one, "other": other, "month": month, "difference": difference})
    return out


def main() -> None:
    """Measure what is not there yet, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--months", type=int, default=6)
    parser.add_argument("--queries", type=int, default=4_000)
    parser.add_argument("--items", type=int, default=2_000)
    parser.add_argument("--labels", type=int, default=400)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--set", nargs="+", default=[], help="settings of the task, beside those of the market")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    given.work = given.work.resolve()
    given.work.mkdir(parents=True, exist_ok=True)
    kept = given.work / "months.json"
    done: dict[str, Any] = read_json(kept) if kept.exists() else {}
    with ProgressDisplay() as progress:
        for month in range(1, given.months + 1):
            for arm in given.arms:
                key = f"{arm} {month}"
                if key not in done:
                    done[key] = month_of_arm(given, arm, month, progress)
                    write_json(kept, done)
        pairs: Mapping[str, str] = {"picks": "random", "half": "random", "scratch": "picks", "never": "picks"}
        differences = [
            x for one, other in pairs.items() if {one, other} <= set(given.arms) for x in compared(given, one, other)
        ]
    write_json(given.out, {
        "months": [done[f"{arm} {m}"] for arm in given.arms for m in range(1, given.months + 1)],
        "differences": differences,
        "settings": {k: getattr(given, k) for k in ("months", "queries", "items", "labels", "arms", "set")},
        "versions": versions(), "device": device(), "git": git_commit(),
    })


if __name__ == "__main__":
    main()
