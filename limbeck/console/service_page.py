"""What a service serves and how it does: from its operators' port, asked again every few seconds."""

from __future__ import annotations

import asyncio
import datetime
import http.client
import math
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.loopback import open_url
from limbeck.console.pages import page
from limbeck.console.protection import allowed
from limbeck.console.service_metrics import Figures, figures_of
from limbeck.console.shared import Console, console_of
from serving.release.pointer import Pointer, read_pointer
from task.errors import InputError, cause_of

_TIMEOUT_S: Final = 5.0
_MOST_BYTES: Final = 16 << 20
_NEWS: Final = 8
_Value = TypeVar("_Value")


class DeployedStatus(BaseModel):
    """A bundle that a service has deployed, as far as it is shown."""

    bundle: str
    engine: str
    runs_on: str = ""
    restarts: int = 0
    why: str | None = None
    gate: str = ""


class RefusedStatus(BaseModel):
    """A bundle that a service took out of service by itself."""

    id: str
    why: str
    at: datetime.datetime


class TaskStatus(BaseModel):
    """What a service says of a task; a service of before says neither since when nor shares."""

    active: DeployedStatus | None = None
    trial: DeployedStatus | None = None
    kept: DeployedStatus | None = None
    asked: bool = False
    since: datetime.datetime | None = None
    canary: float = 0.0
    shadow: float = 0.0
    refused: RefusedStatus | None = None


class News(BaseModel):
    """An event."""

    at: datetime.datetime
    text: str
    failed: bool = False


class Status(BaseModel):
    """What the operators' port says, as far as it is shown."""

    tasks: dict[str, TaskStatus]
    news: list[News]


@dataclass(frozen=True, slots=True)
class Look:
    """What was found out about a service at one moment.

    Attributes:
        status: As its operators' port says; None where `problem` says why not.
        figures: Of its metrics; None where `metrics_problem` says why not.
        at: When.
    """

    status: Status | None
    problem: str
    figures: Figures | None
    metrics_problem: str
    at: str


async def show(request: Request) -> Response:
    """The page; `?paused=yes` is one that is not brought up to date."""
    console = console_of(request)
    pointer, problem = pointer_of(console)
    return page(
        request, "service.html.j2", look=await _look(console), operators=console.options.operators,
        pointer=pointer, pointer_problem=problem, pointer_file=console.options.pointer,
        paused=request.query_params.get("paused") == "yes", milliseconds=milliseconds, most_news=_NEWS,
    )


async def show_now(request: Request) -> Response:
    """What changes, alone."""
    console = console_of(request)
    return page(
        request, "service-now.html.j2", look=await _look(console), operators=console.options.operators,
        milliseconds=milliseconds, most_news=_NEWS,
    )


def pointer_of(console: Console) -> tuple[Pointer | None, str]:
    """The release pointer, None where there is none, and what is wrong with it."""
    path = console.options.pointer
    if path is None or not path.exists():
        return None, ""
    try:
        return read_pointer(path), ""
    except InputError as error:
        return None, str(error)


def milliseconds(seconds: float) -> str:
    """Of a percentile; one that is above the histogram's last bucket is said to be."""
    if math.isinf(seconds):
        return "above all buckets"
    return f"{1e3 * seconds:,.3g}" if seconds < 1.0 else f"{1e3 * seconds:,.0f}"


async def _look(console: Console) -> Look | None:
    url = console.options.operators
    if url is None:
        return None
    (status, problem), (figures, metrics_problem) = await asyncio.gather(
        asyncio.to_thread(_asked, f"{url.rstrip('/')}/status", Status.model_validate_json),
        asyncio.to_thread(_asked, f"{url.rstrip('/')}/metrics", lambda text: figures_of(text.decode())),
    )
    now = datetime.datetime.now(datetime.UTC).strftime("%H:%M:%S UTC")
    return Look(status, problem, figures, metrics_problem, now)


def _asked(url: str, read: Callable[[bytes], _Value]) -> tuple[_Value | None, str]:
    """What the operators' port answers, or why it does not."""
    try:
        with open_url(url, timeout_s=_TIMEOUT_S) as response:
            return read(response.read(_MOST_BYTES)), ""
    except urllib.error.HTTPError as error:
        return None, f"{url} answers with an error, {error.code}. Is it the operators' port?"
    except (OSError, http.client.HTTPException) as error:
        return None, f"{url} cannot be reached: {cause_of(error)}."
    except (ValueError, LookupError, TypeError, AttributeError):
        return None, f"What {url} answers is not what a service says. Is it the operators' port?"




ROUTES: Final = (
    Route("/service", allowed("look", show)), Route("/service/now", allowed("look", show_now)),
)
