"""Labels that are wrong on purpose: what a student makes of them, with and without the options that are meant for it.

    python -m benchmarks.noise runs/market [--work runs/noise] [--seeds 3] [--steps 480] [--rates 0 0.05 0.1 0.2]
                               [--manners plain cross-fit]

The labels of a finished market run, its teacher's, are spoilt: every label with the given probability becomes another
role, loses or gains a word, gets another value (closed roles), or is left out. The same hand spoils the teacher's
labels of the gold queries: that is the noisy teacher whom the student is compared with, on gold that nobody spoilt. For
each rate and seed (of the noise and of the training) one student learns the spoilt curriculum as it is (`plain`), one
after `curriculum.cross_fit` has masked what students of the other fold contradict (`cross-fit`; these students train
for as many steps as it does: with a third of 240 they contradicted three right words for each wrong one). Differences
are paired over queries and drawn over seeds. Each student is kept, so a run that was cut goes on. Expected: noise of
this kind has no pattern, so a student learns around it: 10 % of wrong labels should cost it a point or two, where its
teacher loses ten. Writes benchmarks/results/noise.json.
"""

from __future__ import annotations

import argparse
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.seeds import difference_over_seeds, over_seeds
from limbeck.cross_fit import contradicted, without
from limbeck.inputs import Inputs
from limbeck.stage import device, git_commit, versions
from limbeck.systems import teacher_labels
from limbeck.variants import answers, make_job, read_predictions
from student.connect import connected
from student.launch import launch
from task.codec import Codec
from task.files import read_json, write_json, write_jsonl
from task.labels import Doubt, Example, Label, over
from task.load import load_task
from task.segment import units
from task.settings import CrossFit
from task.spec import Task
from task.store import fetch
from task.tokens import load_tokenizer
from teacher import curriculum
from teacher.curriculum import CurriculumRow

RESULT = Path(__file__).parent / "results" / "noise.json"
MANNERS = ("plain", "cross-fit")


def main() -> None:
    """Train what is missing; write what is complete."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run folder of the market")
    parser.add_argument("--work", type=Path, default=Path("runs/noise"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=480)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0, 0.05, 0.1, 0.2])
    parser.add_argument("--manners", choices=MANNERS, nargs="+", default=list(MANNERS))
    options = parser.parse_args()
    settings = {"student.max_steps": options.steps, "student.keep_best": "false", "student.eval_every": "1000000"}
    task = load_task(Path("configs/market.yaml"), [f"{k}={v}" for k, v in settings.items()]).task
    inputs = Inputs(task, options.run)
    inputs.prepare()
    rows = curriculum.read(options.run / "curriculum", "train")
    teacher = teacher_labels(options.run / "label" / "labels.jsonl", inputs.test)
    assert teacher is not None
    found: list[dict[str, Any]] = []
    with connected(task.student):
        for rate in options.rates:
            runs: dict[str, list[list[Example]]] = {"teacher": [], **{m: [] for m in options.manners}}
            masked: list[dict[str, float]] = []
            for seed in range(options.seeds):
                runs["teacher"].append([spoilt(x, task, rate, seed + 1_000) for x in teacher])
                for manner in options.manners:
                    folder = options.work / f"{options.steps}" / f"{rate:g}-{seed}-{manner}"
                    runs[manner].append(student(task, rows, inputs.test, rate, seed, manner, folder))
                    print(rate, seed, manner, over_seeds(inputs.test, runs[manner][-1:], task), flush=True)
                    if manner == "cross-fit":
                        masked.append(read_json(folder / "masked.json"))
            both = set(MANNERS) <= set(options.manners)
            found.append({
                "rate": rate, "f1": {m: over_seeds(inputs.test, r, task) for m, r in runs.items()},
                "less_teacher": {
                    m: difference_over_seeds(inputs.test, runs[m], runs["teacher"], task) for m in options.manners
                },
                "cross-fit_less_plain": difference_over_seeds(inputs.test, runs["cross-fit"], runs["plain"], task)
                if both else None,
                "masked": masked,
            })
    write_json(RESULT, {
        "gold": len(inputs.test), "rows": len(rows), "steps": options.steps, "seeds": options.seeds, "rates": found,
        "versions": versions(), "device": device(), "git": git_commit(),
    })
    print(RESULT)


def student(
    task: Task, rows: Sequence[CurriculumRow], gold: Sequence[Example], rate: float, seed: int, manner: str,
    folder: Path,
) -> list[Example]:
    """What a student of the spoilt rows says about gold; asked only once."""
    if not (folder / "predictions.jsonl").exists():
        folder.mkdir(parents=True, exist_ok=True)
        task = task.model_copy(update={"student": task.student.model_copy(update={"seed": seed})})
        bad = [replace(r, example=spoilt(r.example, task, rate, seed)) for r in rows]
        if manner == "cross-fit":
            bad = _masked(task, rows, bad, folder)
        job = make_job(task, bad, [], folder / "student", "shuffled")
        launch(job)
        found = answers(job, gold)
        shutil.rmtree(folder / "student")
        write_jsonl(folder / "predictions.jsonl", (x.to_json() for x in found))
    return read_predictions(folder / "predictions.jsonl")


def _masked(
    task: Task, rows: Sequence[CurriculumRow], bad: Sequence[CurriculumRow], folder: Path
) -> list[CurriculumRow]:
    """The spoilt rows without what the other fold's students contradict; notes how much of the noise that was."""
    base = fetch(task.student.base)
    codec = Codec.compile(task, [r.example for r in bad], load_tokenizer(base), form="read")
    usable = [i for i, r in enumerate(bad) if codec.representable(r.example)]
    found = contradicted(task, CrossFit(steps=task.student.max_steps), base, codec, [bad[i] for i in usable], folder)
    doubts: dict[str, list[Doubt]] = {}
    hits = 0
    for x in found:
        true, wrong = rows[usable[x.row]].example, bad[usable[x.row]].example
        doubts.setdefault(wrong.query, []).append(x.doubt)
        hits += _said(true, x.doubt) != _said(wrong, x.doubt)
    changed = sum(
        _said(r.example, Doubt("", *place)) != _said(b.example, Doubt("", *place))
        for r, b in zip(rows, bad, strict=True) for place in units(r.example.query, codec.segmentation)
    )
    write_json(folder / "masked.json", {
        "doubted": len(found), "of_them_spoilt": round(hits / len(found), 4) if found else 0.0, "words_spoilt": changed,
    })
    return without(bad, doubts, "mask")


