"""Bodies of requests and responses, as `/openapi.json` describes them.

Requests are read with these models; the responses of `/v1/label` are written by hand (`serving.gateway.app`), and a
test checks them against the schema.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from task.validation import FAULTS, FaultKind

TaskName = Annotated[str | None, Field(description="Which task, where several are served")]


class Body(BaseModel):
    """A strict body: unknown fields are refused, strings must be valid Unicode, and no type is converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


class LabelRequest(Body):
    """One query."""

    query: str
    task: TaskName = None
    use_cache: Annotated[bool, Field(description="If false, the student answers even if a cache has the answer")] = True


class BatchRequest(Body):
    """Several queries."""

    queries: list[str]
    task: TaskName = None
    use_cache: Annotated[bool, Field(description="If false, the student answers even if a cache has the answer")] = True


class Label(BaseModel):
    """One label."""

    role: str
    text: str
    start: Annotated[int | None, Field(description="First character (code point); null for a closed or text role")]
    end: Annotated[int | None, Field(description="One past the last; null for a closed or text role")]
    confidence: Annotated[float | None, Field(description="The model's probability of exactly this label")]


class LabelResponse(BaseModel):
    """The labels of one query."""

    query: str
    labels: list[Label]
    status: Annotated[
        Literal["ok", "uncertain", "abstained", "invalid"],
        Field(description=(
            "`uncertain`: probably not right; `abstained`: so likely wrong that none are returned; `invalid`: what the "
            "student answered cannot be used, and none are returned"
        )),
    ]
    source: Annotated[
        Literal["cache", "kept", "student", "teacher"],
        Field(description="The head cache, a kept answer of the student, the student, or a teacher in its place"),
    ]
    probability: Annotated[
        float | None, Field(description="Probability that the labelling as a whole is right; null from a cache")
    ]
    fault: Annotated[
        FaultKind | None,
        Field(description="Why the answer is `invalid`; null for all others. " + "; ".join(
            f"`{kind}`: {meaning}" for kind, meaning in FAULTS.items()
        )),
    ]
    task: str
    bundle: str


class BatchLine(LabelResponse):
    """A line of the stream: the labels of query `index`, or `error` in their place; in order of completion."""

    index: int


class Problem(BaseModel):
    """An error, in OpenAI's format."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """The body of every response but 200."""

    error: Problem


class TextPart(BaseModel):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A chat message."""

    role: str
    content: str | list[TextPart] | None = None


class StreamOptions(BaseModel):
    """Options of a streamed chat response."""

    model_config = ConfigDict(strict=True)

    include_usage: Annotated[
        bool | None, Field(description="Whether a last chunk, without choices, has the usage")
    ] = None


class ChatRequest(BaseModel):
    """OpenAI's chat request. The last user message is the query; sampling parameters are ignored."""

    model_config = ConfigDict(strict=True)

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int | None, Field(ge=1, le=1)] = None


class Model(BaseModel):
    """A model that can be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "limbeck"


class ModelList(BaseModel):
    """OpenAI's list of models."""

    object: Literal["list"] = "list"
    data: list[Model]


class ChatResponse(BaseModel):
    """OpenAI's response; the content is JSON: `{"labels": […], "status": …, "fault": …}`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, int]
