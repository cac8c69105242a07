"""The order in which a local engine is asked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llm_client.context import EMPTY, Context
from llm_client.prompt import Prompter
from task.labels import Example
from teacher.backends.llm.online import by_prefix
from tests.conftest import make_task
from tests.teacher.test_label import PROMPT

PROMPTER = Prompter(make_task(teacher={"backend": "vllm", "openai": {"prompt": str(PROMPT)}}))


def shared(first: bytes, second: bytes) -> int:
    """The number of bytes that two texts begin with."""
    different = (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return next(different, min(len(first), len(second)))


def context_of(shown: list[str]) -> Context:
    return {**EMPTY, "examples": [{"query": q, "labels": []} for q in shown]}


SHOWN = st.lists(st.sampled_from(["oat milk", "rye bread", "green tea", "soap"]), min_size=1, max_size=3)


@given(st.lists(st.tuples(st.text(max_size=8), SHOWN), min_size=2, max_size=12))
def test_no_prompt_has_a_longer_prefix_with_another_than_with_a_neighbour(rows: list[tuple[str, list[str]]]) -> None:
    """So what an engine's cache has of the last prompts is as much as there is to find."""
    pairs = [((Example(q), i), PROMPTER.first(q, context_of(shown))) for i, (q, shown) in enumerate(rows)]
    found = by_prefix(pairs)
    assert sorted(x[0][1] for x in found) == list(range(len(rows)))
    bodies = [group[0].content for _, group in found]
    for i, body in enumerate(bodies[1:], 1):
        assert shared(body, bodies[i - 1]) == max(shared(body, other) for other in bodies[:i])
