"""What the prompts of a ledger took, against their estimate: it corrects the estimate of further ones.

The vocabularies of LLMs differ, and a context that is composed for a plan is only about as long as a retrieved one.
Both are known once some queries are labelled, or audited. Only answers to the very prompt that the task has now count:
the request of each is made again from the context that is stored with it, and must have the stored request's key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llm_client.context import EMPTY, KINDS, Context
from llm_client.likely_tokens import Estimate, Likely
from llm_client.prompt import Prompter
from task.labels import Example
from task.spec import Task
from teacher.backends.job import Sources
from teacher.backends.llm.conversation import stored_replies, verify_request
from teacher.backends.llm.typical_contexts import typical_contexts
from teacher.ledger.ledger import Ledger
from teacher.ledger.measured_tokens import LEAST, labelled_contexts, prompt_tokens

_SAMPLE = 400  # answered queries that are compared, the latest
_ALIKE = 0.2  # by how much the numbers of shown entries may differ


class ByPurpose:
    """Expected calls by purpose, and how many tokens the prompts of answered ones took, against the estimate."""

    def __init__(self) -> None:
        self._expected: dict[str, Likely] = {}
        self._compared: dict[str, tuple[int, float, int]] = {}

    def add(self, purpose: str, likely: Likely) -> None:
        """A call to make."""
        self._expected[purpose] = self._expected.get(purpose, Likely()) + likely

    def compare(self, purpose: str, likely: Likely, took: int) -> None:
        """A call that was made."""
        calls, guessed, tokens = self._compared.get(purpose, (0, 0.0, 0))
        self._compared[purpose] = calls + 1, guessed + likely.prompt, tokens + took

    @property
    def compared(self) -> int:
        """Number of calls whose prompts were compared, of the purpose that has most."""
        return max((calls for calls, _, _ in self._compared.values()), default=0)

    def corrected(self) -> Likely:
        """All calls to make; prompts are as much longer than estimated as those of the same purpose were.

        A purpose that has not been asked for yet is corrected like the others: the vocabulary is the same.
        """
        total = Likely()
        for purpose, likely in self._expected.items():
            factor = self._factor(purpose)
            total += Likely(likely.calls, likely.prompt * factor, likely.completion)
        return total

    def _factor(self, purpose: str) -> float:
        calls, guessed, tokens = self._compared.get(purpose, (0, 0.0, 0))
        if calls < LEAST:
            calls, guessed, tokens = (sum(x) for x in zip((0, 0.0, 0), *self._compared.values(), strict=True))
        return tokens / guessed if calls >= LEAST else 1.0


def compare_answered(
    likely: ByPurpose, task: Task, sources: Sources, ledger: Ledger, prompter: Prompter, estimate: Estimate
) -> None:
    """Compare the prompts of labelled queries with their estimate, where they are the task's own still."""
    found: list[tuple[str, Context]] = []
    for query, key, stored in labelled_contexts(ledger, _SAMPLE):
        context = _restored(task, stored)
        if prompter.first(query, context)[0].key == key:
            found.append((query, context))
    if len(found) < LEAST:
        return
    planned = typical_contexts(task, sources, [Example(query) for query, _ in found])
    # A context of other kinds or numbers was retrieved with other settings: it tells about the vocabulary only.
    alike = _alike([context for _, context in found], planned)
    for (query, context), typical in zip(found, planned, strict=True):
        made, guessed = prompter.first(query, context), prompter.first(query, typical)
        took = prompt_tokens(ledger, [r.key for r in made])
        for request, guess in zip(made, guessed, strict=True):
            if request.key in took:
                likely.compare(request.purpose, estimate.request(guess if alike else request), took[request.key])
        if prompter.settings.verify:
            first = made[0]
            follow = verify_request(prompter, first, stored_replies(ledger, [[first]]).get(first.key))
            if follow is not None and (tokens := prompt_tokens(ledger, [follow.key]).get(follow.key)):
                likely.compare("verify", estimate.request(follow), tokens)


def _restored(task: Task, stored: Context) -> Context:
    """A context as it was rendered: the ledger keeps roles in alphabetical order."""
    order = {"converted": task.roles, "similar": (*task.open_roles, *task.closed_roles)}
    found = {**EMPTY, **stored}
    return found | {kind: {r.name: found[kind][r.name] for r in roles if r.name in found[kind]}
                    for kind, roles in order.items()}


def _alike(some: Sequence[Context], others: Sequence[Context]) -> bool:
    """Whether two lists of contexts have the same kinds and about as many entries of each."""
    return all(
        abs(a - b) <= max(1.0, _ALIKE * max(a, b)) and (a > 0) == (b > 0)
        for a, b in ((_most(some, kind), _most(others, kind)) for kind in KINDS)
    )


def _most(contexts: Sequence[Context], kind: str) -> int:
    def entries(held: Mapping[str, Sequence[object]] | Sequence[object]) -> int:
        return sum(map(len, held.values())) if isinstance(held, Mapping) else len(held)

    return max((entries(c[kind]) for c in contexts), default=0)
