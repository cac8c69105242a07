"""Signing in and out."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from limbeck.console.pages import fields_of, page
from limbeck.console.protection import COOKIE, check_secret, set_cookie
from limbeck.console.shared import console_of


async def show(request: Request) -> Response:
    """The form."""
    return page(request, "sign-in.html.j2", next=_inside(request.query_params.get("next", "/")), problem="")


async def sign_in(request: Request) -> Response:
    """Begin a session; the same answer for an unknown user as for a wrong password."""
    accounts = console_of(request).accounts
    form = await request.form()
    name, password, wanted = fields_of(form, "name", "password", "next")
    if (wait := accounts.wait_s(name)) > 0:
        problem = f"Too many wrong passwords for this name. Try again in {wait // 60 + 1:.0f} minutes."
        return page(request, "sign-in.html.j2", status=429, next=_inside(wanted), problem=problem)
    if not await asyncio.to_thread(accounts.is_right, name, password):
        accounts.note(name, "sign-in failed", "")
        return page(
            request, "sign-in.html.j2", status=403, next=_inside(wanted), problem="No such user, or not the password."
        )
    accounts.note(name, "signed in", "")
    response = RedirectResponse(_inside(wanted), 303)
    set_cookie(response, accounts.begin(name), secure=console_of(request).options.secure)
    return response


async def sign_out(request: Request) -> Response:
    """End the session."""
    await check_secret(request)
    console_of(request).accounts.end(request.cookies.get(COOKIE, ""))
    response = RedirectResponse("/sign-in", 303)
    response.delete_cookie(COOKIE, path="/")
    return response


def _inside(address: str) -> str:
    """An address within the console; anything else becomes its first page."""
    return address if address.startswith("/") and not address.startswith(("//", "/\\")) else "/"


ROUTES: Final = (
    Route("/sign-in", show, methods=["GET"]), Route("/sign-in", sign_in, methods=["POST"]),
    Route("/sign-out", sign_out, methods=["POST"]),
)
