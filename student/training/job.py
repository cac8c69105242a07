"""A training job: the input of a worker, on whichever machine it runs."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from task.codec import Codec
from task.files import read_json, write_json
from task.labels import Example
from task.spec import Task
from task.training_row import TrainingRow


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """Everything that a worker needs; sent to it as JSON.

    Attributes:
        train: Rows in the curriculum's order.
        folder: Where checkpoints, history and adapter go.
        reshuffle: Whether later epochs draw a new order.
    """

    task: Task
    base: Path
    codec: Codec
    train: list[TrainingRow]
    dev: list[Example]
    folder: Path
    _: KW_ONLY
    reshuffle: bool

    def write(self, path: Path) -> None:
        """Write the job; paths become absolute, because workers run in another directory."""
        task = self.task.model_dump(mode="json")
        if self.task.student.init_adapter is not None:
            task["student"]["init_adapter"] = str(Path(self.task.student.init_adapter).resolve())
        write_json(path, {
            "task": task, "base": str(self.base.resolve()), "codec": self.codec.to_json(),
            "train": [x.to_json() for x in self.train], "dev": [x.to_json() for x in self.dev],
            "folder": str(self.folder.resolve()), "reshuffle": self.reshuffle,
        })

    @classmethod
    def read(cls, path: Path) -> TrainingJob:
        """The inverse of `write`."""
        v = read_json(path)
        return cls(
            Task.model_validate(v["task"]), Path(v["base"]), Codec.from_json(v["codec"]),
            [TrainingRow.from_json(r) for r in v["train"]], [Example.from_json(r) for r in v["dev"]],
            Path(v["folder"]), reshuffle=v["reshuffle"],
        )
