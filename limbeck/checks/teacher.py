"""Checks of a teacher: roles that it cannot label; of an LLM prompt, price, key, and that both are accepted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from limbeck.checks.finding import Finding, Subject, bad, note, ok, told, tried
from limbeck.labelling_plan import spending
from task.errors import InputError, cause_of
from task.settings import OpenAI

if TYPE_CHECKING:
    import aiohttp

_TIMEOUT_S = 20.0
_SHOWN = 5


def teacher(s: Subject) -> Iterator[Finding]:
    """Roles that the catalogue cannot label, and everything that a call of an LLM needs."""
    from teacher.backends.backend import backend_of

    backend = backend_of(s.task)
    if s.task.teacher.backend == "catalog":
        yield from _unlabelled(s)
    if not backend.asks_llm:
        return
    yield tried("teacher.openai.prompt", lambda: _prompt(s))
    yield from _candidates(s)
    if backend.local:
        return
    settings = s.task.teacher.openai
    yield _price(settings, batch=backend.batch)
    if s.labelled:
        yield ok("teacher.openai.api_key_env", "not needed: all labels are there")
        return
    if settings.budget:
        yield from _budget(s, settings.budget)
    yield _key(settings)
    if s.call:
        yield asyncio.run(_asked(settings))


def _unlabelled(s: Subject) -> Iterator[Finding]:
    """Open roles for which the backend `catalog` has neither values nor a pattern."""
    for role in s.task.open_roles:
        if role.catalogue is None and role.pattern is None:
            yield note(
                f"roles.{role.name}", "teacher.backend `catalog` never gives this role: it has no values of it",
                "Name the catalogue field that holds them (`catalogue: attributes.NAME`) or a `pattern`; or let an LLM "
                "label, or leave the role out",
            )


def _prompt(s: Subject) -> str:
    from llm_client.prompt import Prompter

    return f"{len(Prompter(s.task).source):,} characters in {s.task.teacher.openai.prompt}"


def _candidates(s: Subject) -> Iterator[Finding]:
    """Roles with too many values for a prompt have candidates."""
    kinds = s.task.teacher.openai.context
    for role in (r for r in s.task.closed_roles if r.shortlisted):
        if "similar" not in kinds and not (role.catalogue and "converted" in kinds):
            yield note(
                f"roles.{role.name}",
                f"{len(role.values):,} values are too many to list, and the prompt has no candidates",
                "Add `similar` to teacher.openai.context; or `converted`, with `catalogue` of the role",
            )


def _price(settings: OpenAI, *, batch: bool) -> Finding:
    from llm_client.prices import needed_price, price_of

    name, price = "teacher.openai: price", price_of(settings, batch=batch)
    if settings.budget:
        try:
            price = needed_price(settings, batch=batch)
        except InputError as error:
            return bad(name, str(error))
    if price is None:
        return note(
            name, f"{settings.model} has no known price, so costs cannot be told or limited",
            "Set price_input_per_million and price_output_per_million beside the model",
        )
    limit = f"; budget {settings.budget:g}" if settings.budget else "; no budget"
    return ok(name, f"{price.input:g} and {price.output:g} per million tokens, from {price.source}{limit}")


def _budget(s: Subject, budget: float) -> Iterator[Finding]:
    """Whether the budget is enough by the estimate of `limbeck plan`; nothing where that cannot be made."""
    name = "teacher.openai.budget"
    with told():  # what there is to say of the tables is said where they are read
        try:
            found = spending(s.task, s.run) if s.readable else None
        except InputError:  # as above
            return
    if found is None:
        return
    if found.needed <= budget:
        yield ok(name, f"{budget:g} is enough; {found.basis}")
    else:
        yield note(
            name, f"{budget:g} may stop the job early: {found.basis}",
            "Raise it, or let it stop: what was paid for is kept, and a higher budget goes on from there",
        )


def _key(settings: OpenAI) -> Finding:
    from llm_client.connection import authorization, proxy_for

    name, host = f"key in {settings.api_key_env}", urlsplit(settings.base_url).hostname or settings.base_url
    try:
        found = authorization(settings.api_key_env)
        proxy = proxy_for(settings.base_url)
    except InputError as error:
        return bad(name, str(error))
    way = f", through the proxy {urlsplit(proxy).hostname}" if proxy else ""
    if found:
        return ok(name, f"set, for {host}{way}")
    if host == "api.openai.com":
        return bad(name, f"not set, and {host} refuses calls without a key", f"export {settings.api_key_env}=…")
    return note(name, f"not set: calls to {host}{way} go out without a key")


async def _asked(settings: OpenAI) -> Finding:
    """The list of models, which costs nothing, tells whether the key is accepted and the model is there."""
    import aiohttp

    from llm_client.client import open_session
    from llm_client.connection import authorization, proxy_for

    name, url = "teacher.openai.base_url", settings.base_url.rstrip("/") + "/models"
    with_key, tells_all = bool(authorization(settings.api_key_env)), False
    try:
        async with open_session(settings) as session:
            status, raw = await _get(session, url)
        if with_key and status == 200:  # the answer says that the key is good only if there is none without it
            async with aiohttp.ClientSession(proxy=proxy_for(settings.base_url)) as stranger:
                tells_all = (await _get(stranger, url))[0] not in {401, 403}
    except (aiohttp.ClientError, TimeoutError) as error:
        return bad(name, f"GET {url}: {cause_of(error)}", "Check the address, the network and the proxy")
    if status in {401, 403}:
        return bad(name, f"GET {url}: HTTP {status}: the key is refused", f"Check the key in {settings.api_key_env}")
    models = _models(raw) if status == 200 else []
    if not models:
        return note(name, f"GET {url}: HTTP {status}, no list of models: only a paid call can try key and model")
    if settings.model not in models:
        shown = ", ".join(models[:_SHOWN])
        return bad(name, f"the endpoint lists {len(models):,} models, and not {settings.model!r}: {shown}, …",
                   "Check teacher.openai.model")
    if not with_key:
        return ok(name, f"answers without a key, and {settings.model} is listed")
    if tells_all:
        return note(name, f"answers, and {settings.model} is listed, to anybody: only a paid call can try the key")
    return ok(name, f"answers; the key is accepted, and {settings.model} is listed")


async def _get(session: aiohttp.ClientSession, url: str) -> tuple[int, bytes]:
    """Status and body."""
    import aiohttp

    async with session.get(url, timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as response:
        return response.status, await response.read()


def _models(raw: bytes) -> list[str]:
    """The ids of a list of models; none for anything else."""
    try:
        body: Any = json.loads(raw)
        return [str(m["id"]) for m in body["data"]]
    except (ValueError, LookupError, TypeError):
        return []
