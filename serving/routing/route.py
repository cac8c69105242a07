"""The way of a query through one bundle: head cache, kept answers, student; each distinct question is asked once."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from engine.circuit_breaker import Breaker
from engine.client import EngineUnavailableError, Judged, Student
from serving.release.bundle import Bundle
from serving.release.head_cache import HeadCache, Hit, encoded, moved
from serving.routing.kept_answers import Store, mentions
from serving.routing.live_teacher import Teacher
from serving.routing.throughput import Pace
from task.labels import Labelling
from task.serving_settings import Serving
from task.validation import violation

Source = Literal["cache", "kept", "student", "teacher"]
_SPARE_S = 0.05  # of a request's time, to answer after a teacher did not
Status = Literal["ok", "uncertain", "abstained"]
_TOGETHER = 16  # queries of a batch that go to the engine in one request


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query gets.

    Attributes:
        labels: JSON in UTF-8; an empty list where the student abstained.
        probability: That the labelling is right as a whole, calibrated where the bundle is; None where nobody knows.
    """

    query: str
    labels: bytes
    source: Source
    status: Status = "ok"
    probability: float | None = None

    def decoded(self) -> Labelling:
        """The labels."""
        return Hit(self.query, self.labels).decoded()


class RefusedError(Exception):
    """The student cannot be asked now; `retry_after` says in how many seconds it may."""

    def __init__(self, reason: str, message: str, retry_after: float) -> None:
        self.reason, self.retry_after = reason, retry_after
        super().__init__(message)


