"""The runs in the console's folder."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from limbeck.console.pages import page
from limbeck.console.protection import allowed
from limbeck.console.shared import console_of


async def show(request: Request) -> Response:
    """All runs."""
    return page(request, "runs.html.j2", runs=console_of(request).runs.names(), folder=console_of(request).runs.folder)


ROUTES: Final = (Route("/runs", allowed("look", show)),)
