"""The runs in the console's folder: the list, one of them, and its progress while a command works in it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from limbeck.artefacts import RunFolder
from limbeck.console.curves import Plot, training_plots
from limbeck.console.pages import page
from limbeck.console.protection import allowed
from limbeck.console.report_pages import known_pages
from limbeck.console.run_summary import RunSummary, summary_of
from limbeck.console.shared import console_of
from limbeck.progress_file import Running, running
from limbeck.rounds.folders import round_folders
from task.errors import InputError

_LOOK_S: Final = 1.0
_QUIET_S: Final = 15.0  # after which a comment keeps proxies from ending a stream in which nothing happens


async def show_all(request: Request) -> Response:
    """All runs."""
    runs = console_of(request).runs
    found = await asyncio.to_thread(lambda: [summary_of(name, runs.files(name)) for name in runs.names()])
    return page(request, "runs.html.j2", runs=found, folder=runs.folder)


async def show(request: Request) -> Response:
    """A run: its stages, what runs now, its report, its training, its rounds."""
    name, files = request.path_params["run"], _files(request)

    def look() -> tuple[RunSummary, Sequence[tuple[str, Sequence[Plot]]], Sequence[Any], str]:
        rounds, problem = _rounds(files)
        return summary_of(name, files), curves(files), rounds, problem

    run, plots, rounds, problem = await asyncio.to_thread(look)
    return page(
        request, "run.html.j2", run=run, plots=plots, rounds=rounds, rounds_problem=problem,
        pages=known_pages(files.folder), has_labels=files.ledger.exists(), has_bundle=files.bundle.manifest.exists(),
        now=run.now and shown(run.now),
    )


async def show_curves(request: Request) -> Response:
    """The curves alone, for a page that follows a training."""
    files = _files(request)
    return page(
        request, "curves.html.j2", name=request.path_params["run"], plots=await asyncio.to_thread(curves, files),
        live=running(files.progress) is not None,
    )


async def progress(request: Request) -> Response:
    """Server-sent events: each change of what runs in a run folder, then `end` when nothing does any more."""
    files = _files(request)

    async def events() -> AsyncIterator[str]:
        before, quiet = "", 0.0
        while (now := running(files.progress)) is not None:
            said = json.dumps(shown(now))
            if said != before:
                yield f"data: {said}\n\n"
                before, quiet = said, 0.0
            elif quiet >= _QUIET_S:
                yield ": nothing new\n\n"
                quiet = 0.0
            await asyncio.sleep(_LOOK_S)
            quiet += _LOOK_S
        yield "event: end\ndata: {}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


def shown(now: Running) -> dict[str, Any]:
    """What a page shows of a command that runs a stage."""
    done = f"{now.done:,} of {now.total:,}" if now.total else f"{now.done:,}" if now.done else ""
    said = " · ".join(part for part in (now.text, done, now.note) if part)
    return {
        "stage": f"{now.number}/{now.of} {now.stage}", "text": said or "begins", "started": now.started,
        "share": min(1.0, now.done / now.total) if now.total else None,
    }


def curves(files: RunFolder) -> list[tuple[str, list[Plot]]]:
    """Plots of the training that runs, else of the one that is finished, and of the last round's."""
    out = []
    places = [("Training", files.folder)]
    places += [(f"Training of round {int(f.folder.name)}", f.folder) for f in list(round_folders(files.folder))[-1:]]
    for title, folder in places:
        staged = folder / ".train.tmp" / "history.jsonl"
        kept = [p for p in (staged, RunFolder(folder).train.curve, RunFolder(folder).train.history) if p.exists()]
        if kept and (plots := training_plots(_history(kept[0]))):
            out.append((title, plots))
    return out


def _history(path: Path) -> list[dict[str, Any]]:
    from student.training.history import read_history

    try:
        return [h for h in read_history(path) if isinstance(h, dict) and "step" in h]
    except (OSError, ValueError):
        return []


def _rounds(files: RunFolder) -> tuple[Sequence[Any], str]:
    """A row a round, as the page of rounds has them, and what is wrong with them."""
    from limbeck.rounds.history import rounds_of
    from limbeck.rounds.view import rows_of_rounds

    try:
        return rows_of_rounds(rounds_of(files.folder)), ""
    except InputError as error:
        return (), str(error)


def _files(request: Request) -> RunFolder:
    return console_of(request).runs.files(request.path_params["run"])


ROUTES: Final = (
    Route("/runs", allowed("look", show_all)), Route("/runs/{run}", allowed("look", show)),
    Route("/runs/{run}/progress", allowed("look", progress)),
    Route("/runs/{run}/curves", allowed("look", show_curves)),
)
