"""The labelling job: every query of the log comes out with a status, and nothing is paid for twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from task.errors import InputError
from task.files import sha256_json
from task.io import Conversion, Item
from task.labels import Example, Label
from task.progress import Progress, quiet
from task.spec import Task
from teacher.guardrails import Guardrails, Verdict, summary
from teacher.ledger import Attempt, Ledger, LedgerRow

_BATCH = 500


@dataclass(frozen=True, slots=True)
class Sources:
    """What a teacher may look at: never the gold test rows."""

    log: Sequence[Example]
    catalogue: Sequence[Item] = ()
    conversions: Sequence[Conversion] = ()
    imported: Sequence[Example] = ()
    calibration: Sequence[Example] = ()
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Labelled:
    """The result of a labelling job."""

    rows: list[LedgerRow]
    verdicts: list[dict[str, Any]]
    spent: Mapping[str, float]


def label_queries(
    task: Task, sources: Sources, ledger: Ledger, folder: Path, fetch: Callable[[str], Path],
    progress: Progress = quiet,
) -> Labelled:
    """Label every query of the log with the task's backend.

    Args:
        ledger: Replies that it already holds are used, not asked for again.
        folder: For the index; what is there for the same input is used.
        fetch: Gives the folder of a model by name.

    Returns:
        One row per distinct query of the log, in its order.
    """
    log = _distinct(sources.log)
    fits = [q for q in log if len(q.query.strip()) > 0 and len(q.query) <= task.data.max_query_chars]
    settled: dict[str, LedgerRow] = {}
    for query in log:
        if not query.query.strip():
            settled[query.query] = _skipped(query, "empty query")
        elif len(query.query) > task.data.max_query_chars:
            long = f"{len(query.query)} characters, more than data.max_query_chars = {task.data.max_query_chars}"
            settled[query.query] = _skipped(query, long)
    guardrails = Guardrails(task, sources.catalogue)
    verdicts: list[Verdict] = []
    by_query = {q.query: q for q in fits}
    batch: list[LedgerRow] = []
    backends = {"catalog": _catalog, "openai": _openai, "labels": _labels}
    for query_text, request, reply in backends[task.teacher.backend](
        task, sources, fits, ledger, folder, fetch, progress
    ):
        row, judged = _judge(by_query[query_text], request, reply, guardrails)
        verdicts += judged
        settled[query_text] = row
        batch.append(row)
        if len(batch) >= _BATCH:
            ledger.settle(batch)
            batch = []
    ledger.settle([*batch, *(r for r in settled.values() if r.status == "skipped")])
    rows = [settled.get(q.query) or LedgerRow(q.query, q.count, "", "failed", (), 0.0, "no reply") for q in log]
    return Labelled(rows, summary(verdicts), ledger.spent())


Reply = tuple[str, str, str | None]  # query, request key, reply or None


def _catalog(
    task: Task, sources: Sources, queries: Sequence[Example], ledger: Ledger, folder: Path,
    fetch: Callable[[str], Path], progress: Progress,
) -> Iterator[Reply]:
    from teacher.backend_catalog import VERSION, CatalogTeacher

    settings = task.teacher.model_dump(mode="json", include={"retrieval", "fuzzy", "min_confidence"})
    roles = [r.model_dump(mode="json") for r in task.roles]
    common = {"backend": "catalog", "version": VERSION, "settings": settings, "roles": roles,
              "inputs": sources.fingerprint}
    keys = {q.query: sha256_json({**common, "query": q.query}) for q in queries}
    known = ledger.replies(list(keys.values()))
    if len(known) < len(keys):
        teacher = CatalogTeacher(
            task, queries, sources.catalogue, sources.conversions, fetch(task.teacher.retrieval.embedder), folder,
            progress,
        )
    progress.begin("labelling", len(queries), done=0)
    for at in range(0, len(queries), _BATCH):
        part = queries[at : at + _BATCH]
        attempts = []
        for q in part:
            if keys[q.query] not in known:
                reply, evidence = teacher.reply(q.query)
                attempts.append(Attempt(keys[q.query], q.query, "catalog", f"catalog-{VERSION}", evidence, reply))
                known[keys[q.query]] = reply
        ledger.record(attempts)
        for q in part:
            yield q.query, keys[q.query], known[keys[q.query]]
        progress.advance(len(part))


def _labels(
    task: Task, sources: Sources, queries: Sequence[Example], ledger: Ledger, folder: Path,
    fetch: Callable[[str], Path], progress: Progress,
) -> Iterator[Reply]:
    del task, folder, fetch
    imported = {e.query: e for e in sources.imported}
    progress.begin("reading labels", len(queries))
    for at in range(0, len(queries), _BATCH):
        out: list[Reply] = []
        attempts = []
        for q in queries[at : at + _BATCH]:
            example = imported[q.query]
            reply = json.dumps({"labels": [x.to_json() for x in example.labels]}, ensure_ascii=False)
            key = sha256_json({"backend": "labels", "query": q.query, "reply": reply})
            out.append((q.query, key, reply))
        known = ledger.replies([key for _, key, _ in out])
        attempts = [Attempt(k, q, "labels", "imported", {}, r) for q, k, r in out if k not in known]
        ledger.record(attempts)
        yield from out
        progress.advance(len(out))


def _openai(
    task: Task, sources: Sources, queries: Sequence[Example], ledger: Ledger, folder: Path,
    fetch: Callable[[str], Path], progress: Progress,
) -> Iterator[Reply]:
    from teacher.backend_openai import OpenAITeacher

    teacher = OpenAITeacher(task)
    settings = teacher.settings
    if settings.budget and not (settings.price_input_per_million and settings.price_output_per_million):
        raise InputError(
            "a budget needs prices", field="teacher.openai.budget", found=settings.budget,
            expected="price_input_per_million and price_output_per_million beside it",
        )
    contexts = _contexts(task, sources, queries, folder, fetch, progress)
    requests = [teacher.request(q.query, c, n) for q, (c, n) in zip(queries, contexts, strict=True)]
    known = ledger.replies([r.key for r in requests])
    for r in requests:
        if r.key in known:
            yield r.query, r.key, known[r.key]
    progress.begin(f"asking {settings.model}", len(requests), done=len(known))
    todo = [r for r in requests if r.key not in known]
    failed = {r.key: r.query for r in todo}
    loop = asyncio.new_event_loop()
    try:
        cost = float(ledger.spent()["cost"])
        for at in range(0, len(todo), settings.concurrency * 4):
            if settings.budget and cost >= settings.budget:
                raise InputError(
                    f"the budget is spent: {cost:.2f} of {settings.budget:.2f}; {len(failed)} queries are left",
                    field="teacher.openai.budget", fix="Raise it and run the same command: paid replies are kept",
                )
            stream = teacher.send(todo[at : at + settings.concurrency * 4])
            while True:
                try:
                    attempt = loop.run_until_complete(anext(stream))
                except StopAsyncIteration:
                    break
                ledger.record([attempt])
                cost += attempt.cost
                if attempt.reply is not None:
                    del failed[attempt.request]
                    yield attempt.query, attempt.request, attempt.reply
                    progress.advance(note=f"{cost:.2f} spent" if cost else "")
    finally:
        loop.close()
    for key, query in failed.items():
        yield query, key, None


def _contexts(
    task: Task, sources: Sources, queries: Sequence[Example], folder: Path, fetch: Callable[[str], Path],
    progress: Progress,
) -> Iterable[tuple[dict[str, Any], list[Example]]]:
    """What the prompt shows for each query: items, purchases, and the nearest labelled examples."""
    if not sources.catalogue:
        return [({"items": [], "bought": []}, []) for _ in queries]
    from teacher.embed import Embedder
    from teacher.evidence import EvidenceFinder
    from teacher.retrieval import top_rows

    model = fetch(task.teacher.retrieval.embedder)
    finder = EvidenceFinder(task, sources.catalogue, sources.conversions, model, folder)
    shots: list[list[Example]] = [[] for _ in queries]
    asked = {q.query for q in queries}
    pool = [e for e in sources.calibration if e.query not in asked]
    if pool and task.teacher.openai.few_shot:
        embedder = Embedder(model)
        near = embedder.encode([q.query for q in queries]) @ embedder.encode([e.query for e in pool]).T
        shots = [[pool[c] for c in row] for row in top_rows(near, task.teacher.openai.few_shot)]
    progress.begin("retrieving evidence", len(queries))
    out = []
    titles = sources.catalogue
    for evidence, shown in zip(finder.find(queries), shots, strict=True):
        bought = sorted(evidence.conversions.items(), key=lambda x: (-x[1], x[0]))[:5]
        context = {
            "items": [titles[h.row].title for h in evidence.items[:8]],
            "bought": [titles[r].title for r, _ in bought],
        }
        out.append((context, shown))
        progress.advance()
    return out


def _judge(query: Example, request: str, reply: str | None, guardrails: Guardrails) -> tuple[LedgerRow, list[Verdict]]:
    """From a raw reply to a settled row."""
    from teacher.backend_openai import labels_of

    rows = None if reply is None else labels_of(reply)
    if reply is None or rows is None:
        return LedgerRow(query.query, query.count, request, "failed", (), 0.0, "no usable reply"), []
    labels = [
        Label(str(r.get("role")), str(r.get("text")), r.get("start"), r.get("end"), r.get("confidence")) for r in rows
    ]
    kept, verdicts = guardrails.judge(query.query, labels)
    rejected = [v for v in verdicts if v.verdict == "rejected"]
    try:
        confidence = float(json.loads(reply)["confidence"])
    except (ValueError, KeyError, TypeError):
        confidence = min((x.confidence for x in kept if x.confidence is not None), default=1.0)
    row = LedgerRow(
        query.query, query.count, request, "partial" if rejected else "accepted", kept, confidence,
        rejected[0].reason if rejected else "", [v.to_json() for v in verdicts if v.verdict != "accept"],
    )
    return row, verdicts


def _skipped(query: Example, reason: str) -> LedgerRow:
    return LedgerRow(query.query, query.count, "", "skipped", (), 0.0, reason)


def _distinct(log: Sequence[Example]) -> list[Example]:
    """Each query text once, counts added."""
    out: dict[str, Example] = {}
    for q in log:
        seen = out.get(q.query)
        out[q.query] = replace(seen, count=seen.count + q.count) if seen else replace(q, labels=())
    return list(out.values())
