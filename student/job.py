"""A training job: what a worker is given, wherever it runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from task.codec import Codec
from task.files import read_json, write_json
from task.labels import Example, Label
from task.spec import Task


@dataclass(frozen=True, slots=True)
class Job:
    """All that a worker needs; travels to it as JSON.

    Attributes:
        train: Rows in the curriculum's order.
        folder: Where checkpoints, history and adapter go.
        reshuffle: Whether later epochs draw a new order.
        confidence: In each labelling of `train` as a whole; empty for certainty.
        mask_below: Labels less sure than this are not learned from, the others of their rows are.
    """

    task: Task
    base: Path
    codec: Codec
    train: list[Example]
    dev: list[Example]
    folder: Path
    reshuffle: bool
    confidence: list[float] = field(default_factory=list)
    mask_below: float = 0.0

    def write(self, path: Path) -> None:
        """Put the job where every worker can read it; workers run in another directory, so paths are absolute."""
        write_json(path, {
            "task": self.task.model_dump(mode="json"), "base": str(self.base.resolve()), "codec": self.codec.to_json(),
            "train": [x.to_json() for x in self.train], "dev": [x.to_json() for x in self.dev],
            "folder": str(self.folder.resolve()), "reshuffle": self.reshuffle, "confidence": self.confidence,
            "mask_below": self.mask_below,
        })

    @classmethod
    def read(cls, path: Path) -> Job:
        """The inverse of `write`."""
        v = read_json(path)
        return cls(
            Task.model_validate(v["task"]), Path(v["base"]), Codec.from_json(v["codec"]), _examples(v["train"]),
            _examples(v["dev"]), Path(v["folder"]), v["reshuffle"], v["confidence"], v["mask_below"],
        )


def _examples(rows: Iterable[dict[str, Any]]) -> list[Example]:
    return [Example(r["query"], tuple(Label.from_json(x) for x in r["labels"]), r["count"]) for r in rows]
