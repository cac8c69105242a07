"""The `openai-batch` backend: the provider's batch files, at half the price and within a day.

Requests are the same as `openai`'s, so what one backend has paid for the other need not ask again. A file of requests
is uploaded, a batch made of it, polled, and its answers collected. Where a batch stands is in the ledger before and
after each step, so a kill at any moment is picked up: a batch that was made and not noted is found by the token in its
metadata, a file without a batch is given up (it costs nothing), a batch without answers is waited for. What has no
usable answer afterwards goes into the next batch, and nothing else does.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import aiohttp

from llm_client.attempt import Attempt, Outcome
from llm_client.budget import Budget, check
from llm_client.client import authorization, read_completion
from llm_client.prices import needed_price, price_of
from llm_client.prompt import Prompter
from llm_client.request import Request
from task.errors import ComponentError
from task.progress import Progress
from task.settings import OpenAI
from teacher.backends.job import Job
from teacher.backends.llm.backend import Block, contexts
from teacher.backends.llm.conversation import Asker, usable
from teacher.guardrails.judge import Judge
from teacher.ledger.ledger import Ledger
from teacher.ledger.records import Batch, LedgerRow

BACKEND = "openai-batch"
_ENDPOINT = "/v1/chat/completions"
_WAITING = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
_FINAL = frozenset({400, 401, 403, 404, 413, 422})
_SETTLE = 200


def label(job: Job, ledger: Ledger, judge: Judge) -> None:
    """Put every request without a usable answer into batches until all are answered, then judge the rows."""
    asyncio.run(_label(job, ledger, judge))


async def _label(job: Job, ledger: Ledger, judge: Judge) -> None:
    settings = job.task.teacher.openai
    prompter = Prompter(job.task, settings)
    blocks = list(contexts(job))
    async with Batches(settings, ledger, job.progress) as batches:
        await batches.pick_up({r.key: r for r in _first(prompter, blocks)})
        given_up: set[str] = set()
        for _ in range(settings.max_attempts):
            missing = [r for r in _wanted(prompter, ledger, blocks) if r.key not in given_up]
            if not missing:
                break
            given_up |= await batches.run(missing)
    asker = Asker(job.task, prompter, None, ledger)
    rows: list[LedgerRow] = []
    job.progress.begin("judging", len(job.queries))
    for block in blocks:
        wanted = [prompter.first(query.query, context) for query, context in block]
        known = ledger.replies(r.key for group in wanted for r in group)
        for (query, context), group in zip(block, wanted, strict=True):
            rows.append(judge.row(query, await asker.ask(query, context, group, known)))
        if len(rows) >= _SETTLE:
            ledger.settle(rows)
            rows.clear()
        job.progress.advance(len(block))
    ledger.settle(rows)


def _first(prompter: Prompter, blocks: Sequence[Block]) -> Iterator[Request]:
    for block in blocks:
        for query, context in block:
            yield from prompter.first(query.query, context)


def _wanted(prompter: Prompter, ledger: Ledger, blocks: Sequence[Block]) -> list[Request]:
    """Each request once that has no usable answer, those included that follow from answers that are there."""
    from llm_client.reply import rows_of

    out: dict[str, Request] = {}
    for block in blocks:
        groups = [prompter.first(query.query, context) for query, context in block]
        known = ledger.replies(r.key for group in groups for r in group)
        follow = []
        for group in groups:
            out |= {r.key: r for r in group if r.key not in known}
            held = known.get(group[0].key)
            wanted = prompter.settings.verify and held is not None and not held.cut
            rows = rows_of(held.content) if held and wanted else None
            follow += [prompter.verify(group[0].query, rows)] if rows else []
        asked = ledger.asked(r.key for r in follow)
        out |= {r.key: r for r in follow if r.key not in asked}
    return list(out.values())


class Batches:
    """The provider's batch API; a context manager."""

    def __init__(self, settings: OpenAI, ledger: Ledger, progress: Progress) -> None:
        self._settings, self._ledger, self._progress = settings, ledger, progress
        self._price = (needed_price if settings.budget else price_of)(settings, batch=True)
        self._base = settings.base_url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout_s)
        self._session = aiohttp.ClientSession(headers=authorization(self._settings), timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def pick_up(self, requests: Mapping[str, Request]) -> None:
        """Finish what an earlier process began, in whatever state it left it.

        Args:
            requests: By key, for the evidence of answers that come in.
        """
        for batch in self._ledger.open_batches():
            if batch.id is None:
                batch = replace(batch, id=await self._find(batch.token))
            if batch.id is None:  # killed before the provider made a batch of it: nothing runs, nothing is owed
                self._ledger.note_batch(replace(batch, state="given up"))
                continue
            self._ledger.note_batch(replace(batch, state="made"))
            await self._finish(batch, requests)

    async def run(self, requests: Sequence[Request]) -> set[str]:
        """Send requests as batches and collect every answer; returns the keys that are not worth trying again."""
        given_up: set[str] = set()
        by_key = {r.key: r for r in requests}
        for part in self._parts(requests):
            token = uuid.uuid4().hex
            batch = Batch(token, None, "uploading", tuple((r.key, r.query, r.purpose) for r in part))
            self._ledger.note_batch(batch)
            file = await self._upload(part)
            made = await self._call("POST", "/batches", json={
                "input_file_id": file, "endpoint": _ENDPOINT, "completion_window": "24h",
                "metadata": {"limbeck": token},
            })
            batch = replace(batch, id=str(made["id"]), state="made")
            self._ledger.note_batch(batch)
            given_up |= await self._finish(batch, by_key)
        return given_up

    def _parts(self, requests: Sequence[Request]) -> Iterator[list[Request]]:
        """Files' worth of requests; each is taken only when the budget has room for the most that it can cost."""
        part: list[Request] = []
        budget = self._budget()
        for r in requests:
            most = self._price.of(r.most_tokens[0], 0, r.most_tokens[1]) if self._price else 0.0
            problem = budget.take(most)
            if problem and part:  # what has room goes first; what it did cost decides about the rest
                yield part
                part, budget = [], self._budget()
                problem = budget.take(most)
            check(problem)
            part.append(r)
            if len(part) >= self._settings.batch_requests:
                yield part
                part, budget = [], self._budget()
        if part:
            yield part

    def _budget(self) -> Budget:
        return Budget(self._settings.budget, self._ledger.spent()["cost"])

    async def _upload(self, requests: Iterable[Request]) -> str:
        lines = [
            json.dumps({"custom_id": r.key, "method": "POST", "url": _ENDPOINT, "body": json.loads(r.content)})
            for r in requests
        ]
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        form.add_field("file", "\n".join(lines) + "\n", filename="limbeck.jsonl", content_type="application/jsonl")
        return str((await self._call("POST", "/files", data=form))["id"])

    async def _find(self, token: str) -> str | None:
        """The id of the batch whose metadata holds a token, or None."""
        after: str | None = None
        while True:
            page = await self._call("GET", "/batches?limit=100" + (f"&after={after}" if after else ""))
            for batch in page["data"]:
                if (batch.get("metadata") or {}).get("limbeck") == token:
                    return str(batch["id"])
            if not page.get("has_more"):
                return None
            after = page["data"][-1]["id"]

    async def _finish(self, batch: Batch, requests: Mapping[str, Request]) -> set[str]:
        """Wait for a batch, record its answers, note it as collected."""
        self._progress.begin(f"batch {batch.id}", len(batch.requests))
        counted = 0
        while True:
            state = await self._call("GET", f"/batches/{batch.id}")
            finished = int((state.get("request_counts") or {}).get("completed") or 0)
            self._progress.advance(max(0, finished - counted), note=state["status"])
            counted = max(counted, finished)
            if state["status"] not in _WAITING:
                break
            await asyncio.sleep(self._settings.batch_poll_s)
        attempts: list[Attempt] = []
        final: set[str] = set()
        wanted = {key: (query, purpose) for key, query, purpose in batch.requests}
        recorded = self._ledger.recorded_of(str(batch.id))
        for name in ("output_file_id", "error_file_id"):
            if state.get(name):
                for line in (await self._text(f"/files/{state[name]}/content")).splitlines():
                    row = json.loads(line)
                    key = row["custom_id"]
                    if key in wanted and key not in recorded:
                        attempt, dead = self._attempt(row, *wanted[key], requests.get(key), str(batch.id))
                        attempts.append(attempt)
                        final |= {key} if dead else set()
        if state["status"] == "failed":
            errors = (state.get("errors") or {}).get("data") or [{"message": "no reason given"}]
            self._ledger.note_batch(replace(batch, state="failed"))
            raise ComponentError(f"the provider refused batch {batch.id}: {errors[0].get('message')}")
        self._ledger.record(attempts)
        self._ledger.note_batch(replace(batch, state="collected"))
        return final

    def _attempt(
        self, row: Mapping[str, Any], query: str, purpose: str, request: Request | None, batch: str
    ) -> tuple[Attempt, bool]:
        """A line of an output or error file as an attempt, and whether it is of no use to try again."""
        response = row.get("response") or {}
        status = response.get("status_code")

        def attempt(outcome: Outcome, error: str | None = None, **more: Any) -> Attempt:
            details = {**more.pop("details", {}), "batch": batch}
            return Attempt(
                row["custom_id"], query, BACKEND, self._settings.model, request.evidence if request else {},
                error=error, outcome=outcome, purpose=purpose, details=details, **more,
            )

        if status != 200:
            problem = row.get("error") or response.get("body")
            return attempt("error", f"HTTP {status}: {json.dumps(problem)[:500]}"), status in _FINAL
        made = read_completion(json.dumps(response["body"]).encode(), purpose, usable, self._price, attempt)
        return made.attempt, made.attempt.outcome == "truncated"

    async def _call(self, method: str, path: str, **body: Any) -> Any:
        return json.loads(await self._text(path, method, **body))

    async def _text(self, path: str, method: str = "GET", **body: Any) -> str:
        """One call to the API itself; read-only ones are tried again, for they cost nothing."""
        assert self._session is not None
        tries = self._settings.max_attempts if method == "GET" else 1
        for number in range(1, tries + 1):
            try:
                async with self._session.request(method, self._base + path, **body) as response:
                    text = await response.text()
                    if response.status == 200:
                        return text
                    problem = f"HTTP {response.status}: {text[:300]}"
                    if response.status < 500 and response.status != 429:
                        break
            except (aiohttp.ClientError, TimeoutError) as error:
                problem = f"{type(error).__name__}: {error}"
            if number < tries:
                await asyncio.sleep(min(30.0, 0.5 * 2.0**number))
        raise ComponentError(
            f"{method} {self._base}{path}: {problem}. Run the same command to go on: batches that were made are kept"
        )
