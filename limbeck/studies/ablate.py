"""`limbeck ablate`: the effect of the curriculum's order and of weighting by confidence on the student."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eval.formatting import plain, points
from eval.page_schema import AblationVariant
from eval.significance import not_inferior
from limbeck.environment import device, git_commit, versions
from limbeck.run import Run
from limbeck.student_jobs import trained_and_asked
from task.errors import InputError
from task.labels import Example
from task.spec import Task

ORDERS = ("shuffled", "easy-to-hard", "hard-to-easy", "growing")
WEIGHTINGS = ("none", "confidence")
REFERENCE = "shuffled, none"


def ablate(
    run: Run, *, orders: Sequence[str], weightings: Sequence[str], seeds: int, steps: int | None
) -> Path:
    """Train every order × weighting with every seed for the same number of steps; compare on gold.

    Each training is a stage of its own, so an interrupted ablation resumes, and a larger one trains only
    what is new.

    Args:
        steps: Of every variant; None takes the task's own.

    Returns:
        The page; `ablation.json` lies beside it.
    """
    check(orders, weightings)
    from eval.report import write_ablation
    from eval.seeds import difference_over_seeds, over_seeds
    from student.ray_connection import connected
    from student.training.order import total_steps
    from teacher.curriculum.row_order import ordered
    from teacher.curriculum.rows import read

    rows = read(run.finished("curriculum"), "train")
    dev = [r.example for r in read(run.finished("curriculum"), "dev")]
    gold: Sequence[Example] = run.inputs.test or dev
    s = run.task.student
    steps = steps or total_steps(len(rows), batch_size=s.batch_size, epochs=s.epochs, max_steps=s.max_steps)
    inputs = {"curriculum": run.digest("curriculum"), "gold": run.inputs.fingerprint("test")}
    found: dict[str, list[list[Example]]] = {}
    variants = list(itertools.product(orders, weightings, range(seeds)))
    with connected(s):
        for number, (order, weighting, seed) in enumerate(variants, 1):
            name = f"{order}, {weighting}"
            run.progress.stage(f"{name}, seed {seed}", number, len(variants))
            task = _variant(run.task, weighting, seed, steps)
            in_order = ordered(rows, order, seed)
            answers = found.setdefault(name, [])
            answers.append(trained_and_asked(
                replace(run, task=task), f"ablate/{order}-{weighting}-{seed}", in_order, gold, order=order,
                inputs=inputs,
            ))
            run.progress.finished(f"F1 {plain(over_seeds(gold, answers[-1:], task))}")
    reference = REFERENCE if REFERENCE in found else next(iter(found))
    content: list[AblationVariant] = [{
        "name": name, "f1": over_seeds(gold, answers, run.task),
        "less_reference": None if name == reference else
        difference_over_seeds(gold, answers, found[reference], run.task),
    } for name, answers in found.items()]
    folder = run.files.ablation
    write_ablation(folder, {
        "task": run.task.name, "rows": len(rows), "gold": len(gold),
        "on": "test" if run.inputs.test else "dev", "steps": steps, "seeds": seeds,
        "level": run.task.eval.confidence, "reference": reference,
        "variants": content, "verdict": verdict(content, reference),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "versions": versions(),
        "device": device(), "git": git_commit(),
    })
    return folder / "ablation.html"


def _variant(task: Task, weighting: str, seed: int, steps: int) -> Task:
    """The task with a fixed number of steps, without early stopping or reporting."""
    student = task.student.model_copy(update={
        "seed": seed, "weighting": weighting, "max_steps": steps, "epochs": 1e6, "keep_best": False,
        "early_stop": None, "report_to": (),
    })
    return task.model_copy(update={"student": student})


def check(orders: Sequence[str], weightings: Sequence[str]) -> None:
    """Raise `InputError` for an order or a weighting that there is not, before anything is run."""
    _check("--order", orders, ORDERS)
    _check("--weighting", weightings, WEIGHTINGS)


def _check(flag: str, found: Sequence[str], valid: Sequence[str]) -> None:
    for value in found:
        if value not in valid:
            raise InputError("unknown variant", field=flag, found=value, expected="one of: " + ", ".join(valid))


def verdict(variants: Sequence[AblationVariant], reference: str) -> str:
    """What to use, in a sentence: the reference unless a variant is significantly better."""
    better = [(v, d) for v in variants if (d := v["less_reference"]) and not_inferior(d, 0.0)]
    if not better:
        return f"no variant is significantly better than `{reference}`: use that"
    best, difference = max(better, key=lambda x: x[0]["f1"]["value"] or 0.0)
    return f"use `{best['name']}`: ΔF1 against `{reference}` {points(difference)} points"
