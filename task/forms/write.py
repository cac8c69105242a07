"""The `write` answer form: the symbols of `read`, generated after the query, one token for each unit and probe.

The values of text roles follow the symbols, a line each (`task.written_texts`).
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from task.forms.protocol import Decoded, Output, decoded, least_confidence, supervise_continuation, text_prompt
from task.labels import Example, Label
from task.normalize import normaliser
from task.spec import Task
from task.symbols import Encoded, SymbolTable, Tokenizer
from task.validation import Fault
from task.written_texts import WrittenTexts, lines, most_tokens


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

    def answer(self, table: SymbolTable, example: Example, tokenizer: Tokenizer) -> list[int]:
        """See `AnswerForm`; with text roles the stop token is part of it."""
        out = [table.symbol_ids[s] for s in table.answer(example)]
        if table.texts:
            out += [i for _, ids in lines(example, table.texts, table.separator, tokenizer.encode) for i in ids]
            out.append(table.eos_id)
        return out

    def supervise(self, prompt: Encoded, answer: list[int]) -> Encoded:
        """See `AnswerForm`."""
        return supervise_continuation(prompt, answer)

    def most_generated(self, table: SymbolTable, query: str) -> int:
        """See `AnswerForm`."""
        return table.symbol_count(query) + (most_tokens(table.texts) if table.texts else 0)

    def generated(self, table: SymbolTable, example: Example, tokenizer: Tokenizer) -> int:
        """See `AnswerForm`."""
        return len(self.answer(table, example, tokenizer))

    def loss_alphabet(self, _: SymbolTable, __: str) -> tuple[int, ...] | None:
        """See `AnswerForm`; generated tokens compete with the whole vocabulary."""
        return None

    def decode(self, table: SymbolTable, query: str, output: Any, task: Task) -> Decoded:
        """See `AnswerForm`.

        A continuation without its begin is decoded to the most probable consistent labelling, as in `read`; too few
        symbols, or one that cannot stand in its place, are faults. A text that the task does not allow is left out, and
        so is one that was cut off: the other labels are right without it.
        """
        ids, log_probabilities, *texts = output
        allowed = table.allowed_symbols(query)
        if len(ids) < len(allowed):
            return Decoded((), 0.0, Fault("truncated", f"{len(ids)} symbols of {len(allowed)}"))
        wrong = next((n for n, (token, of) in enumerate(zip(ids, allowed, strict=False)) if token not in of), None)
        if wrong is not None:
            return Decoded((), 0.0, Fault("unreadable", f"token {ids[wrong]} at place {wrong}, which it cannot fill"))
        least = least_confidence(task)
        labels, raw_probability = table.decode_symbols_with_probability(query, ids, log_probabilities, least)
        written: WrittenTexts | None = texts[0] if texts else None
        if written is not None:
            labels = (*labels, *_allowed(task, query, written))
            raw_probability *= written.probability
        return decoded(task, labels, raw_probability)


def _allowed(task: Task, query: str, written: WrittenTexts) -> list[Label]:
    """The texts that the task allows and that are probable enough, the more probable one of a role first, each once."""
    normalise = normaliser(task.normaliser)
    out: list[Label] = []
    taken: defaultdict[str, set[str]] = defaultdict(set)
    for role, text, probability in sorted(written.lines, key=lambda line: -line.probability):
        held, wanted = taken[role], task.role(role)
        if probability < wanted.min_confidence:
            continue
        if task.label_problem(query, role, text) is None and len(held) < wanted.most_texts:
            if normalise(text) not in held:
                out.append(Label(role, text, confidence=probability))
            held.add(normalise(text))
    return sorted(out, key=lambda x: x.role)
