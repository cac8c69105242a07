"""Label noise: students trained on corrupted labels, with and without the options against noise.

    python -m benchmarks.noise runs/market [--work runs/noise] [--seeds 3] [--steps 480] [--rates 0 0.05 0.1 0.2]
                               [--manners plain robust cross-fit] [--set K=V]

The labels of a finished market run, its teacher's, are corrupted: every label with the given probability gets another
role, loses or gains a word, gets another value (closed roles), or is left out. The teacher's labels of the gold queries
are corrupted in the same way: that is the noisy teacher that the student is compared with, on clean gold. For each rate
and seed (of noise and training) one student is trained on the corrupted curriculum as it is (`plain`), one with
`student.robust: 0.7`, and on request one after `curriculum.cross_fit` has masked the labels that out-of-fold students
contradict (these train for as many steps as the student: with a third of 240 they contradicted three right words for
each wrong one). Differences are paired over queries and resampled over seeds. The counts of each query are kept in the
result, so that an interrupted or extended run continues. Expected: this noise is unstructured, so students are robust
to it: 10 % of wrong labels should cost a point or two, where the teacher loses ten. Writes
benchmarks/results/noise.json.
"""

from __future__ import annotations

import argparse
import base64
import random
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from eval.matching import Counts
from eval.seeds import per_query, pooled_difference, pooled_f1
from limbeck.environment import device, git_commit, versions
from limbeck.inputs import Inputs
from limbeck.judging.offline_systems import teacher_labels
from limbeck.stages.cross_fit import contradicted, without
from limbeck.student_jobs import answers, make_job
from student.ray_connection import connected
from student.training.launch import launch
from task.codec import Codec
from task.files import read_json, sha256_json, write_json
from task.labels import Doubt, Example, Label, over
from task.load import load_task
from task.model_store import fetch
from task.segmentation import units
from task.settings import CrossFit
from task.spec import Task
from task.tokenizer import load_tokenizer
from task.training_row import TrainingRow
from teacher.curriculum.rows import read

RESULT = Path(__file__).parent / "results" / "noise.json"
MANNERS = ("plain", "robust", "cross-fit")
ROBUST = 0.7


def main() -> None:
    """Train what is missing, and write after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run folder of the market")
    parser.add_argument("--work", type=Path, default=Path("runs/noise"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=480)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0, 0.05, 0.1, 0.2])
    parser.add_argument("--manners", choices=MANNERS, nargs="+", default=["plain", "robust"])
    parser.add_argument("--set", action="append", default=[], help="a task value: student.cpus_per_worker=1")
    options = parser.parse_args()
    settings = {"student.max_steps": options.steps, "student.keep_best": "false", "student.eval_every": "1000000"}
    task = load_task(Path("configs/market.yaml"), [f"{k}={v}" for k, v in settings.items()] + options.set).task
    inputs = Inputs(task, options.run / "sample")  # the run has generated it
    rows = read(options.run / "curriculum", "train")
    teacher = teacher_labels(options.run / "label" / "labels.jsonl", inputs.test)
    assert teacher is not None
    about = {"steps": options.steps, "gold": len(inputs.test), "rows": len(rows), "data": sha256_json(
        [[x.to_json() for x in part] for part in (inputs.test, teacher, [r.example for r in rows])]
    )}
    students = _kept(about)

    def write() -> None:
        write_json(RESULT, about | {
            "students": students, "rates": summary(task, inputs.test, teacher, students),
            "versions": versions(), "device": device(), "git": git_commit(),
        })

    with connected(task.student):
        for seed, rate, manner in ((s, r, m) for s in range(options.seeds) for r in options.rates
                                   for m in options.manners):
            name = f"{rate:g}-{seed}-{manner}"
            if name in students:
                continue
            found, notes = student(task, rows, inputs.test, rate, seed, manner, options.work / name)
            counts = per_query(inputs.test, found, task)
            students[name] = {"counts": packed(counts), "f1": pooled_f1([counts], task)["value"], **notes}
            print(name, students[name]["f1"], flush=True)
            write()
    write()
    print(RESULT)


def _kept(about: Mapping[str, Any]) -> dict[str, Any]:
    """The students that an earlier run trained on the same data for as many steps."""
    known = read_json(RESULT) if RESULT.exists() else {}
    return dict(known["students"]) if all(known.get(k) == v for k, v in about.items()) else {}


def summary(
    task: Task, gold: Sequence[Example], teacher: Sequence[Example], students: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """For each rate the F1 of the teacher and of each manner over the seeds that there are, and what differs."""
    out = []
    for rate in sorted({float(name.split("-")[0]) for name in students}):
        runs: dict[str, dict[int, Counts]] = {}
        for name, found in students.items():
            at, seed, manner = name.split("-", 2)
            if float(at) == rate:
                runs.setdefault(manner, {})[int(seed)] = unpacked(found["counts"])
        seeds = sorted(set().union(*runs.values()))
        spoilt_by = {s: per_query(gold, [spoilt(x, task, rate, s + 1_000) for x in teacher], task) for s in seeds}
        out.append({
            "rate": rate, "f1": {
                "teacher": pooled_f1(list(spoilt_by.values()), task),
                **{m: pooled_f1(list(r.values()), task) for m, r in runs.items()},
            },
            "less_teacher": {
                m: pooled_difference(list(r.values()), [spoilt_by[s] for s in r], task) for m, r in runs.items()
            },
            "less_plain": {
                m: pooled_difference(list(r.values()), list(runs["plain"].values()), task)
                for m, r in runs.items() if m != "plain" and "plain" in runs
            },
        })
    return out


def packed(counts: Counts) -> str:
    """Counts of a query are small: a byte each, compressed, in base64."""
    return base64.b64encode(zlib.compress(counts.astype(np.uint8).tobytes(), 9)).decode()


def unpacked(text: str) -> Counts:
    """The inverse of `packed`."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8).reshape(-1, 3).astype(np.int64)


def student(
    task: Task, rows: Sequence[TrainingRow], gold: Sequence[Example], rate: float, seed: int, manner: str,
    folder: Path,
) -> tuple[list[Example], dict[str, Any]]:
    """Predictions on gold of a student trained on the corrupted rows, and what was masked."""
    shutil.rmtree(folder / "student", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    changes = {"seed": seed, "robust": ROBUST if manner == "robust" else 0.0}
    task = task.model_copy(update={"student": task.student.model_copy(update=changes)})
    bad = [replace(r, example=spoilt(r.example, task, rate, seed)) for r in rows]
    notes: dict[str, Any] = {}
    if manner == "cross-fit":
        bad, notes["masked"] = _masked(task, rows, bad, folder)
    job = make_job(task, bad, [], folder / "student", "shuffled")
    launch(job)
    found = answers(job, gold)
    shutil.rmtree(folder)
    return found, notes


def _masked(
    task: Task, rows: Sequence[TrainingRow], bad: Sequence[TrainingRow], folder: Path
) -> tuple[list[TrainingRow], dict[str, Any]]:
    """The spoilt rows without what the other fold's students contradict; how much of the noise that was."""
    base = fetch(task.student.base)
    codec = Codec.compile(task, [r.example for r in bad], load_tokenizer(base), form="read")
    usable = [i for i, r in enumerate(bad) if codec.representable(r.example)]
    found = contradicted(
        task, CrossFit(steps=task.student.max_steps), [bad[i] for i in usable], base=base, codec=codec, folder=folder
    )
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
    return without(bad, doubts, "mask"), {
        "doubted": len(found), "of_them_spoilt": round(hits / len(found), 4) if found else 0.0, "words_spoilt": changed,
    }


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
