"""The plan of an LLM backend before there is an index: contexts are composed (`typical_contexts`), not retrieved."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from llm_client.likely_tokens import Estimate, Likely
from llm_client.prompt import Prompter
from task.labels import Example
from task.spec import Task
from teacher.backends.job import Sources
from teacher.backends.llm.measured_prompts import ByPurpose, compare_answered
from teacher.backends.llm.plan import known_labels
from teacher.backends.llm.typical_contexts import typical_contexts
from teacher.ledger.ledger import Ledger
from teacher.ledger.measured_tokens import answer_tokens

_SAMPLE = 400  # queries whose requests are made; the others are taken to be like them


@dataclass(frozen=True, slots=True)
class Ahead:
    """A plan without an index.

    Attributes:
        likely: Of all calls together.
        most: Upper bounds for the tokens of prompt and answer of one call, which a budget reserves before it.
        measured: Number of answers to the same prompt that the estimate was corrected by; 0 for none.
    """

    likely: Likely
    most: tuple[int, int]
    measured: int = 0


def plan_ahead(
    task: Task, sources: Sources, queries: Sequence[Example], ledger: Ledger | None = None
) -> Ahead:
    """Expected calls and tokens of labelling queries from scratch; makes no calls and reads no index.

    Args:
        ledger: What its calls took corrects the estimate.
    """
    prompter = Prompter(task)
    answers = answer_tokens(ledger, prompter.settings.model) if ledger else {}
    estimate = Estimate(task, prompter, known_labels(sources.calibration), answers)
    some = random.Random(0).sample(list(queries), min(_SAMPLE, len(queries)))
    likely, most = ByPurpose(), (0, 0)
    for query, context in zip(some, typical_contexts(task, sources, some), strict=True):
        for request in prompter.first(query.query, context):
            likely.add(request.purpose, estimate.request(request))
            most = max(most, request.most_tokens, key=sum)
        if prompter.settings.verify:
            likely.add("verify", estimate.verify(query.query))
    if ledger:
        compare_answered(likely, task, sources, ledger, prompter, estimate)
    return Ahead(likely.corrected().times(len(queries) / max(1, len(some))), most, likely.compared)
