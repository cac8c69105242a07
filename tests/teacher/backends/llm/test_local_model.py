"""A local LLM in a real vLLM engine: same keys, guardrails and ledger as a paid one."""

from __future__ import annotations

from pathlib import Path

import pytest

from task.labels import Example
from task.model_store import fetch
from teacher.backends.job import Sources
from teacher.label import label_queries
from teacher.ledger.ledger import Ledger
from tests.conftest import make_task
from tests.teacher.test_label import PROMPT


@pytest.mark.slow
def test_a_local_model_answers_within_the_schema_and_is_asked_once(tmp_path: Path) -> None:
    settings = {"prompt": str(PROMPT), "max_tokens": 96, "timeout_s": 120.0, "context": [], "logprobs": True}
    task = make_task(teacher={"backend": "vllm", "openai": settings, "vllm": {"max_model_len": 1024}})
    log = [Example("oat milk"), Example("organic drinks 1l"), Example("牛奶")]
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        first = list(label_queries(task, Sources(log), ledger, tmp_path, fetch).rows)
        attempts = list(ledger.attempts())
        # everything is answered now, so no engine is started
        again = list(label_queries(task, Sources(log), ledger, tmp_path, fetch).rows)
        assert len(list(ledger.attempts())) == len(attempts)
    assert again == first
    assert {a["outcome"] for a in attempts} <= {"ok", "truncated"}
    assert any(a["outcome"] == "ok" for a in attempts)
    for row in first:
        for x in row.labels:
            assert task.label_problem(row.query, x.role, x.text) is None
    # A token may be part of a character, so values in other scripts have no token probability.
    assert all("token probability" in s for r in first if r.query.isascii() for s in r.label_signals)


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_engines_on_ray_workers_give_the_answers_of_one_process(tmp_path: Path) -> None:
    """Requests have the same keys, so a job in one process finds the answers of two engines and starts none."""
    settings = {"prompt": str(PROMPT), "max_tokens": 64, "timeout_s": 120.0, "context": [], "concurrency": 4}
    vllm = {"max_model_len": 1024, "kv_cache_gib": 0.25}
    log = [Example(q) for q in ("oat milk", "organic drinks 1l", "verdant oat milk", "milk")]
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        task = make_task(teacher={"backend": "vllm", "workers": 2, "openai": settings, "vllm": vllm})
        first = list(label_queries(task, Sources(log), ledger, tmp_path, fetch).rows)
        attempts = list(ledger.attempts())
        alone = make_task(teacher={"backend": "vllm", "openai": settings, "vllm": vllm})
        again = list(label_queries(alone, Sources(log), ledger, tmp_path, fetch).rows)
        assert len(list(ledger.attempts())) == len(attempts)
    assert again == first
    assert [r.query for r in first] == [q.query for q in log]
    assert {a["query"] for a in attempts} == {q.query for q in log}
    assert 1 <= len(list(tmp_path.glob("teacher-*.log"))) <= 2  # Ray may give all to the engine that is ready first
    assert not (tmp_path / "teacher.log").exists()
