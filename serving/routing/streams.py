"""The answers of several routes to the queries of one request, as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

from serving.routing.route import Answer, Route

Outcome = tuple[Route, str, Answer | Exception]


async def stream_all(
    queries: Mapping[Route, Sequence[str]], due: float, *, keep: bool = True
) -> AsyncIterator[Outcome]:
    """What `Route.stream` gives for each route, all asked at once.

    During a canary a batch is divided between two bundles. One that were asked after the other had answered would have
    less time until the deadline, and might have been taken out of service by then.

    Args:
        queries: Distinct queries of each route.
        due: The deadline, in the loop's time.
        keep: Whether later requests may find the answers.
    """
    if len(queries) == 1:
        for route, asked in queries.items():
            async for query, outcome in route.stream(asked, due, keep=keep):
                yield route, query, outcome
        return
    found: asyncio.Queue[Outcome | None] = asyncio.Queue()

    async def ask(route: Route, asked: Sequence[str]) -> None:
        try:
            async for query, outcome in route.stream(asked, due, keep=keep):
                found.put_nowait((route, query, outcome))
        finally:
            found.put_nowait(None)

    tasks = [asyncio.create_task(ask(route, asked)) for route, asked in queries.items()]
    try:
        for _ in tasks:
            while (one := await found.get()) is not None:
                yield one
        for task in tasks:
            await task  # raises what ended it, if anything did
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
