"""Bodies of requests and answers, as `/openapi.json` describes them. The hot path writes its JSON by hand."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

TaskName = Annotated[str | None, Field(description="Which task, where several are served")]


class Body(BaseModel):
    """Unknown fields are refused, strings are valid Unicode, numbers are no strings."""

    model_config = ConfigDict(extra="forbid", strict=True)


class LabelRequest(Body):
    """One query."""

    query: str
    task: TaskName = None
    use_cache: Annotated[bool, Field(description="False asks the student even where a cache knows")] = True


class BatchRequest(Body):
    """Several queries."""

    queries: list[str]
    task: TaskName = None
    use_cache: Annotated[bool, Field(description="False asks the student even where a cache knows")] = True


class Label(BaseModel):
    """One label."""

    role: str
    text: str
    start: Annotated[int | None, Field(description="First character (code point); null for a closed role")]
    end: Annotated[int | None, Field(description="One past the last; null for a closed role")]
    confidence: Annotated[float | None, Field(description="The model's probability of exactly this label")]


class LabelResponse(BaseModel):
    """The labels of one query."""

    query: str
    labels: list[Label]
    status: Annotated[
        Literal["ok", "uncertain", "abstained"],
        Field(description="`uncertain`: probably not right; `abstained`: so probably wrong that nothing is said"),
    ]
    source: Annotated[
        Literal["cache", "kept", "student", "teacher"],
        Field(description="The head cache, an answer given before, the student now, or a teacher in its stead"),
    ]
    probability: Annotated[
        float | None, Field(description="That the labelling is right as a whole; null from a cache")
    ]
    task: str
    bundle: str


class BatchLine(LabelResponse):
    """A line of the stream: the labels of query `index`, or `error` in their place. Lines come as they are ready."""

    index: int


class Problem(BaseModel):
    """What went wrong, in OpenAI's shape."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """Every answer but 200."""

    error: Problem


class TextPart(BaseModel):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A chat message."""

    role: str
    content: str | list[TextPart] | None = None


class ChatRequest(BaseModel):
    """OpenAI's chat request. The last user message is the query; what steers a language model is ignored."""

    model_config = ConfigDict(strict=True)

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    stream: bool | None = None
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
    """OpenAI's answer; the content is JSON: `{"labels": […], "status": …}`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, int]
