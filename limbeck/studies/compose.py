"""`limbeck compose`: adapters of several tasks composed into one, and the loss on each task."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.environment import device, git_commit, versions
from limbeck.run import Run
from task.errors import InputError
from task.labels import Example


def compose(
    runs: Sequence[Run], *, methods: Sequence[str], weights: Sequence[float] | None, density: float,
    max_rows: int | None,
) -> Path:
    """Compose the trained adapters of tasks by every method, and measure each result on each task's gold.

    Composition is fragile: adapters that are good alone may interfere, so every result is compared with the task's
    own adapter, with a paired interval.

    Args:
        weights: One for each task; None weights all equally.
        density: Share of each adapter that TIES and DARE keep.
        max_rows: Most gold rows of each task.

    Returns:
        The page; `composition.json` and the adapters lie beside it.
    """
    from eval.report import write_composition
    from student.merging.compose import METHODS
    from student.merging.compose import compose as put_together
    from task.model_store import fetch

    for method in methods:
        if method not in METHODS:
            raise InputError("unknown method", field="--method", found=method, expected="one of: " + ", ".join(METHODS))
    _check(runs, weights)
    names = [run.task.name for run in runs]
    shares = list(weights or [1.0 / len(runs)] * len(runs))
    folder = runs[0].files.folder.parent / ("compose-" + "-".join(names))
    folder.mkdir(parents=True, exist_ok=True)
    base = fetch(runs[0].task.student.base)
    adapters = {run.task.name: _adapter(run) for run in runs}
    made = dict(adapters)
    for number, method in enumerate(methods, 1):
        runs[0].progress.stage(method, number, len(methods))
        made[method] = put_together(
            base=base, adapters=adapters, method=method, weights=shares, out=folder / method, density=density
        )
    gold = {run.task.name: _gold(run)[:max_rows] for run in runs}
    rows = [_measure(name, where, base, runs, gold) for name, where in made.items()]
    _compare(rows, runs, gold)
    write_composition(folder, {
        "tasks": names, "weights": shares, "density": density, "rows": {n: len(g) for n, g in gold.items()},
        "level": runs[0].task.eval.confidence,
        "adapters": [{"name": r["name"], "tasks": r["tasks"]} for r in rows],
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "versions": versions(),
        "device": device(), "git": git_commit(),
    })
    return folder / "composition.html"


def _check(runs: Sequence[Run], weights: Sequence[float] | None) -> None:
    if len(runs) < 2:
        raise InputError("there is nothing to compose", field="TASK", found=len(runs), expected="two or more")
    if len({run.task.name for run in runs}) < len(runs):
        raise InputError("two task files have the same name", field="name", found=runs[0].task.name)
    bases = {run.task.student.base for run in runs}
    if len(bases) > 1:
        raise InputError("the tasks' students have different bases", field="student.base", found=sorted(bases))
    if weights is not None and len(weights) != len(runs):
        raise InputError(
            "not one weight for each task", field="--weight", found=len(weights), expected=str(len(runs))
        )


def _adapter(run: Run) -> Path:
    run.finished("train")
    return run.files.train.adapter


def _gold(run: Run) -> list[Example]:
    """Gold test rows, or dev rows where there are none."""
    from teacher.curriculum.rows import read

    return list(run.inputs.test) or [r.example for r in read(run.finished("curriculum"), "dev")]


def _measure(
    name: str, adapter: Path, base: Path, runs: Sequence[Run], gold: dict[str, list[Example]]
) -> dict[str, Any]:
    """Predictions of an adapter on every task, decoded with the task's own codec."""
    from student.adapters import load_adapter
    from student.inference import predict
    from student.model import accelerator, dtype_on, load_base
    from task.codec import load_codec
    from task.tokenizer import load_tokenizer

    place = accelerator()
    model = load_adapter(load_base(base, dtype_on(place, runs[0].task.student.dtype)), adapter).to(place)
    found = {}
    for run in runs:
        rows = gold[run.task.name]
        run.progress.begin(f"{name} on {run.task.name}", len(rows))
        codec = load_codec(run.finished("train"))
        found[run.task.name] = predict(
            model, codec, load_tokenizer(base), run.task, rows, device=place, progress=run.progress.advance
        )
    return {"name": name, "predictions": found, "tasks": {}}


def _compare(rows: Sequence[dict[str, Any]], runs: Sequence[Run], gold: dict[str, list[Example]]) -> None:
    """F1 of every adapter on every task, and its difference to the task's own adapter."""
    from eval.quality import paired_difference, quality

    own = {r["name"]: r["predictions"] for r in rows}
    for r in rows:
        for run in runs:
            task, truth = run.task, gold[run.task.name]
            said = r["predictions"][task.name]
            r["tasks"][task.name] = {
                "f1": quality(truth, said, task)["value"]["f1"],
                "less_own": None if r["name"] == task.name
                else paired_difference(truth, said, own[task.name][task.name], task),
            }
