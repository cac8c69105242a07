"""A fake engine: a local HTTP server that answers as vLLM does by a rule, counts requests, and can misbehave."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from aiohttp import web

from task.codec import Codec
from task.labels import Example, Label
from task.tokenizer import FastTokenizer

Mood = Literal["well", "hanging", "broken", "garbled", "short", "gone", "stale", "nan"]


@dataclass
class StandIn:
    """Words in capitals are products, everything else is outside; `sure` is the logit of what it says.

    `choice` replaces parts of the completion that it would give to the forms `write` and `json`.
    """

    codec: Codec
    tokenizer: FastTokenizer
    mood: Mood = "well"
    delay_s: float = 0.0
    sure: float = 20.0
    one_at_a_time: bool = False
    choice: dict[str, Any] = field(default_factory=dict)
    requests: int = 0
    asked: list[int] = field(default_factory=list)
    url: str = ""
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _known: set[object] = field(default_factory=set)

    async def pooling(self, request: web.Request) -> web.StreamResponse:
        """vLLM's token classification: a row of scores for each token of each prompt."""
        body = await request.json()
        self.requests += 1
        self.asked.append(len(body["input"]))
        if self.mood == "hanging":
            await asyncio.sleep(3_600)
        async with self._turn if self.one_at_a_time else nullcontext():
            await asyncio.sleep(self.delay_s)
        if self.mood == "broken":
            return web.json_response({"error": "EngineDeadError"}, status=500)
        if self.mood == "garbled":
            return web.Response(text='{"data": [{"index": 0, "da', content_type="application/json")
        stale = self.mood == "stale" and request.transport in self._known  # it waited longer than servers keep one open
        self._known.add(request.transport)
        if self.mood == "gone" or stale:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        rows = [
            {"index": i, "data": base64.b64encode(self.scores(ids).tobytes()).decode()}
            for i, ids in enumerate(body["input"])
        ]
        return web.json_response({"data": rows[:-1] if self.mood == "short" else rows[::-1]})

    def scores(self, ids: list[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Shape (tokens, symbols)."""
        table = np.zeros((len(ids), len(self.codec.symbol_ids)), dtype=np.float32)
        begin = 1 + 2 * self.codec.roles.index("product")
        for row, token in enumerate(ids):
            text = self.tokenizer.decode([token]).strip()
            table[row, begin if text.isupper() else 0] = np.nan if self.mood == "nan" else self.sure
        for closed in self.codec.closed:
            table[-self.codec.probe_count :, closed.symbols[0]] = self.sure
        return table


    async def completions(self, request: web.Request) -> web.StreamResponse:
        """vLLM's completion of one prompt of token ids, in the form `write` or `json`."""
        body = await request.json()
        self.requests += 1
        query = self.tokenizer.decode(body["prompt"][len(self.codec.prefix) :]).removesuffix("\n")
        at = 0
        labels = []
        for word in query.split():
            at = query.index(word, at)
            if word.isupper():
                labels.append(Label("product", word, at, at + len(word)))
            at += len(word)
        ids = self.codec.answer_form.answer(self.codec, Example(query, tuple(labels)), self.tokenizer)
        generated = self.codec.answer_form.output == "text"
        return web.json_response({"choices": [{
            "index": 0, "text": self.tokenizer.decode(ids[:-1] if generated else ids), "token_ids": ids,
            "logprobs": {"token_logprobs": [-0.01] * len(ids)}, "finish_reason": "stop" if generated else "length",
            **self.choice,
        }]})


@asynccontextmanager
async def engine(codec: Codec, tokenizer: FastTokenizer) -> AsyncIterator[StandIn]:
    """The server, running."""
    found = StandIn(codec, tokenizer)
    app = web.Application(client_max_size=1 << 24)
    app.router.add_post("/pooling", found.pooling)
    app.router.add_post("/v1/completions", found.completions)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    found.url = f"http://127.0.0.1:{port}"
    try:
        yield found
    finally:
        await runner.cleanup()
