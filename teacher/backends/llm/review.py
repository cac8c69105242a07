"""A second look: the teacher is shown its own labels and what was doubted about them, and labels the query again.

Every call is an attempt in the ledger under a key of its own, so that it is paid for once; where the queries stand in
the ledger does not change. Who asked decides what becomes of the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import uvloop

from llm_client.attempt import Reply
from llm_client.budget import Budget
from llm_client.client import Client
from llm_client.prompt import Prompter
from llm_client.reply import rows_of
from llm_client.request import Request
from task.labels import Doubt, Example
from task.progress import Progress, quiet
from task.settings import OpenAI
from task.spec import Task
from teacher.backends.job import Job, Sources
from teacher.backends.llm import backend as backend_llm
from teacher.backends.llm.conversation import usable
from teacher.guardrails.judge import Answer, Judge, make_judge
from teacher.ledger.ledger import Ledger
from teacher.ledger.recorder import GroupCommit
from teacher.ledger.records import LedgerRow


def question(query: str, doubt: Doubt, said: str, instead: str) -> str:
    """One doubt as a line that a language model understands.

    Args:
        said: The role or value that the teacher gave; empty for none.
        instead: What others would say; empty or `nothing` for none.
    """
    none = "nothing" if doubt.start is None else "no role"
    what = doubt.role if doubt.start is None else repr(query[doubt.start : doubt.end])
    other = none if instead in {"", "nothing"} else instead
    if said == instead:  # words of one role that they would put together in another way
        other += ", on more or fewer words"
    return f"- {what}: you said {said or none}, they say {other}"


def review(
    task: Task, sources: Sources, ledger: Ledger, folder: Path, fetch: Callable[[str], Path],
    questions: Mapping[str, Sequence[str]], progress: Progress = quiet,
) -> dict[str, LedgerRow]:
    """Ask about queries again.

    Args:
        ledger: Holds the first replies; a query without one is passed over.
        questions: Query → lines of `question`.

    Returns:
        Query → its labels after the second look, judged by the guardrails but not calibrated; a call that gave nothing
        usable is a row with the status `failed`.

    Raises:
        BudgetSpentError: After the calls that were on their way have been recorded.
    """
    with ledger.writing():
        job = Job(task, sources, [Example(q) for q in questions], ledger, folder, fetch, progress)
        judge = make_judge(task, sources.catalogue, folder, fetch)
        with backend_llm.endpoint(job) as (settings, address):
            return uvloop.run(_review(job, judge, questions, settings, address))


async def _review(
    job: Job, judge: Judge, questions: Mapping[str, Sequence[str]], settings: OpenAI,
    address: Callable[[], str] | None,
) -> dict[str, LedgerRow]:
    recorder = GroupCommit(job.ledger)
    purse = job.purse or Budget(settings.budget, job.ledger.spent()["cost"])
    prompter = Prompter(job.task, settings)
    out: dict[str, LedgerRow] = {}
    job.progress.begin(f"asking {settings.model} once more", len(questions))
    async with Client(settings, recorder, usable, purse, job.task.teacher.backend, address) as client:

        async def ask(query: Example, request: Request, held: Reply | None) -> None:
            reply = held or await client.ask(request, lambda answer: prompter.repair(query.query, answer))
            rows = None if reply is None or reply.cut else rows_of(reply.content)
            reason = "" if rows is not None else "no usable reply to the second look"
            out[query.query] = judge.row(query, Answer(query.query, request.key, rows, {}, reason))
            job.progress.advance()

        try:
            async for block in backend_llm.blocks(job):
                firsts = {q.query: prompter.first(q.query, context)[0] for q, context in block}
                known = job.ledger.replies(r.key for r in firsts.values())
                requests = [
                    (q, prompter.review(first.content.decode(), known[first.key].content, questions[q.query]))
                    for q, _ in block if (first := firsts[q.query]).key in known
                ]
                held = job.ledger.replies(r.key for _, r in requests)
                done = await asyncio.gather(
                    *(ask(q, r, held.get(r.key)) for q, r in requests), return_exceptions=True
                )  # all of them come home first: a reply that is on its way is paid for
                for error in done:
                    if error is not None:
                        raise error
        finally:
            await recorder.flush()
    return out
