"""Students of one task that differ in a few settings: each is trained and labels the same rows, once."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.stage import run_stage
from task.files import write_jsonl
from task.labels import Example
from task.spec import Task
from task.training_row import TrainingRow

if TYPE_CHECKING:
    from limbeck.pipeline import Pipeline
    from student.training.job import Job


def make_job(task: Task, rows: Sequence[TrainingRow], dev: Sequence[Example], folder: Path, order: str) -> Job:
    """The training job of a variant, its codec compiled on the same rows as everybody's."""
    from student.training.job import Job
    from task.codec import Codec
    from task.model_store import fetch
    from task.tokenizer import load_tokenizer

    base = fetch(task.student.base)
    codec = Codec.compile(task, [r.example for r in rows], load_tokenizer(base))
    learned = [r for r in rows if codec.representable(r.example)]
    return Job(task, base, codec, learned, list(dev), folder, order == "shuffled")


def trained(job: Job) -> tuple[Any, str]:
    """The job's finished student on the base that it was trained against, and the device that it is on."""
    from student.adapters import load_adapter
    from student.model import DTYPES, accelerator, load_base, on_device

    s, device = job.task.student, accelerator()
    model = load_adapter(load_base(job.base, DTYPES[s.dtype], s), job.folder / "adapter")
    return on_device(model, device), device


def answers(job: Job, rows: Sequence[Example], **options: Any) -> list[Example]:
    """What the job's finished student says about rows."""
    from student.inference import predict
    from task.tokenizer import load_tokenizer

    model, device = trained(job)
    return predict(model, job.codec, load_tokenizer(job.base), job.task, rows, device=device, **options)


def measured(
    pipeline: Pipeline, name: str, task: Task, rows: Sequence[TrainingRow], gold: Sequence[Example], order: str,
    inputs: Mapping[str, str],
) -> list[Example]:
    """Train a variant under Ray Train as stage `name` and let it label gold; what has been done stands."""

    def work(folder: Path) -> Mapping[str, Any]:
        from student.training.launch import launch

        job = make_job(task, rows, [], folder, order)
        history = launch(job, pipeline.console)
        pipeline.console.begin("labelling gold", len(gold))
        found = answers(job, gold, progress=pipeline.console.advance)
        write_jsonl(folder / "predictions.jsonl", (x.to_json() for x in found))
        for done in ("checkpoints", "best", "ray"):
            shutil.rmtree(folder / done, ignore_errors=True)
        return {"steps": len(history), "loss": history[-1]["loss"]}

    done = run_stage(
        pipeline.run, name, config={"student": task.student.model_dump(mode="json"), "order": order},
        inputs=inputs, work=work,
    )
    return read_predictions(done.folder / "predictions.jsonl")


def read_predictions(path: Path) -> list[Example]:
    """The rows that `measured` wrote."""
    from task.readers import rows_of

    return [Example.from_json(r) for _, r in rows_of(path)]
