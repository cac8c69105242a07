"""Likely tokens of requests and of their answers: the one estimate behind `limbeck plan` and `limbeck label --plan`.

A budget reserves the most that a call can cost (`Request.most_tokens`); these are the numbers to expect. What an answer
is long can be told from labels that are known: gold calibration rows, else the task's examples.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_client.prompt import Prompter
from llm_client.request import Request
from task.spec import Task

Rows = Sequence[Mapping[str, Any]]  # labels, as a reply has them
_PER_MESSAGE, _PER_REPLY = 4, 3  # what a chat template adds around each message, and before the reply
_ASSUMED_LABELS = 3  # of a query, where no labels are known
# Up to seven letters, three digits and the blank before them, two signs, or line breaks.
_PIECE = re.compile(r"[^\W\d_]{1,7}| (?=\d)|\d{1,3}|[^\w\s]{1,2}|_|\n+")


def likely_tokens(text: str) -> int:
    """About how many tokens a text has; the vocabularies of LLMs differ by some 10 % in English."""
    return len(_PIECE.findall(text))


@dataclass(frozen=True, slots=True)
class Likely:
    """Expected calls, and expected tokens of their prompts and answers."""

    calls: float = 0.0
    prompt: float = 0.0
    completion: float = 0.0

    def __add__(self, other: Likely) -> Likely:
        return Likely(self.calls + other.calls, self.prompt + other.prompt, self.completion + other.completion)

    def times(self, factor: float) -> Likely:
        """As many times all of it."""
        return Likely(self.calls * factor, self.prompt * factor, self.completion * factor)


class Estimate:
    """Likely tokens of a task's requests.

    Args:
        prompter: Makes the requests that are estimated before they can be made.
        known: Labellings of queries like those that are asked about; none takes the task's examples.
        measured: Purpose → tokens of the answers to a request, as measured; they replace those of the labellings.
    """

    def __init__(
        self, task: Task, prompter: Prompter, known: Sequence[Rows] = (), measured: Mapping[str, float] | None = None
    ) -> None:
        self._prompter = prompter
        self._known: Sequence[Rows] = known or [[x.model_dump() for x in e.labels] for e in task.examples]
        if not any(self._known):
            others = [r.name for r in task.roles if r.kind != "text"][:_ASSUMED_LABELS]
            texts = [r.name for r in task.text_roles for _ in range(r.most_texts)]
            self._known = [[{"role": name, "text": "two words"} for name in (*others, *texts)]]
        self._answers = {
            "labels": _mean([likely_tokens(json.dumps({"labels": list(rows)})) for rows in self._known]),
            "verify": _mean([likely_tokens(json.dumps({"right": [True] * len(rows)})) for rows in self._known if rows]),
        }
        self._measured = measured or {}
        asked = [self.request(prompter.verify("", rows)) for rows in self._known if rows]
        self._verify = sum(asked, Likely()).times(1 / len(self._known))

    def request(self, request: Request) -> Likely:
        """A request that is known, with its answers."""
        body = json.loads(request.content)
        prompt = _PER_REPLY + sum(_PER_MESSAGE + likely_tokens(m["content"]) for m in body["messages"])
        if request.purpose in self._measured:
            return Likely(1, prompt, self._measured[request.purpose])
        answer = self._answers["verify" if request.purpose == "verify" else "labels"]
        return Likely(1, prompt, answer * int(body.get("n", 1)))

    def verify(self, query: str) -> Likely:
        """The verification of labels that are not known yet: the mean over the known labellings.

        A query without labels has none, so there may be less than one call to expect.
        """
        return self._verify + Likely(prompt=self._verify.calls * likely_tokens(query))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
