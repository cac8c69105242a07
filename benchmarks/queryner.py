"""QueryNER over seeds, and variants of its recipe.

    python -m benchmarks.queryner DATA [--runs runs] [--seeds 3] [--only seeds|tried] [--set K=V]

DATA is a folder with QueryNER's train.jsonl and dev.jsonl. First the recipe of configs/queryner.yaml is trained on all
training rows with each seed and scored on the 871 development rows (strict micro-F1: role and span), which nothing
below looks at. Then every variant is trained once without the last tenth of the training rows and scored on that
tenth, beside the recipe trained likewise; differences are paired over queries. The recipe's scores there are decoded
in four ways: each word's best symbol alone, Viterbi as the codec does it, and Viterbi with a transition matrix counted
from the training labels at half and at full weight. Each training is a stage: what is done stands. Expected: Viterbi
above single symbols by a point; everything else within its interval. Weight decay is not among them: 0.1 at this rate
shrinks an adapter by two per cent in all. The ways of decoding are scored on the development rows too, where nothing
was chosen, for the students of all seeds. Writes benchmarks/results/queryner_student.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eval.seeds import difference_over_seeds, over_seeds
from limbeck.pipeline import Pipeline
from limbeck.progress_display import Console
from limbeck.stage import device, git_commit, versions
from limbeck.student_jobs import make_job, measured, trained
from student.inference import all_scores
from student.ray_connection import connected
from student.training.job import Job
from task.codec import Codec
from task.files import read_json, write_json
from task.labels import Example, Label
from task.load import load_task
from task.segmentation import units
from task.spec import Task
from task.tokenizer import load_tokenizer
from task.viterbi import spans_of
from teacher.curriculum import build as curriculum

RESULT = Path(__file__).parent / "results" / "queryner_student.json"
RECIPE = "recipe"
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    RECIPE: {},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "rank 8": {"lora": {"rank": 8, "alpha": 16}},
    "half the learning rate": {"learning_rate": 5e-4},
    "3 epochs": {"epochs": 3.0},
}


def main() -> None:
    """Train what is missing, score everything, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=["seeds", "tried"], help="the other part of the result is kept")
    parser.add_argument("--set", action="append", default=[], help="a task value: student.cpus_per_worker=1")
    options = parser.parse_args()
    content = read_json(RESULT) if RESULT.exists() else {}
    with Console() as console:
        loaded = load_task(Path("configs/queryner.yaml"), [f"data.dir={options.data.resolve()}", *options.set])
        pipeline = Pipeline(loaded, options.runs, console)
        pipeline.upto("curriculum")
        with connected(pipeline.task.student):
            parts = {"seeds": lambda: seeds(pipeline, options.seeds), "tried": lambda: tried(pipeline)}
            for part in [options.only] if options.only else parts:
                where = {"versions": versions(), "device": device(), "git": git_commit()}
                content[part] = parts[part]() | where
                write_json(RESULT, content)
    print(RESULT)


def seeds(pipeline: Pipeline, number: int) -> dict[str, Any]:
    """The recipe on all rows with each seed."""
    rows = curriculum.read(pipeline.folder("curriculum"), "train")
    gold = pipeline.inputs.test
    runs: dict[str, list[Sequence[Example]]] = {}
    for seed in range(number):
        pipeline.console.stage(f"seed {seed}", seed + 1, number)
        task, stage = variant(pipeline.task, {"seed": seed}), f"seeds/{seed}"
        answers = measured(pipeline, stage, task, rows, gold, "shuffled", _inputs(pipeline))
        ways = decodings(make_job(task, rows, [], pipeline.run / stage, "shuffled"), gold)
        for name, found in ({RECIPE: answers} | ways).items():
            runs.setdefault(name, []).append(found)
        print(over_seeds(gold, [answers], task, "span"), flush=True)
    minutes = [
        read_json(pipeline.run / f"seeds/{n}/manifest.json")["wall_s"] / 60 for n in range(number)
    ]
    return {
        "rows": len(rows), "gold": len(gold), "strict_f1": over_seeds(gold, runs[RECIPE], pipeline.task, "span"),
        "minutes": [round(m, 1) for m in minutes],
        "decoded": compared(pipeline.task, gold, runs, same_students=True),
    }


