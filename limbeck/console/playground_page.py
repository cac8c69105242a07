"""The playground: a query is sent to the services, and what they say is drawn on it, side by side."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from limbeck.console.ask_service import Asked, ask
from limbeck.console.drawing import Named, WithRoles
from limbeck.console.label_pages import entries_of, evidence_of
from limbeck.console.pages import fields_of, page
from limbeck.console.protection import RefusedError, allowed
from limbeck.console.run_folders import RunFolders, task_of
from limbeck.console.shared import Console, console_of
from limbeck.console.side_commands import SideCommand
from task.errors import InputError
from task.labels import Label
from task.spec import Task

SOURCES: Final = {
    "cache": "the head cache", "kept": "a kept answer", "student": "the student", "teacher": "the live teacher",
}
_CONTEXT: Final = "context"


@dataclass(frozen=True, slots=True)
class _Name:
    name: str


@dataclass(frozen=True, slots=True)
class _Roles:
    """The roles that an answer has, for a task of which no run is here."""

    roles: Sequence[Named]


@dataclass(frozen=True, slots=True)
class Side:
    """An answer and how it is drawn.

    Attributes:
        only: Labels that no other service gave.
        missing: Labels that another service gave and this one did not.
    """

    asked: Asked
    drawn: WithRoles
    only: frozenset[tuple[Any, ...]]
    missing: tuple[Label, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """What the teacher was shown, or would be.

    Attributes:
        known: Kinds and entries of the context of the last attempt; None for a query that the run does not know.
        can_show: Whether the teacher is an LLM, whose prompt a command can show.
    """

    known: list[tuple[str, list[str]]] | None
    can_show: bool


async def show(request: Request) -> Response:
    """The form, and what the services say to the query of the address."""
    console = console_of(request)
    query, run = request.query_params.get("query", ""), request.query_params.get("run", "")
    use_cache = request.query_params.get("cache", "yes") != "no"
    sides: list[Side] = []
    shown = None
    if run and run not in console.runs.names():
        raise RefusedError(404, f"There is no run named {run!r} in {console.runs.folder}.")
    if query:
        task = task_of(console.runs.files(run)).name if run else None
        answers = await asyncio.gather(*(
            asyncio.to_thread(ask, url, query, use_cache=use_cache, task=task) for url in console.options.services
        ))
        sides = compared(answers, await asyncio.to_thread(_tasks, console.runs))
        shown = await asyncio.to_thread(_teacher, console, run, query) if run else None
    return page(
        request, "playground.html.j2", asked=query, run=run, use_cache=use_cache, sides=sides, shown=shown,
        sources=SOURCES, services=console.options.services, runs=console.runs.names(),
        **_command(console, run, query),
    )


def compared(answers: Sequence[Asked], tasks: Mapping[str, Task]) -> list[Side]:
    """Answers side by side, with what only one of them says."""
    given = [{x.key: x for x in a.labels or ()} for a in answers]
    there = [i for i, a in enumerate(answers) if a.labels is not None]
    sides = []
    for i, answer in enumerate(answers):
        others: dict[tuple[Any, ...], Label] = {k: x for j in there if j != i for k, x in given[j].items()}
        both = i in there and len(there) > 1
        sides.append(Side(
            answer, tasks.get(answer.task) or _roles_of(answers),
            frozenset(given[i].keys() - others.keys()) if both else frozenset(),
            tuple(x for k, x in others.items() if k not in given[i]) if both else (),
        ))
    return sides


def _roles_of(answers: Sequence[Asked]) -> _Roles:
    return _Roles([_Name(role) for role in dict.fromkeys(x.role for a in answers for x in a.labels or ())])


def _tasks(runs: RunFolders) -> dict[str, Task]:
    """The tasks of all runs by name, whose roles say which colours labels have."""
    found = {}
    for name in runs.names():
        try:
            task = task_of(runs.files(name))
        except InputError:
            continue
        found[task.name] = task
    return found


def _teacher(console: Console, run: str, query: str) -> Shown:
    from teacher.backends.backend import backend_of

    can_show = backend_of(task_of(console.runs.files(run))).asks_llm and console.runs.files(run).task.exists()
    if not console.runs.files(run).ledger.exists():
        return Shown(None, can_show)
    opened = console.runs.run(run)
    seen = opened.ledger.evidence([query]).get(query)
    return Shown(None if seen is None else evidence_of(opened, seen), can_show)


# -- what the teacher would be shown ---------------------------------------------------------------------------------


async def start(request: Request) -> Response:
    """Begin to retrieve the context of a query, and go to the page that shows it."""
    console = console_of(request)
    run, query = fields_of(await request.form(), "run", "query")
    files = console.runs.files(run)
    if not query or "\0" in query:
        raise RefusedError(400, "A query has at least one character, and none that is NUL.")
    if (of := task_of(files).name) != run:
        raise RefusedError(409, f"The folder {run!r} holds a run of task {of!r}: its index would not be found.")
    console.commands.start(
        _key(run, query), [_CONTEXT, files.task, "--runs", console.runs.folder, "--json", f"--query={query}"]
    )
    return RedirectResponse(f"/playground?{urlencode({'run': run, 'query': query})}#context", 303)


async def show_context(request: Request) -> Response:
    """The context alone, for a page that waits for it."""
    run, query = request.query_params.get("run", ""), request.query_params.get("query", "")
    return page(request, "playground-context.html.j2", **_command(console_of(request), run, query))


def _command(console: Console, run: str, query: str) -> dict[str, Any]:
    command = console.commands.get(_key(run, query))
    return {
        "command": command, "address": f"/playground/context?{urlencode({'run': run, 'query': query})}",
        "whole": f"/playground?{urlencode({'run': run, 'query': query})}",
        "context": None if command is None else _read(command),
    }


def _read(command: SideCommand) -> dict[str, Any] | None:
    """What `limbeck context` printed; None while it runs, and where it failed."""
    if command.state != "done":
        return None
    try:
        found = json.loads(command.out)
        kinds = [(kind, list(entries_of(entries, {}))) for kind, entries in found["context"].items()]
        return {"kinds": kinds, "requests": found["requests"]}
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def _key(run: str, query: str) -> str:
    return json.dumps([_CONTEXT, run, query])


ROUTES: Final = (
    Route("/playground", allowed("look", show)), Route("/playground/context", allowed("look", show_context)),
    Route("/playground/context", allowed("look", start), methods=["POST"]),
)
