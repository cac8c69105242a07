"""Starting an engine: its process, its adapter, the warm-up, and a check against the trained student.

The check compares the engine's labels with those that the trained student gave outside of any engine. An engine that
differs, for whatever reason, is not used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from engine.interface import Engine, EngineError, EngineUnavailableError, StudentClient
from engine.kind import engine_kind
from engine.servable import Servable, StartupQueries
from eval.quality import label_agreement
from task.forms import Decoded
from task.labels import Example
from task.serving_settings import Serving
from task.tokenizer import load_tokenizer

_BATCH = 8
TIMEOUT_S = 120.0  # no client waits yet; with adapters a CPU answers two queries a second


def start_engine(
    servable: Servable, log: Path, *, settings: Serving | None = None, port: int | None = None
) -> Engine:
    """Start the engine that a servable needs, without waiting; its adapter, if it has one, is yet to be loaded.

    Args:
        settings: By default those of the servable's task.
    """
    settings = settings or servable.task.serving
    if settings.quantization == "fp8":
        settings = settings.model_copy(update={"extra_args": (*settings.extra_args, "--quantization", "fp8")})
    kind = engine_kind(servable, settings)
    return kind.start(
        kind.model_folder(servable), name=servable.engine_name, runs_as=servable.runs_as, settings=settings, log=log,
        port=port, adapters=settings.adapters if servable.adapter is not None else None,
    )


def start_checked_engine(servable: Servable, queries: StartupQueries, log: Path) -> Engine:
    """An engine that serves one servable, its adapter loaded, warmed up and checked; it belongs to the caller.

    Raises:
        EngineError: It did not start, or its labels differ from the trained student's; no process is left behind.
    """
    settings = servable.task.serving

    async def warm_up() -> None:
        client = engine_kind(servable, settings).connect(
            servable, engine.url, load_tokenizer(servable.model), timeout_s=TIMEOUT_S
        )
        try:
            await warm_up_and_check(client, queries, min_agreement=settings.self_check)
        except EngineUnavailableError as error:
            raise EngineError(f"{servable.model_name}: {error}") from error
        finally:
            await client.close()

    engine = start_engine(servable, log)
    try:
        engine.wait_ready()
        if servable.adapter is not None:
            engine.load_adapter(servable.model_name, servable.adapter)
        with ThreadPoolExecutor(1) as thread:  # the caller may be in an event loop, as a Ray Serve replica is
            thread.submit(asyncio.run, warm_up()).result()
    except BaseException:
        engine.close()
        raise
    return engine


async def warm_up_and_check(student: StudentClient, queries: StartupQueries, *, min_agreement: float) -> None:
    """Warm up and check an engine; raises `EngineError` like `check`, or `EngineUnavailableError`."""
    for query in queries.warm_up:
        await student.label([query])
    await student.label(queries.warm_up)
    await check(student, queries.reference, min_agreement=min_agreement)


async def check(student: StudentClient, reference: Sequence[Example], *, min_agreement: float) -> None:
    """Raise `EngineError` where an engine gives less than this share of the labels that the trained student gave.

    Also where more answers than the rest cannot be used: an engine that answers nothing has all labels in common with a
    student that gave none.
    """
    if not reference:
        return
    judged: list[Decoded] = []
    for at in range(0, len(reference), _BATCH):  # small requests: a slow engine must answer each before the time-out
        judged += await student.label([x.query for x in reference[at : at + _BATCH]])
    answers = [Example(x.query, j.labels) for x, j in zip(reference, judged, strict=True)]
    faults = [j.fault for j in judged if j.fault is not None]
    if len(faults) > (1.0 - min_agreement) * len(judged):
        raise EngineError(
            f"{len(faults)} of {len(judged)} of the engine's answers cannot be used: {faults[0].kind}, "
            f"{faults[0].detail}; serving.self_check allows {1.0 - min_agreement:.0%}"
        )
    agreement = label_agreement(reference, answers)
    if agreement < min_agreement:
        raise EngineError(
            f"the engine gives {agreement:.1%} of the labels that the trained student gave to {len(reference)} queries"
            f"; serving.self_check requires {min_agreement:.0%}"
        )
