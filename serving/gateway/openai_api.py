"""The OpenAI-compatible API: an existing client uses the student by changing its base URL."""

from __future__ import annotations

import json
import time
from typing import Any

from serving.gateway.http_exchange import HttpError
from serving.gateway.messages import ChatRequest
from serving.routing.route import Answer, Route
from serving.routing.task_routes import Choice, Routes
from task.text import one_line_bytes


def choice(routes: Routes, model: str) -> Choice:
    """The task that a model name selects: a task's name, `student@…`, or `student` where only one is served."""
    names = _names(routes)
    if model not in names:
        raise HttpError(
            404, kind="invalid_request_error", param="model",
            message=f"no model {model!r}; expected one of {', '.join(names)}",
        )
    return names[model]


def _names(routes: Routes) -> dict[str, Choice]:
    """Every name that selects a task, in the order in which they are listed; a task's own name outranks the others."""
    found: dict[str, Choice] = {}
    for task, c in routes.tasks.items():
        found[task] = c
        found.setdefault(c.active.bundle.model_name, c)
    only = routes.of(None)
    if only is not None:
        found.setdefault("student", only)
    return found


def query(request: ChatRequest) -> str:
    """The last user message; earlier messages are instructions, which the student has learned already."""
    for message in reversed(request.messages):
        if message.role == "user":
            content = message.content
            return content if isinstance(content, str) else "".join(p.text for p in content or ())
    raise HttpError(422, kind="invalid_request_error", message="no message of the role `user`", param="messages")


def completion(name: str, route: Route, answer: Answer) -> bytes:
    """A whole response."""
    message = {"role": "assistant", "content": _content(answer), "refusal": None}
    return _dumped({
        **_head(name, route, "chat.completion"),
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": _usage(route, answer),
    })


def events(name: str, route: Route, answer: Answer, *, usage: bool = False) -> bytes:
    """The same as server-sent events: all content in one chunk, because it is there at once.

    Args:
        usage: `stream_options.include_usage`: a last chunk has the usage and no choices, and as in OpenAI's API the
            others have a usage of null. A client that did not ask for it may fail on a chunk without choices.
    """
    head = _head(name, route, "chat.completion.chunk") | ({"usage": None} if usage else {})
    delta = {"role": "assistant", "content": _content(answer)}
    chunks: list[dict[str, Any]] = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
        {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ]
    if usage:
        chunks.append({**head, "choices": [], "usage": _usage(route, answer)})
    return b"".join(b"data: " + one_line_bytes(_dumped(c)) + b"\n\n" for c in chunks) + b"data: [DONE]\n\n"


def models(routes: Routes) -> bytes:
    """`GET /v1/models`: every name that a request may have as its `model`."""
    return _dumped({"object": "list", "data": [_model(name, c) for name, c in _names(routes).items()]})


def model(routes: Routes, name: str) -> bytes:
    """`GET /v1/models/{id}`; raises `HttpError` for an unknown name."""
    return _dumped(_model(name, choice(routes, name)))


def _model(name: str, choice: Choice) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": choice.active.made, "owned_by": "limbeck"}


def _usage(route: Route, answer: Answer) -> dict[str, int]:
    prompt_tokens = 0 if answer.source != "student" else route.student.prompt_tokens(answer.query)
    return {"prompt_tokens": prompt_tokens, "completion_tokens": 0, "total_tokens": prompt_tokens}


def _head(name: str, route: Route, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{name}", "object": kind, "created": int(time.time()), "model": route.bundle.model_name,
        "system_fingerprint": route.bundle.id,
    }


def _content(answer: Answer) -> str:
    return json.dumps(
        {
            "labels": json.loads(answer.labels), "status": answer.status, "probability": answer.probability,
            "fault": answer.fault,
        },
        ensure_ascii=False,
    )


def _dumped(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
