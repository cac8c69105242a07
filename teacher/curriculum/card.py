"""The dataset card of a curriculum with its plots: contents, rows left out, difficulty and noise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from task.files import write_text
from task.spec import Task
from task.training_row import TrainingRow

_HEADER = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train.parquet
  - split: dev
    path: data/dev.parquet
---
"""


def write_card(
    folder: Path, task: Task, *, train: Sequence[TrainingRow], dev: Sequence[TrainingRow], left_out: Mapping[str, int]
) -> None:
    """Write `README.md` and `plots/*.svg` into a curriculum's folder."""
    from eval.plots import histogram

    scores = {
        "difficulty": [r.difficulty for r in train], "noise": [1 - r.confidence for r in train],
    }
    for name, values in scores.items():
        write_text(folder / "plots" / f"{name}.svg", histogram(values, name, "rows"))
    write_text(folder / "README.md", _card(task, train=train, dev=dev, left_out=left_out))


def _card(
    task: Task, *, train: Sequence[TrainingRow], dev: Sequence[TrainingRow], left_out: Mapping[str, int]
) -> str:
    roles = Counter(x.role for r in train for x in r.example.labels)
    parts = {name: Counter(r.stratum for r in rows) for name, rows in (("train", train), ("dev", dev))}
    traffic = Counter(dict.fromkeys(("head", "torso", "tail"), 0))
    for r in train:
        traffic[r.stratum] += r.example.count
    role_rows = [f"| {r.name} | {roles[r.name]:,} |" for r in task.roles]
    left_rows = [f"| {reason} | {n:,} |" for reason, n in sorted(left_out.items())] or ["| – | 0 |"]
    stratum_rows = [
        f"| {s} | {parts['train'][s]:,} | {parts['dev'][s]:,} | {traffic[s]:,} |" for s in ("head", "torso", "tail")
    ]
    return "\n".join([
        _HEADER,
        f"# Curriculum of the task `{task.name}`",
        "",
        f"{len(train):,} training rows in the order `{task.curriculum.order}`, {len(dev):,} development rows.",
        "Clusters of near-duplicates are in one split only; none holds a gold query. Traffic counts are kept.",
        "",
        "Two scores a row, which say different things:",
        "",
        "- `difficulty`, how much there is to learn: the mean of length (10 words = 1), labels (6 = 1) and the share",
        "  of words in fewer than 5 rows.",
        "- `noise`, how likely the labels are wrong: one minus the teacher's probability that the labelling is right.",
        "",
        "![difficulty](plots/difficulty.svg) ![noise](plots/noise.svg)",
        "",
        "| stratum | train | dev | traffic of train |", "|---|---|---|---|", *stratum_rows, "",
        "| role | labels in train |", "|---|---|", *role_rows, "",
        "| left out | rows |", "|---|---|", *left_rows, "",
    ])
