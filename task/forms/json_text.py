"""The `json` answer form: a compact JSON list of labels.

`nth` is written only if the text occurs earlier in the query without being labelled, so that the span of a repeated
word is unambiguous.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Final

from task.forms.protocol import Decoded, Output, supervise_continuation, text_prompt
from task.labels import Example, Label, Labelling, nth_occurrence, ordered
from task.spec import Task
from task.symbols import Encoded, SymbolTable, Tokenizer

MOST_TOKENS: Final = 256
"""The maximum number of tokens of an answer; a longer one is cut, and is then not valid JSON."""


class JsonText:
    """See the module, and `AnswerForm` for the methods."""

    output: Output = "text"
    token_classifier = False

    def representable(self, _: SymbolTable, __: Example) -> bool:
        """See `AnswerForm`; text can express every labelling."""
        return True

    def prompt(self, table: SymbolTable, query: str, tokenizer: Tokenizer) -> Encoded:
        """See `AnswerForm`."""
        return text_prompt(table, query, tokenizer)

    def answer(self, table: SymbolTable, example: Example, tokenizer: Tokenizer) -> list[int]:
        """See `AnswerForm`; the stop token is part of it."""
        return [*tokenizer.encode(render(example)), table.eos_id]

    def supervise(self, prompt: Encoded, answer: list[int]) -> Encoded:
        """See `AnswerForm`."""
        return supervise_continuation(prompt, answer)

    def most_generated(self, _: SymbolTable, __: str) -> int:
        """See `AnswerForm`."""
        return MOST_TOKENS

    def generated(self, table: SymbolTable, example: Example, tokenizer: Tokenizer) -> int:
        """See `AnswerForm`."""
        return len(self.answer(table, example, tokenizer))

    def loss_alphabet(self, _: SymbolTable, __: str) -> tuple[int, ...] | None:
        """See `AnswerForm`; generated tokens compete with the whole vocabulary."""
        return None

    def decode(self, table: SymbolTable, query: str, output: Any, task: Task) -> Decoded:
        """See `AnswerForm`; a text that is not a list of labels is an empty answer."""
        labels = parse(query, output, task)
        return Decoded(table.enforce_constraints(labels or ()), None)


def render(example: Example) -> str:
    """The answer text of a labelling."""
    rows: list[dict[str, Any]] = []
    taken: Counter[tuple[str, str]] = Counter()
    for label in ordered(example.labels):
        row: dict[str, Any] = {"role": label.role, "text": label.text}
        if label.start is not None:
            nth = taken[label.role, label.text]
            while 0 <= (at := nth_occurrence(example.query, label.text, nth)) < label.start:
                nth += 1
            if at != label.start:
                row["start"] = label.start
            elif nth != taken[label.role, label.text]:
                row["nth"] = nth
            taken[label.role, label.text] = nth + 1
        rows.append(row)
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


def parse(query: str, text: str, task: Task) -> Labelling | None:
    """Labels of an answer text; labels that the task does not allow are dropped, a text that is no list gives None."""
    try:
        rows = json.loads(text[text.index("[") : text.rindex("]") + 1])
    except ValueError:
        return None
    closed = {r.name for r in task.closed_roles}
    taken: Counter[tuple[str, str]] = Counter()
    out: list[Label] = []
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("role"), str) or not isinstance(row.get("text"), str):
            continue
        role, value = row["role"], row["text"]
        if task.label_problem(query, role, value):
            continue
        if role in closed:
            label = Label(role, value)
            if all(x.key != label.key for x in out):
                out.append(label)
            continue
        nth = row["nth"] if isinstance(row.get("nth"), int) else taken[role, value]
        start = row["start"] if isinstance(row.get("start"), int) else nth_occurrence(query, value, max(nth, 0))
        if start < 0 or query[start : start + len(value)] != value:
            continue
        taken[role, value] = nth + 1
        out.append(Label(role, value, start, start + len(value)))
    return ordered(out)


def schema(task: Task) -> dict[str, Any]:
    """The JSON schema of an answer, for engines and teachers that constrain their output.

    It holds what strict modes of providers accept: `type` beside every `enum`, no `const`, every property required, no
    other property, no bounds.
    """
    labels = []
    for role in task.roles:
        text: dict[str, Any] = {"type": "string", "enum": list(role.values)} if role.values else {"type": "string"}
        labels.append({
            "type": "object",
            "properties": {"role": {"type": "string", "enum": [role.name]}, "text": text},
            "required": ["role", "text"],
            "additionalProperties": False,
        })
    return {"type": "array", "items": {"anyOf": labels}}
