"""What a labelling job is made of, for every backend: its input, its tools, and the answers that it yields."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_client.budget import Purse
from task.labels import Example
from task.progress import Progress
from task.readers import Conversion, Item
from task.spec import Task
from teacher.ledger.records import Book
from teacher.retrieval.context import ContextFinder


@dataclass(frozen=True, slots=True)
class Sources:
    """What a teacher may look at: never the gold test rows.

    Attributes:
        held_out: Calibration queries that are too near to a gold test query to become an example.
    """

    log: Sequence[Example]
    catalogue: Sequence[Item] = ()
    conversions: Sequence[Conversion] = ()
    imported: Sequence[Example] = ()
    calibration: Sequence[Example] = ()
    held_out: frozenset[str] = frozenset()
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """One labelling job.

    Attributes:
        queries: To be labelled: distinct, not empty, not too long.
        folder: For the index; what is there for the same input is used.
        fetch: Gives the folder of a model by name.
        finder: Opened already, where somebody labels block after block.
        purse: Keeps the budget where it is shared with other processes.
    """

    task: Task
    sources: Sources
    queries: Sequence[Example]
    ledger: Book
    folder: Path
    fetch: Callable[[str], Path]
    progress: Progress
    finder: ContextFinder | None = None
    purse: Purse | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job would do, before it does it.

    Attributes:
        ask: Queries with a request that nobody has answered yet.
        judge: Queries that only need their stored replies read and judged again, for nothing.
        stand: Queries with nothing to do.
        why: Per reason, how many queries are asked again.
        calls: Requests to send, retries aside.
        tokens: Prompt and completion tokens, the most that they can come to and a likely figure.
        cost: Of the likely figure, or None where the model has no known price.
    """

    ask: Sequence[str]
    judge: Sequence[str]
    stand: int
    calls: int = 0
    tokens: tuple[int, int] = (0, 0)
    cost: float | None = 0.0
    why: Mapping[str, int] | None = None
