"""The `read` answer form: nothing is generated, symbols are read in one forward pass over the prompt.

The prompt contains the query twice. In the second copy every unit has seen the whole query, so its symbol can be read
at its last token; closed roles are read at probe tokens after it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from task.forms.protocol import Decoded, Output, decoded, least_confidence, text_prompt
from task.labels import Example
from task.segmentation import units
from task.spec import Task
from task.symbols import Encoded, SymbolTable, Tokenizer
from task.validation import Fault


class Read:
    """See the module, and `AnswerForm` for the methods."""

    output: Output = "scores"
    token_classifier = True
    constrained = True

    def representable(self, table: SymbolTable, example: Example) -> bool:
        """See `AnswerForm`."""
        return table.symbols_represent(example)

    def prompt(self, table: SymbolTable, query: str, tokenizer: Tokenizer) -> Encoded:
        """See `AnswerForm`; the positions are those of the units' last tokens, then of the probes."""
        ids = text_prompt(table, query, tokenizer).ids
        positions = []
        at = 0
        for _, end in units(query, table.segmentation):
            piece = tokenizer.encode(query[at:end])
            ids += piece or [table.symbol_ids[0]]
            positions.append(len(ids) - 1)
            at = end
        if table.probes:
            ids += table.separator
            for probe in table.probes:
                ids.append(probe)
                positions.append(len(ids) - 1)
        return Encoded(ids, positions, [])

    def answer(self, table: SymbolTable, example: Example, _: Tokenizer) -> list[int]:
        """See `AnswerForm`."""
        return [table.symbol_ids[s] for s in table.answer(example)]

    def supervise(self, prompt: Encoded, answer: list[int]) -> Encoded:
        """See `AnswerForm`; a target for each position of the prompt."""
        return Encoded(prompt.ids, prompt.positions, answer)

    def most_generated(self, _: SymbolTable, __: str) -> int:
        """See `AnswerForm`."""
        return 0

    def generated(self, _: SymbolTable, __: Example, ___: Tokenizer) -> int:
        """See `AnswerForm`."""
        return 0

    def loss_alphabet(self, table: SymbolTable, softmax: str) -> tuple[int, ...] | None:
        """See `AnswerForm`."""
        return table.symbol_ids if softmax == "symbols" else None

    def decode(self, table: SymbolTable, query: str, output: Any, task: Task) -> Decoded:
        """See `AnswerForm`; every labelling that is decoded obeys the task, but scores may be no numbers."""
        scores = np.asarray(output, dtype=np.float64)
        if scores.size and not np.isfinite(scores.max(axis=-1)).all():  # NaN, infinity, or no symbol is possible
            return Decoded((), 0.0, Fault("unreadable", "scores that are not finite numbers"))
        return decoded(task, *table.decode_scores_with_probability(query, scores, least_confidence(task)))
