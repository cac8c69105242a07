"""A fake of a paid OpenAI-compatible API with faults on request. It counts what it charges."""

from __future__ import annotations

import asyncio
import copy
import json
import re
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
    ok, fenced, 400, 429, 500, moved, disconnect, timeout, truncated, not-json, wrong-role, slow. `delay_s` is what an
    answer takes. What never leaves the server is not charged. `refusal(body)` says why a body is answered with 400, and
    `shape(body, completion)` changes a completion before it is sent, in a batch as well.
    """

    def __init__(self, behaviour: Behaviour = lambda query, nth: "ok") -> None:
        self.behaviour = behaviour
        self.calls: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()  # usable answers, by query
        self.in_flight = 0
        self.delay_s = 0.0
        self.files: dict[str, str] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.slow_to_say: str | None = None  # the step of a batch after which the server delays: upload, make, content
        self.second_thought: Callable[[str], str] = lambda query: "no idea"
        self.refuse: str | None = None  # why batches fail
        self.refusal: Callable[[dict[str, Any]], str | None] = lambda body: None
        self.shape: Callable[[dict[str, Any], dict[str, Any]], Any] = lambda body, completion: completion
        self.slow_down = {"Retry-After": "0.05"}  # the headers of a 429
        self.models: list[str] | None = ["m"]  # None: there is no list
        self.key: str | None = None  # the only key that the list of models takes
        self.headers: list[dict[str, str]] = []
        self.events: list[str] = []
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
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/files", self._upload)
        app.router.add_get("/v1/files/{name}/content", self._content)
        app.router.add_post("/v1/batches", self._make_batch)
        app.router.add_get("/v1/batches", self._list_batches)
        app.router.add_get("/v1/batches/{id}", self._batch)
        runner = web.AppRunner(app)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())

    async def _models(self, request: web.Request) -> web.Response:
        self.events.append("models")
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": {"message": "Incorrect API key"}}, status=401)
        if self.models is None:
            return web.Response(status=404)
        return web.json_response({"object": "list", "data": [{"id": m, "object": "model"} for m in self.models]})

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
        self.headers.append(dict(request.headers))
        if (problem := self.refusal(body)) is not None:
            return web.json_response({"error": {"message": problem}}, status=400)
        if len(body["messages"]) > 2:  # a review: its own answer and the doubts about it
            self.calls["review"] += 1
            return self._reply(body, self.second_thought(body["messages"][1]["content"]))
        for purpose, start in PURPOSES.items():
            if system.startswith(start):
                self.calls[purpose] += 1
                asked = len(re.findall(r"^\d+\. ", query, re.MULTILINE))
                return self._reply(body, REPAIRED if purpose == "repair" else json.dumps({"right": [True] * asked}))
        self.calls[query] += 1
        what = self.behaviour(query, self.calls[query])
        if what == "disconnect":
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if what == "429":
            return web.json_response({"error": "slow down"}, status=429, headers=self.slow_down)
        if what == "moved":
            return web.Response(status=301, headers={"Location": "/v1/elsewhere"})
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
        return web.json_response(self._completion(body, content, cut=cut))

    def _completion(self, body: dict[str, Any], content: str, *, cut: bool = False) -> Any:
        answers = int(body.get("n", 1))
        self.tokens += 100 + 10 * answers
        choice: dict[str, Any] = {"message": {"content": content}, "finish_reason": "length" if cut else "stop"}
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [{"token": c, "logprob": -0.01} for c in content]}
        usage = {"prompt_tokens": 100, "completion_tokens": 10 * answers}
        return self.shape(body, {"choices": [copy.deepcopy(choice) for _ in range(answers)], "usage": usage})

    # -- batch API: a batch moves to its next state with every poll ----------------------------------------------------

    async def _said(self, step: str) -> None:
        self.events.append(step)
        if self.slow_to_say == step:
            await asyncio.sleep(20)

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["purpose"] == "batch"
        name = f"file-{len(self.files)}"
        self.files[name] = form["file"].file.read().decode()  # type: ignore[union-attr]
        await self._said("upload")
        return web.json_response({"id": name})

    async def _make_batch(self, request: web.Request) -> web.Response:
        body = await request.json()
        assert (body["endpoint"], body["completion_window"]) == ("/v1/chat/completions", "24h")
        name = f"batch-{len(self.batches)}"
        self.batches[name] = {
            "id": name, "status": "validating", "metadata": body["metadata"], "input": body["input_file_id"],
        }
        await self._said("make")
        return web.json_response(self.batches[name])

    async def _list_batches(self, request: web.Request) -> web.Response:
        return web.json_response({"data": list(self.batches.values()), "has_more": False})

    async def _batch(self, request: web.Request) -> web.Response:
        batch = self.batches[request.match_info["id"]]
        if self.refuse:
            batch |= {"status": "failed", "errors": {"data": [{"message": self.refuse}]}}
        following = {"validating": "in_progress", "in_progress": "finalizing", "finalizing": "completed"}
        batch["status"] = following.get(batch["status"], batch["status"])
        if batch["status"] == "completed" and "output_file_id" not in batch:
            self._run_batch(batch)
        await self._said(batch["status"])
        return web.json_response(batch)

    def _run_batch(self, batch: dict[str, Any]) -> None:
        """Answer a file of requests; a query that meets `expired` gets no line in either file."""
        output, errors = [], []
        for line in self.files[batch["input"]].splitlines():
            asked = json.loads(line)
            query = asked["body"]["messages"][-1]["content"]
            self.calls[query] += 1
            what = self.behaviour(query, self.calls[query])
            if what == "expired":
                continue
            if what in {"400", "500"} or self.refusal(asked["body"]) is not None:
                status = int(what) if what.isdigit() else 400
                errors.append({"custom_id": asked["custom_id"], "response": {"status_code": status, "body": {}}})
                continue
            label = {"role": "product", "text": query.split()[-1]}
            content = "no idea" if what == "not-json" else json.dumps({"labels": [label]})
            self.paid[query] += what == "ok"
            body = self._completion(asked["body"], content)
            output.append({"custom_id": asked["custom_id"], "response": {"status_code": 200, "body": body}})
        for key, rows in (("output_file_id", output), ("error_file_id", errors)):
            if rows:
                batch[key] = f"{batch['id']}-{key}"
                self.files[batch[key]] = "".join(json.dumps(r) + "\n" for r in rows)

    async def _content(self, request: web.Request) -> web.Response:
        await self._said("content")
        return web.Response(text=self.files[request.match_info["name"]])
