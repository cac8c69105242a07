"""Review: a query before a person, and what they decide about it."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final, cast
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from limbeck.console.drawing import colour
from limbeck.console.pages import fields_of, page
from limbeck.console.protection import RefusedError, allowed, session_of
from limbeck.console.review_queue import EXPLAINED, QueueRow, next_row, remaining, row_for
from limbeck.console.run_folders import ShownRun
from limbeck.console.shared import Console, console_of
from task.labels import Label, Labelling, ordered
from task.segmentation import units
from task.spec import Task
from task.validation import violation
from teacher.ledger.reviews import QUEUES, Decision, Queue, Review, keys

_KEYS: Final = "1234567890bdefgijklnopqtvwyz"  # of roles, in the task's order; the other letters are commands
_MOST_VALUES: Final = 20
_DECISIONS: Final = frozenset({"keep", "reject", "skip", "settle"})
_FOR_EVER: Final = 1 << 20  # characters of a form's field


async def show(request: Request) -> Response:
    """The next query of a queue, or the one that the address names."""
    console, run, queue = _where(request)
    person = session_of(request).name
    query = request.query_params.get("query")
    row = (
        row_for(run, queue, query) if query is not None
        else next_row(run, run.index, console.desk, queue, person, people=console.options.people)
    )
    if query is not None and row is None:
        raise RefusedError(404, f"The run {run.name!r} does not know this query: {query!r}.")
    return _page(request, run, queue, row)


async def decide(request: Request) -> Response:
    """Write a decision, and go on to the next query.

    A form that is sent twice has the same token, and counts once. One with labels that the task does not allow is shown
    again, with the problem and everything as it was.
    """
    console, run, queue = _where(request)
    form = await request.form(max_part_size=_FOR_EVER)
    token, query, decision, given, shown = fields_of(form, "token", "query", "decision", "labels", "before")
    if decision not in _DECISIONS or len(token) < 16:
        raise RefusedError(400, "This form is not one of the console's. Nothing was changed.")
    labels, before = _labels(given), _labels(shown)
    person = session_of(request).name
    row = row_for(run, queue, query)
    if row is None:
        raise RefusedError(404, f"The run {run.name!r} does not know this query: {query!r}. Nothing was changed.")
    if decision in ("keep", "settle"):
        fault = violation(run.task, query, labels)
        if fault is not None:
            return _page(request, run, queue, row, status=422, labels=labels, problem=f"Not saved: {fault.detail}.")
    name = decision if decision != "keep" else "accept" if keys(labels) == keys(before) else "correct"
    run.reviews.add(Review(
        token=token, query=query, count=row.count, queue=queue, person=person, decision=cast("Decision", name),
        labels=labels if decision in ("keep", "settle") else before, before=before, created=time.time(),
    ))
    console.desk.release(run.name, queue, person)
    if decision != "skip":
        run.index.reviewed(query, True)
    next_page = "settle" if decision == "settle" else f"review/{queue}"
    return RedirectResponse(f"/runs/{quote(run.name)}/{next_page}", 303)


async def undo(request: Request) -> Response:
    """Take back a decision of one's own, and show its query again."""
    console, run, queue = _where(request)
    (token,) = fields_of(await request.form(), "token")
    person = session_of(request).name
    taken = run.reviews.take_back(token, person)
    if taken is None:
        raise RefusedError(409, "There is no such decision of yours, or it is taken back already.")
    run.index.reviewed(taken.query, any(r.counts for r in run.reviews.of(taken.query)))
    console.desk.claim(run.name, queue, person, taken.query, people=console.options.people)
    return RedirectResponse(f"/runs/{quote(run.name)}/review/{queue}?{urlencode({'query': taken.query})}", 303)


async def values(request: Request) -> Response:
    """Values of a closed role that contain a text, those that begin with it first."""
    run = console_of(request).runs.run(request.path_params["run"])
    role = next((r for r in run.task.roles if r.name == request.query_params.get("role")), None)
    text = request.query_params.get("text", "").casefold()
    found = [] if role is None else [v for v in role.allowed if text in v.casefold()]
    found.sort(key=lambda v: (not v.casefold().startswith(text), len(v), v))
    return JSONResponse(found[:_MOST_VALUES])


def _where(request: Request) -> tuple[Console, ShownRun, Queue]:
    console = console_of(request)
    run, queue = console.runs.run(request.path_params["run"]), request.path_params["queue"]
    if queue not in QUEUES:
        raise RefusedError(404, f"There is no queue {queue!r}; there are {', '.join(QUEUES)}.")
    return console, run, queue


def _page(
    request: Request, run: ShownRun, queue: Queue, row: QueueRow | None, *, status: int = 200,
    labels: Labelling | None = None, problem: str = "",
) -> Response:
    person = session_of(request).name
    last = run.reviews.last_of(person, queue)
    return page(
        request, "review.html.j2", status=status, run=run, queue=queue, explained=EXPLAINED[queue], row=row, last=last,
        left=remaining(run, run.index, queue, person), token=secrets.token_urlsafe(16), problem=problem, to="",
        editor=None if row is None else editor(run.task, row.query, row.labels if labels is None else labels),
        before=None if row is None else [x.to_json() for x in row.labels],
    )


def editor(task: Task, query: str, labels: Labelling) -> Mapping[str, Any]:
    """What the script that edits labels needs; offsets are code points."""
    return {
        "query": query, "units": units(query, "words"), "labels": [x.to_json() for x in labels],
        "roles": [
            {
                "name": r.name, "kind": r.kind, "multiple": r.multiple, "description": r.description,
                "key": _KEYS[i] if i < len(_KEYS) else "", "colour": colour(r.name, task),
            } for i, r in enumerate(task.roles)
        ],
    }


def _labels(text: str) -> Labelling:
    """The labels of a form's field, without confidences. Raises `RefusedError` where it has none of that shape."""
    try:
        rows = json.loads(text)
        return ordered([
            Label(_text(r["role"]), _text(r["text"]), _offset(r.get("start")), _offset(r.get("end"))) for r in rows
        ])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise RefusedError(400, "The labels of this form cannot be read. Nothing was changed.") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _offset(value: object) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise TypeError(value)
    return value


ROUTES: Final = (
    Route("/runs/{run}/review/{queue}", allowed("label", show), methods=["GET"]),
    Route("/runs/{run}/review/{queue}", allowed("label", decide), methods=["POST"]),
    Route("/runs/{run}/review/{queue}/undo", allowed("label", undo), methods=["POST"]),
    Route("/runs/{run}/values", allowed("look", values)),
)
