"""Label a file of queries with a bundle, through its engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.interface import EngineError, EngineUnavailableError
from engine.kind import engine_kind
from engine.startup import start_checked_engine
from serving.release.bundle import Bundle
from serving.release.head_cache import HeadCache
from serving.release.startup_queries import startup_queries
from serving.routing.route import RefusedError, Route
from task.labels import Example
from task.progress import Progress, quiet
from task.tokenizer import load_tokenizer
from task.validation import FaultKind

_BATCH = 64
_IN_FLIGHT = 2
_PATIENCE_S = 120.0


def predict(
    bundle: Bundle, examples: Sequence[Example], log: Path, *, use_cache: bool, progress: Progress = quiet
) -> list[tuple[Example, FaultKind | None]]:
    """Start the bundle's engine, label all queries, stop it. The rows keep their order, none is dropped.

    A query without text is not asked and has no labels.

    Returns:
        The queries with their labels, and why an answer is invalid; None for a valid one.

    Raises:
        EngineError: It did not start, or its labels differ from those of the trained student.
    """
    progress.begin("starting the engine")
    with start_checked_engine(bundle, startup_queries(bundle), log) as engine:
        progress.begin("labelling", sum(bool(x.query.strip()) for x in examples))
        return asyncio.run(_answered(bundle, engine.url, examples, use_cache, progress.advance))


async def through_engine(
    bundle: Bundle, url: str, examples: Sequence[Example], use_cache: bool, done: Callable[[int], None]
) -> list[Example]:
    """Label queries through a running engine, a few batches in flight; an invalid answer has no labels.

    Raises:
        EngineError: A batch got no answer: a file of a part of the queries would look like one of all.
    """
    return [row for row, _ in await _answered(bundle, url, examples, use_cache, done)]


async def _answered(
    bundle: Bundle, url: str, examples: Sequence[Example], use_cache: bool, done: Callable[[int], None]
) -> list[tuple[Example, FaultKind | None]]:
    client = engine_kind(bundle, bundle.task.serving).connect(
        bundle, url, load_tokenizer(bundle.model), timeout_s=_PATIENCE_S
    )
    patient = bundle.task.serving.model_copy(update={
        "max_waiting": _BATCH * _IN_FLIGHT, "request_timeout_s": _PATIENCE_S,
    })
    route = Route(bundle, HeadCache(bundle.folder / "cache"), client, patient)
    gate = asyncio.Semaphore(_IN_FLIGHT)
    limit = bundle.task.data.max_query_chars

    async def batch(part: Sequence[Example]) -> list[tuple[Example, FaultKind | None]]:
        async with gate:
            try:
                answers = await route.answers([x.query[:limit] for x in part], use_cache=use_cache)
            except (RefusedError, EngineUnavailableError) as error:
                raise EngineError(
                    f"no labels for {len(part)} of {len(examples):,} queries, from {part[0].query!r} on: {error}. "
                    "Nothing was written"
                ) from error
            done(len(part))
            return [
                (Example(x.query, a.decoded(), x.count, x.id), a.fault) for x, a in zip(part, answers, strict=True)
            ]

    # Queries of one length share a forward pass without padding.
    asked = [i for i, x in enumerate(examples) if x.query.strip()]
    order = sorted(asked, key=lambda i: client.prompt_tokens(examples[i].query[:limit]))
    try:
        parts = [[examples[i] for i in order[at : at + _BATCH]] for at in range(0, len(order), _BATCH)]
        found = [x for part in await asyncio.gather(*(batch(p) for p in parts)) for x in part]
    finally:
        await route.close()
    answered = dict(zip(order, found, strict=True))
    return [answered.get(i, (x, None)) for i, x in enumerate(examples)]
