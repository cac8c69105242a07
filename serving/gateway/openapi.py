"""The OpenAPI document, made from the models that requests are read with."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.gateway import messages as m
from task.serving_settings import Serving

_REF = "#/components/schemas/{model}"
_BODIES: tuple[type[BaseModel], ...] = (
    m.LabelRequest, m.BatchRequest, m.UnderstandRequest, m.ChatRequest, m.FeedbackRequest,
)
_ANSWERS: tuple[type[BaseModel], ...] = (
    m.LabelResponse, m.BatchLine, m.UnderstandResponse, m.UnderstandLine, m.ChatResponse, m.ModelList, m.Model,
    m.FeedbackResponse, m.ErrorResponse,
)
_REFUSALS = {
    "400": "A header, the number of queries or the task is not valid",
    "401": "No valid API key, where keys are required",
    "404": "No such task or model",
    "408": "The body did not come in time",
    "409": "The service keeps no feedback of this kind",
    "413": "The body is too large",
    "415": "A content encoding other than gzip and deflate",
    "422": "The body does not match the schema, or a query is too long",
    "429": "Over the rate or the concurrency of the key; see Retry-After",
    "431": "The headers are too large",
    "503": "The student is busy, down or too slow; see Retry-After",
}

_OF_BODIES = tuple(status for status in _REFUSALS if status != "409")


def document(settings: Serving) -> bytes:
    """The document as JSON."""
    return _document(settings.max_batch, needs_key=settings.keys is not None)


@functools.lru_cache
def _document(max_batch: int, *, needs_key: bool) -> bytes:
    _, schemas = models_json_schema(
        [*((b, "validation") for b in _BODIES), *((a, "serialization") for a in _ANSWERS)], ref_template=_REF
    )
    value: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Limbeck", "version": "1",
            "description": "Labels of search queries from a distilled student behind a cache.",
        },
        "paths": {
            "/v1/label": {"post": _with_body("Label one query", body=m.LabelRequest, answer=m.LabelResponse)},
            "/v1/label:batch": {"post": _with_body(
                f"Label at most {max_batch} queries; a line of JSON for each as soon as it is ready",
                body=m.BatchRequest, answer=m.BatchLine, kind="application/x-ndjson",
            )},
            "/v1/understand": {"post": _with_body(
                "Ask several tasks about one query", body=m.UnderstandRequest, answer=m.UnderstandResponse,
                streamed=m.UnderstandLine,
            )},
            "/v1/chat/completions": {"post": _with_body(
                "Label one query in OpenAI's format; the content of the response is JSON",
                body=m.ChatRequest, answer=m.ChatResponse,
            )},
            "/v1/feedback": {"post": _with_body(
                "Say whether an answer was right, what the labels should have been, or what was bought after a query",
                body=m.FeedbackRequest, answer=m.FeedbackResponse, done="Kept", refusals=(*_OF_BODIES, "409"),
            )},
            "/v1/models": {"get": _without_body("The models that can be asked", m.ModelList, guarded=True)},
            "/v1/models/{id}": {"get": _with_name(_without_body("One of them", m.Model, guarded=True))},
            "/healthz": {"get": _without_body("This process is alive")},
            "/readyz": {"get": _without_body("Every engine has answered once", "503")},
            "/metrics": {"get": _without_body("Prometheus' text format", kind="text/plain", guarded=True)},
            "/openapi.json": {"get": _without_body("This document")},
        },
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }
    if needs_key:
        value["security"] = [{"key": []}]
    return json.dumps(value, ensure_ascii=False).encode()


def _content(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {kind: {"schema": schema}}}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}


def _refusals(*statuses: str) -> dict[str, Any]:
    return {s: {"description": _REFUSALS[s], **_content("application/json", _ref(m.ErrorResponse))} for s in statuses}


def _with_body(
    summary: str, *, body: type[BaseModel], answer: type[BaseModel], kind: str = "application/json",
    streamed: type[BaseModel] | None = None, done: str = "Labelled", refusals: Sequence[str] = _OF_BODIES,
) -> dict[str, Any]:
    """An operation with a body; `streamed` is a line of the answer where the request asks for a stream."""
    content = _content(kind, _ref(answer))
    if streamed is not None:
        content["content"] |= _content("application/x-ndjson", _ref(streamed))["content"]
    timeout = {
        "name": "X-Request-Timeout-Ms", "in": "header", "required": False, "schema": {"type": "integer", "minimum": 1},
        "description": "Answer or refuse within this time, in milliseconds",
    }
    return {
        "summary": summary, "parameters": [timeout],
        "requestBody": {
            "required": True, "description": "May be compressed, with `Content-Encoding: gzip` or `deflate`",
            **_content("application/json", _ref(body)),
        },
        "responses": {
            "200": {"description": done, **content}, **_refusals(*refusals),
        },
    }


def _with_name(operation: dict[str, Any]) -> dict[str, Any]:
    """An operation on a model that is named in the path."""
    name = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    return operation | {"parameters": [name], "responses": operation["responses"] | _refusals("404")}


def _without_body(
    summary: str, answer: type[BaseModel] | str | None = None, *, kind: str = "application/json", guarded: bool = False
) -> dict[str, Any]:
    """An operation without a body."""
    schema = _ref(answer) if isinstance(answer, type) else {"type": "string"} if kind == "text/plain" else {}
    responses: dict[str, Any] = {"200": {"description": "Success", **_content(kind, schema)}}
    if answer == "503":
        responses["503"] = {"description": "Not yet", **_content("application/json", {})}
    if guarded:
        responses |= _refusals("401", "429")
    return {"summary": summary, "responses": responses}
