"""The `openai-batch` backend: the provider's batch API, at half the price and within a day.

Its requests are those of `openai`, so neither backend sends a request that the other has already paid for. A file of
requests is uploaded, a batch is made of it and polled, and its answers are collected. The state of a batch is in the
ledger before and after each step, so a job that was killed at any moment continues: a batch that was made but not
recorded is found by the token in its metadata; a file without a batch is abandoned, which costs nothing; a batch
without answers is polled again. Only requests without a usable answer go into the next batch.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import aiohttp

from llm_client.attempt import Attempt, Outcome
from llm_client.budget import Budget, raise_if_spent
from llm_client.client import is_retried, open_session, read_completion
from llm_client.error_text import short_error
from llm_client.prices import needed_price, price_of
from llm_client.prompt import Prompter
from llm_client.request import Request
from llm_client.retry_after import retry_after
from task.errors import ComponentError, cause_of
from task.progress import Progress
from task.settings import OpenAI
from teacher.backends.job import LabellingJob
from teacher.backends.llm.batch_output import OutputLine, read_lines
from teacher.backends.llm.contexts import Block, blocks
from teacher.backends.llm.conversation import QueryLabeller, is_parseable, stored_replies, verify_request
from teacher.backends.llm.online import LLMBackend
from teacher.guardrails.validator import Validator
from teacher.ledger.ledger import Ledger
from teacher.ledger.records import Batch, LedgerRow

_BACKEND = "openai-batch"
_ENDPOINT = "/v1/chat/completions"
_WAITING = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
_FINAL = frozenset({400, 401, 403, 404, 413, 422})
_CONTINUE = "Run the same command to continue: batches that were made are kept"
_ROWS_PER_WRITE = 200


class BatchBackend(LLMBackend):
    """Puts every request without a usable answer into batches until all are answered, then validates the rows."""

    batch = True

    def label(self, job: LabellingJob, validator: Validator, ledger: Ledger) -> None:
        """See `teacher.backends.backend.Backend`."""
        asyncio.run(_label(job, ledger, validator))


async def _label(job: LabellingJob, ledger: Ledger, validator: Validator) -> None:
    settings = job.task.teacher.openai
    prompter = Prompter(job.task, settings)
    with_context = list(blocks(job))
    async with open_session(settings) as session:
        batches = Batches(session, settings, ledger, job.progress)
        await batches.pick_up({r.key: r for group in _first(prompter, with_context) for r in group})
        given_up: set[str] = set()
        for _ in range(settings.max_attempts):
            missing = [r for r in _missing(prompter, ledger, with_context) if r.key not in given_up]
            if not missing:
                break
            given_up |= await batches.run(missing)
    labeller = QueryLabeller(job.task, prompter, None, ledger)
    rows: list[LedgerRow] = []
    job.progress.begin("validating labels", len(job.queries))
    for block in with_context:
        groups = list(_first(prompter, [block]))
        known = stored_replies(ledger, groups)
        errors = ledger.errors(first.key for first, *_ in groups if first.key not in known)
        for (query, context), group in zip(block, groups, strict=True):
            answer = await labeller.label(query, context, group, known)
            if answer.request in errors:
                answer = replace(answer, reason=f"{answer.reason}: {short_error(errors[answer.request])}")
            rows.append(validator.row(query, answer))
        if len(rows) >= _ROWS_PER_WRITE:
            ledger.write_rows(rows)
            rows.clear()
        job.progress.advance(len(block))
    ledger.write_rows(rows)


def _first(prompter: Prompter, with_context: Sequence[Block]) -> Iterator[list[Request]]:
    """The first requests of every query."""
    for block in with_context:
        for query, context in block:
            yield prompter.first(query.query, context)


def _missing(prompter: Prompter, ledger: Ledger, with_context: Sequence[Block]) -> list[Request]:
    """The requests without a reply, each once; including those that depend on stored replies."""
    out: dict[str, Request] = {}
    for block in with_context:
        groups = list(_first(prompter, [block]))
        known = stored_replies(ledger, groups)
        out |= {r.key: r for group in groups for r in group if r.key not in known}
        follow = [verify_request(prompter, first, known.get(first.key)) for first, *_ in groups]
        verify = [r for r in follow if r is not None]
        answered = ledger.answered(r.key for r in verify)
        out |= {r.key: r for r in verify if r.key not in answered}
    return list(out.values())


class Batches:
    """The provider's batch API."""

    def __init__(
        self, session: aiohttp.ClientSession, settings: OpenAI, ledger: Ledger, progress: Progress
    ) -> None:
        self._session = session
        self._settings, self._ledger, self._progress = settings, ledger, progress
        self._price = (needed_price if settings.budget else price_of)(settings, batch=True)
        self._base = settings.base_url.rstrip("/")

    async def pick_up(self, requests: Mapping[str, Request]) -> None:
        """Finish the batches that an earlier process began, whatever their state.

        Args:
            requests: By key; their evidence is stored with the answers.
        """
        for batch in self._ledger.open_batches():
            if batch.id is None:
                batch = replace(batch, id=await self._find(batch.token))
            if batch.id is None:  # killed before the batch was made: nothing runs, and nothing will be charged
                self._ledger.note_batch(replace(batch, state="given up"))
                continue
            self._ledger.note_batch(replace(batch, state="made"))
            await self._finish(batch, requests)

    async def run(self, requests: Sequence[Request]) -> set[str]:
        """Send requests as batches and collect every answer; returns the keys whose failure is final."""
        given_up: set[str] = set()
        by_key = {r.key: r for r in requests}
        for part in self._parts(requests):
            token = uuid.uuid4().hex
            batch = Batch(
                token=token, id=None, state="uploading", requests=tuple((r.key, r.query, r.purpose) for r in part)
            )
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
        """Requests by file; a request is included only if its maximum cost fits into the budget."""
        part: list[Request] = []
        budget = self._budget()
        for r in requests:
            max_cost = self._price.of(prompt=r.most_tokens[0], completion=r.most_tokens[1]) if self._price else 0.0
            problem = budget.try_reserve(max_cost)
            if problem and part:  # send what fits into the budget; its real cost decides whether the rest fits
                yield part
                part, budget = [], self._budget()
                problem = budget.try_reserve(max_cost)
            raise_if_spent(problem)
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
            page = await self._call("GET", "/batches?limit=100" + (f"&after={after}" if after else ""), field="data")
            for batch in page["data"]:
                if (batch.get("metadata") or {}).get("limbeck") == token:
                    return str(batch["id"])
            if not page.get("has_more"):
                return None
            after = page["data"][-1]["id"]

    async def _finish(self, batch: Batch, requests: Mapping[str, Request]) -> set[str]:
        """Wait for a batch, record its answers, and mark it as collected."""
        self._progress.begin(f"batch {batch.id}", len(batch.requests))
        counted = 0
        while True:
            state = await self._call("GET", f"/batches/{batch.id}", field="status")
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
        for name in ("output", "error"):
            if not state.get(f"{name}_file_id"):
                continue
            for line in read_lines(await self._bytes(f"/files/{state[f'{name}_file_id']}/content"), f"{name} file"):
                if line.key in wanted and line.key not in recorded:
                    query, purpose = wanted[line.key]
                    attempt, is_final = self._attempt_of(
                        line, query=query, purpose=purpose, request=requests.get(line.key), batch=str(batch.id)
                    )
                    attempts.append(attempt)
                    final |= {line.key} if is_final else set()
        self._ledger.record(attempts)
        if state["status"] == "failed":
            errors = (state.get("errors") or {}).get("data") or [{"message": "no reason given"}]
            self._ledger.note_batch(replace(batch, state="failed"))
            raise ComponentError(f"the provider refused batch {batch.id}: {errors[0].get('message')}")
        self._ledger.note_batch(replace(batch, state="collected"))
        return final

    def _attempt_of(
        self, line: OutputLine, *, query: str, purpose: str, request: Request | None, batch: str
    ) -> tuple[Attempt, bool]:
        """A line of an output or error file as an attempt, and whether its outcome is final."""
        problem = line.problem
        if line.row is not None:
            try:
                return self._attempt(line.row, query=query, purpose=purpose, request=request, batch=batch)
            except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
                problem = f"the answer cannot be read: {cause_of(error)}"
        return Attempt(
            request=line.key or "", query=query, backend=_BACKEND, model=self._settings.model,
            evidence=request.evidence if request else {}, reply=line.text, error=problem, outcome="invalid",
            purpose=purpose, details={"batch": batch},
        ), False

    def _attempt(
        self, row: Mapping[str, Any], *, query: str, purpose: str, request: Request | None, batch: str
    ) -> tuple[Attempt, bool]:
        """A readable line as an attempt, and whether its outcome is final."""
        response = row.get("response")
        response = response if isinstance(response, dict) else {}
        status = response.get("status_code")

        def attempt(outcome: Outcome, error: str | None = None, **more: Any) -> Attempt:
            details = {**more.pop("details", {}), "batch": batch}
            return Attempt(
                request=row["custom_id"], query=query, backend=_BACKEND, model=self._settings.model,
                evidence=request.evidence if request else {}, error=error, outcome=outcome, purpose=purpose,
                details=details, **more,
            )

        if status != 200:
            problem = row.get("error") or response.get("body")
            head = "no response" if status is None else f"HTTP {status}"
            return attempt("error", f"{head}: {json.dumps(problem)[:500]}"), status in _FINAL
        raw = json.dumps(response["body"]).encode()
        asked = request or Request(query=query, purpose=purpose, content=b"", key=row["custom_id"])
        read = read_completion(raw, attempt, request=asked, parseable=is_parseable, price=self._price)
        # As online, a verification that cannot be read is asked again by the next job only: it is worth one signal.
        outcomes = {"truncated", "error", *(("invalid",) if purpose == "verify" else ())}
        return read.attempt, read.wait is None and read.attempt.outcome in outcomes

    async def _call(self, method: str, path: str, *, field: str = "id", **body: Any) -> Any:
        """The object that a call returns, which has a field."""
        raw = await self._bytes(path, method, **body)
        try:
            value = json.loads(raw)
        except ValueError:
            value = None
        if not isinstance(value, dict) or field not in value:
            shown = raw[:300].decode(errors="replace")
            raise ComponentError(f"{method} {self._base}{path}: not an answer of the batch API: {shown}. {_CONTINUE}")
        return value

    async def _bytes(self, path: str, method: str = "GET", **body: Any) -> bytes:
        """One call to the API; read-only ones are retried, because that costs nothing."""
        tries = self._settings.max_attempts if method == "GET" else 1
        for number in range(1, tries + 1):
            try:
                async with self._session.request(method, self._base + path, **body) as response:
                    raw = await response.read()
                    if response.status == 200:
                        return raw
                    problem = f"HTTP {response.status}: {raw[:300].decode(errors='replace')}"
                    if not is_retried(response.status):
                        break
                    wait = retry_after(response.headers)
            except (aiohttp.ClientError, TimeoutError) as error:
                problem, wait = cause_of(error), 0.0
            if number < tries:
                await asyncio.sleep(max(wait, min(30.0, 0.5 * 2.0**number)))
        raise ComponentError(f"{method} {self._base}{path}: {problem}. {_CONTINUE}")
