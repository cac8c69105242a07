"""The `write` answer form: the symbols of `read`, generated after the query, one token for each unit and probe."""

from __future__ import annotations

from typing import Any

from task.forms.protocol import Decoded, Output, decoded, least_confidence, supervise_continuation, text_prompt
from task.labels import Example
from task.spec import Task
from task.symbols import Encoded, SymbolTable, Tokenizer
from task.validation import Fault


class Write:
    """See the module, and `AnswerForm` for the methods."""

    output: Output = "symbols"
    token_classifier = False
    constrained = False

    def representable(self, table: SymbolTable, example: Example) -> bool:
        """See `AnswerForm`."""
        return table.symbols_represent(example)

    def prompt(self, table: SymbolTable, query: str, tokenizer: Tokenizer) -> Encoded:
        """See `AnswerForm`."""
        return text_prompt(table, query, tokenizer)

    def answer(self, table: SymbolTable, example: Example, _: Tokenizer) -> list[int]:
        """See `AnswerForm`."""
        return [table.symbol_ids[s] for s in table.answer(example)]

    def supervise(self, prompt: Encoded, answer: list[int]) -> Encoded:
        """See `AnswerForm`."""
        return supervise_continuation(prompt, answer)

    def most_generated(self, table: SymbolTable, query: str) -> int:
        """See `AnswerForm`."""
        return table.symbol_count(query)

    def generated(self, table: SymbolTable, example: Example, _: Tokenizer) -> int:
        """See `AnswerForm`."""
        return table.symbol_count(example.query)

    def loss_alphabet(self, _: SymbolTable, __: str) -> tuple[int, ...] | None:
        """See `AnswerForm`; generated tokens compete with the whole vocabulary."""
        return None

    def decode(self, table: SymbolTable, query: str, output: Any, task: Task) -> Decoded:
        """See `AnswerForm`.

        A continuation without its begin is decoded to the most probable consistent labelling, as in `read`; too few
        symbols, or one that cannot stand in its place, are faults.
        """
        ids, log_probabilities = output
        allowed = table.allowed_symbols(query)
        if len(ids) < len(allowed):
            return Decoded((), 0.0, Fault("truncated", f"{len(ids)} symbols of {len(allowed)}"))
        wrong = next((n for n, (token, of) in enumerate(zip(ids, allowed, strict=False)) if token not in of), None)
        if wrong is not None:
            return Decoded((), 0.0, Fault("unreadable", f"token {ids[wrong]} at place {wrong}, which it cannot fill"))
        least = least_confidence(task)
        return decoded(task, *table.decode_symbols_with_probability(query, ids, log_probabilities, least))
