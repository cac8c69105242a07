"""Templates of the console: what every page knows, and how values are shown. Everything is escaped as text."""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse

from limbeck.console.drawing import chips, pieces
from limbeck.console.protection import RefusedError
from task.errors import InputError
from task.text import printable

STATIC: Final = Path(__file__).parent / "static"


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )
    environment.filters |= {
        "number": lambda n: f"{n:,}", "counted": lambda n, one, many: f"{n:,} {one if n == 1 else many}",
        "time": shown_time, "percent": lambda x: "–" if x is None else f"{100 * x:.1f} %", "pieces": pieces,
        "chips": chips, "json": lambda x: json.dumps(x, ensure_ascii=False),
    }
    environment.globals["static"] = _static
    return environment


def page(request: Request, template: str, *, status: int = 200, **content: Any) -> HTMLResponse:
    """A page made from a template, which also has `session` and `path`."""
    session = getattr(request.state, "session", None)
    text = _environment().get_template(template).render(
        session=session, path=request.url.path, query=str(request.url.query), **content
    )
    return HTMLResponse(text, status)


def refused(request: Request, error: Exception) -> HTMLResponse:
    """What a person is shown where a request is refused."""
    assert isinstance(error, RefusedError)
    return page(request, "problem.html.j2", status=error.status, title="Refused", text=str(error))


def bad_input(request: Request, error: Exception) -> HTMLResponse:
    """What a person is shown where a file or a field is not fit; says what was found and what to do."""
    assert isinstance(error, InputError)
    return page(request, "problem.html.j2", status=400, title="This cannot be done", text=printable(str(error)))


def not_found(request: Request, text: str) -> HTMLResponse:
    """What a person is shown for an address that there is not."""
    return page(request, "problem.html.j2", status=404, title="Not here", text=text)


def shown_time(at: float | str | None) -> str:
    """A time in UTC, to the minute."""
    if at is None:
        return "–"
    if isinstance(at, str):
        at = datetime.datetime.fromisoformat(at).timestamp()
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


@functools.cache
def _static(name: str) -> str:
    """The address of a file of ours, with its content's hash: browsers may keep it for ever."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/static/{name}?{digest}"


def fields_of(form: Mapping[str, Any], *names: str) -> list[str]:
    """The text fields of a form. Raises `RefusedError` where one is missing."""
    values = [form.get(name) for name in names]
    missing = [n for n, v in zip(names, values, strict=True) if not isinstance(v, str)]
    if missing:
        raise RefusedError(400, f"This form lacks {', '.join(missing)}. Load the page again. Nothing was changed.")
    return [str(v) for v in values]
