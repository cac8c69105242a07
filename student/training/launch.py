"""Start a training run on Ray, here or on a cluster, and watch it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from student import preflight
from student.ray_connection import connected
from student.training import reporters
from student.training.history import HistoryReader, read_history
from student.training.job import TrainingJob
from student.training.train import worker
from task.errors import ComponentError, InputError, own_error
from task.progress import Progress, looking, quiet

# Ray runs all its processes at niceness 15. Half a dozen idle ones wake a hundred times a second each, and a training
# thread that one of them preempts delays the other threads of its step: on two cores a step took 0.90 s at the same
# priority, 0.80 s at a higher priority than theirs, 0.67 s without them.
_WORKER_PRIORITY = {"RAY_worker_niceness": "0"}


def launch(job: TrainingJob, progress: Progress = quiet) -> list[dict[str, Any]]:
    """Run `job` under Ray Train's TorchTrainer.

    A worker that dies is started again (`student.max_failures` times) and resumes from the newest checkpoint; so does
    the whole run if this process was killed and is started again.

    Returns:
        The history, a mapping per step.

    Raises:
        InputError: Base or adapter could not be trained, merged or served, or a reporter is not installed.
        KeyboardInterrupt: The run was stopped.
        ComponentError: The run failed and cannot be resumed; the message ends with the workers' own error.
    """
    s = job.task.student
    reporters.check(s.report_to)
    preflight.check(job.base, s)
    job.folder.mkdir(parents=True, exist_ok=True)
    job.write(job.folder / "job.json")
    with connected(s):
        _fit(job, progress)
    return read_history(job.folder / "history.jsonl")


def _fit(job: TrainingJob, progress: Progress) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    s = job.task.student
    resources: dict[str, float] = {"CPU": s.cpus_per_worker, "GPU": 1} if s.use_gpu else {"CPU": 1}
    trainer = _trainer(local=s.ray_address is None)(
        worker,
        train_loop_config={"job": str((job.folder / "job.json").resolve()), "threads": s.cpus_per_worker},
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if s.use_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=s.workers, use_gpu=s.use_gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name="ray", storage_path=str(job.folder.resolve()), worker_runtime_env={"env_vars": _WORKER_PRIORITY},
            failure_config=FailureConfig(max_failures=s.max_failures),
        ),
    )
    try:
        with looking(_HistoryProgress(job.folder / "history.jsonl", progress).poll):
            trainer.fit()
    except SystemExit as end:  # Ray Train (2.60) answers Ctrl-C itself, with exit code 0
        raise KeyboardInterrupt from end
    except Exception as error:  # Ray wraps any exception of a worker
        if isinstance(own := own_error(error), InputError):
            raise own from error
        raise ComponentError(f"training failed: {error}") from error


def _trainer(*, local: bool) -> Any:
    """Ray Train's TorchTrainer without processes that our runs have no use for.

    Ray Train (2.60) starts one for the datasets of a run, of which ours have none, and one that frees the resources of
    a run on a cluster that outlives it. Each imports Ray Train first: together a quarter of the processor time that a
    start takes on a CPU.
    """
    from ray.train.torch import TorchTrainer

    needless = {"DatasetsCallback", "PlacementGroupCleanerCallback"} if local else {"DatasetsCallback"}

    class Trainer(TorchTrainer):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            return [c for c in super()._create_default_callbacks() if type(c).__name__ not in needless]

    return Trainer


class _HistoryProgress:
    """Reports steps that appear in the history as progress."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self._history, self._progress = HistoryReader(path), progress
        before = self._history.read_new()  # of a run that was killed
        self._seen = before[-1]["step"] if before else 0
        self._score = _score(before, "")
        self._begun = False
        progress.begin("starting Ray workers")

    def poll(self) -> None:
        """Report the new steps."""
        steps = self._history.read_new()
        self._score = _score(steps, self._score)
        if not steps or steps[-1]["step"] == self._seen:
            return
        if steps[-1]["step"] < self._seen:  # a worker went on from an earlier checkpoint, or from none
            self._seen, self._begun = steps[-1]["step"], True
            again = f"training again from step {self._seen}, for there is no later checkpoint"
            self._progress.begin(again, steps[-1]["of"], done=self._seen)
            return
        if not self._begun:
            self._progress.begin("training", steps[-1]["of"], done=self._seen)
            self._begun = True
        self._progress.advance(steps[-1]["step"] - self._seen, f"loss {steps[-1]['loss']:.3f}{self._score}")
        self._seen = steps[-1]["step"]


def _score(steps: Sequence[Mapping[str, Any]], before: str) -> str:
    """The note with the newest dev F1 among steps, or the note before where there is none."""
    scores = [x["dev_f1"] for x in steps if "dev_f1" in x]
    return f" · dev F1 {100 * scores[-1]:.1f}" if scores else before