def _said(example: Example, about: Doubt) -> set[tuple[str, str]]:
    """Roles and values that a labelling gives to the words, or to the closed role, of a doubt."""
    if about.start is None or about.end is None:
        return {(x.role, x.text) for x in example.labels if x.role == about.role}
    return {(x.role, x.text) for x in example.labels if over(x, about.start, about.end)}


def spoilt(example: Example, task: Task, rate: float, seed: int) -> Example:
    """The labelling with each label wrong with probability `rate`; the same for the same query and seed."""
    rng = random.Random(f"{seed} {example.query}")
    labels: list[Label] = []
    for label in example.labels:
        if rng.random() >= rate:
            labels.append(label)
            continue
        ways = [_other_value] if label.start is None else [_other_role, _other_extent]
        worse = rng.choice([*ways, _nothing])(label, example, task, rng)
        if worse is not None and all(not _overlap(worse, x) for x in (*labels, *example.labels) if x is not label):
            labels.append(worse)
    return replace(example, labels=tuple(labels))


def _overlap(a: Label, b: Label) -> bool:
    return b.start is not None and b.end is not None and over(a, b.start, b.end)


def _nothing(*_: object) -> None:
    return None


def _other_value(label: Label, _: Example, task: Task, rng: random.Random) -> Label:
    role = next(r for r in task.closed_roles if r.name == label.role)
    return replace(label, text=rng.choice([v for v in role.values if v != label.text]))


def _other_role(label: Label, example: Example, task: Task, rng: random.Random) -> Label:
    """Another role, none that would then stand twice and may not: such a row betrays itself."""
    have = {x.role for x in example.labels}
    return replace(label, role=rng.choice([
        r.name for r in task.open_roles if r.name != label.role and (r.multiple or r.name not in have)
    ]))


def _other_extent(label: Label, example: Example, _: Task, rng: random.Random) -> Label | None:
    """One word more or less at one end; None where there is no word to take or to give."""
    query = example.query
    places = units(query, "whitespace")
    inside = [i for i, (a, b) in enumerate(places) if over(label, a, b)]
    first, last = inside[0], inside[-1]
    ends = [(first - 1, last), (first + 1, last), (first, last - 1), (first, last + 1)]
    possible = [(a, b) for a, b in ends if 0 <= a <= b < len(places)]
    if not possible:
        return None
    a, b = rng.choice(possible)
    start, end = places[a][0], places[b][1]
    return replace(label, text=query[start:end], start=start, end=end)


if __name__ == "__main__":
    main()
