"""Which query a person is given next: the queues of a run, and who has what before them.

- `uncertain`: labellings that the teacher is not sure of or a guardrail rejected a part of, by expected errors
  (one minus the confidence, times traffic).
- `picked`: what the last round picked to be learned from.
- `audit`: queries in random order, each as likely as any other: what is decided here becomes gold.
- `mistakes`: gold rows on which the served student or the teacher differs from gold.
- `search`: whatever somebody opens from the list of labels.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from limbeck.console.label_filter import LabelFilter
from limbeck.console.label_index import LabelIndex
from limbeck.console.run_folders import ShownRun
from limbeck.judging.offline_systems import TEACHER
from limbeck.judging.served import SERVED
from limbeck.rounds.folders import round_folders
from task.labels import Label, Labelling
from task.table_files import rows_of
from teacher.ledger.records import Status
from teacher.ledger.reviews import AUDIT, Queue, keys

EXPLAINED: Final[dict[Queue, str]] = {
    "uncertain": "Labels that the teacher is not sure of, or a guardrail rejected in part; most expected errors first.",
    "picked": "Queries that the last round picked to be learned from.",
    "audit": "Queries drawn at random. What is decided here becomes gold, which judges students; nothing is learned "
             "from it.",
    "mistakes": "Gold rows on which the served student or the teacher differs from gold. A correction changes gold.",
    "search": "A query that was opened from the list of labels.",
}
_CLAIM_S: Final = 600.0
_PART: Final = 200
_SEED: Final = 7  # of the order of audits: the same for everybody, so that each query is drawn once


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRow:
    """A query before a person.

    Attributes:
        labels: What they are shown.
        why: Why it is in the queue.
        others: What else is said of it, by name: the student's answer, or the teacher's.
    """

    query: str
    count: int
    labels: Labelling
    status: str = ""
    confidence: float | None = None
    why: str = ""
    others: dict[str, Labelling] = field(default_factory=dict)


class Desk:
    """Who has which query before them. A claim ends when its query is decided, or after ten minutes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._claims: dict[tuple[str, Queue, str], tuple[str, float]] = {}

    def held(self, run: str, queue: Queue, person: str) -> str | None:
        """The query that a person has before them."""
        with self._lock:
            query, until = self._claims.get((run, queue, person), ("", 0.0))
        return query if until > self._clock() else None

    def claim(self, run: str, queue: Queue, person: str, query: str, *, people: int) -> bool:
        """Give a query to a person, unless as many as are to decide about it have it.

        Args:
            people: How many people decide about each query, less those who have.
        """
        now = self._clock()
        with self._lock:
            others = {
                who for (of, _, who), (held, until) in self._claims.items()
                if of == run and held == query and who != person and until > now
            }
            if len(others) >= people:
                return False
            self._claims[run, queue, person] = (query, now + _CLAIM_S)
            return True

    def release(self, run: str, queue: Queue, person: str) -> None:
        """A person is done with what they had."""
        with self._lock:
            self._claims.pop((run, queue, person), None)


def next_row(
    run: ShownRun, index: LabelIndex, desk: Desk, queue: Queue, person: str, *, people: int
) -> QueueRow | None:
    """The next query for a person, who then has it before them; the same one until they decide. None if none is left.

    Args:
        people: How many people decide about each query.
    """
    held = desk.held(run.name, queue, person)
    seen, decided = run.reviews.seen_by(person, queue), run.reviews.decided()
    for row in _candidates(run, index, queue, first=held, half_decided=[
        q for q, who in decided.items() if person not in who and 0 < len(who) < people
    ]):
        who = decided.get(row.query, set())
        if row.query in seen or person in who or len(who) >= people:
            continue
        if desk.claim(run.name, queue, person, row.query, people=people - len(who)):
            return row
    return None


def row_for(run: ShownRun, queue: Queue, query: str) -> QueueRow | None:
    """A query of a queue that somebody names; None if the run does not know it."""
    if queue == "mistakes":
        return next((r for r in mistakes(run) if r.query == query), None)
    found = run.ledger.rows([query]).get(query)
    if found is None:
        return next((r for r in _picked(run) if r.query == query), None) if queue == "picked" else None
    return QueueRow(
        query=query, count=found.count, labels=found.labels, status=found.status, confidence=found.confidence,
        why=found.reason,
    )


