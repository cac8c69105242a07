"""Review work in the files of annotation tools: what is to be reviewed or was decided goes out, decisions come in."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import itertools
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from limbeck.console.pages import page
from limbeck.console.protection import MOST_BYTES, RefusedError, allowed, session_of
from limbeck.console.review_queue import EXPLAINED, QueueRow, all_rows, row_for
from limbeck.console.run_folders import ShownRun
from limbeck.console.shared import console_of
from task.errors import InputError
from task.exchange.annotated import REASONS, Annotated, Loss, by_reason
from task.exchange.formats import FORMATS, Format, Options, read_annotations, write_labels
from task.labels import Example
from teacher.ledger.reviews import QUEUES, Decision, Queue, Review, keys

_MOST_QUERIES: Final = 5_000
_SHOWN: Final = 50  # losses of each reason
_TITLES: Final = {"label-studio": "Label Studio (JSON)", "doccano": "doccano (JSON lines)", "conll": "CoNLL (IOB2)"}
_SUFFIXES: Final = {"label-studio": ".json", "doccano": ".jsonl", "conll": ".conll"}


async def show(request: Request) -> Response:
    """The two forms."""
    run = console_of(request).runs.run(request.path_params["run"])
    return page(request, "exchange.html.j2", run=run, formats=_TITLES, queues=EXPLAINED, result=None)


async def export(request: Request) -> Response:
    """A file with what is to be reviewed, or with what was decided."""
    run = console_of(request).runs.run(request.path_params["run"])
    name, what = request.query_params.get("format", ""), request.query_params.get("what", "")
    if name not in FORMATS or what not in (*QUEUES, "decided"):
        raise RefusedError(404, f"Choose a format ({', '.join(FORMATS)}) and what goes out.")
    rows = list(itertools.islice(_going_out(run, cast("Queue", what)), _MOST_QUERIES))
    if not rows:
        raise RefusedError(404, "There is nothing to export: the queue is empty, or nobody has decided anything yet.")

    def written() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "export"
            write_labels(name, path, rows, run.task, Options(predictions=what != "decided"))
            return path.read_bytes()

    file = f"{run.name}-{what}{_SUFFIXES[name]}"
    return Response(await asyncio.to_thread(written), media_type="application/octet-stream", headers={
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file)}",
    })


async def take_in(request: Request) -> Response:
    """Decisions from a file: all of them, or none if any cannot be read. The same file again changes nothing."""
    run = console_of(request).runs.run(request.path_params["run"])
    async with request.form(max_part_size=MOST_BYTES) as form:
        name, queue, file = form.get("format"), form.get("queue"), form.get("file")
        if name not in FORMATS or queue not in QUEUES or not isinstance(file, UploadFile) or not file.filename:
            raise RefusedError(400, "Choose a file, its format and a queue. Nothing was changed.")
        content = await file.read()
        source = file.filename
    person = session_of(request).name
    result = await asyncio.to_thread(
        _taken_in, run, str(name), queue, content, source=source, person=person
    )
    console_of(request).accounts.note(person, "decisions imported", run.name, after={
        k: v for k, v in result.items() if k != "losses"
    })
    return page(request, "exchange.html.j2", run=run, formats=_TITLES, queues=EXPLAINED, result=result)


def _going_out(run: ShownRun, what: Queue | str) -> Iterator[Example]:
    if what == "decided":
        for verdict in run.reviews.verdicts().values():
            if verdict.outcome == "labels":
                yield Example(verdict.query, verdict.labels, verdict.count)
        return
    decided = run.reviews.decided()
    for row in all_rows(run, cast("Queue", what)):
        if row.query not in decided:
            yield Example(row.query, row.labels, row.count)


def _taken_in(
    run: ShownRun, name: str, queue: Queue, content: bytes, *, source: str, person: str
) -> dict[str, Any]:
    """Write the decisions of a file; returns what became of its rows."""
    losses: list[Loss] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(source).name
        path.write_bytes(content)
        try:
            found = list(read_annotations(cast("Format", name), [path], run.task, losses))
        except InputError as error:
            raise InputError(str(error).replace(f"{folder}/", "")) from error
    digest = hashlib.sha256(content).hexdigest()
    counts: Counter[str] = Counter()
    for number, one in enumerate(found):
        row = row_for(run, queue, one.example.query)
        if row is None:
            counts["unknown"] += 1
        elif one.state == "machine":
            counts["machine"] += 1
        else:
            new = run.reviews.add(_review(one, row, queue, token=f"{digest}:{number}", person=one.person or person))
            counts["new" if new else "known"] += 1
            if one.state == "labelled":
                run.index.reviewed(row.query, True)
    numbers = {k: counts[k] for k in ("new", "known", "unknown", "machine")}
    return {
        "file": source, "format": name, "queue": queue, **numbers,
        "losses": [(REASONS[reason], len(group), [f"{x.what} ({_place(x)})" for x in group[:_SHOWN]])
                   for reason, group in by_reason(losses).items()],
    }


def _review(one: Annotated, row: QueueRow, queue: Queue, *, token: str, person: str) -> Review:
    same = keys(one.example.labels) == keys(row.labels)
    decision: Decision = "skip" if one.state == "skipped" else "accept" if same else "correct"
    return Review(
        token=token, query=row.query, count=row.count, queue=queue, person=person, decision=decision,
        labels=one.example.labels if decision != "skip" else row.labels, before=row.labels, created=_seconds(one.at),
    )


def _seconds(at: str | None) -> float:
    """Of the time that a tool wrote, in UTC where it names no zone; now if it wrote none."""
    if at is not None:
        try:
            read = datetime.datetime.fromisoformat(at)
        except ValueError:
            return time.time()
        return (read if read.tzinfo else read.replace(tzinfo=datetime.UTC)).timestamp()
    return time.time()


def _place(loss: Loss) -> str:
    line = f"line {loss.place.line}" if loss.place.line is not None else ""
    return ", ".join(x for x in (line, loss.place.item) if x) or "file"


ROUTES: Final = (
    Route("/runs/{run}/exchange", allowed("label", show), methods=["GET"]),
    Route("/runs/{run}/exchange", allowed("label", take_in), methods=["POST"]),
    Route("/runs/{run}/exchange/file", allowed("label", export), methods=["GET"]),
)
