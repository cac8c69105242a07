"""The audit log: who changed what outside the ledger, and when."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from limbeck.console.pages import page
from limbeck.console.shared import console_of

_PAGE = 50


async def show(request: Request) -> Response:
    """A page of the log, newest first."""
    before = request.query_params.get("before", "")
    entries = console_of(request).accounts.audit(before=int(before) if before.isdecimal() else None, limit=_PAGE + 1)
    return page(
        request, "audit.html.j2", entries=entries[:_PAGE], more=entries[_PAGE - 1].id if len(entries) > _PAGE else None
    )