def remaining(run: ShownRun, index: LabelIndex, queue: Queue, person: str) -> int | None:
    """About how many queries are left in a queue; None where that is not counted."""
    if queue == "search":
        return None
    if queue in ("picked", "mistakes"):
        decided = run.reviews.decided().keys() | run.reviews.seen_by(person, queue)
        return sum(r.query not in decided for r in _candidates(run, index, queue, first=None, half_decided=[]))
    return index.count(_filter(queue))


def all_rows(run: ShownRun, queue: Queue) -> Iterator[QueueRow]:
    """A queue in its order, with what was decided already."""
    return _candidates(run, run.index, queue, first=None, half_decided=[])


def _filter(queue: Queue) -> LabelFilter:
    if queue == AUDIT:
        answered: tuple[Status, ...] = ("accepted", "partial", "uncertain", "failed")
        return LabelFilter(status=answered, reviewed=False, order="random", seed=_SEED)
    return LabelFilter(status=("partial", "uncertain"), reviewed=False, order="doubt")


def _candidates(
    run: ShownRun, index: LabelIndex, queue: Queue, *, first: str | None, half_decided: list[str]
) -> Iterator[QueueRow]:
    """The queue in its order, after what the person had before them and what others have decided alone."""
    if first is not None and (row := row_for(run, queue, first)) is not None:
        yield row
    if queue == "mistakes":
        yield from mistakes(run)
    elif queue == "picked":
        yield from _picked(run)
    elif queue != "search":
        for query in half_decided:
            if (row := row_for(run, queue, query)) is not None and (queue == AUDIT) == _is_audit(run, query):
                yield row
        yield from _indexed(index, queue, gold=frozenset(x.query for rows in run.gold.values() for x in rows))


def _is_audit(run: ShownRun, query: str) -> bool:
    return any(r.queue == AUDIT and r.counts for r in run.reviews.of(query))


def _indexed(index: LabelIndex, queue: Queue, *, gold: frozenset[str]) -> Iterator[QueueRow]:
    """A part of the index at a time: the next one is only looked up when all of one are taken or decided."""
    after = None
    while True:
        part = index.page(_filter(queue), after=after, limit=_PART)
        for r in part.rows:
            if r.query not in gold:
                yield QueueRow(
                    query=r.query, count=r.count, labels=r.labels, status=r.status, confidence=r.confidence,
                    why=r.reason,
                )
        if part.next is None:
            return
        after = part.next


def _picked(run: ShownRun) -> Iterator[QueueRow]:
    """What the last round that picked anything wants to learn from, in its order."""
    files = [f.picks for f in round_folders(run.files.folder) if f.picks.exists()]
    for _, row in rows_of(files[-1]) if files else ():
        if row["why"] != "errors" or row["known"]:
            continue
        query = str(row["query"])
        found = run.ledger.rows([query]).get(query)
        yield QueueRow(
            query=query, count=int(row["count"]), labels=() if found is None else found.labels,
            status="" if found is None else found.status, confidence=None if found is None else found.confidence,
            why=f"{row['expected_errors']:g} wrong answers expected, {row.get('alike', 0)} queries like it",
        )


def mistakes(run: ShownRun) -> list[QueueRow]:
    """Gold test rows on which the served student or the teacher differs from gold, the student's first."""
    files = {name: run.files.evaluate.predictions(name) for name in (SERVED, TEACHER)}
    stamps = {name: f.stat().st_mtime_ns for name, f in files.items() if f.exists()}

    def found() -> list[QueueRow]:
        said: dict[str, dict[str, Labelling]] = {}
        for name in stamps:
            for _, row in rows_of(files[name]):
                if row.get("status") != "invalid":
                    labels = tuple(Label.from_json(x) for x in row["labels"])
                    said.setdefault(str(row["query"]), {})[name] = labels
        out = []
        for gold in run.gold["test"]:
            others = {n: x for n, x in said.get(gold.query, {}).items() if keys(x) != keys(gold.labels)}
            if others:
                out.append(QueueRow(
                    query=gold.query, count=gold.count, labels=gold.labels, status="gold", others=others,
                    why=f"{' and '.join(others)} {'differs' if len(others) == 1 else 'differ'} from gold",
                ))
        return sorted(out, key=lambda r: SERVED not in r.others)

    return run.remember("mistakes", stamps, found)
