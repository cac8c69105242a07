"""Review: the teacher sees its own labels and the doubts about them, and labels the query again.

Every call is an attempt in the ledger under a key of its own, so it is paid for once. The rows in the ledger do not
change: the caller decides what the new labels are used for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from llm_client.attempt import Reply
from llm_client.prompt import Prompter
from llm_client.reply import rows_of
from llm_client.request import Request
from task.labels import Doubt, Example
from task.progress import Progress, quiet
from task.spec import Task
from teacher.backends.job import LabellingJob, Sources
from teacher.backends.llm import interruption
from teacher.backends.llm.contexts import blocks_ahead
from teacher.backends.llm.conversation import stored_replies
from teacher.backends.llm.online import ONLINE, Endpoint, open_client
from teacher.guardrails.validator import TeacherAnswer, Validator, make_validator
from teacher.ledger.ledger import Ledger
from teacher.ledger.records import LedgerRow

CUT = "the second reply was cut by max_tokens"  # it would be cut again


def question(query: str, doubt: Doubt, *, said: str, instead: str) -> str:
    """One doubt as a line of the prompt.

    Args:
        said: The role or value that the teacher gave; empty for none.
        instead: What the students predict; empty or `nothing` for none.
    """
    none = "nothing" if doubt.start is None else "no role"
    what = doubt.role if doubt.start is None else repr(query[doubt.start : doubt.end])
    other = none if instead in {"", "nothing"} else instead
    if said == instead:  # the same role on another span
        other += ", on more or fewer words"
    return f"- {what}: you said {said or none}, they say {other}"


def review(
    task: Task, sources: Sources, ledger: Ledger, folder: Path, fetch: Callable[[str], Path],
    questions: Mapping[str, Sequence[str]], progress: Progress = quiet,
) -> dict[str, LedgerRow]:
    """Have queries labelled again.

    Args:
        ledger: Has the first replies; a query without one is skipped.
        questions: Query → lines of `question`.

    Returns:
        Query → its row after the review, validated but not calibrated; `failed` if there was no usable answer.

    Raises:
        BudgetSpentError: After the calls in flight have been recorded.
        ProviderError: Every call fails alike.
    """
    with ledger.writing():
        job = LabellingJob(
            task, sources, [Example(q) for q in questions], ledger=ledger, folder=folder, fetch=fetch, progress=progress
        )
        validator = make_validator(task, sources.catalogue, folder, fetch)
        with ONLINE[task.teacher.backend].endpoint(job) as endpoint:
            return interruption.run(_review(job, validator, questions, endpoint))


async def _review(
    job: LabellingJob, validator: Validator, questions: Mapping[str, Sequence[str]], endpoint: Endpoint
) -> dict[str, LedgerRow]:
    settings = endpoint.settings
    prompter = Prompter(job.task, settings)
    out: dict[str, LedgerRow] = {}
    async with open_client(job, endpoint) as (client, recorder, _):

        async def ask(query: Example, request: Request, held: Reply | None) -> None:
            async with recorder.asking() as before:
                reply = held or await client.ask(request, lambda answer: prompter.repair(query.query, answer=answer))
                why = recorder.gave_up(request.key, before) if reply is None else None
            rows = None if reply is None or reply.cut else rows_of(reply.content)
            cut = reply is not None and reply.cut
            reason = "no usable reply to the second look" + (f": {why}" if why else "")
            reason = "" if rows is not None else CUT if cut else reason
            given = TeacherAnswer(query=query.query, request=request.key, labels=rows, reason=reason)
            out[query.query] = validator.row(query, given)
            job.progress.advance()

        async for block in blocks_ahead(job, f"asking {settings.model} once more"):
            firsts = [(q, prompter.first(q.query, context)[0]) for q, context in block]
            known = stored_replies(job.ledger, ([first] for _, first in firsts))
            requests = [
                (q, prompter.review(first.content.decode(), answer=known[first.key].content, doubts=questions[q.query]))
                for q, first in firsts if first.key in known
            ]
            held = stored_replies(job.ledger, ([r] for _, r in requests))
            results = await asyncio.gather(
                *(ask(q, r, held.get(r.key)) for q, r in requests), return_exceptions=True
            )  # errors are raised after all calls have come back: a call in flight is paid for
            for error in results:
                if error is not None:
                    raise error
    return out
