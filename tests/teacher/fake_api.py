"""A local server that plays a paid OpenAI-compatible API, and misbehaves on request. It counts what it charges."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from aiohttp import web

Behaviour = Callable[[str, int], str]
# How the prompts that are not about labelling begin; their calls are counted by purpose.
PURPOSES = {"repair": "The text that follows", "verify": "You check labels"}
REPAIRED = json.dumps({"labels": []})


class FakeApi:
    """Runs in a thread. `behaviour(query, nth call for it)` names what happens:
    ok, fenced, 400, 429, 500, disconnect, timeout, truncated, not-json, wrong-role, slow. `delay_s` is what an answer
    takes. What never leaves the server is not charged.
    """

    def __init__(self, behaviour: Behaviour = lambda query, nth: "ok") -> None:
        self.behaviour = behaviour
        self.calls: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()  # usable answers, by query
        self.in_flight = 0
        self.delay_s = 0.0
        self.tokens = 0
        self.bodies: list[dict[str, Any]] = []
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _run(self) -> None:
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        runner = web.AppRunner(app)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.in_flight += 1
        try:
            return await self._behave(request)
        finally:
            self.in_flight -= 1

    async def _behave(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        system, query = body["messages"][0]["content"], body["messages"][-1]["content"]
        self.bodies.append(body)
        for purpose, start in PURPOSES.items():
            if system.startswith(start):
                self.calls[purpose] += 1
                return self._reply(body, REPAIRED if purpose == "repair" else json.dumps({"right": [True] * 9}))
        self.calls[query] += 1
        what = self.behaviour(query, self.calls[query])
        if what == "disconnect":
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if what == "429":
            return web.json_response({"error": "slow down"}, status=429, headers={"Retry-After": "0.05"})
        if what in {"400", "500"}:
            return web.json_response({"error": "no"}, status=int(what))
        if what == "timeout":
            await asyncio.sleep(30)
        await asyncio.sleep(0.3 if what == "slow" else self.delay_s)
        label = {"role": "product", "text": query.split()[-1]}
        if what == "wrong-role":
            label["role"] = "flavour"
        content = json.dumps({"labels": [label]})
        content = {"fenced": f"Sure!\n```json\n{content}\n```\nDone.", "not-json": "no idea"}.get(what, content)
        self.paid[query] += what in {"ok", "slow", "fenced"}
        return self._reply(body, content[:5] if what == "truncated" else content, cut=what == "truncated")

    def _reply(self, body: dict[str, Any], content: str, *, cut: bool = False) -> web.Response:
        answers = int(body.get("n", 1))
        self.tokens += 100 + 10 * answers
        choice: dict[str, Any] = {"message": {"content": content}, "finish_reason": "length" if cut else "stop"}
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [{"token": c, "logprob": -0.01} for c in content]}
        usage = {"prompt_tokens": 100, "completion_tokens": 10 * answers}
        return web.json_response({"choices": [choice] * answers, "usage": usage})
