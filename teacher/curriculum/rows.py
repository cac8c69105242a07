"""A curriculum on disk: a folder that `datasets.load_dataset` opens, `data/*.parquet` with a dataset card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from task.labels import Doubt, Example
from task.spec import Task
from task.training_row import TrainingRow
from teacher.curriculum.card import write_card


@dataclass(frozen=True, slots=True)
class Curriculum:
    """Training rows in training order, development rows, and how many rows were left out, by reason."""

    train: list[TrainingRow]
    dev: list[TrainingRow]
    left_out: dict[str, int]


def write(curriculum: Curriculum, task: Task, folder: Path) -> None:
    """Write both splits and the card."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from task.label_table import label_type

    fields = [
        ("query", pa.string()), ("count", pa.int64()), ("labels", pa.list_(label_type())), ("cluster", pa.string()),
        ("difficulty", pa.float32()), ("noise", pa.float32()), ("stratum", pa.string()),
        ("doubts", pa.list_(pa.struct([("role", pa.string()), ("start", pa.int32()), ("end", pa.int32())]))),
    ]
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", curriculum.train), ("dev", curriculum.dev)):
        pq.write_table(pa.Table.from_pylist([_record(r) for r in rows], pa.schema(fields)),
                       folder / "data" / f"{name}.parquet")
    write_card(folder, task, train=curriculum.train, dev=curriculum.dev, left_out=curriculum.left_out)


def _record(row: TrainingRow) -> dict[str, Any]:
    """A row of the file: its column `noise` is one minus the confidence, and scores have four decimals."""
    record = row.to_json()
    noise = 1 - record.pop("confidence")
    return record | {"difficulty": round(row.difficulty, 4), "noise": round(noise, 4)}


def read(folder: Path, split: str) -> list[TrainingRow]:
    """The rows of a written curriculum, in order.

    A confidence is `1.0 - noise` of the float32 in the file. The difference has no rounding error in double precision,
    so writing the rows again gives the same file.
    """
    import pyarrow.parquet as pq

    return [
        TrainingRow(
            Example.from_json(r), confidence=1.0 - r["noise"], cluster=r["cluster"], difficulty=r["difficulty"],
            stratum=r["stratum"], doubts=tuple(Doubt(**d) for d in r["doubts"]),
        )
        for r in pq.read_table(folder / "data" / f"{split}.parquet").to_pylist()
    ]
