"""The labels of a run: the filtered list, and everything about one of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from limbeck.console.label_filter import LabelFilter
from limbeck.console.pages import page
from limbeck.console.protection import RefusedError, allowed
from limbeck.console.run_folders import ShownRun
from limbeck.console.shared import console_of
from limbeck.inputs import Inputs
from teacher.ledger.records import STATUSES

_ROWS: Final = 50
_MOST: Final = 200  # attempts of one query that a page shows
_MOST_CATALOGUE: Final = 20 << 20  # bytes of a file whose titles are kept in memory


async def show_list(request: Request) -> Response:
    """A page of labels. For htmx only the table, which replaces the one that is shown."""
    run = console_of(request).runs.run(request.path_params["run"])
    given = request.query_params
    problem, wanted = "", LabelFilter()
    try:
        wanted = LabelFilter.from_query(given.multi_items())
        part = run.index.page(wanted, after=given.get("after"), before=given.get("before"), limit=_ROWS)
    except ValueError as error:
        problem = str(error)
        part = run.index.page(wanted, limit=_ROWS)

    def address(**cursor: str) -> str:
        return f"?{wanted.to_query()}&{urlencode(cursor)}"

    return page(
        request, "labels-table.html.j2" if request.headers.get("hx-request") else "labels.html.j2",
        run=run, rows=part.rows, problem=problem, wanted=wanted, facets=run.index.facets(), statuses=STATUSES,
        total=part.total, state=run.index.state(), problem_of_index=run.following.problem,
        next=address(after=part.next) if part.next else None,
        previous=address(before=part.previous) if part.previous else None,
    )


async def show_label(request: Request) -> Response:
    """Everything about one query: labels, evidence, raw replies, verdicts, cost, decisions of people."""
    run = console_of(request).runs.run(request.path_params["run"])
    query = request.query_params.get("query", "")
    row = run.ledger.rows([query]).get(query)
    if row is None:
        raise RefusedError(404, f"The ledger of {run.name!r} does not know this query: {query!r}.")
    attempts = list(itertools.islice(run.ledger.attempts(query), _MOST))
    seen = next((a["evidence"] for a in reversed(attempts) if a["evidence"]), None)
    return page(
        request, "label.html.j2", run=run, row=row, attempts=attempts, most=_MOST,
        cost=sum(a["cost"] for a in attempts), evidence=[] if seen is None else evidence_of(run, json.loads(seen)),
        decisions=run.reviews.of(query), verdict=run.reviews.verdicts().get(query),
    )


def evidence_of(run: ShownRun, seen: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """What the teacher was shown: kind and entries, items by their titles."""
    titles = _titles(run)
    return [(kind, list(entries_of(found, titles))) for kind, found in seen.items() if found]


def entries_of(found: Any, titles: Mapping[str, str]) -> Iterator[str]:
    """The entries of a kind of context as text; items by their titles, where these are known."""
    if isinstance(found, str):
        yield found
    elif isinstance(found, Mapping):
        for name, value in found.items():
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            yield f"{titles.get(str(name), name)}: {shown}"
    else:
        for entry in found:
            if isinstance(entry, Mapping):
                labels = ", ".join(f"{x['role']} {x['text']}" for x in entry.get("labels", ()))
                yield f"{entry.get('query', json.dumps(entry, ensure_ascii=False))} ({labels or 'nothing'})"
            else:
                yield titles.get(str(entry), str(entry))


def _titles(run: ShownRun) -> Mapping[str, str]:
    """Titles of the catalogue's items by id; none of a catalogue that is not here, or too large to keep."""
    inputs = Inputs(run.task, run.files.sample)
    source = inputs.source("catalogue")
    if not isinstance(source, Path) or not source.is_file() or source.stat().st_size > _MOST_CATALOGUE:
        return {}
    return run.remember("titles", source.stat().st_mtime_ns, lambda: {x.id: x.title for x in inputs.catalogue})


ROUTES: Final = (
    Route("/runs/{run}/labels", allowed("look", show_list)), Route("/runs/{run}/label", allowed("look", show_label)),
)
