"""Bodies of requests and responses, as `/openapi.json` describes them.

Requests are read with these models; the responses of `/v1/label` are written by hand (`serving.gateway.app`), and a
test checks them against the schema.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from task.fields import MOST
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


class UnderstandRequest(Body):
    """One query to several tasks."""

    query: str
    tasks: Annotated[
        list[str] | None, Field(min_length=1, description="Which tasks; by default all that are served")
    ] = None
    timeout_ms: Annotated[
        dict[str, Annotated[int, Field(ge=1)]],
        Field(description="Milliseconds that a task may take; by default its own `serving.request_timeout_s`"),
    ] = {}
    use_cache: Annotated[bool, Field(description="If false, the students answer even if a cache has the answer")] = True
    stream: Annotated[bool, Field(description="Whether each task's part is sent as soon as it is there")] = False


class GivenLabel(Body):
    """A label that the client gives."""

    role: str
    text: str
    start: Annotated[
        int | None, Field(ge=0, description="First character (code point); by default the first place of the text")
    ] = None


class FeedbackRequest(Body):
    """What came of an answer; exactly one of `verdict`, `labels` and `item`."""

    query: str
    task: TaskName = None
    bundle: Annotated[str | None, Field(min_length=1, max_length=64, description="`bundle` of the answer")] = None
    verdict: Annotated[Literal["right", "wrong"] | None, Field(description="Whether the answer was right")] = None
    labels: Annotated[
        list[GivenLabel] | None, Field(max_length=64, description="What the labels should have been; may be empty")
    ] = None
    item: Annotated[
        str | None, Field(min_length=1, max_length=256, description="Id of an item that was bought after this query")
    ] = None
    count: Annotated[int, Field(ge=1, le=MOST, description="How often it was bought")] = 1

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(x is not None for x in (self.verdict, self.labels, self.item)) != 1:
            raise ValueError("give exactly one of: verdict, labels, item")
        if self.item is None and "count" in self.model_fields_set:
            raise ValueError("`count` belongs to `item`")
        return self


class FeedbackResponse(BaseModel):
    """The feedback is kept: written to a file, which a failure of the service does not undo."""

    kept: Literal[True] = True
    kind: Literal["right", "wrong", "labels", "item"]
    task: str


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


class TaskLabel(Label):
    """One label, and the task that gave it."""

    task: str


class TaskGroups(BaseModel):
    """Labels by the kind of their roles."""

    query: str
    labels: Annotated[list[TaskLabel], Field(description="Words of the query, of open roles")]
    categories: Annotated[list[TaskLabel], Field(description="Values of closed roles")]
    rewrites: Annotated[list[TaskLabel], Field(description="Other words for the query, of text roles")]


class Problem(BaseModel):
    """An error, in OpenAI's format."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """The body of every response but 200."""

    error: Problem


class TaskPart(BaseModel):
    """How one task answered."""

    task: str
    bundle: str
    status: Annotated[
        Literal["ok", "uncertain", "abstained", "invalid", "late", "failed"],
        Field(description="As of `/v1/label`; `late`: not there by the task's deadline; `failed`: see `error`"),
    ]
    fault: FaultKind | None
    source: Literal["cache", "kept", "student", "teacher"] | None
    probability: float | None
    ms: Annotated[float, Field(description="Milliseconds from the beginning of the request until the part was there")]
    error: Problem | None


class UnderstandResponse(TaskGroups):
    """What the tasks say about the query; labels of parts that are `late` or `failed` are missing."""

    parts: list[TaskPart]


class UnderstandLine(TaskGroups, TaskPart):
    """A line of the stream: one task's part."""


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