class Route:
    """One bundle and its engine; belongs to one event loop."""

    def __init__(
        self, bundle: Bundle, cache: HeadCache, student: Student, settings: Serving, store: Store | None = None,
        doubtful: Callable[[str, float], None] = lambda _query, _probability: None,
    ) -> None:
        """Make a route.

        Args:
            cache: Of the bundle, or a copy of it.
            settings: The bundle's, or what the operator put in their place.
            doubtful: Told of queries whose labelling is probably not right, and how probably it is.
        """
        self.bundle, self.cache, self.student, self.breaker = bundle, cache, student, Breaker()
        self._store, self._doubtful = store, doubtful
        self._teacher: Teacher | None = None
        self._settings = settings
        self._checked = True
        self.made = int(datetime.datetime.fromisoformat(bundle.manifest["created"]).timestamp())
        self.task_json = json.dumps(bundle.task.name, ensure_ascii=False).encode()
        self._flying: dict[str, asyncio.Future[Judged]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.waiting = self.answered = 0
        self._pace = Pace()

    def use_teacher(self, teacher: Teacher) -> None:
        """Ask this teacher about doubtful queries while the client waits, where it asks for a single one."""
        self._teacher = teacher

    def let(self, *, checked: bool) -> None:
        """Let the student be asked or not: an engine answers before anybody knows whether it does so rightly.

        What was learned of an engine in the life before is nothing to the next one.
        """
        if checked and not self._checked:
            self.breaker, self._pace = Breaker(), Pace()
        self._checked = checked

    def known(self, query: str) -> Answer | None:
        """The answer from the head cache, or one that the student gave a while ago."""
        text = self.cache.normalise(query)
        purges = self._store.purges if self._store is not None else None
        if purges and text in purges.texts:
            return None
        hit: Hit | None = None
        source: Source = "cache"
        if not purges or purges.before <= self.made:
            hit = self.cache.find(text)
        if hit is None and self._store is not None:
            hit, source = self._store.get(self.bundle.id, text), "kept"
        if hit is None:
            return None
        if purges and purges.labels and mentions(hit.decoded(), purges.labels, self.cache.normalise):
            return None
        if hit.query == query:
            return Answer(query, hit.labels, source)
        labels = moved(hit.decoded(), hit.query, query)
        return None if labels is None or violation(self.bundle.task, query, labels) else Answer(
            query, encoded(labels), source
        )

    def ask(self, queries: Sequence[str]) -> Mapping[str, asyncio.Future[Judged]]:
        """Send what is not being asked already to the student; awaiting a future may raise `EngineUnavailableError`.

        The futures belong to all who wait for the same query: shield them.

        Raises:
            RefusedError: Too many are waiting to be answered in time, or the engine is being left alone.
        """
        new = [q for q in dict.fromkeys(queries) if q not in self._flying]
        if new:
            if not self._checked:
                raise RefusedError("engine", "the student is being started", 1.0)
            if self.waiting + len(new) > self._settings.max_waiting:
                raise RefusedError("busy", f"{self.waiting} queries wait for the student", 1.0)
            late = self._pace.seconds_for(self.waiting + len(new)) - self._settings.request_timeout_s
            if late > 0 and self.waiting:
                raise RefusedError("busy", f"{self.waiting} queries wait, more than can be answered in time", late)
            pause = self.breaker.wait()
            if pause:
                raise RefusedError("engine", "the student is not available", pause)
        loop = asyncio.get_running_loop()
        for at in range(0, len(new), _TOGETHER):
            part = {q: loop.create_future() for q in new[at : at + _TOGETHER]}
            self._flying.update(part)
            self.waiting += len(part)
            self._pace.began(loop.time())
            task = loop.create_task(self._fly(part))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return {q: self._flying[q] for q in queries}

    async def _fly(self, part: Mapping[str, asyncio.Future[Judged]]) -> None:
        landed = 0
        try:
            found = await self.student.label(list(part))
            self.breaker.succeeded()
            landed = len(found)
            self.answered += landed
            for future, judged in zip(part.values(), found, strict=True):
                future.set_result(judged)
        except EngineUnavailableError as error:
            self.breaker.failed()
            for future in part.values():
                future.set_exception(error)
                future.exception()  # nobody may be left to ask
        finally:
            self.breaker.abandoned()
            for query, future in part.items():
                self._flying.pop(query)
                if not future.done():
                    future.set_exception(EngineUnavailableError("stopped"))
                    future.exception()
            self.waiting -= len(part)
            self._pace.landed(landed, self.waiting, asyncio.get_running_loop().time())

    def judge(self, query: str, judged: Judged, *, keep: bool = True) -> Answer:
        """The student's labels as an answer: as they are, marked, or withheld."""
        settings = self._settings
        labels, probability = judged.labels, None
        if judged.raw_probability is not None:
            probability = round(self.bundle.calibrator.probability(judged.raw_probability), 6)
        status: Status = "ok"
        if probability is not None and probability < settings.certain.uncertain:
            self._doubtful(query, probability)
            status = "abstained" if probability < settings.certain.abstain else "uncertain"
        wrong = violation(self.bundle.task, query, labels)
        if wrong or status == "abstained":
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
        """Answers in order, what no cache knows asked together; raises like `answer`."""
        known = {q: self.known(q) if use_cache else None for q in dict.fromkeys(queries)}
        futures = self.ask([q for q, answer in known.items() if answer is None and q.strip()])
        return [known[q] or await self._landed(q, futures.get(q), use_cache) for q in queries]

    async def missed(self, query: str, *, keep: bool = True, due: float | None = None) -> Answer:
        """The answer to one query that no cache knows; raises like `answer`.

        Args:
            due: The loop's time by which it is wanted; a teacher is asked only where this is given.
        """
        answer = await self._landed(query, self.ask([query])[query] if query.strip() else None, keep)
        if self._teacher is None or due is None or not keep or answer.status == "ok":
            return answer
        patience = due - asyncio.get_running_loop().time() - _SPARE_S
        labels = await self._teacher.label(query, patience, lambda found: self._keep(query, encoded(found)))
        return answer if labels is None else Answer(query, encoded(labels), "teacher")

    def _keep(self, query: str, labels: bytes) -> None:
        """Let later requests find an answer."""
        if self._store is not None:
            self._store.put(self.bundle.id, self.cache.normalise(query), query, labels)

    async def _landed(self, query: str, future: asyncio.Future[Judged] | None, keep: bool) -> Answer:
        """What was asked for, once it is there; a blank query was not."""
        if future is None:
            return Answer(query, b"[]", "student", "ok", 1.0)
        return self.judge(query, await asyncio.shield(future), keep=keep)

    async def stream(
        self, queries: Sequence[str], due: float, *, keep: bool = True
    ) -> AsyncIterator[tuple[str, Answer | Exception]]:
        """The student's answers to distinct queries as they come, or in its place why there is none.

        Args:
            due: The loop's time after which nothing is waited for.
        """
        try:
            futures = self.ask(queries)
        except RefusedError as error:
            for query in queries:
                yield query, error
            return
        waiting = {f: q for q, f in futures.items()}
        while waiting:
            left = due - asyncio.get_running_loop().time()
            done, _ = await asyncio.wait(waiting, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            for future in done:
                query, failure = waiting.pop(future), future.exception()
                if isinstance(failure, EngineUnavailableError):
                    yield query, failure
                else:
                    yield query, self.judge(query, future.result(), keep=keep)
        for query in waiting.values():
            yield query, TimeoutError()

    async def close(self) -> None:
        """End what is in flight and the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.student.close()
        if self._teacher is not None:
            await self._teacher.close()
