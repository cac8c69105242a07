"""`POST /v1/feedback`: what clients know of answers: right, wrong, other labels, what was bought."""

from __future__ import annotations

import asyncio
import time

from serving.gateway.admission import admit
from serving.gateway.http_exchange import Exchange, HttpError
from serving.gateway.labelling import Labelling
from serving.gateway.messages import FeedbackRequest, FeedbackResponse, GivenLabel
from serving.gateway.request_body import parsed
from serving.telemetry.kept_files import KeptFiles
from task.captures import file_of
from task.feedback import Feedback, Kind
from task.labels import Label
from task.labels import Labelling as Labels
from task.readers import locate_open
from task.spec import Task
from task.validation import violation

_KEEP = "`serving.certain.keep`"


async def feedback(gateway: Labelling, exchange: Exchange) -> None:
    """Keep what a client says of a query; it is in a file when the client is told so."""
    due = exchange.deadline(gateway.settings.request_timeout_s)
    with admit(gateway.callers, exchange) as admission:
        request = await parsed(exchange, FeedbackRequest, limit=gateway.settings.max_body_bytes, due=due)
        choice = gateway.choice(request.task)
        gateway.check_lengths(choice, [request.query])
        if not request.query.strip():
            raise _refused(422, "a blank query has no answer", "query")
        route = choice.active
        task = route.bundle.task
        labels = None if request.labels is None else _labels(task, request.query, request.labels)
        files = _files(gateway.kept, route.keep, labels)
        admission.charge(1)
        served = {r.bundle.id for r in (choice.active, choice.trial) if r is not None}
        kept = _row(files, request, task=task.name, labels=labels, hashed=route.keep == "hash")
        await _written(exchange, files, kept, due)
        bundle = request.bundle or route.bundle.id
        gateway.metrics.count(gateway.metrics.feedback, bundle if bundle in served else "other", kept.kind)
        exchange.notes |= {"bundle": bundle, "result": kept.kind}
        await exchange.answer(FeedbackResponse(kind=kept.kind, task=task.name).model_dump_json().encode())


def _files(files: KeptFiles | None, keep: str, labels: Labels | None) -> KeptFiles:
    """Where it is kept; raises `HttpError` (409) where the service keeps no such feedback."""
    if files is None:
        raise _refused(409, "this service has no state folder and keeps no feedback", None)
    if keep == "nothing":
        raise _refused(409, f"this service keeps no feedback: {_KEEP} is `nothing`", None)
    if keep == "hash" and labels is not None:
        raise _refused(
            409, f"this service keeps no texts of queries, and labels are such: {_KEEP} is `hash`; it takes `verdict` "
            "and `item`", "labels",
        )
    return files


def _labels(task: Task, query: str, given: list[GivenLabel]) -> Labels:
    """The labels with spans; raises `HttpError` (422) for labels that are not a labelling of the query."""
    found: list[Label] = []
    for number, label in enumerate(given):
        problem = task.label_problem(query, label.role, label.text)
        if problem is None and label.start is not None:
            problem = _start_problem(task, query, label)
        if problem is not None:
            raise _refused(422, f"labels.{number}: {problem}", f"labels.{number}")
        end = None if label.start is None else label.start + len(label.text)
        found.append(Label(label.role, label.text, label.start, end))
    try:
        located = locate_open(task, query, found)
    except ValueError as error:
        raise _refused(422, f"labels: {error}", "labels") from error
    fault = violation(task, query, located)
    if fault is not None:
        raise _refused(422, f"labels: {fault.detail}", "labels")
    return located


def _start_problem(task: Task, query: str, label: GivenLabel) -> str | None:
    kind = task.role(label.role).kind
    if kind != "open":
        return f"{label.role!r} is a {kind} role, whose labels have no `start`"
    assert label.start is not None
    there = query[label.start : label.start + len(label.text)]
    return None if there == label.text else f"at `start` {label.start} the query has {there!r}, not {label.text!r}"


def _row(
    files: KeptFiles, request: FeedbackRequest, *, task: str, labels: Labels | None, hashed: bool
) -> Feedback:
    kind: Kind = request.verdict or ("item" if request.labels is None else "labels")
    return Feedback(
        query=None if hashed else request.query, keyed_hash=files.key.hash(request.query) if hashed else None,
        kind=kind, task=task, bundle=request.bundle, labels=labels, item=request.item, count=request.count,
        at=round(time.time(), 3),
    )


async def _written(exchange: Exchange, files: KeptFiles, kept: Feedback, due: float) -> None:
    """Append a row; raises `HttpError` (503) where the disk does not take it, or not in time."""
    try:
        async with asyncio.timeout_at(due):
            path = file_of(files.feedback, kept.at)
            lost = await asyncio.to_thread(files.append, path, [kept.row()], since=kept.at)
    except TimeoutError as error:
        exchange.notes["refused"] = "deadline"
        raise HttpError(
            503, kind="overloaded_error", message="not written by the deadline; it may still be kept", retry_after=1.0
        ) from error
    if lost:
        exchange.notes["refused"] = "disk"
        raise HttpError(
            503, kind="overloaded_error", message="the feedback could not be written and is not kept", retry_after=10.0
        )


def _refused(status: int, message: str, param: str | None) -> HttpError:
    return HttpError(status, kind="invalid_request_error", message=message, param=param)
