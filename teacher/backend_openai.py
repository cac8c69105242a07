"""The `openai` backend: any OpenAI-compatible chat endpoint, asked with instructions, evidence and examples.

The request is built here, field by field, and its hash is the ledger's key: whatever could change the reply is in
it. A 4xx is tried once; 429, 5xx and broken connections are tried again after the server's Retry-After or a growing
pause; a reply cut by the token limit is an error, not something to parse.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import jinja2

from task import json_form
from task.errors import InputError
from task.files import sha256_json
from task.labels import Example
from task.spec import OpenAI, Task
from teacher.ledger import Attempt

_RETRIED = frozenset({408, 409, 429})
_Queue = asyncio.Queue[tuple[Attempt, asyncio.Event] | None]


@dataclass(frozen=True, slots=True)
class Request:
    """A request body with the query that it is about; `key` covers everything that could change the reply."""

    query: str
    body: Mapping[str, Any]
    evidence: Mapping[str, Any]
    key: str


class OpenAITeacher:
    """Builds requests and sends them."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.settings: OpenAI = task.teacher.openai
        path = Path(self.settings.prompt or "")
        try:
            source = path.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError("cannot read the prompt", file=path, field="teacher.openai.prompt") from error
        environment = jinja2.Environment(  # noqa: S701 (a prompt is plain text, not HTML)
            undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise InputError(f"not a Jinja template: {error.message}", file=path, line=error.lineno) from error
        self._schema = {
            "type": "object", "properties": {"labels": json_form.schema(task)}, "required": ["labels"],
            "additionalProperties": False,
        }

    def request(
        self, query: str, evidence: Mapping[str, Any], neighbours: Sequence[Example] = ()
    ) -> Request:
        """The request for one query.

        Args:
            evidence: What the template may show: `items`, `conversions`, `neighbours`.
            neighbours: Labelled examples to show; never evaluation rows.
        """
        s = self.settings
        shown = [x.to_json() for x in neighbours] or [e.model_dump() for e in self._task.examples]
        system = self._template.render(task=self._task, evidence=evidence, examples=shown[: s.few_shot])
        body: dict[str, Any] = {
            "model": s.model,
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": query}],
            "temperature": s.temperature,
            "max_tokens": s.max_tokens,
        }
        if s.structured_output:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "labels", "schema": self._schema, "strict": True},
            }
        return Request(query, body, evidence, sha256_json({"base_url": s.base_url, "body": body}))

    async def send(self, requests: Sequence[Request]) -> AsyncIterator[Attempt]:
        """Send requests, at most `concurrency` at a time; every try comes out as an attempt, failed ones included.

        A request keeps its place until its attempt was taken and the next one asked for, so at most `concurrency`
        replies are paid for and not yet in the caller's hands. The last attempt of a request that has `reply=None`
        means that the request failed.
        """
        s = self.settings
        key = os.environ.get(s.api_key_env, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        queue: _Queue = asyncio.Queue()
        gate = asyncio.Semaphore(s.concurrency)
        timeout = aiohttp.ClientTimeout(total=s.timeout_s)
        connector = aiohttp.TCPConnector(limit=s.concurrency)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as session:

            async def worker(request: Request) -> None:
                try:
                    async with gate:
                        await self._with_retries(session, request, queue)
                finally:
                    await queue.put(None)

            tasks = [asyncio.create_task(worker(r)) for r in requests]
            open_workers = len(tasks)
            try:
                while open_workers:
                    arrived = await queue.get()
                    if arrived is None:
                        open_workers -= 1
                    else:
                        attempt, taken = arrived
                        yield attempt
                        taken.set()
                await asyncio.gather(*tasks)
            finally:
                for t in tasks:
                    t.cancel()

    async def _with_retries(
        self, session: aiohttp.ClientSession, request: Request, queue: _Queue
    ) -> None:
        for number in range(1, self.settings.max_attempts + 1):
            started = time.monotonic()
            attempt, wait = await self._once(session, request, started)
            taken = asyncio.Event()
            await queue.put((attempt, taken))
            await taken.wait()
            if wait is None or number == self.settings.max_attempts:
                return
            await asyncio.sleep(max(wait, min(30.0, 0.5 * 2 ** (number - 1))))

    async def _once(
        self, session: aiohttp.ClientSession, request: Request, started: float
    ) -> tuple[Attempt, float | None]:
        """One call: the attempt, and the seconds to wait before another, or None when there shall be none."""
        url = self.settings.base_url.rstrip("/") + "/chat/completions"
        try:
            async with session.post(url, json=request.body) as response:
                text = await response.text()
                if response.status != 200:
                    again = response.status in _RETRIED or response.status >= 500
                    wait = _retry_after(response.headers.get("Retry-After")) if again else None
                    return self._attempt(request, started, {}, f"HTTP {response.status}: {text[:500]}"), wait
        except (aiohttp.ClientError, TimeoutError) as error:
            return self._attempt(request, started, {}, f"{type(error).__name__}: {error}"), 0.0
        try:
            reply = json.loads(text)
            choice = reply["choices"][0]
            content = choice["message"]["content"]
        except (ValueError, LookupError, TypeError):
            return self._attempt(request, started, {}, f"not a chat completion: {text[:500]}"), 0.0
        usage = reply.get("usage") or {}
        if choice.get("finish_reason") == "length":
            return self._attempt(request, started, usage, "the reply was cut by max_tokens"), None
        if not isinstance(content, str) or labels_of(content) is None:
            return self._attempt(request, started, usage, f"not a list of labels: {str(content)[:500]}"), 0.0
        return self._attempt(request, started, usage, None, content), None

    def _attempt(
        self, request: Request, started: float, usage: Mapping[str, Any], error: str | None, reply: str | None = None
    ) -> Attempt:
        s = self.settings
        tokens_in, tokens_out = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        cost = tokens_in * (s.price_input_per_million or 0.0) + tokens_out * (s.price_output_per_million or 0.0)
        return Attempt(
            request.key, request.query, "openai", s.model, request.evidence, reply, error, tokens_in, tokens_out,
            cost / 1e6, time.monotonic() - started,
        )


def labels_of(content: str) -> list[Mapping[str, Any]] | None:
    """The label rows of a reply: an object with `labels` or a list, fenced or followed by text, or None."""
    for opening, closing in ("{}", "[]"):
        first, last = content.find(opening), content.rfind(closing)
        if 0 <= first < last:
            try:
                value = json.loads(content[first : last + 1])
            except ValueError:
                continue
            rows = value.get("labels") if isinstance(value, dict) else value
            if isinstance(rows, list):
                return [r for r in rows if isinstance(r, dict)]
    return None


def _retry_after(value: str | None) -> float:
    try:
        return min(300.0, float(value or 0.0))
    except ValueError:
        return 1.0
