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
from task.validation import Fault, label_fault, resolve, violation

MOST_TOKENS: Final = 256
"""The maximum number of tokens of an answer; a longer one is cut off, and counts as truncated."""


class JsonText:
    """See the module, and `AnswerForm` for the methods."""

    output: Output = "text"
    token_classifier = False
    constrained = False

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

    def decode(self, _: SymbolTable, query: str, output: Any, task: Task) -> Decoded:
        """See `AnswerForm`; an answer with one label that the task does not allow is at fault as a whole."""
        text, ended = output
        if not ended:
            return Decoded((), None, Fault("truncated", f"no stop token within {MOST_TOKENS} tokens"))
        rows = _rows(text)
        if rows is None:
            return Decoded((), None, Fault("unreadable", "no JSON list"))
        if not all(map(_is_label, rows)):
            return Decoded((), None, Fault("unreadable", "an item of the list is not a label"))
        labels = resolve(task, _labels(query, rows, task))
        fault = violation(task, query, labels)
        return Decoded((), None, fault) if fault else Decoded(labels, None)


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
    """Labels of an LLM's answer; what the task does not allow is left out.

    None for a text that is no list, and for one of whose labels the task allows none.
    """
    rows = _rows(text)
    if rows is None:
        return None
    found = _labels(query, [r for r in rows if _is_label(r)], task)
    allowed = resolve(task, (x for x in found if label_fault(task, query, x) is None))
    return None if rows and not allowed else allowed


def _rows(text: str) -> list[Any] | None:
    """The JSON list in a text."""
    try:
        found = json.loads(text[text.index("[") : text.rindex("]") + 1])
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def _is_label(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("role"), str) and isinstance(row.get("text"), str)


def _labels(query: str, rows: list[Any], task: Task) -> Labelling:
    """Labels as written; one of an open role whose text is not at its place has no span, or a wrong one."""
    open_roles = {r.name for r in task.open_roles}
    taken: Counter[tuple[str, str]] = Counter()
    out: list[Label] = []
    for row in rows:
        role, text = row["role"], row["text"]
        if role not in open_roles:
            label = Label(role, text)
            if label not in out:
                out.append(label)
            continue
        nth = row["nth"] if type(row.get("nth")) is int else taken[role, text]
        start = row["start"] if type(row.get("start")) is int else nth_occurrence(query, text, max(nth, 0))
        taken[role, text] = nth + 1
        out.append(Label(role, text) if start < 0 else Label(role, text, start, start + len(text)))
    return ordered(out)


def schema(task: Task) -> dict[str, Any]:
    """The JSON schema of an answer, for engines and teachers that constrain their output.

    It holds what strict modes of providers accept: `type` beside every `enum`, no `const`, every property required, no
    other property, no bounds.
    """
    labels = []
    for role in task.roles:
        text: dict[str, Any] = {"type": "string"}
        if role.values and not role.has_tree:  # providers limit the size of an `enum`
            text["enum"] = list(role.values)
        labels.append({
            "type": "object",
            "properties": {"role": {"type": "string", "enum": [role.name]}, "text": text},
            "required": ["role", "text"],
            "additionalProperties": False,
        })
    return {"type": "array", "items": {"anyOf": labels}}
