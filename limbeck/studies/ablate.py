"""`limbeck ablate`: does the curriculum's order, or weighing by confidence, make a better student?"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Sequence
from pathlib import Path

from eval.formatting import plain, points
from eval.page_schema import AblationVariant
from eval.significance import not_inferior
from limbeck.pipeline import Pipeline
from limbeck.stage import device, git_commit, versions
from limbeck.student_jobs import measured
from task.errors import InputError
from task.labels import Example
from task.spec import Task

ORDERS = ("shuffled", "easy-to-hard", "hard-to-easy", "growing")
WEIGHTINGS = ("none", "confidence")
REFERENCE = "shuffled, none"


def ablate(
    pipeline: Pipeline, orders: Sequence[str], weightings: Sequence[str], seeds: int, steps: int | None
) -> Path:
    """Train every order × weighting with every seed for the same number of steps; compare on gold.

    Each training is a stage of its own, so an ablation that was killed goes on where it stopped, and a larger one pays
    only for what is new.

    Args:
        steps: Of every variant; None takes the task's own.

    Returns:
        The page; `ablation.json` lies beside it.
    """
    _check("--order", orders, ORDERS)
    _check("--weighting", weightings, WEIGHTINGS)
    from eval.report import write_ablation
    from eval.seeds import difference_over_seeds, over_seeds
    from student.ray_connection import connected
    from student.training.order import total_steps
    from teacher.curriculum import build as curriculum

    pipeline.upto("curriculum")
    rows = curriculum.read(pipeline.folder("curriculum"), "train")
    dev = [r.example for r in curriculum.read(pipeline.folder("curriculum"), "dev")]
    gold: Sequence[Example] = pipeline.inputs.test or dev
    s = pipeline.task.student
    steps = steps or total_steps(len(rows), s.batch_size, s.epochs, s.max_steps)
    inputs = {"curriculum": pipeline.digest("curriculum"), "gold": pipeline.inputs.fingerprint("test")}
    found: dict[str, list[list[Example]]] = {}
    variants = list(itertools.product(orders, weightings, range(seeds)))
    with connected(s):
        for number, (order, weighting, seed) in enumerate(variants, 1):
            name = f"{order}, {weighting}"
            pipeline.console.stage(f"{name}, seed {seed}", number, len(variants))
            task = _variant(pipeline.task, weighting, seed, steps)
            ordered = curriculum.ordered(rows, order, seed)
            runs = found.setdefault(name, [])
            runs.append(
                measured(pipeline, f"ablate/{order}-{weighting}-{seed}", task, ordered, gold, order, inputs)
            )
            pipeline.console.finished(f"F1 {plain(over_seeds(gold, runs[-1:], task))}")
    reference = REFERENCE if REFERENCE in found else next(iter(found))
    content: list[AblationVariant] = [{
        "name": name, "f1": over_seeds(gold, runs, pipeline.task),
        "less_reference": None if name == reference else
        difference_over_seeds(gold, runs, found[reference], pipeline.task),
    } for name, runs in found.items()]
    folder = pipeline.run / "ablate"
    write_ablation(folder, {
        "task": pipeline.task.name, "rows": len(rows), "gold": len(gold),
        "on": "test" if pipeline.inputs.test else "dev", "steps": steps, "seeds": seeds,
        "level": pipeline.task.eval.confidence, "reference": reference,
        "variants": content, "verdict": verdict(content, reference),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "versions": versions(),
        "device": device(), "git": git_commit(),
    })
    return folder / "ablation.html"


def _variant(task: Task, weighting: str, seed: int, steps: int) -> Task:
    """The task with a student of equal steps that nobody watches or stops."""
    student = task.student.model_copy(update={
        "seed": seed, "weighting": weighting, "max_steps": steps, "epochs": 1e6, "keep_best": False,
        "early_stop": None, "report_to": (),
    })
    return task.model_copy(update={"student": student})


def _check(flag: str, found: Sequence[str], valid: Sequence[str]) -> None:
    for value in found:
        if value not in valid:
            raise InputError("unknown variant", field=flag, found=value, expected="one of: " + ", ".join(valid))


def verdict(variants: Sequence[AblationVariant], reference: str) -> str:
    """What to use, in a sentence: the reference unless something is better beyond its interval."""
    better = [(v, d) for v in variants if (d := v["less_reference"]) and not_inferior(d, 0.0)]
    if not better:
        return f"nothing is better than `{reference}` beyond its interval: use that"
    best, difference = max(better, key=lambda x: x[0]["f1"]["value"] or 0.0)
    return f"use `{best['name']}`: ΔF1 against `{reference}` {points(difference)} points"
