"""The client of a vLLM process, in the servable's answer form: token ids in, labels out.

Every upstream request is built here from our own fields; of a client's request it contains only the token ids of the
query.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any, Self

import aiohttp
import numpy as np

from engine.interface import EngineUnavailableError
from engine.process import KEEP_ALIVE_S
from engine.servable import Servable
from task.codec import Codec, Encoded, Tokenizer
from task.errors import cause_of
from task.forms import Decoded, is_token_classifier
from task.spec import Task
from task.validation import Fault
from task.written_texts import WrittenTexts, most_tokens

_LIKELIEST = 20  # vLLM's default limit of alternatives (log-probabilities) of a token
_TOO_LONG = Fault("too_long", "the query has more tokens than the engine takes")


class VllmClient:
    """Asks one engine; belongs to one event loop."""

    def __init__(
        self, url: str, *, name: str, task: Task, codec: Codec, tokenizer: Tokenizer, timeout_s: float | None = None,
        head: Sequence[int] | None = None, max_tokens: int | None = None, runs_as: str | None = None,
    ) -> None:
        """Make a client.

        Args:
            name: The model, or the adapter, to ask for.
            timeout_s: Of a request; by default the task's.
            head: Token ids of the columns of the model's scores, where it serves more tasks than this one.
            max_tokens: The engine's limit for prompt and answer together; by default the task's.
            runs_as: How the engine runs the model (`Servable.runs_as`); by default as the codec's form says.
        """
        self._url, self._name, self._task, self._codec, self._tokenizer = url, name, task, codec, tokenizer
        self._runs_as = runs_as or codec.form
        self._most = max_tokens or task.serving.max_model_len
        self._width = len(codec.symbol_ids if head is None else head)
        self._columns = None if head is None else [head.index(i) for i in codec.symbol_ids]
        timeout = aiohttp.ClientTimeout(total=timeout_s or task.serving.request_timeout_s)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(
            limit=0, keepalive_timeout=KEEP_ALIVE_S / 2
        ))

    @classmethod
    def of(
        cls, servable: Servable, url: str, tokenizer: Tokenizer, *, timeout_s: float | None = None,
        max_tokens: int | None = None,
    ) -> Self:
        """A client for a servable."""
        return cls(
            url, name=servable.model_name, task=servable.task, codec=servable.codec, tokenizer=tokenizer,
            timeout_s=timeout_s, head=servable.head, max_tokens=max_tokens, runs_as=servable.runs_as,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def prompt_tokens(self, query: str) -> int:
        """How many tokens the student reads for a query."""
        return len(self._codec.prompt(query, self._tokenizer).ids)

    async def label(self, queries: Sequence[str]) -> list[Decoded]:
        """Labels of queries, in order, each with the student's own probability that they are right as a whole.

        An answer that cannot be used has no labels, and its fault. A query of more tokens than the engine takes is
        not sent, because the engine would refuse the whole request: its fault is `too_long`.

        Raises:
            EngineUnavailableError: Refused, broken, timed out or malformed.
        """
        prompts = [self._codec.prompt(q, self._tokenizer) for q in queries]
        fit = [i for i, (q, p) in enumerate(zip(queries, prompts, strict=True)) if self._fits(q, p)]
        probability = None if self._codec.answer_form.output == "text" else 0.0
        out = [Decoded((), probability, _TOO_LONG)] * len(queries)
        try:
            if is_token_classifier(self._runs_as):
                found = await self._read([queries[i] for i in fit], [prompts[i] for i in fit])
            elif self._runs_as == "prompt_logprobs":
                found = await self._read_likeliest([queries[i] for i in fit], [prompts[i] for i in fit])
            else:
                found = list(await asyncio.gather(*(self._written(queries[i], prompts[i]) for i in fit)))
        except (aiohttp.ClientError, TimeoutError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise EngineUnavailableError(cause_of(error)) from error
        for i, judged in zip(fit, found, strict=True):
            out[i] = judged
        return out

    def _fits(self, query: str, prompt: Encoded) -> bool:
        # `_read_likeliest` sends one token more, and vLLM generates one.
        read_likeliest = self._runs_as == "prompt_logprobs"
        answer = 2 if read_likeliest else self._codec.answer_form.most_generated(self._codec, query)
        return len(prompt.ids) + answer <= self._most

    async def _read(self, queries: Sequence[str], prompts: Sequence[Encoded]) -> list[Decoded]:
        """One forward pass; raw logits come back as base64 floats, a row per prompt token."""
        if not queries:
            return []
        answer = await self._post("/pooling", {
            "model": self._name, "input": [p.ids for p in prompts], "task": "token_classify",
            "add_special_tokens": False, "use_activation": False, "encoding_format": "base64",
            "embed_dtype": "float32",
        })
        rows = sorted(answer["data"], key=lambda r: r["index"])
        out = []
        for query, prompt, row in zip(queries, prompts, rows, strict=True):
            table = np.frombuffer(base64.b64decode(row["data"]), dtype=np.float32)
            scores = table.reshape(len(prompt.ids), self._width)[prompt.positions]
            if self._columns is not None:
                scores = scores[:, self._columns]
            out.append(self._codec.decode(query, scores, self._task))
        return out

    async def _read_likeliest(self, queries: Sequence[str], prompts: Sequence[Encoded]) -> list[Decoded]:
        """One forward pass of a causal LM, which returns the likeliest tokens at each position of the prompt.

        vLLM returns a position's prediction with the token after it, so one more token is sent; it also generates one.
        """
        if not queries:
            return []
        symbols = self._codec.symbol_ids
        asked = min(_LIKELIEST, max(5, len(symbols)))
        answer = await self._post("/v1/completions", {
            "model": self._name, "prompt": [[*p.ids, self._codec.eos_id] for p in prompts], "max_tokens": 1,
            "temperature": 0.0, "prompt_logprobs": asked, "add_special_tokens": False,
        })
        choices = sorted(answer["choices"], key=lambda c: c["index"])
        out = []
        for query, prompt, choice in zip(queries, prompts, choices, strict=True):
            scores = np.empty((len(prompt.positions), len(symbols)))
            for row, position in enumerate(prompt.positions):
                told = {int(k): float(v["logprob"]) for k, v in choice["prompt_logprobs"][position + 1].items()}
                # An upper bound for all others; sorted, because vLLM gives the actual token beside the likeliest.
                least = sorted(told.values())[-asked]
                scores[row] = [told.get(s, least) for s in symbols]
            out.append(self._codec.decode(query, scores, self._task))
        return out

    async def _written(self, query: str, prompt: Encoded) -> Decoded:
        body: dict[str, Any] = {
            "model": self._name, "prompt": prompt.ids, "temperature": 0.0,
            "add_special_tokens": False, "return_token_ids": True,
        }
        form = self._codec.answer_form
        length = form.most_generated(self._codec, query)
        if form.output == "text":
            answer = await self._post("/v1/completions", {**body, "max_tokens": length})
            choice = answer["choices"][0]
            return self._codec.decode(query, (choice["text"], _ended(choice)), self._task)
        symbols = await self._symbols(body, self._codec.allowed_symbols(query))
        if not self._codec.texts:
            return self._codec.decode(query, symbols, self._task) if length else Decoded((), 1.0)
        written = await self._texts({**body, "prompt": [*prompt.ids, *symbols[0]]})
        return self._codec.decode(query, (*symbols, written), self._task)

    async def _symbols(
        self, body: dict[str, Any], allowed: Sequence[frozenset[int]]
    ) -> tuple[list[int], list[float]]:
        """Generated symbols and their log-probabilities: at each place the likeliest of those that can stand there.

        vLLM takes one set of allowed tokens for a request. The first one allows all symbols; only from a place that
        got one which cannot stand there another is sent, for as many places as have the same set.

        Args:
            allowed: The token ids that can stand in each place.
        """
        ids, log_probabilities = list[int](), list[float]()
        strict = False
        while len(ids) < len(allowed):
            rest = allowed[len(ids) :]
            places = next((n for n, a in enumerate(rest) if a != rest[0]), len(rest)) if strict else len(rest)
            answer = await self._post("/v1/completions", {
                **body, "prompt": [*body["prompt"], *ids], "max_tokens": places, "min_tokens": places,
                "allowed_token_ids": sorted(rest[0]) if strict else list(self._codec.symbol_ids),
                "logprobs": 1, "ignore_eos": True,
            })
            choice = answer["choices"][0]
            _ended(choice)
            new, values = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            wrong = next((n for n, (token, of) in enumerate(zip(new, rest, strict=False)) if token not in of), None)
            if len(new) < places or (strict and wrong is not None):  # nor would another request help: decoding says so
                return ids + new, log_probabilities + values
            ids += new[:wrong]
            log_probabilities += values[:wrong]
            strict = wrong is not None
        return ids, log_probabilities

    async def _texts(self, body: dict[str, Any]) -> WrittenTexts:
        """The texts after the symbols: a request of its own, because only symbols may stand before."""
        answer = await self._post(
            "/v1/completions", {**body, "max_tokens": most_tokens(self._codec.texts), "logprobs": 1}
        )
        choice = answer["choices"][0]
        _ended(choice)
        found = choice["token_ids"], choice["logprobs"]["token_logprobs"]
        return self._codec.written_texts(*found, self._tokenizer)

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        """Send; once more where a kept-alive connection turns out to be closed: labelling has no side effects."""
        try:
            return await self._post_once(path, body)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if isinstance(error, aiohttp.ClientConnectorError):  # nothing listens
                raise
            return await self._post_once(path, body)

    async def _post_once(self, path: str, body: dict[str, Any]) -> Any:
        async with self._session.post(self._url + path, json=body) as response:
            if response.status != 200:
                raise EngineUnavailableError(f"HTTP {response.status}: {(await response.text())[:300]}")
            return await response.json()


def _ended(choice: dict[str, Any]) -> bool:
    """Whether the model ended its answer itself, rather than the token limit.

    Raises:
        EngineUnavailableError: The engine did, for `abort` and whatever else it may call it: this is no answer.
    """
    reason = choice.get("finish_reason")
    if reason not in ("stop", "length"):
        raise EngineUnavailableError(f"the engine broke the answer off: finish_reason {reason!r}")
    return bool(reason == "stop")
