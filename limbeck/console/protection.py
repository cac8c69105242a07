"""What every request passes before a page sees it: whose it is, whether a page of ours sent it, and what may load.

A request is refused if it is addressed to a host name that is not the console's (a page elsewhere may resolve its own
name to this address), if it changes something and comes from another origin or without the session's CSRF secret, and
if nobody is signed in. The headers let a page load nothing but the console's own files, and be shown in no frame.
"""

from __future__ import annotations

import getpass
import hmac
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from limbeck.console.accounts import ROLES, Accounts, Role, Session
from limbeck.console.options import Options

COOKIE: Final = "limbeck_session"
OPEN_PATHS: Final = ("/sign-in", "/static/")
MOST_BYTES: Final = 64 << 20  # of an import; every other request is much smaller
_SAFE: Final = frozenset({"GET", "HEAD"})
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin", "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


class Protection:
    """The outermost ASGI middleware of the console."""

    def __init__(self, app: ASGIApp, options: Options, accounts: Accounts) -> None:
        self._app, self._options, self._accounts = app, options, accounts
        self._open = options.on_loopback and not options.behind_proxy  # without users, whoever is at this machine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", _POLICY)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if self._options.secure:
                    headers["Strict-Transport-Security"] = "max-age=31536000"
                if token := scope.get("state", {}).get("new_cookie"):
                    with_cookie = Response()
                    set_cookie(with_cookie, token, secure=self._options.secure)
                    headers.append("Set-Cookie", with_cookie.headers["set-cookie"])
            await send(message)

        request = Request(scope, receive)
        refused = self._refusal(request)
        if refused is None:
            session = self._session(request)
            if isinstance(session, Response):
                await session(scope, receive, sending)
                return
            scope.setdefault("state", {})["session"] = session
            await self._app(scope, receive, sending)
        else:
            await refused(scope, receive, sending)

    def _refusal(self, request: Request) -> Response | None:
        """Of what is wrong whoever sends it."""
        if _host(request.headers.get("host", "")) not in self._options.host_names:
            return PlainTextResponse(
                "This is not the console's address. If it is, start it with --name and this host name.", 421
            )
        if request.method not in {"GET", "HEAD", "POST"}:
            return PlainTextResponse("GET, HEAD or POST", 405)
        if request.method not in _SAFE:
            length = request.headers.get("content-length", "")
            if not length.isdecimal():
                return PlainTextResponse("A request that sends something says how long it is.", 411)
            if int(length) > MOST_BYTES:
                return PlainTextResponse(f"A request has at most {MOST_BYTES >> 20} MiB.", 413)
        if request.method not in _SAFE and not _same_origin(request.headers):
            return PlainTextResponse("This form was sent by a page of another site. Nothing was changed.", 403)
        return None

    def _session(self, request: Request) -> Session | Response | None:
        """Who sends the request, None on a page that needs nobody, or what is answered instead."""
        name, token, csrf = self._who(request)
        if isinstance(name, Response):
            return name
        if name is None:
            if request.url.path.startswith(OPEN_PATHS):
                return None
            return _sign_in(request)
        fresh = None
        if csrf is None:
            fresh = token = self._accounts.begin(name)
            found = self._accounts.session(token)
            assert found is not None
            csrf = found[1]
        named = self._accounts.names()
        roles = frozenset(ROLES) if not named and self._open else self._accounts.roles(name)
        session = Session(name, roles, csrf, signed_in=bool(named) and self._options.user_header is None)
        if fresh is not None:
            request.scope.setdefault("state", {})["new_cookie"] = fresh
        return session

    def _who(self, request: Request) -> tuple[str | Response | None, str, str | None]:
        """User, session token and CSRF secret; the secret is None where a session is to begin."""
        token = request.cookies.get(COOKIE, "")
        known = self._accounts.session(token) if token else None
        header = self._options.user_header
        if header is not None:
            peer = request.client.host if request.client else ""
            given = request.headers.get(header, "")
            if peer not in self._options.proxies:
                return PlainTextResponse("Requests come through the proxy.", 403), "", None
            if given not in self._accounts.names():
                return PlainTextResponse("The proxy names no user of the console.", 403), "", None
            return (given, token, known[1]) if known and known[0] == given else (given, "", None)
        if not self._accounts.names() and self._open:
            me = _person()
            return (me, token, known[1]) if known and known[0] == me else (me, "", None)
        if known is None or known[0] not in self._accounts.names():
            return None, "", None
        return known[0], token, known[1]


def session_of(request: Request) -> Session:
    """Who sends a request that has passed `Protection`."""
    found: Session = request.state.session
    return found


async def check_secret(request: Request) -> None:
    """Raise `RefusedError` where a form was not sent by a page of this session."""
    given = request.headers.get("x-csrf-token") or str((await request.form()).get("csrf", ""))
    session: Session | None = request.state.session
    if session is None or not hmac.compare_digest(given.encode(), session.csrf.encode()):
        raise RefusedError(403, "This form is not of your session: it may be from before you signed in. Load the page "
                                "again. Nothing was changed.")


class RefusedError(Exception):
    """A request that is refused, with what the person is told."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


Handler = Callable[[Request], Awaitable[Response]]


def allowed(role: Role, handler: Handler) -> Handler:
    """A handler for people with a role; what changes something also needs the session's CSRF secret."""

    async def guarded(request: Request) -> Response:
        session = session_of(request)
        if role not in session.roles:
            raise RefusedError(403, f"{session.name} may not do this: it needs the role `{role}`.")
        if request.method not in _SAFE:
            await check_secret(request)
        return await handler(request)

    return guarded


def set_cookie(response: Response, token: str, *, secure: bool) -> None:
    """Put a session's token into the browser."""
    response.set_cookie(COOKIE, token, max_age=7 * 86_400, httponly=True, samesite="lax", secure=secure, path="/")


def _sign_in(request: Request) -> Response:
    if request.headers.get("hx-request"):  # htmx follows redirects by itself and would show the page in a corner
        return Response(status_code=401, headers={"HX-Redirect": "/sign-in"})
    if request.method not in _SAFE:
        return PlainTextResponse("Nobody is signed in. Nothing was changed.", 401)
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"/sign-in?{urlencode({'next': wanted})}", 303)


def _same_origin(headers: Headers) -> bool:
    """Whether a browser says that a page of this host sent a request; without any word of it, the secret decides."""
    site = headers.get("sec-fetch-site")
    if site is not None and site not in {"same-origin", "none"}:
        return False
    origin = headers.get("origin")
    return origin is None or (origin != "null" and urlsplit(origin).netloc == headers.get("host"))


def _host(value: str) -> str:
    """The host name of a Host header, without its port."""
    return urlsplit(f"//{value}").hostname or ""


def _person() -> str:
    """Who is at this machine, for the names of decisions."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "local"
