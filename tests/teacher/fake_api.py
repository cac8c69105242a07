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


class FakeApi:
    """Runs in a thread. `behaviour(query, nth call for it)` names what happens:
    ok, fenced, 400, 429, 500, disconnect, truncated, not-json, wrong-role, slow.
    """

    def __init__(self, behaviour: Behaviour = lambda query, nth: "ok") -> None:
        self.behaviour = behaviour
        self.calls: Counter[str] = Counter()
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
        body = await request.json()
        query = body["messages"][-1]["content"]
        self.calls[query] += 1
        self.bodies.append(body)
        what = self.behaviour(query, self.calls[query])
        if what == "disconnect":
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if what == "429":
            return web.json_response({"error": "slow down"}, status=429, headers={"Retry-After": "0.05"})
        if what in {"400", "500"}:
            return web.json_response({"error": "no"}, status=int(what))
        if what == "slow":
            await asyncio.sleep(0.3)
        label = {"role": "product", "text": query.split()[-1]}
        if what == "wrong-role":
            label["role"] = "flavour"
        content = json.dumps({"labels": [label]})
        content = {"fenced": f"Sure!\n```json\n{content}\n```\nDone.", "not-json": "no idea"}.get(what, content)
        self.tokens += 110
        return web.json_response({
            "choices": [{
                "message": {"content": content[:5] if what == "truncated" else content},
                "finish_reason": "length" if what == "truncated" else "stop",
            }],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10},
        })
