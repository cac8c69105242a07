"""A plan takes what the prompts of a ledger took, as long as they are the prompts that would be sent now."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_client.attempt import Attempt
from llm_client.context import EMPTY, Context
from llm_client.prompt import Prompter
from task.labels import Example
from task.spec import Task
from teacher.backends.llm.plan_ahead import plan_ahead
from teacher.backends.llm.typical_contexts import typical_contexts
from teacher.ledger.ledger import Ledger
from teacher.ledger.records import LedgerRow
from tests.conftest import make_task
from tests.teacher.backends.llm.test_plan_ahead import KINDS, ROLES, sources, task_of

LOG = [Example(f"thing{i} {KINDS[i % 4]}") for i in range(60)]


def taken(task: Task, ledger: Ledger, contexts: list[Context], tokens: int) -> None:
    """As many queries as there are contexts labelled by the task's prompt, each prompt of so many tokens."""
    prompter = Prompter(task)
    made = [r for q, c in zip(LOG, contexts, strict=False) for r in prompter.first(q.query, c)]
    ledger.record([Attempt(
        request=r.key, query=r.query, backend="openai", model="m", evidence=r.evidence, purpose=r.purpose,
        reply='{"labels": [{"role": "product", "text": "milk"}]}', prompt_tokens=tokens, completion_tokens=12,
    ) for r in made], [LedgerRow(r.query, 1, r.key, "accepted", (), 1.0) for r in made if r.purpose == "label"])


def a_call(task: Task, ledger: Ledger | None = None) -> float:
    likely = plan_ahead(task, sources(), LOG, ledger).likely
    return likely.prompt / likely.calls


def test_what_the_prompts_took_replaces_the_first_guess(tmp_path: Path) -> None:
    """Retrieved contexts are shorter than composed ones, and the vocabulary is another: both are known by then."""
    task = task_of(model="m")
    contexts = [{**c, "items": [t[:3] for t in c["items"]]} for c in typical_contexts(task, sources(), LOG[:25])]
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        taken(task, ledger, contexts, 4_000)
        assert a_call(task, ledger) == pytest.approx(4_000, rel=0.1)
        assert plan_ahead(task, sources(), LOG, ledger).measured == 25
        # Later answers without context, as of an audit, are not what the task's own prompts take.
        own = ledger.rows(q.query for q in LOG)
        taken(task, ledger, [EMPTY] * 25, 10)
        ledger.write_rows(own.values())
        assert a_call(task, ledger) == pytest.approx(4_000, rel=0.1)


def test_roles_are_in_the_order_of_the_task_and_not_of_the_ledger(tmp_path: Path) -> None:
    task = make_task(roles=ROLES[::-1], teacher=task_of(model="m").teacher.model_dump(mode="json"))
    contexts = typical_contexts(task, sources(), LOG[:25])
    assert list(contexts[0]["converted"]) == ["product", "brand"]
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        taken(task, ledger, contexts, 4_000)
        assert plan_ahead(task, sources(), LOG, ledger).measured == 25


def test_samples_that_were_not_asked_for_yet_take_as_much(tmp_path: Path) -> None:
    task, more = task_of(model="m"), task_of(model="m", samples=3)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        taken(task, ledger, typical_contexts(task, sources(), LOG[:25]), 4_000)
        assert a_call(more, ledger) == pytest.approx(4_000, rel=0.1)


@pytest.mark.parametrize("answered", [19, 20])
def test_a_few_answers_say_little(tmp_path: Path, answered: int) -> None:
    task = task_of(model="m")
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        taken(task, ledger, typical_contexts(task, sources(), LOG[:answered]), 4_000)
        assert (a_call(task, ledger) > 3_000) == (answered >= 20)


def test_another_prompt_is_not_what_was_measured(tmp_path: Path) -> None:
    task = task_of(model="m")
    other = tmp_path / "other.j2"
    other.write_text(Path(str(task.teacher.openai.prompt)).read_text() + "\nAnswer briefly.\n")
    changed = task_of(model="m", prompt=str(other))
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        taken(task, ledger, typical_contexts(task, sources(), LOG[:25]), 4_000)
        assert a_call(changed, ledger) == a_call(changed)


def test_with_other_kinds_of_context_the_vocabulary_is_still_known(tmp_path: Path) -> None:
    """A context of other kinds is no measure of the length, but its text is of the same vocabulary."""
    whole, less = task_of(model="m"), task_of(model="m", context=["bought"])
    contexts = typical_contexts(whole, sources(), LOG[:25])
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        taken(whole, ledger, contexts, round(2 * a_call(whole)))
        assert a_call(less, ledger) == pytest.approx(2 * a_call(less), rel=0.1)
