"""An LLM that is asked about queries with uncertain labels while the client waits, within a budget. Off by default.

If one query in a hundred waits for an LLM, the service's p99 is the LLM's. Where that is worth it,
`serving.consult.per_hour` allows so many calls; their labels are kept like a student's answer (`serving.write_back`),
so that each query is paid for once. The prompt has roles, instructions and examples, but no retrieved evidence:
retrieval belongs to the labelling job.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import aiohttp

from llm_client.body import sent_body
from llm_client.completion import parse_completion
from llm_client.connection import authorization, proxy_for, tell_missing_key
from llm_client.label_schema import labels_response_format
from llm_client.reply import rows_of
from task.forms import json_text as json_form
from task.labels import Labelling
from task.serving_settings import Consult
from task.spec import ExampleSpec, Task
from task.validation import violation

_HOUR_S: Final = 3_600.0
_MAX_TOKENS: Final = 512


class LiveTeacher:
    """Asks an OpenAI-compatible endpoint; belongs to one event loop."""

    def __init__(
        self, settings: Consult, task: Task, *, processes: int = 1,
        on_outcome: Callable[[str], None] = lambda _outcome: None,
    ) -> None:
        """Prepare to ask.

        Args:
            processes: Processes that share the budget; each has an equal part of it.
            on_outcome: Called with the outcome of every query: `answered`, `failed`, `budget`.

        Raises:
            InputError: The key or the proxy of the environment cannot be used.
        """
        self._settings, self._task, self._on_outcome = settings, task, on_outcome
        self._url = f"{settings.base_url.rstrip('/')}/chat/completions"
        self._system = {"role": "system", "content": instructions(task)}
        self._format = labels_response_format(task).sent
        self._max_calls = settings.per_hour // processes
        self._calls: deque[float] = deque()
        self._in_flight: dict[str, asyncio.Task[Labelling | None]] = {}
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=settings.timeout_s), headers=authorization(settings.api_key_env),
            proxy=proxy_for(settings.base_url),
        )

    async def label(self, query: str, *, timeout_s: float, keep: Callable[[Labelling], None]) -> Labelling | None:
        """Labels of a query that the task allows; None where the budget is spent or no answer came in time.

        Args:
            keep: Called with the labels, also where they come after `timeout_s`: they have been paid for.
        """
        call = self._in_flight.get(query)
        if call is None:
            if not self._within_budget():
                self._on_outcome("budget")
                return None
            call = asyncio.get_running_loop().create_task(self._ask(query, keep))
            self._in_flight[query] = call
            call.add_done_callback(lambda _: self._in_flight.pop(query, None))
        try:
            return await asyncio.wait_for(asyncio.shield(call), max(0.0, timeout_s))
        except TimeoutError:
            return None

    def _within_budget(self) -> bool:
        now = time.monotonic()
        while self._calls and now - self._calls[0] >= _HOUR_S:
            self._calls.popleft()
        if len(self._calls) >= self._max_calls:
            return False
        self._calls.append(now)
        return True

    async def _ask(self, query: str, keep: Callable[[Labelling], None]) -> Labelling | None:
        try:
            async with self._session.post(self._url, json=self._body(query)) as response:
                response.raise_for_status()
                answers, _ = parse_completion(await response.read())
            answer = answers[0]
            rows = rows_of(answer.text) if answer.ending == "complete" and answer.text is not None else None
            labels = None if rows is None else json_form.parse(query, json.dumps(rows), self._task)
        except (aiohttp.ClientError, TimeoutError, LookupError, TypeError, ValueError):
            labels = None
        if labels is not None and violation(self._task, query, labels):
            labels = None
        if labels is not None:
            keep(labels)
        self._on_outcome("failed" if labels is None else "answered")
        return labels

    def _body(self, query: str) -> dict[str, Any]:
        own = {
            "model": self._settings.model, "temperature": 0.0, "max_tokens": _MAX_TOKENS,
            "messages": [self._system, {"role": "user", "content": query}], "response_format": self._format,
        }
        return sent_body(own, self._settings.extra_body)

    async def close(self) -> None:
        """Close the connections; calls in flight are cancelled."""
        for call in list(self._in_flight.values()):
            call.cancel()
        await asyncio.gather(*self._in_flight.values(), return_exceptions=True)
        await self._session.close()


def check_environment(settings: Consult) -> None:
    """Refuse a key or a proxy of the environment that no `LiveTeacher` could use, and tell of a missing key.

    It is called before workers start.

    Raises:
        InputError: The key or the proxy cannot be used.
    """
    if settings.per_hour:
        authorization(settings.api_key_env)
        tell_missing_key(settings)
        proxy_for(settings.base_url)


def _answer(example: ExampleSpec) -> str:
    rows = [{"role": x.role, "text": x.text} for x in example.labels]
    return json.dumps({"labels": rows}, ensure_ascii=False)


def instructions(task: Task) -> str:
    """The system message for a task, with its examples."""
    roles = "\n".join(
        f"- {r.name}: {r.description or 'see its name'}" + (f"; one of {', '.join(r.values)}" if r.values else "")
        + (f"; other words for the query, at most {r.most_texts}" if r.kind == "text" else "") for r in task.roles
    )
    other = f", or, for {', '.join(r.name for r in task.text_roles)}, other words for the query" * bool(task.text_roles)
    examples = "\n".join(f"{e.query}\n{_answer(e)}" for e in task.examples)
    return "\n\n".join(x for x in (
        task.instructions, f"Roles:\n{roles}",
        'Answer with JSON, {"labels": [{"role": …, "text": …}]}; a text is words of the query, or one of the listed '
        f"values{other}.", f"Examples:\n{examples}" if examples else "",
    ) if x)
