"""The console's ASGI application: its routes, and what its pages share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from limbeck.console import (
    audit_page,
    decision_pages,
    difference_page,
    exchange_pages,
    label_pages,
    plan_page,
    playground_page,
    release_page,
    report_pages,
    review_pages,
    run_pages,
    service_page,
    sign_in_page,
)
from limbeck.console.accounts import Accounts
from limbeck.console.options import Options
from limbeck.console.pages import STATIC, bad_input, not_found, refused
from limbeck.console.protection import Protection, RefusedError, allowed
from limbeck.console.review_queue import Desk
from limbeck.console.run_folders import RunFolders
from limbeck.console.shared import Console
from limbeck.console.side_commands import SideCommands
from task.errors import InputError

_YEAR_S: Final = 365 * 86_400


class _Static(StaticFiles):
    """Our own files; their addresses change with their content."""

    async def get_response(self, path: str, scope: object) -> Response:
        response = await super().get_response(path, scope)  # type: ignore[arg-type]
        response.headers["Cache-Control"] = f"public, max-age={_YEAR_S}, immutable"
        return response


def make_app(options: Options, accounts: Accounts) -> Starlette:
    """The application."""
    console = Console(options, accounts, RunFolders(options.runs), Desk(), SideCommands())

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await console.commands.close()
        console.runs.close()

    app = Starlette(
        routes=[
            Mount("/static", _Static(directory=STATIC)),
            Route("/", _home),
            *sign_in_page.ROUTES,
            *run_pages.ROUTES,
            *report_pages.ROUTES,
            *difference_page.ROUTES,
            *plan_page.ROUTES,
            *playground_page.ROUTES,
            *service_page.ROUTES,
            *release_page.ROUTES,
            *label_pages.ROUTES,
            *review_pages.ROUTES,
            *decision_pages.ROUTES,
            *exchange_pages.ROUTES,
            Route("/audit", allowed("look", audit_page.show)),
        ],
        middleware=[Middleware(Protection, options=options, accounts=accounts)],
        exception_handlers={RefusedError: refused, InputError: bad_input, HTTPException: _http},
        lifespan=lifespan,
    )
    app.state.console = console
    return app


async def _home(_request: Request) -> Response:
    return RedirectResponse("/runs", 303)


def _http(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses: an address or a method that there is not."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return not_found(request, "There is no page at this address.")
    return Response(error.detail, error.status_code, headers=error.headers)
