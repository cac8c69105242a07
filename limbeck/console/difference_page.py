"""Two reports side by side."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from eval.formatting import milliseconds, percent
from eval.quality_schema import Estimate
from eval.report_changes import changes
from eval.report_schema import Report, read_report
from limbeck.artefacts import RunFolder
from limbeck.console.pages import page
from limbeck.console.protection import RefusedError, allowed
from limbeck.console.shared import console_of


async def show(request: Request) -> Response:
    """The figures of a run's report beside those of another run's, clear differences first."""
    runs, name = console_of(request).runs, request.path_params["run"]
    now = await asyncio.to_thread(_report, name, runs.files(name))
    others = [n for n in runs.names() if n != name and runs.files(n).evaluate.report.exists()]
    chosen = request.query_params.get("with", "")
    if not chosen:
        return page(request, "difference.html.j2", name=name, others=others, chosen="", now=now, before=None, rows=())
    before = await asyncio.to_thread(_report, chosen, runs.files(chosen))
    rows = [
        {"what": c["what"], "before": _shown(c["before"], c["unit"]), "now": _shown(c["now"], c["unit"]),
         "higher": _is_higher(c["now"], c["before"]), "clear": c["clear"], "unit": c["unit"]}
        for c in changes(before, now)["rows"]
    ]
    return page(
        request, "difference.html.j2", name=name, others=others, chosen=chosen, now=now, before=before, rows=rows
    )


def _report(name: str, files: RunFolder) -> Report:
    found = read_report(files.evaluate.report)
    if found is None:
        raise RefusedError(404, f"The run {name!r} has no report that can be read: `limbeck evaluate` writes one.")
    return found


def _shown(figure: Estimate, unit: str) -> str:
    if unit == "%":
        return percent(figure)
    if unit == "ms":
        return milliseconds(figure)
    value = figure["value"]
    return "–" if value is None else f"{value:,.2f}"


def _is_higher(one: Estimate, other: Estimate) -> bool:
    return one["value"] is not None and other["value"] is not None and one["value"] > other["value"]


ROUTES: Final = (Route("/runs/{run}/difference", allowed("look", show)),)
