"""Releasing a bundle and rolling back: first what would happen and what the gate found, then a confirmation.

What may be released, and how, is decided where `limbeck release` decides it (`serving.release.pointer`). Here is no way
around the gate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from limbeck.console.pages import fields_of, page
from limbeck.console.protection import RefusedError, allowed, session_of
from limbeck.console.release_steps import release_steps, rollback_steps
from limbeck.console.shared import Console, console_of
from serving.release.bundle import Bundle, gate_failure, open_copy
from serving.release.pointer import Pointer, Seen, change_of, read_pointer, release, rollback
from serving.release.verdict import verdict
from task.errors import InputError
from task.serving_settings import Change

FIELDS: Final = {
    "shadow": "Shadow, share of queries", "shadow_s": "for seconds", "canary": "Canary, share of queries",
    "canary_s": "for seconds", "watch_s": "Watched afterwards, seconds", "keep_s": "Old engine kept, seconds",
}


@dataclass(frozen=True, slots=True)
class Preview:
    """What a release would do.

    Attributes:
        failure: Why the gate keeps the bundle from being released; None where it does not.
        checks: What the gate found, rule by rule.
        now: What the pointer names; None where there is none.
    """

    bundle: Bundle
    failure: str | None
    verdict: str
    checks: list[Mapping[str, Any]]
    change: Change
    now: Pointer | None


async def show_release(request: Request) -> Response:
    """The runs to choose from, or what releasing the bundle of one would do."""
    console, path = console_of(request), _pointer(request)
    name = request.query_params.get("run", "")
    names = [n for n in console.runs.names() if console.runs.files(n).bundle.manifest.exists()]
    found = None
    if name:
        given = {k: v for k in FIELDS if (v := request.query_params.get(k, "").strip())}
        found = await asyncio.to_thread(_preview, _bundle(console, name), path, _numbers(given))
    return page(
        request, "release.html.j2", names=names, name=name, found=found, pointer=path, fields=FIELDS,
        seen=None if found is None else Seen.of(found.now),
        steps=[] if found is None else list(release_steps(
            found.bundle.id, found.now.current.id if found.now else None, path, found.change
        )),
    )


async def do_release(request: Request) -> Response:
    """Release what the page showed, if nothing has changed since."""
    console, path = console_of(request), _pointer(request)
    form = await request.form()
    name, bundle, current, previous = fields_of(form, "run", "bundle", "current", "previous")
    change = _numbers(dict(zip(FIELDS, fields_of(form, *FIELDS), strict=True)))
    folder = _bundle(console, name)
    await asyncio.to_thread(
        _noted, request, "release", Seen(current, previous), {"bundle": bundle, "run": name, "change": change},
        lambda: release(path, bundle=folder, change=change, seen=Seen(current, previous), only=bundle),
    )
    return RedirectResponse("/service", 303)


async def show_rollback(request: Request) -> Response:
    """What a rollback would do."""
    path = _pointer(request)
    now = read_pointer(path)
    steps = [] if now.previous is None else list(
        rollback_steps(now.current.id, now.previous.id, path, now.change)
    )
    return page(request, "rollback.html.j2", now=now, seen=Seen.of(now), pointer=path, steps=steps)


async def do_rollback(request: Request) -> Response:
    """Roll back as the page showed, if nothing has changed since."""
    path = _pointer(request)
    current, previous = fields_of(await request.form(), "current", "previous")
    seen = Seen(current, previous)
    await asyncio.to_thread(
        _noted, request, "rollback", seen, {"bundle": previous}, lambda: rollback(path, seen=seen)
    )
    return RedirectResponse("/service", 303)


def _noted(request: Request, what: str, seen: Seen, wanted: Mapping[str, Any], work: Callable[[], Pointer]) -> None:
    """Do it with a line in the audit log before and after. In a thread: it is gone on with if the browser leaves."""
    accounts, who, path = console_of(request).accounts, session_of(request).name, str(_pointer(request))
    before = seen._asdict()
    accounts.note(who, f"{what} begun", path, before, dict(wanted))
    try:
        found = work()
    except BaseException as error:
        accounts.note(who, f"{what} not done", path, before, {**wanted, "why": str(error)})
        if isinstance(error, OSError):
            raise RefusedError(500, f"{path} could not be changed: {error}") from error
        raise
    accounts.note(who, f"{what} done", path, before, Seen.of(found)._asdict())


def _preview(folder: Path, path: Path, given: Mapping[str, float]) -> Preview:
    """Reads the bundle without its weights, which the release itself verifies."""
    try:
        bundle = open_copy(folder)
        _ = bundle.id, bundle.manifest["created"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"no bundle: {error}", file=folder, fix="Make it again with `limbeck bundle TASK`") from error
    checks = list((bundle.manifest.get("gate") or {}).get("checks", ()))
    change = change_of(bundle.task.serving.change, given, folder)
    return Preview(
        bundle, gate_failure(bundle), verdict(bundle), checks, change, read_pointer(path) if path.exists() else None
    )


def _bundle(console: Console, name: str) -> Path:
    files = console.runs.files(name)
    if not files.bundle.manifest.exists():
        raise RefusedError(404, f"The run {name!r} has no bundle: `limbeck bundle` makes one.")
    return files.bundle.bundle


def _numbers(given: Mapping[str, str]) -> dict[str, float]:
    """Shares and seconds. Raises `InputError` for a text that is no number."""
    out = {}
    for name, text in given.items():
        try:
            out[name] = float(text)
        except ValueError:
            raise InputError("not a number", field=FIELDS[name], found=text, expected="such as 0.1 or 60") from None
    return out


def _pointer(request: Request) -> Path:
    path = console_of(request).options.pointer
    if path is None:
        raise RefusedError(409, "This console changes no pointer: it was started without --pointer.")
    return path


ROUTES: Final = (
    Route("/service/release", allowed("look", show_release), methods=["GET"]),
    Route("/service/release", allowed("release", do_release), methods=["POST"]),
    Route("/service/rollback", allowed("look", show_rollback), methods=["GET"]),
    Route("/service/rollback", allowed("release", do_rollback), methods=["POST"]),
)
