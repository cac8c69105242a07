"""Loss, learning rate and dev F1 sent to an experiment tracker.

A resumed run is continued there as the same run; the steps that it repeats have the same values.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from task.errors import InputError

_PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
_METRICS = ("loss", "lr", "dev_f1", "targets", "rows")


class Reporter(Protocol):
    """An experiment tracker."""

    def log(self, line: Mapping[str, Any]) -> None:
        """Send a line of the history."""

    def close(self) -> None:
        """Finish the run after its last line."""


def check(names: Sequence[str]) -> None:
    """Raise `InputError` if a package is missing, before training starts."""
    for name in names:
        try:
            importlib.import_module(_PACKAGES[name])
        except ImportError as error:
            raise InputError(
                f"cannot report to {name}: {error}", field="student.report_to", found=name,
                fix=f"Run `pip install {_PACKAGES[name]}`",
            ) from error


def make_reporters(
    names: Sequence[str], folder: Path, *, run: str, config: Mapping[str, Any], first: int
) -> list[Reporter]:
    """The reporters of a run.

    Args:
        folder: The run's folder; TensorBoard's files go into `folder/tensorboard`.
        run: Its name.
        first: The step that it starts at or resumes from.
    """
    kinds: dict[str, Any] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}
    return [kinds[name](folder, run, config, first) for name in names]


def metrics(line: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a history line, under the names that transformers uses."""
    return {f"train/{k}" if k != "dev_f1" else "eval/f1": float(line[k]) for k in _METRICS if k in line}


class TensorBoard:
    """Event files that `tensorboard --logdir` opens."""

    def __init__(self, folder: Path, _: str, config: Mapping[str, Any], first: int) -> None:
        from tensorboardX import SummaryWriter

        # tensorboardX names a file by the second and truncates one of that name: a run that is resumed at once would
        # overwrite the earlier steps. Files are read in the order of their names.
        self._writer = SummaryWriter(
            str(folder / "tensorboard"), purge_step=first + 1 if first else None,
            filename_suffix=f".{first:09}.{os.getpid()}",
        )
        if not first:
            self._writer.add_text("config", "\n".join(f"    {k}: {v}" for k, v in config.items()))

    def log(self, line: Mapping[str, Any]) -> None:
        """See `Reporter`."""
        for name, value in metrics(line).items():
            self._writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        """See `Reporter`."""
        self._writer.close()


class MLflow:
    """A run on the tracking server that MLFLOW_TRACKING_URI names, or in `mlflow.db` of the run's folder."""

    def __init__(self, folder: Path, run: str, config: Mapping[str, Any], first: int) -> None:
        import mlflow

        self._mlflow = mlflow
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            mlflow.set_tracking_uri(f"sqlite:///{folder.resolve() / 'mlflow.db'}")
        mlflow.set_experiment("limbeck")
        kept = folder / "mlflow_run"
        if first and kept.exists():
            mlflow.start_run(run_id=kept.read_text())
        else:
            kept.write_text(mlflow.start_run(run_name=run).info.run_id)
            mlflow.log_params({k: str(v)[:500] for k, v in config.items()})

    def log(self, line: Mapping[str, Any]) -> None:
        """See `Reporter`."""
        self._mlflow.log_metrics({k.replace("/", "_"): v for k, v in metrics(line).items()}, step=line["step"])

    def close(self) -> None:
        """See `Reporter`."""
        self._mlflow.end_run()


class WandB:
    """A run of the project `limbeck`."""

    def __init__(self, folder: Path, run: str, config: Mapping[str, Any], _: int) -> None:
        import wandb

        name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
        self._run = wandb.init(
            project="limbeck", name=run, id=name, resume="allow", config=dict(config), dir=str(folder)
        )

    def log(self, line: Mapping[str, Any]) -> None:
        """See `Reporter`."""
        self._run.log(metrics(line), step=line["step"])

    def close(self) -> None:
        """See `Reporter`."""
        self._run.finish()
