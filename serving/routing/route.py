"""The route of a query to its answer through one bundle: head cache, kept answers, student, live teacher.

Equal queries that are in flight at the same time are sent to the student once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from engine.circuit_breaker import Breaker
from engine.interface import EngineUnavailableError, StudentClient
from serving.release.bundle import Bundle, made_at
from serving.release.head_cache import HeadCache, Hit, encoded, moved
from serving.routing.kept_answers import Store, has_label
from serving.routing.live_teacher import LiveTeacher
from serving.routing.student_tally import StudentTally
from serving.routing.throughput import Throughput
from task.forms import Decoded
from task.labels import Labelling
from task.serving_settings import Serving
from task.validation import FaultKind, violation
from task.word_index import findable

Source = Literal["cache", "kept", "student", "teacher"]
Status = Literal["ok", "uncertain", "abstained", "invalid"]
_MAX_PER_REQUEST = 16  # queries in one request to the engine
_RESERVE_S = 0.05  # of a request's time, to send the student's answer after the teacher gave none in time


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a query.

    Attributes:
        labels: JSON in UTF-8; an empty list where the student abstained, or answered what cannot be used.
        probability: Probability that the labelling as a whole is right, calibrated if the bundle is; None if unknown.
        fault: Why the student's answer is `invalid`.
    """

    query: str
    labels: bytes
    source: Source
    status: Status = "ok"
    probability: float | None = None
    fault: FaultKind | None = None

    def decoded(self) -> Labelling:
        """The labels."""
        return Hit(self.query, self.labels).decoded()


class RefusedError(Exception):
    """The student cannot be asked now; `retry_after` is in seconds."""

    def __init__(self, reason: str, *, message: str, retry_after: float) -> None:
        self.reason, self.retry_after = reason, retry_after
        super().__init__(message)


