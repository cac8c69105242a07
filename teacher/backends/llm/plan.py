"""The plan of an LLM backend: its requests compared with the replies in the ledger."""

from __future__ import annotations

from collections.abc import Sequence

from llm_client.prices import price_of
from llm_client.prompt import Prompter
from llm_client.request import Request
from task.settings import OpenAI
from teacher.backends.job import LabellingJob, LabellingPlan
from teacher.backends.llm.contexts import blocks
from teacher.backends.llm.conversation import stored_replies, verify_request
from teacher.guardrails.validator import Validator
from teacher.ledger.records import LedgerRow

_LIKELY_ANSWER_TOKENS = 16  # per role of the task, where no answers are known yet


def plan_calls(job: LabellingJob, validator: Validator, settings: OpenAI, *, batch: bool) -> LabellingPlan:
    """The queries to ask, to validate again, and to leave as they are; makes no calls.

    Args:
        settings: Of the endpoint.
        batch: Whether the batch discount applies.
    """
    prompter = Prompter(job.task, settings)
    ask: list[str] = []
    revalidate: list[str] = []
    reasons: dict[str, int] = {}
    unchanged = calls = tokens_in = 0
    job.progress.begin("comparing with the ledger", len(job.queries))
    for block in blocks(job):
        groups = [prompter.first(query.query, context) for query, context in block]
        if settings.verify:
            known = stored_replies(job.ledger, [[first] for first, *_ in groups])
            follow = [verify_request(prompter, group[0], known.get(group[0].key)) for group in groups]
            groups = [[*g, f] if f is not None else g for g, f in zip(groups, follow, strict=True)]
        answered = job.ledger.answered(r.key for group in groups for r in group)
        rows = job.ledger.rows(query.query for query, _ in block)
        for (query, _), group in zip(block, groups, strict=True):
            missing = [r for r in group if r.key not in answered]
            row = rows.get(query.query)
            if missing:
                ask.append(query.query)
                calls += len(missing) + (settings.verify and group[0] in missing)
                tokens_in += sum(r.most_tokens[0] // 4 for r in missing)
                reason = _reason(row, missing, group)
                reasons[reason] = reasons.get(reason, 0) + 1
            elif row is None or row.rules != validator.fingerprint or row.request != group[0].key:
                revalidate.append(query.query)
            else:
                unchanged += 1
        job.progress.advance(len(block))
    tokens_out = calls * min(settings.max_tokens, _LIKELY_ANSWER_TOKENS * len(job.task.roles))
    price = price_of(settings, batch=batch)
    cost = None if price is None else price.of(prompt=tokens_in, completion=tokens_out)
    return LabellingPlan(
        ask=ask, revalidate=revalidate, unchanged=unchanged, calls=calls, tokens=(tokens_in, tokens_out), cost=cost,
        reasons=reasons,
    )


def _reason(row: LedgerRow | None, missing: Sequence[Request], group: Sequence[Request]) -> str:
    if row is None:
        return "new"
    if row.status == "failed":
        return "failed before"
    return "its request changed" if len(missing) == len(group) else "another signal is wanted"
