"""What people decided: the list, how far they agree, and a page to settle what they do not agree on."""

from __future__ import annotations

import itertools
import secrets
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from limbeck.console.pages import page
from limbeck.console.protection import RefusedError, allowed
from limbeck.console.review_pages import editor
from limbeck.console.review_queue import row_for
from limbeck.console.run_folders import ShownRun
from limbeck.console.shared import console_of
from task.labels import Example, Labelling
from teacher.ledger.reviews import Review, Verdict, changes, keys

_ROWS: Final = 50


async def show(request: Request) -> Response:
    """Decisions, newest first, with totals and the agreement of people."""
    run = console_of(request).runs.run(request.path_params["run"])
    before = request.query_params.get("before", "")
    rows = run.reviews.latest(_ROWS + 1, before=int(before) if before.isdecimal() else None)
    verdicts = list(run.reviews.verdicts().values())
    return page(
        request, "decisions.html.j2", run=run, rows=rows[:_ROWS],
        more=rows[_ROWS - 1].id if len(rows) > _ROWS else None,
        totals=_totals(verdicts), roles=changes(verdicts), agreement=agreement(run),
        disputed=[v for v in verdicts if v.outcome == "disputed"],
    )


async def settle(request: Request) -> Response:
    """What each person said about a query, and the editor that says what is right."""
    run = console_of(request).runs.run(request.path_params["run"])
    query = request.query_params.get("query", "")
    said = _latest(run.reviews.of(query))
    row = row_for(run, "search", query) or row_for(run, "picked", query)
    if not said or row is None:
        raise RefusedError(404, f"Nobody has decided about this query: {query!r}.")
    chosen = request.query_params.get("of")
    labels = next((r.labels for r in said if r.person == chosen), said[-1].labels)
    return page(
        request, "settle.html.j2", run=run, row=row, said=said, queue="search", token=secrets.token_urlsafe(16),
        editor=editor(run.task, query, labels), before=[x.to_json() for x in row.labels], to="settle",
        opinions=[(r, [x for x in r.labels if not any(x.key in {y.key for y in o.labels} for o in said if o is not r)])
                  for r in said],
    )


async def disputed(request: Request) -> Response:
    """The queries that are disputed, or the page of the one that the address names."""
    if "query" in request.query_params:
        return await settle(request)
    run = console_of(request).runs.run(request.path_params["run"])
    found = [v for v in run.reviews.verdicts().values() if v.outcome == "disputed"]
    return page(request, "disputed.html.j2", run=run, disputed=found)


def agreement(run: ShownRun) -> list[dict[str, Any]]:
    """How far each two people agree on the queries that both decided: whole labellings, and F1 of spans.

    With intervals as in the report (`eval.annotator_agreement`); queries that one of them rejected are left out.
    """
    from eval.annotator_agreement import ceiling

    by_person: dict[str, dict[str, Labelling]] = {}
    for review in run.reviews.counting():
        if review.decision not in ("reject", "settle"):
            by_person.setdefault(review.person, {})[review.query] = review.labels
    out = []
    for one, other in itertools.combinations(sorted(by_person), 2):
        both = sorted(by_person[one].keys() & by_person[other].keys())
        if not both:
            continue
        sets = [[Example(q, by_person[who][q]) for q in both] for who in (one, other)]
        same = sum(keys(by_person[one][q]) == keys(by_person[other][q]) for q in both)
        f1 = ceiling(sets[0], sets, run.task)["between"][0]
        out.append({"one": one, "other": other, "queries": len(both), "same": same, "f1": f1})
    return out


def _totals(verdicts: list[Verdict]) -> dict[str, int]:
    return {
        "confirmed": sum(v.outcome == "labels" and not v.changed for v in verdicts),
        "corrected": sum(v.changed for v in verdicts), "rejected": sum(v.outcome == "rejected" for v in verdicts),
        "disputed": sum(v.outcome == "disputed" for v in verdicts), "gold": sum(v.gold for v in verdicts),
    }


def _latest(reviews: list[Review]) -> list[Review]:
    """The latest decision of each person that counts."""
    return list({r.person: r for r in reviews if r.counts}.values())


ROUTES: Final = (
    Route("/runs/{run}/decisions", allowed("look", show)), Route("/runs/{run}/settle", allowed("label", disputed)),
)