class Route:
    """One bundle and its engine; belongs to one event loop."""

    def __init__(
        self, bundle: Bundle, cache: HeadCache, student: StudentClient, settings: Serving, *,
        store: Store | None = None, on_uncertain: Callable[[str, float], None] = lambda _query, _probability: None,
        on_invalid: Callable[[FaultKind], None] = lambda _kind: None,
    ) -> None:
        """Make a route.

        Args:
            cache: The bundle's head cache, or a copy of it.
            settings: Those of the bundle, or the operator's overrides.
            store: Kept answers and purges; without it there are none.
            on_uncertain: Called with each query below `serving.certain.uncertain`, and its probability; with 0 for a
                query whose answer is invalid.
            on_invalid: Called with the fault of each answer that cannot be used, whatever the client is sent instead.
        """
        self.bundle, self.cache, self.student, self.breaker = bundle, cache, student, Breaker()
        self._store, self._on_uncertain, self.on_invalid = store, on_uncertain, on_invalid
        self._teacher: LiveTeacher | None = None
        self._settings = settings
        self._engine_checked = True
        self.made = made_at(bundle)
        self.task_json = json.dumps(bundle.task.name, ensure_ascii=False).encode()
        self._in_flight: dict[str, asyncio.Future[Decoded]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.waiting = self.answered = 0
        self._throughput = Throughput()
        self.tally: StudentTally | None = None

    @property
    def keep(self) -> Literal["query", "hash", "nothing"]:
        """What may be kept of a client's query."""
        return self._settings.certain.keep

    @property
    def timeout_s(self) -> float:
        """Seconds that the student may take for a request."""
        return self._settings.request_timeout_s

    def use_teacher(self, teacher: LiveTeacher) -> None:
        """Ask this teacher about uncertain labels while the client waits, for single queries only."""
        self._teacher = teacher

    @property
    def engine_checked(self) -> bool:
        """Whether the engine has passed its check since it was last started."""
        return self._engine_checked

    def set_engine_checked(self, checked: bool) -> None:
        """Set whether the engine has passed its check; the student is asked only while it has.

        Circuit breaker and throughput start anew with a newly started engine.
        """
        if checked and not self._engine_checked:
            self.breaker, self._throughput = Breaker(), Throughput()
        self._engine_checked = checked

    def known(self, query: str) -> Answer | None:
        """The answer from the head cache or the kept answers, None where neither has one."""
        text = self.cache.normalise(query)
        purges = self._store.purges if self._store is not None else None
        if purges and purges.have(text):
            return None
        hit: Hit | None = None
        source: Source = "cache"
        if not purges or purges.before <= self.made:
            hit = self.cache.find(text)
        if hit is None and self._store is not None:
            hit, source = self._store.get(self.bundle.id, text=text), "kept"
        if hit is None:
            return None
        if purges and purges.labels and has_label(hit.decoded(), purges.labels, self.cache.normalise):
            return None
        if hit.query == query:
            return Answer(query, hit.labels, source)
        labels = moved(hit.decoded(), source=hit.query, target=query)
        return None if labels is None or violation(self.bundle.task, query, labels) else Answer(
            query, encoded(labels), source
        )

    def ask(self, queries: Sequence[str]) -> Mapping[str, asyncio.Future[Decoded]]:
        """Send queries to the student, except those in flight; awaiting a future may raise `EngineUnavailableError`.

        All requests that wait for the same query share its future, so they must shield it.

        Raises:
            RefusedError: Too many are waiting to be answered in time, or the engine is down.
        """
        new = [q for q in dict.fromkeys(queries) if q not in self._in_flight]
        if new:
            if not self._engine_checked:
                raise RefusedError("engine", message="the student is being started", retry_after=1.0)
            if self.waiting + len(new) > self._settings.max_waiting:
                raise RefusedError("busy", message=f"{self.waiting} queries wait for the student", retry_after=1.0)
            late = self._throughput.seconds_for(self.waiting + len(new)) - self._settings.request_timeout_s
            if late > 0 and self.waiting:
                raise RefusedError(
                    "busy", message=f"{self.waiting} queries wait, more than can be answered in time", retry_after=late
                )
            pause = self.breaker.wait()
            if pause:
                raise RefusedError("engine", message="the student is not available", retry_after=pause)
        loop = asyncio.get_running_loop()
        for at in range(0, len(new), _MAX_PER_REQUEST):
            part = {q: loop.create_future() for q in new[at : at + _MAX_PER_REQUEST]}
            self._in_flight.update(part)
            self.waiting += len(part)
            self._throughput.started(loop.time())
            task = loop.create_task(self._send(part))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return {q: self._in_flight[q] for q in queries}

    async def _send(self, part: Mapping[str, asyncio.Future[Decoded]]) -> None:
        """Ask the student, and resolve the futures."""
        answered = 0
        try:
            found = await self.student.label(list(part))
            self.breaker.succeeded()
            answered = len(found)
            self.answered += answered
            for future, judged in zip(part.values(), found, strict=True):
                future.set_result(judged)
        except EngineUnavailableError as error:
            self.breaker.failed()
            for future in part.values():
                future.set_exception(error)
                future.exception()  # marked as retrieved: nobody may be waiting for it
        finally:
            self.breaker.abandoned()
            for query, future in part.items():
                self._in_flight.pop(query)
                if not future.done():
                    future.set_exception(EngineUnavailableError("stopped"))
                    future.exception()
            self.waiting -= len(part)
            now = asyncio.get_running_loop().time()
            self._throughput.completed(answers=answered, waiting=self.waiting, now=now)

    def judge(self, query: str, judged: Decoded, *, keep: bool = True) -> Answer:
        """The student's labels as an answer: `ok`, `uncertain`, or without labels `abstained` or `invalid`."""
        settings = self._settings
        labels, probability = judged.labels, None
        fault = judged.fault or violation(self.bundle.task, query, labels)
        if fault is not None:
            self.on_invalid(fault.kind)
            self._on_uncertain(query, 0.0)  # the next labelling round is to learn from it
            probability = None if judged.raw_probability is None else 0.0
            return Answer(query, b"[]", "student", "invalid", probability, fault.kind)
        if judged.raw_probability is not None:
            probability = round(self.bundle.calibrator.probability(judged.raw_probability), 6)
        labels = self._findable(labels)
        status: Status = "ok"
        if probability is not None and probability < settings.certain.uncertain:
            self._on_uncertain(query, probability)
            status = "abstained" if probability < settings.certain.abstain else "uncertain"
        if status == "abstained":
            return Answer(query, b"[]", "student", "abstained", probability)
        raw = encoded(labels)
        if keep and probability is not None and status == "ok" and probability >= settings.write_back.probability:
            self._keep(query, raw)
        return Answer(query, raw, "student", status, probability)

    async def answer(self, query: str, *, use_cache: bool = True) -> Answer:
        """The answer to one query.

        Raises:
            RefusedError: The student cannot be asked now.
            EngineUnavailableError: It was asked, and did not answer.
        """
        return (await self.answers([query], use_cache=use_cache))[0]

    async def answers(self, queries: Sequence[str], *, use_cache: bool = True) -> list[Answer]:
        """Answers in order, queries that are not cached sent together; raises like `answer`."""
        known = {q: self.known(q) if use_cache else None for q in dict.fromkeys(queries)}
        futures = self.ask([q for q, answer in known.items() if answer is None and q.strip()])
        return [known[q] or await self._completed(q, futures.get(q), use_cache) for q in queries]

    async def missed(self, query: str, *, keep: bool = True, due: float | None = None) -> Answer:
        """The answer to one query that is not cached; raises like `answer`.

        Args:
            keep: Whether later requests may find the answer.
            due: The deadline, in the loop's time; a teacher is asked only where this is given.
        """
        answer = await self._asked(query, keep, due)
        if self._teacher is None or due is None or not keep or answer.status == "ok":
            return answer
        left = due - asyncio.get_running_loop().time() - _RESERVE_S
        labels = await self._teacher.label(
            query, timeout_s=left, keep=lambda found: self._keep(query, encoded(self._findable(found)))
        )
        return answer if labels is None else Answer(query, encoded(self._findable(labels)), "teacher")

    async def _asked(self, query: str, keep: bool, due: float | None) -> Answer:
        """The student's answer to one query; counted in the tally, as is what ends without one."""
        if not query.strip():
            return await self._completed(query, None, keep)
        tally, loop = self.tally, asyncio.get_running_loop()
        if tally is None:
            return await self._completed(query, self.ask([query])[query], keep)
        began = loop.time()
        try:
            answer = await self._completed(query, self.ask([query])[query], keep)
        except (RefusedError, EngineUnavailableError):
            tally.failed(query)
            raise
        except asyncio.CancelledError:
            if due is not None and loop.time() >= due:  # else the service ends, which says nothing about the bundle
                tally.failed(query, loop.time() - began)
            raise
        self._tell(tally, answer, loop.time() - began, late=due is not None and loop.time() >= due)
        return answer

    @staticmethod
    def _tell(tally: StudentTally, answer: Answer, seconds: float, *, late: bool = False) -> None:
        tally.answered(
            answer.query, seconds, failed=late or answer.fault is not None, abstained=answer.status == "abstained",
            probability=answer.probability,
        )

    def _findable(self, labels: Labelling) -> Labelling:
        """Labels without the texts that have to find an item of the catalogue and find none."""
        return findable(self.bundle.task, labels, self.bundle.items)

    def _keep(self, query: str, labels: bytes) -> None:
        """Let later requests find an answer."""
        if self._store is not None:
            self._store.put(self.bundle.id, text=self.cache.normalise(query), query=query, labels=labels)

    async def _completed(self, query: str, future: asyncio.Future[Decoded] | None, keep: bool) -> Answer:
        """The student's answer, once it is there; a blank query was not sent and has no labels."""
        if future is None:
            return Answer(query, b"[]", "student", "ok", 1.0)
        return self.judge(query, await asyncio.shield(future), keep=keep)

    async def stream(
        self, queries: Sequence[str], due: float, *, keep: bool = True
    ) -> AsyncIterator[tuple[str, Answer | Exception]]:
        """The student's answers to distinct queries as they come, or the error in place of an answer.

        Args:
            due: The deadline, in the loop's time.
        """
        tally, loop = self.tally, asyncio.get_running_loop()
        began = loop.time()
        try:
            futures = self.ask(queries)
        except RefusedError as error:
            for query in queries:
                if tally is not None:
                    tally.failed(query)
                yield query, error
            return
        waiting = {f: q for q, f in futures.items()}
        while waiting:
            left = due - loop.time()
            done, _ = await asyncio.wait(waiting, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            for future in done:
                query, failure = waiting.pop(future), future.exception()
                if isinstance(failure, EngineUnavailableError):
                    if tally is not None:
                        tally.failed(query)
                    yield query, failure
                else:
                    answer = self.judge(query, future.result(), keep=keep)
                    if tally is not None:
                        self._tell(tally, answer, loop.time() - began)
                    yield query, answer
        for query in waiting.values():
            if tally is not None:
                tally.failed(query, loop.time() - began)
            yield query, TimeoutError()

    async def close(self) -> None:
        """Cancel what is in flight and close the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.student.close()
        if self._teacher is not None:
            await self._teacher.close()
