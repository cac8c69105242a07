"""`limbeck sweep`: LoRA rank × target layers on Ray Tune; recommends the smallest adapter not worse than the best."""

from __future__ import annotations

import datetime
import itertools
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from eval.expected_interval import half_interval
from eval.formatting import points
from eval.page_schema import AdapterFigures, SweepVariant
from eval.quality_schema import Estimate
from eval.significance import not_inferior
from limbeck.artefacts import TrainFolder
from limbeck.environment import device, git_commit, versions
from limbeck.run import Run
from limbeck.staleness import FIRST
from limbeck.student_jobs import answers, make_job, read_predictions, training_rules
from task.errors import ComponentError, InputError, own_error, warn
from task.files import read_json, sha256_json, write_json, write_jsonl
from task.labels import Example
from task.progress import looking
from task.settings import Lora, Student
from task.spec import Task

_DONE = "measured.json"
MARGIN: Final = 0.01  # one point of F1


def check(task: Task, *, ranks: Sequence[int], targets: Sequence[str]) -> None:
    """Refuse adapters that cannot be made, before anything is labelled and before Ray is started.

    Raises:
        InputError: The base has no such layers, or the adapter around it could not be trained or merged.
    """
    from student import preflight
    from task.model_store import fetch

    if task.student.peft is not None:
        raise InputError("a sweep varies LoRA", field="student.peft", found=task.student.peft, expected="null")
    for target in targets:
        preflight.check(fetch(task.student.base), _variant(task, ranks[0], target, 1).student)


def sweep(
    run: Run, *, ranks: Sequence[int], targets: Sequence[str], steps: int | None, margin: float = MARGIN
) -> Path:
    """Train every rank × target group for the same steps, as many at once as the cluster has room for.

    Selected on dev rows, because selection on the test rows would bias what is then measured on them. Trials resume
    from their checkpoints; finished trials are not run again.

    Args:
        targets: `attention`, `mlp`, `all-linear`, or names of layers joined by `+`.
        steps: Of every trial; None takes the task's own.
        margin: By how much F1 a recommended adapter may at most be worse than the best.

    Returns:
        The page; `sweep.json` lies beside it.
    """
    from eval.report import write_sweep
    from student.training.order import total_steps
    from teacher.curriculum.rows import read

    task = run.task
    check(task, ranks=ranks, targets=targets)
    rows = read(run.finished("curriculum"), "train")
    dev = [r.example for r in read(run.finished("curriculum"), "dev")]
    warn_of_few(len(dev), margin)
    s = task.student
    steps = steps or total_steps(
        len(rows), batch_size=s.batch_size, epochs=s.epochs, max_steps=s.max_steps
    )
    folder = run.files.sweep
    trials: dict[str, Path] = {}
    for rank, target in itertools.product(ranks, targets):
        name = f"rank {rank}, {target}"
        trials[name] = _prepare(run, folder, _variant(task, rank, target, steps), rows, dev)
    _run(run, trials, s)
    measured = [_figures(name, where, dev, task) for name, where in trials.items()]
    best = max(measured, key=lambda v: (v["f1"]["value"] or 0.0, -v["trained"]))
    found: list[SweepVariant] = [{
        **v, "less_best": None if v is best else _difference(trials[v["name"]], trials[best["name"]], dev, task),
    } for v in measured]
    chosen = recommended(found, margin)
    write_sweep(folder, {
        "task": task.name, "dev": len(dev), "steps": steps, "level": task.eval.confidence,
        "margin": margin, "variants": found,
        "recommended": chosen["name"], "verdict": sweep_verdict(found, margin, len(dev)),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "versions": versions(),
        "device": device(), "git": git_commit(),
    })
    return folder / "sweep.html"


def warn_of_few(rows: int, margin: float) -> None:
    """Warn, before anything is trained, where so many dev rows will hardly show that an adapter is as good."""
    half = half_interval(rows)
    if half > margin:
        warn(
            f"{rows:,} dev rows can show differences from about {100 * half:.1f} points on, and the margin is "
            f"{100 * margin:g}: where no smaller adapter is shown to be as good, the best is recommended",
            field="--margin", fix="Raise curriculum.dev_fraction or .max_dev, label more queries, or widen the margin",
        )


def recommended(variants: Sequence[SweepVariant], margin: float) -> SweepVariant:
    """The smallest adapter not worse than the best: fewest trained parameters; non-inferior within the margin."""
    level = [v for v in variants if v["less_best"] is None or not_inferior(v["less_best"], margin)]
    return min(level, key=lambda v: (v["trained"], -(v["f1"]["value"] or 0.0)))


def sweep_verdict(variants: Sequence[SweepVariant], margin: float, rows: int) -> str:
    """Which adapter to use, and why none of the smaller ones: worse, or not shown to be as good on these rows."""
    chosen, best = recommended(variants, margin), next(v for v in variants if v["less_best"] is None)
    said = f"use `{chosen['name']}`: "
    if chosen is best:
        said += "it has the highest F1"
    else:
        said += (
            f"ΔF1 against the best, `{best['name']}`, {points(chosen['less_best'])} points, within the margin of "
            f"{100 * margin:g}, with {chosen['trained'] / best['trained']:.0%} of its parameters"
        )
    smaller = [(v, d) for v in variants if v["trained"] < chosen["trained"] and (d := v["less_best"]) is not None]
    worse, unclear = list[str](), list[str]()
    shown = 0.0
    for v, d in smaller:
        is_worse = d["high"] is not None and d["high"] < 0
        (worse if is_worse else unclear).append(f"`{v['name']}`")
        if not is_worse and d["value"] is not None and d["low"] is not None:
            shown = max(shown, d["value"] - d["low"])
    if unclear:
        needs = f": {rows:,} rows can show differences of {100 * shown:.1f} points" if shown else ""
        said += f"; {', '.join(unclear)} not shown to be as good{needs}, the margin is {100 * margin:g}"
    if worse:
        said += f"; worse are {', '.join(worse)}" if unclear else "; all smaller adapters are significantly worse"
    return said


