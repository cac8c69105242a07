"""The OpenAI-compatible API: an existing client uses the student by changing its base URL."""

from __future__ import annotations

import json
import time
from typing import Any

from serving.gateway.http_exchange import HttpError
from serving.gateway.messages import ChatRequest
from serving.routing.route import Answer, Route
from serving.routing.task_routes import Choice, Routes


def choice(routes: Routes, model: str) -> Choice:
    """The task that a model name selects: a task's name, `student@…`, or `student` where only one is served."""
    found = routes.of(model) or next((c for c in routes.tasks.values() if c.active.bundle.model_name == model), None)
    if found is None and model == "student":
        found = routes.of(None)
    if found is None:
        names = [*routes.tasks, *(c.active.bundle.model_name for c in routes.tasks.values())]
        raise HttpError(
            404, kind="invalid_request_error", param="model",
            message=f"no model {model!r}; expected one of {', '.join(names)}",
        )
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
    prompt_tokens = 0 if answer.source != "student" else route.student.prompt_tokens(answer.query)
    message = {"role": "assistant", "content": _content(answer), "refusal": None}
    return _dumped({
        **_head(name, route, "chat.completion"),
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": 0, "total_tokens": prompt_tokens},
    })


def events(name: str, route: Route, answer: Answer) -> bytes:
    """The same as server-sent events: all content in one chunk, because it is there at once."""
    head = _head(name, route, "chat.completion.chunk")
    delta = {"role": "assistant", "content": _content(answer)}
    chunks: list[dict[str, Any]] = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
        {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ]
    return b"".join(b"data: " + _dumped(c) + b"\n\n" for c in chunks) + b"data: [DONE]\n\n"


def models(routes: Routes) -> bytes:
    """`GET /v1/models`: each task by its name and by its model's."""
    return _dumped({"object": "list", "data": [
        {"id": name, "object": "model", "created": c.active.made, "owned_by": "limbeck"}
        for task, c in routes.tasks.items() for name in (task, c.active.bundle.model_name)
    ]})


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
