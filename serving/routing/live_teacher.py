"""A teacher asked while a client waits, about what the student doubts and within a budget. Off by default.

One query in a hundred that waits for an LLM makes the service's p99 the LLM's. Where a few right answers are worth it,
`serving.consult.per_hour` allows so many calls; what they say is kept like a student's answer (`serving.write_back`),
so that a query is paid for once. The teacher sees roles and instructions, but no evidence: retrieval belongs to the
labelling job.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import aiohttp

from task.forms import json_text as json_form
from task.labels import Labelling
from task.serving_settings import Consult
from task.spec import ExampleSpec, Task
from task.validation import violation

_HOUR_S: Final = 3_600.0
_MOST_TOKENS: Final = 512


class Teacher:
    """Asks an OpenAI-compatible endpoint; belongs to one event loop."""

    def __init__(
        self, settings: Consult, task: Task, sharers: int = 1, note: Callable[[str], None] = lambda _outcome: None
    ) -> None:
        """Prepare to ask.

        Args:
            sharers: Processes that share the budget; each has its part of it.
            note: Told of every doubtful query what came of it: `answered`, `failed`, `budget`.
        """
        self._settings, self._task, self._note = settings, task, note
        self._url = f"{settings.base_url.rstrip('/')}/chat/completions"
        self._system = {"role": "system", "content": instructions(task)}
        self._format = {"type": "json_schema", "json_schema": {"name": "labels", "strict": True, "schema": {
            "type": "object", "properties": {"labels": json_form.schema(task)}, "required": ["labels"],
            "additionalProperties": False,
        }}}
        self._most = settings.per_hour // sharers
        self._calls: deque[float] = deque()
        self._flying: dict[str, asyncio.Task[Labelling | None]] = {}
        key = os.environ.get(settings.api_key_env)
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=settings.timeout_s),
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )

    async def label(self, query: str, patience_s: float, keep: Callable[[Labelling], None]) -> Labelling | None:
        """Labels of a query, those that the task allows; None where the budget is spent or no answer came in time.

        Args:
            keep: Told of the labels, also where nobody waits for them any longer: they have been paid for.
        """
        call = self._flying.get(query)
        if call is None:
            if not self._affordable():
                self._note("budget")
                return None
            call = asyncio.get_running_loop().create_task(self._ask(query, keep))
            self._flying[query] = call
            call.add_done_callback(lambda _: self._flying.pop(query, None))
        try:
            return await asyncio.wait_for(asyncio.shield(call), max(0.0, patience_s))
        except TimeoutError:
            return None

    def _affordable(self) -> bool:
        now = time.monotonic()
        while self._calls and now - self._calls[0] >= _HOUR_S:
            self._calls.popleft()
        if len(self._calls) >= self._most:
            return False
        self._calls.append(now)
        return True

    async def _ask(self, query: str, keep: Callable[[Labelling], None]) -> Labelling | None:
        try:
            async with self._session.post(self._url, json=self._body(query)) as response:
                response.raise_for_status()
                choice = (await response.json())["choices"][0]
            said = choice["message"]["content"] if choice.get("finish_reason") == "stop" else None
            labels = json_form.parse(query, said, self._task) if isinstance(said, str) else None
        except (aiohttp.ClientError, TimeoutError, LookupError, TypeError, ValueError):
            labels = None
        if labels is not None and violation(self._task, query, labels):
            labels = None
        if labels is not None:
            keep(labels)
        self._note("failed" if labels is None else "answered")
        return labels

    def _body(self, query: str) -> dict[str, Any]:
        return {
            "model": self._settings.model, "temperature": 0.0, "max_tokens": _MOST_TOKENS,
            "messages": [self._system, {"role": "user", "content": query}], "response_format": self._format,
        }

    async def close(self) -> None:
        """Let go of the connections; calls on their way are lost."""
        for call in list(self._flying.values()):
            call.cancel()
        await asyncio.gather(*self._flying.values(), return_exceptions=True)
        await self._session.close()


def _answer(example: ExampleSpec) -> str:
    rows = [{"role": x.role, "text": x.text} for x in example.labels]
    return json.dumps({"labels": rows}, ensure_ascii=False)


def instructions(task: Task) -> str:
    """What the teacher is told of a task, with its examples."""
    roles = "\n".join(
        f"- {r.name}: {r.description or 'see its name'}" + (f"; one of {', '.join(r.values)}" if r.values else "")
        for r in task.roles
    )
    examples = "\n".join(f"{e.query}\n{_answer(e)}" for e in task.examples)
    return "\n\n".join(x for x in (
        task.instructions, f"Roles:\n{roles}",
        'Answer with JSON, {"labels": [{"role": …, "text": …}]}; a text is words of the query, or one of the listed '
        "values.", f"Examples:\n{examples}" if examples else "",
    ) if x)