def _variant(task: Task, rank: int, target: str, steps: int) -> Task:
    """The task with another adapter; alpha is scaled with the rank."""
    s = task.student
    groups = ("attention", "mlp", "all-linear")
    layers: Any = target if target in groups else tuple(target.split("+"))
    alpha = max(1, round(s.lora.alpha * rank / s.lora.rank))
    lora = Lora(**(s.lora.model_dump() | {"rank": rank, "alpha": alpha, "targets": layers}))
    student = s.model_copy(update={
        "lora": lora, "max_steps": steps, "epochs": 1e6, "workers": 1, "early_stop": None, "report_to": (),
    })
    return task.model_copy(update={"student": student})


def trial_key(run: Run, task: Task) -> str:
    """What a trial is found by again; rules that are as they were first are left out, as they were."""
    changed = {k: v for k, v in training_rules(run).items() if v != FIRST[k]}
    key = {"student": task.student.model_dump(mode="json"), "curriculum": run.digest("curriculum")}
    return sha256_json(key | ({"rules": changed} if changed else {}))


def _prepare(
    run: Run, folder: Path, task: Task, rows: Sequence[Any], dev: Sequence[Example]
) -> Path:
    """The folder of a trial, with its job; its name is a hash of the settings and the curriculum."""
    where = folder / trial_key(run, task)[:12]
    where.mkdir(parents=True, exist_ok=True)
    make_job(task, rows, dev, where, task.curriculum.order).write(where / "job.json")
    return where


def _run(run: Run, trials: Mapping[str, Path], settings: Student) -> None:
    """Run those trials that are not done under Ray Tune."""
    todo = [str(where.resolve()) for where in trials.values() if not (where / _DONE).exists()]
    if not todo:
        return
    from student.ray_connection import connected

    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ray Tune (2.60) would return as if all were done
    with connected(settings, os.cpu_count() or 1):
        from ray import tune

        resources: dict[str, float] = {"CPU": settings.cpus_per_worker}
        if settings.use_gpu:
            resources["GPU"] = 1
        tuner = tune.Tuner(
            tune.with_resources(_trial, resources),
            param_space={"folder": tune.grid_search(todo), "threads": settings.cpus_per_worker},
            run_config=tune.RunConfig(
                name="ray", storage_path=str(run.files.sweep.resolve()), verbose=0,
                failure_config=tune.FailureConfig(max_failures=settings.max_failures),
            ),
        )
        run.progress.begin("trials", len(trials), done=len(trials) - len(todo))
        left = {Path(t) / _DONE for t in todo}

        def look() -> None:
            done = {m for m in left if m.exists()}
            left.difference_update(done)
            if done:
                run.progress.advance(len(done))

        with looking(look):
            results = tuner.fit()
        if results.errors:
            if isinstance(own := own_error(results.errors[0]), InputError):
                raise own
            failed = f"{len(results.errors)} of {len(todo)} trials failed"
            raise ComponentError(f"{failed}, the first with: {results.errors[0]}")
    shutil.rmtree(run.files.sweep / "ray", ignore_errors=True)


def _trial(config: Mapping[str, Any]) -> dict[str, Any]:
    """Train and measure one adapter, in a Ray worker."""
    from student.training.history import read_history
    from student.training.job import TrainingJob
    from student.training.train import train

    folder = Path(config["folder"])
    job = TrainingJob.read(folder / "job.json")
    gpu = job.task.student.use_gpu
    train(job, device="cuda" if gpu else "cpu", threads=None if gpu else config["threads"])
    found = answers(job, job.dev)
    write_jsonl(TrainFolder(folder).predictions, (x.to_json() for x in found))
    history = read_history(TrainFolder(folder).history)
    seconds = sum(h["seconds"] for h in history)
    write_json(folder / _DONE, {"rows_per_s": round(sum(h["rows"] for h in history) / seconds, 2)})
    return {"done": 1}


def _figures(name: str, where: Path, dev: Sequence[Example], task: Task) -> AdapterFigures:
    from safetensors import safe_open

    from eval.seeds import over_seeds

    with safe_open(str(TrainFolder(where).adapter / "adapter_model.safetensors"), "pt") as file:
        shapes = [file.get_slice(k).get_shape() for k in file.keys()]  # noqa: SIM118 (not a mapping)
    trained = sum(a * b for a, b in (s if len(s) == 2 else (*s, 1) for s in shapes))
    f1 = over_seeds(dev, [read_predictions(TrainFolder(where).predictions)], task)
    return {"name": name, "trained": trained, "f1": f1, "rows_per_s": read_json(where / _DONE)["rows_per_s"]}


def _difference(a: Path, b: Path, dev: Sequence[Example], task: Task) -> Estimate:
    from eval.quality import paired_difference

    one, other = (read_predictions(TrainFolder(where).predictions) for where in (a, b))
    return paired_difference(dev, one, other, task)
