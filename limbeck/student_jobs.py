"""Training jobs of a task's student and its variants, and the answers of a trained one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from limbeck.artefacts import TrainFolder
from limbeck.run import Run
from limbeck.stage import Figures, Stage, execute
from limbeck.staleness import UNTRAINED, Rules
from task.files import write_jsonl
from task.labels import Example
from task.spec import Task
from task.training_row import TrainingRow

if TYPE_CHECKING:
    from student.training.job import TrainingJob


# What a training run writes for itself, for the trackers of `student.report_to`, and for people.
TRAINING_SCRATCH: Final = frozenset({
    "checkpoints", "best", "ray", "job.json", "history.jsonl", "measured.json", "resources.json", "curve.svg",
    "tensorboard", "mlflow.db", "mlflow_run", "wandb",
})


def make_job(
    task: Task, rows: Sequence[TrainingRow], dev: Sequence[Example], folder: Path, order: str
) -> TrainingJob:
    """The training job of a task; its codec is compiled on `rows`."""
    from student.training.job import TrainingJob
    from task.codec import Codec
    from task.model_store import fetch
    from task.tokenizer import load_tokenizer

    base = fetch(task.student.base)
    codec = Codec.compile(task, [r.example for r in rows], load_tokenizer(base))
    learned = [r for r in rows if codec.representable(r.example)]
    return TrainingJob(task, base, codec, learned, list(dev), folder, reshuffle=order == "shuffled")


def trained(job: TrainingJob) -> tuple[Any, str]:
    """The trained student of a finished job, on the base that it was trained against, and its device."""
    from student.adapters import load_adapter
    from student.model import accelerator, dtype_on, load_base, on_device

    s, device = job.task.student, accelerator()
    model = load_adapter(load_base(job.base, dtype_on(device, s.dtype), s), TrainFolder(job.folder).adapter)
    return on_device(model, device), device


def answers(job: TrainingJob, rows: Sequence[Example], **options: Any) -> list[Example]:
    """The labels that a finished job's student predicts."""
    from student.packed_scores import packed_predict
    from task.tokenizer import load_tokenizer

    model, device = trained(job)
    return packed_predict(model, job.codec, load_tokenizer(job.base), job.task, rows, device=device, **options)[0]


def training_rules(run: Run) -> Rules:
    """The parts of our code that a trained adapter depends on."""
    from student import training
    from task import codec

    return {"codec": codec.version(run.task), "training": training.VERSION}


def variant(
    name: str, work: Callable[[Run, Path], Figures], *, order: str, inputs: Mapping[str, str]
) -> Stage:
    """The stage that trains a variant of the task (`run.task`) for a study."""
    return Stage(
        name=name, inputs=lambda _run: inputs, rules=training_rules, work=work, scratch=TRAINING_SCRATCH,
        config=lambda run: {
            **run.task.model_dump(mode="json", include={"student"}, exclude={"student": UNTRAINED}), "order": order,
        },
    )


def trained_and_asked(
    run: Run, name: str, rows: Sequence[TrainingRow], gold: Sequence[Example], *, order: str,
    inputs: Mapping[str, str],
) -> list[Example]:
    """Train a variant of the task (`run.task`) as stage `name` and let it label gold; a finished one is kept."""

    def work(run: Run, folder: Path) -> Figures:
        from student.training.launch import launch

        files = TrainFolder(folder)
        job = make_job(run.task, rows, [], folder, order)
        history = launch(job, run.progress)
        run.progress.begin("labelling gold", len(gold))
        found = answers(job, gold, progress=run.progress.advance)
        write_jsonl(files.predictions, (x.to_json() for x in found))
        files.remove_temporary()
        return {"steps": len(history), "loss": history[-1]["loss"]}

    done = execute(variant(name, work, order=order, inputs=inputs), run)
    return read_predictions(TrainFolder(done.folder).predictions)


def read_predictions(path: Path) -> list[Example]:
    """The rows that `trained_and_asked` wrote."""
    from task.table_files import rows_of

    return [Example.from_json(r) for _, r in rows_of(path)]
