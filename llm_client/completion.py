"""Reads the body of a chat completion in the forms that servers give it; docs/providers.md lists them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llm_client.logprobs import token_logprobs
from llm_client.reply import is_one_value

Ending = Literal["complete", "cut", "withheld", "broken"]
# Values of `finish_reason`. All others, and a missing one, say nothing against an answer that can be read.
_ENDINGS: Mapping[str, Ending] = {
    "length": "cut", "max_tokens": "cut", "max_output_tokens": "cut", "model_length": "cut",
    "content_filter": "withheld", "refusal": "withheld", "safety": "withheld", "recitation": "withheld",
    "prohibited_content": "withheld", "blocklist": "withheld", "sensitive": "withheld",
    "abort": "broken", "error": "broken", "network_error": "broken", "insufficient_system_resource": "broken",
    "cancelled": "broken",
}
_PROBLEM_CHARS = 500
_ABSURD = 10**12  # no call has so many tokens; a count beyond it is a fault of the server


class NotACompletionError(ValueError):
    """A body without answers.

    Attributes:
        status: The HTTP status that an `error` in the body stands for; 0 if it names none.
    """

    def __init__(self, problem: str, status: int = 0) -> None:
        super().__init__(problem)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One choice of a completion.

    Attributes:
        text: The answer; None if it has none.
        ending: `complete`, as far as the server says; `cut` by the token limit; `withheld`, refused by the model or a
            filter; `broken`, ended by a fault of the server.
        problem: Why the answer cannot be used; empty for a complete one with a text.
        source: The field of the message that held the text.
        logprobs: (text, log-probability or None) of its tokens; None for a value that is not a log-probability.
    """

    text: str | None
    ending: Ending
    problem: str = ""
    source: str = "content"
    logprobs: list[tuple[str, float | None]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of a call; `known` is False if the body does not tell them."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    known: bool = False


def parse_completion(raw: bytes) -> tuple[list[Answer], Usage]:
    """The answers of a body, at least one, and its usage.

    Raises:
        NotACompletionError: It has no answers.
    """
    shown = raw[:_PROBLEM_CHARS].decode(errors="replace")
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise NotACompletionError(f"not a chat completion: {shown}") from None
    if not isinstance(body, dict):
        raise NotACompletionError(f"not a chat completion: {shown}")
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not all(_is_choice(c) for c in choices):
        error = body.get("error")
        code = error.get("code") if isinstance(error, dict) else None
        raise NotACompletionError(
            f"not a chat completion: {shown}", code if isinstance(code, int) and 100 <= code < 600 else 0
        )
    return [_answer(c) for c in choices], _usage(body.get("usage"))


def _is_choice(choice: Any) -> bool:
    return isinstance(choice, dict) and isinstance(choice.get("message"), dict)


def _answer(choice: Mapping[str, Any]) -> Answer:
    message, finish = choice["message"], choice.get("finish_reason")
    ending = _ENDINGS.get(str(finish).lower(), "complete")
    text, source = _text(message)
    refusal = _refusal(message)
    problem = ""
    if ending == "complete" and text is None and refusal:
        ending, problem = "withheld", f"the model refused: {refusal[:_PROBLEM_CHARS]}"
    elif ending == "cut":
        problem = "the answer was cut by max_tokens"
    elif ending == "withheld":
        problem = f"the answer was withheld: finish_reason {finish!r}" + (f", {refusal}" if refusal else "")
    elif ending == "broken":
        problem = f"the server ended the answer: finish_reason {finish!r}" + _error(choice)
    elif text is None:
        problem = f"no text in the answer{_elsewhere(message)}"
    return Answer(text=text, ending=ending, problem=problem, source=source, logprobs=token_logprobs(choice))


def _text(message: Mapping[str, Any]) -> tuple[str | None, str]:
    """The text of an answer, and the field that holds it.

    The fields beside `content` are taken only if all of their text is one JSON value: reasoning has drafts in it.
    """
    content = _joined(message.get("content"))
    if content.strip():
        return content, "content"
    calls = message.get("tool_calls")
    calls = calls if isinstance(calls, list) else [{"function": message.get("function_call")}]
    functions = [c.get("function") for c in calls if isinstance(c, dict)]
    if len(functions) == 1 and isinstance(functions[0], dict):
        arguments = _joined(functions[0].get("arguments"))
        if is_one_value(arguments):
            return arguments, "tool_calls"
    for name in ("reasoning_content", "reasoning"):
        given = message.get(name)
        if isinstance(given, str) and is_one_value(given):
            return given, name
    return None, "content"


def _joined(content: Any) -> str:
    """A text, the text parts of a list of parts, or an object as JSON; empty for anything else."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        return json.dumps(content, ensure_ascii=False)
    parts = content if isinstance(content, list) else []
    return "".join(
        part if isinstance(part, str) else part["text"] for part in parts
        if isinstance(part, str) or (
            isinstance(part, dict) and part.get("type") in {None, "text", "output_text"}
            and isinstance(part.get("text"), str)
        )
    )


def _refusal(message: Mapping[str, Any]) -> str:
    """The field `refusal` of a message or of a part of its content."""
    content = message.get("content")
    parts = [p for p in content if isinstance(p, dict)] if isinstance(content, list) else []
    found = [x.get("refusal") for x in (message, *parts)]
    return " ".join(x.strip() for x in found if isinstance(x, str) and x.strip())


def _elsewhere(message: Mapping[str, Any]) -> str:
    """The other fields of a message that hold something."""
    held = [name for name, value in message.items() if name not in {"role", "content", "refusal"} and value]
    shown = json.dumps({name: message[name] for name in held}, ensure_ascii=False)[:_PROBLEM_CHARS]
    return f"; the message holds {shown}" if held else ""


def _error(choice: Mapping[str, Any]) -> str:
    return f", {json.dumps(choice['error'])[:_PROBLEM_CHARS]}" if choice.get("error") else ""


def _usage(usage: Any) -> Usage:
    if not isinstance(usage, dict):
        return Usage()
    details = usage.get("prompt_tokens_details")
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    return Usage(
        prompt=prompt or 0, cached=min(cached or 0, prompt or 0), completion=completion or 0,
        known=prompt is not None or completion is not None,
    )


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _ABSURD:
        return None
    return int(value)
