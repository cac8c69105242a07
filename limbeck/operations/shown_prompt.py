"""`limbeck context`: what the LLM would be shown for a query, without asking it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from limbeck.run import Run
from task.errors import InputError
from task.labels import Example
from task.text import printable


def shown_prompt(run: Run, query: str) -> dict[str, Any]:
    """The retrieved context of any query, and the requests that depend on no reply, JSON-ready.

    The index is used, and built where it is missing, as `limbeck label` does; no call is made.

    Args:
        query: May be one that the log does not have.

    Raises:
        InputError: The task's teacher is no LLM, the query is one that is never labelled, or the prompt cannot be
            rendered.
    """
    from llm_client.prompt import Prompter
    from task.model_store import fetch
    from teacher.backends.backend import backend_of
    from teacher.backends.job import LabellingJob
    from teacher.backends.llm.contexts import embedder_of, make_index, open_finder
    from teacher.label import why_not_labelled
    from teacher.ledger.ledger import Ledger

    task = run.task
    if not backend_of(task).asks_llm:
        raise InputError(
            "this teacher is no LLM and is shown no prompt", field="teacher.backend", found=task.teacher.backend,
            expected="openai, openai-batch or vllm",
            fix="`limbeck ledger TASK --query TEXT` shows what the labels of a labelled query were made from",
        )
    if (why := why_not_labelled(task, Example(query))) is not None:
        raise InputError(f"this query is never labelled: {why}", field="--query", found=query)
    with Ledger(run.files.ledger) as ledger:
        job = LabellingJob(
            task, run.inputs.teacher, [Example(query)], ledger=ledger, folder=run.files.index, fetch=fetch,
            progress=run.progress,
        )
        # What is looked up stays out of the store: a labelling job may be writing it.
        finder = open_finder(job, index=make_index(job), model=embedder_of(job), shared=True)
        (context,) = next(finder.find(job.queries))
        requests = Prompter(task).first(query, context)
        answered = ledger.answered(r.key for r in requests)
    return {
        "query": query, "task": task.name, "context": {kind: found for kind, found in context.items() if found},
        "requests": [
            {"purpose": r.purpose, "answered": r.key in answered, "messages": json.loads(r.content)["messages"]}
            for r in requests
        ],
    }


def render(found: Mapping[str, Any]) -> str:
    """The same as text: the context by kind, then the messages of each request."""
    lines = [f"Retrieved for {found['query']!r}:"]
    for kind, entries in found["context"].items():
        lines.append(f"  {kind}: {json.dumps(entries, ensure_ascii=False)}")
    if not found["context"]:
        lines.append("  nothing")
    for request in found["requests"]:
        known = "the ledger has its reply" if request["answered"] else "not asked yet"
        lines += ["", f"Request `{request['purpose']}`, {known}:"]
        for message in request["messages"]:
            lines += [f"--- {message['role']}", *map(printable, message["content"].splitlines())]
    return "\n".join(lines)
