"""The plan of an LLM backend: its requests compared with the replies in the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llm_client.likely_tokens import Estimate, Rows
from llm_client.prices import price_of
from llm_client.prompt import Prompter
from llm_client.request import Request
from task.labels import Example
from task.settings import OpenAI
from teacher.backends.job import LabellingJob, LabellingPlan
from teacher.backends.llm.contexts import blocks
from teacher.backends.llm.conversation import stored_replies, verify_request
from teacher.backends.llm.measured_prompts import ByPurpose
from teacher.guardrails.validator import Validator
from teacher.ledger.ledger import Ledger
from teacher.ledger.measured_tokens import answer_tokens, prompt_tokens
from teacher.ledger.records import LedgerRow


def known_labels(gold: Iterable[Example]) -> list[Rows]:
    """Gold rows as the labels of replies, from which the length of answers is estimated."""
    return [[{"role": x.role, "text": x.text} for x in e.labels] for e in gold]


def plan_calls(
    job: LabellingJob, validator: Validator, ledger: Ledger, settings: OpenAI, *, batch: bool
) -> LabellingPlan:
    """The queries to ask, to validate again, and to leave as they are; makes no calls.

    Args:
        ledger: The file behind `job.ledger`: what its calls took corrects the estimate.
        settings: Of the endpoint.
        batch: Whether the batch discount applies.
    """
    prompter = Prompter(job.task, settings)
    estimate = Estimate(
        job.task, prompter, known_labels(job.sources.calibration), answer_tokens(ledger, settings.model)
    )
    ask: list[str] = []
    revalidate: list[str] = []
    reasons: dict[str, int] = {}
    unchanged = 0
    requests: set[str] = set()
    likely = ByPurpose()
    job.progress.begin("comparing with the ledger", len(job.queries))
    for block in blocks(job):
        groups = [prompter.first(query.query, context) for query, context in block]
        if settings.verify:
            known = stored_replies(ledger, [[first] for first, *_ in groups])
            follow = [verify_request(prompter, group[0], known.get(group[0].key)) for group in groups]
            groups = [[*g, f] if f is not None else g for g, f in zip(groups, follow, strict=True)]
        answered = ledger.answered(r.key for group in groups for r in group)
        took = prompt_tokens(ledger, list(answered))
        answered |= job.planned
        rows = ledger.rows(query.query for query, _ in block)
        for (query, _), group in zip(block, groups, strict=True):
            missing = [r for r in group if r.key not in answered]
            row = rows.get(query.query)
            for r in group:
                if r.key in took:
                    likely.compare(r.purpose, estimate.request(r), took[r.key])
            if missing:
                ask.append(query.query)
                requests.update(r.key for r in missing)
                for r in missing:
                    likely.add(r.purpose, estimate.request(r))
                if settings.verify and group[0] in missing:
                    likely.add("verify", estimate.verify(query.query))
                reason = _reason(row, missing, group)
                reasons[reason] = reasons.get(reason, 0) + 1
            elif row is None or row.rules != validator.fingerprint or row.request != group[0].key:
                revalidate.append(query.query)
            else:
                unchanged += 1
        job.progress.advance(len(block))
    total = likely.corrected()
    tokens = round(total.prompt), round(total.completion)
    price = price_of(settings, batch=batch)
    cost = None if price is None else price.of(prompt=tokens[0], completion=tokens[1])
    return LabellingPlan(
        ask=ask, revalidate=revalidate, unchanged=unchanged, calls=round(total.calls), tokens=tokens, cost=cost,
        reasons=reasons, requests=frozenset(requests),
    )


def _reason(row: LedgerRow | None, missing: Sequence[Request], group: Sequence[Request]) -> str:
    if row is None:
        return "new"
    if row.status == "failed":
        return "failed before"
    return "its request changed" if len(missing) == len(group) else "another signal is wanted"
