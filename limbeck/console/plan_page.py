"""What `limbeck plan` says of a run: which stages would be run again and why, and what that would take."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from limbeck.console.pages import page
from limbeck.console.protection import RefusedError, allowed
from limbeck.console.run_folders import task_of
from limbeck.console.shared import console_of


async def show(request: Request) -> Response:
    """The last plan of the run, or how far it is; for htmx without the frame of a page."""
    name = request.path_params["run"]
    files = console_of(request).runs.files(name)
    template = "command.html.j2" if request.headers.get("hx-request") else "plan.html.j2"
    return page(
        request, template, name=name, command=console_of(request).commands.get(_key(name)), address=request.url.path,
        task=files.task,
    )


async def start(request: Request) -> Response:
    """Begin a plan, and go to its page."""
    console, name = console_of(request), request.path_params["run"]
    files = console.runs.files(name)
    if not files.task.exists():
        raise RefusedError(409, f"The run {name!r} does not keep its task: run any of its stages once more.")
    if (of := task_of(files).name) != name:
        raise RefusedError(409, f"The folder {name!r} holds a run of task {of!r}: a plan would look elsewhere.")
    console.commands.start(_key(name), ["plan", files.task, "--runs", console.runs.folder])
    return RedirectResponse(request.url.path, 303)


def _key(name: str) -> str:
    return f"plan {name}"


ROUTES: Final = (
    Route("/runs/{run}/plan", allowed("look", show), methods=["GET"]),
    Route("/runs/{run}/plan", allowed("look", start), methods=["POST"]),
)
