"""The interface of an answer form."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, Protocol

from task.labels import Example, Labelling
from task.spec import Task
from task.symbols import Encoded, SymbolTable, Tokenizer
from task.validation import Fault, resolve

Output = Literal["scores", "symbols", "text"]
"""The kind of output that a model gives for a query; it decides how transformers and the engine are called:

- `scores`: logits of the symbols at the prompt's positions, shape (units + probes, symbols); nothing is generated.
- `symbols`: (generated token ids, their log-probabilities), chosen among the symbols; and for a task with text roles
  the `WrittenTexts` that were generated after them.
- `text`: (generated text, whether the model ended it itself); False where the token limit cut it off.
"""


class Decoded(NamedTuple):
    """What a model's output says about a query.

    Attributes:
        labels: The labels; none where there is a fault.
        raw_probability: The student's probability that they are right as a whole; None where its form gives none.
        fault: Why the output cannot be used; None where it can.
    """

    labels: Labelling
    raw_probability: float | None
    fault: Fault | None = None


class AnswerForm(Protocol):
    """An answer form. It has no state: what depends on the task is in the `SymbolTable` that its methods take."""

    output: Output
    token_classifier: bool
    """Whether the engine serves the merged model as a token classifier, with the LM head cut down to the symbols."""
    constrained: bool
    """Whether decoding gives only labels that the task allows: no such answer can break a rule of the task."""

    def representable(self, table: SymbolTable, example: Example) -> bool:
        """Whether the form can express this labelling."""

    def prompt(self, table: SymbolTable, query: str, tokenizer: Tokenizer) -> Encoded:
        """The prompt of a query, and the positions at which the model's scores are read."""

    def answer(self, table: SymbolTable, example: Example, tokenizer: Tokenizer) -> list[int]:
        """Token ids of the right answer."""

    def supervise(self, prompt: Encoded, answer: list[int]) -> Encoded:
        """A prompt with its answer as targets."""

    def most_generated(self, table: SymbolTable, query: str) -> int:
        """The maximum number of tokens that are generated for a query; of symbols alone the exact number."""

    def generated(self, table: SymbolTable, example: Example, tokenizer: Tokenizer) -> int:
        """Tokens that are generated for the right answer."""

    def loss_alphabet(self, table: SymbolTable, softmax: str) -> tuple[int, ...] | None:
        """Token ids that compete in the loss, given `student.softmax`; None for the whole vocabulary."""

    def decode(self, table: SymbolTable, query: str, output: Any, task: Task) -> Decoded:
        """Labels from the model's output, which has the form that `Output` describes; or its fault."""


def decoded(task: Task, labels: Labelling, raw_probability: float) -> Decoded:
    """Labels that were decoded from scores, under the task's rules; a fault where a score was not a number."""
    if not math.isfinite(raw_probability):
        return Decoded((), 0.0, Fault("unreadable", "scores that are not finite numbers"))
    return Decoded(resolve(task, labels), raw_probability)


def least_confidence(task: Task) -> dict[str, float]:
    """Role → the least probability of an answer, for roles that set one; less probable values are answered above."""
    return {r.name: r.min_confidence for r in task.roles if r.min_confidence}


def text_prompt(table: SymbolTable, query: str, tokenizer: Tokenizer) -> Encoded:
    """The query and the separator: the prompt of the forms that generate."""
    return Encoded([*table.prefix, *tokenizer.encode(query), *table.separator], [], [])


def supervise_continuation(prompt: Encoded, answer: list[int]) -> Encoded:
    """Prompt and answer as a training example: each answer token is predicted at the position before it."""
    first = len(prompt.ids) - 1
    return Encoded(prompt.ids + answer[:-1], list(range(first, first + len(answer))), answer)
