"""The plan of a job of which a part is done rests on what that part took."""

from __future__ import annotations

from pathlib import Path

import pytest

from teacher.backends.job import Sources
from teacher.label import label_queries, plan_labelling
from teacher.ledger.ledger import Ledger
from tests.llm_client.fake_api import FakeApi
from tests.teacher.test_label import llm_task, queries


@pytest.mark.parametrize(("done", "corrected"), [(30, True), (5, False)])
def test_tokens_of_answered_requests_correct_the_estimate(tmp_path: Path, done: int, corrected: bool) -> None:
    log = queries(40)
    with FakeApi() as api, Ledger(tmp_path / "ledger.sqlite") as ledger:  # charges 100 tokens in and 10 out a call
        task = llm_task(api.url)
        label_queries(task, Sources(log[:done]), ledger, tmp_path, fetch=Path)
        plan = plan_labelling(task, Sources(log), ledger, tmp_path, fetch=Path)
        assert plan.calls == 40 - done
        exact = (100 * plan.calls, 10 * plan.calls)
        assert (plan.tokens == pytest.approx(exact, rel=0.02)) == corrected
        label_queries(task, Sources(log), ledger, tmp_path, fetch=Path)
        assert ledger.spent()["prompt_tokens"] == 4_000


def test_every_wanted_signal_is_counted(tmp_path: Path) -> None:
    with FakeApi() as api, Ledger(tmp_path / "ledger.sqlite") as ledger:
        task = llm_task(api.url, verify=True, samples=4, compare_bare=True)
        plan = plan_labelling(task, Sources(queries(6)), ledger, tmp_path, fetch=Path)
        alone = plan_labelling(llm_task(api.url), Sources(queries(6)), ledger, tmp_path, fetch=Path)
        assert (plan.calls, alone.calls) == (24, 6)
        assert plan.tokens[1] > 6 * alone.tokens[1]  # four samples, and a bare answer
        label_queries(task, Sources(queries(6)), ledger, tmp_path, fetch=Path)
        assert ledger.spent()["attempts"] == 24