def tried(pipeline: Pipeline) -> dict[str, Any]:
    """Each variant without the last tenth of the rows, scored on it."""
    rows = curriculum.read(pipeline.folder("curriculum"), "train")
    cut = len(rows) - len(rows) // 10
    held = [r.example for r in rows[cut:]]
    found: dict[str, list[Sequence[Example]]] = {}
    for at, (name, change) in enumerate(VARIANTS.items(), 1):
        pipeline.console.stage(name, at, len(VARIANTS))
        task = variant(pipeline.task, change)
        stage = f"variants/{name.replace(' ', '-')}"
        found[name] = [measured(pipeline, stage, task, rows[:cut], held, "shuffled", _inputs(pipeline))]
        print(name, over_seeds(held, found[name], task, "span"), flush=True)
    job = make_job(
        variant(pipeline.task, {}), rows[:cut], [], pipeline.run / f"variants/{RECIPE}", "shuffled"
    )
    for name, answers in decodings(job, held).items():
        found[name] = [answers]
    return {"held_out": len(held), "variants": compared(pipeline.task, held, found)}


def decodings(job: Job, rows: Sequence[Example]) -> dict[str, list[Example]]:
    """What the job's finished student says of the rows' queries, decoded in each way but the recipe's."""
    model, where = trained(job)
    tokenizer = load_tokenizer(job.base)
    learned = [r.example for r in job.train]
    codecs = {"transitions at half": job.codec.chained(learned, 0.5), "transitions": job.codec.chained(learned, 1.0)}
    texts = [x.query for x in rows]
    scores = all_scores(model, job.codec, tokenizer, texts, device=where)
    ways = {
        name: [Example(q, codec.decode_scores(q, s)) for q, s in zip(texts, scores, strict=True)]
        for name, codec in codecs.items()
    }
    return ways | {"decoded word by word": [word_by_word(job.codec, q, s) for q, s in zip(texts, scores, strict=True)]}


def compared(
    task: Task, gold: Sequence[Example], runs: Mapping[str, Sequence[Sequence[Example]]], *, same_students: bool = False
) -> list[dict[str, Any]]:
    """Strict F1 of each over its seeds, and what differs from the recipe."""
    return [{
        "name": name, "strict_f1": over_seeds(gold, found, task, "span"),
        "less_recipe": None if name == RECIPE else difference_over_seeds(
            gold, found, runs[RECIPE], task, "span", same_students=same_students
        ),
    } for name, found in runs.items()]


def word_by_word(codec: Codec, query: str, scores: npt.NDArray[np.float32]) -> Example:
    """Labels of each word's best symbol alone."""
    places = units(query, codec.segmentation)
    labels = []
    for role, first, end in spans_of([int(x) for x in scores[:, : 1 + 2 * len(codec.roles)].argmax(1)]):
        start, stop = places[first][0], places[end - 1][1]
        labels.append(Label(codec.roles[role], query[start:stop], start, stop))
    return Example(query, tuple(labels))


def variant(task: Task, change: Mapping[str, Any]) -> Task:
    """The task with a student of other settings that nobody watches or stops."""
    s = task.student
    lora = s.lora.model_copy(update=change.get("lora", {}))
    student = s.model_copy(update={**change, "lora": lora, "keep_best": False, "eval_every": 100_000})
    return task.model_copy(update={"student": student})


def _inputs(pipeline: Pipeline) -> dict[str, str]:
    return {"curriculum": pipeline.digest("curriculum"), "gold": pipeline.inputs.fingerprint("test")}


if __name__ == "__main__":
    main()
