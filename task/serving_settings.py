"""How a bundle is served: the section `serving` of a task file.

A bundle carries the section that it was made with; whoever runs it overrides with `limbeck serve … --set`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from task.settings import Engine, Fraction, Positive, Strict

Seconds = Annotated[float, Field(ge=0.0)]


class Certain(Strict):
    """What a labelling's probability of being right decides: below `uncertain` it is marked, below `abstain` withheld.

    `keep` says what of a doubtful query goes into `uncertain.jsonl`, material for the next labelling round: its text, a
    hash that tells only how often it came, or nothing; `sample` is the share of distinct queries that go there.
    """

    uncertain: Fraction = 0.5
    abstain: Fraction = 0.0
    keep: Literal["query", "hash", "nothing"] = "query"
    sample: Fraction = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.abstain > self.uncertain:
            raise ValueError(f"`abstain` ({self.abstain:g}) lies above `uncertain` ({self.uncertain:g})")
        return self


class WriteBack(Strict):
    """Student answers that later requests find: those at least this probable, for `ttl_s` seconds; 0 keeps none."""

    ttl_s: Seconds = 0.0
    probability: Fraction = 0.9
    rows: Positive = 1_000_000


class Consult(Strict):
    """A teacher that is asked while the client waits, at most `per_hour` times, about what the student doubts.

    Any OpenAI-compatible endpoint; the key is read from the environment variable `api_key_env`. One query in a hundred
    that waits for an LLM makes the service's p99 the LLM's: 0, the default, asks nobody.
    """

    per_hour: Annotated[int, Field(ge=0)] = 0
    base_url: str = "https://api.openai.com/v1"
    model: str = "gpt-4.1-mini"
    api_key_env: str = "OPENAI_API_KEY"
    timeout_s: Annotated[float, Field(gt=0.0)] = 3.0


class Change(Strict):
    """How a new bundle takes over.

    Both run beside each other; for `shadow_s` seconds `shadow` of the questions to the student go to the new one as
    well, unseen by clients, and are compared; then it answers `canary` of the queries for `canary_s` seconds; then
    all. The old engine goes on for `keep_s` seconds, so that a rollback is a switch and not a start.
    """

    shadow: Fraction = 0.0
    shadow_s: Seconds = 0.0
    canary: Fraction = 0.0
    canary_s: Seconds = 0.0
    keep_s: Seconds = 120.0


class Adapters(Strict):
    """Adapters that an engine adds to one base while it runs.

    `at_once` of them may share a batch, `loaded` stay in memory, none may have more than `rank`. For the form `read`
    the base's scores have `symbols` columns, so that tasks which come later find theirs among them.
    """

    at_once: Positive = 4
    loaded: Positive = 32
    rank: Literal[8, 16, 32, 64, 128, 256] = 32
    symbols: Positive = 128


class Serving(Engine):
    """Engine, head cache and gateway.

    `weights` makes a bundle of the merged model, or of the base and an `adapter` that the engine adds while it runs, so
    that tasks with the same base share one engine. `reader` says how the form `read` is read: a token `classifier`
    scores the task's symbols and nothing else; `prompt_logprobs` asks the causal LM itself for the likeliest tokens
    after each word, so that its engine can also write. `quantization: int8` makes the bundle with 8-bit weights and
    activations, for CPUs and GPUs; `fp8` leaves it to the engine, on GPUs that have it.

    `workers` gateway processes share one port; `admin_port` (0 takes a free one) is for operators. `request_timeout_s`
    is a request's deadline, of which a client may ask for less. At most `max_waiting` queries of a worker wait for the
    student; more are refused. `keys` names the file of API keys that `limbeck key` writes; without it everybody may
    ask. `traces` is where an OpenTelemetry collector takes OTLP over HTTP; `trace_share` of the requests that bring no
    trace of their own get one. An engine that answers nothing for `hang_s` seconds is killed and started again. Each
    time it starts it must give at least the share `self_check` of the labels that the trained student gave outside of
    it to queries that are kept in the bundle.
    """

    weights: Literal["merged", "adapter"] = "merged"
    adapters: Adapters = Adapters()
    reader: Literal["classifier", "prompt_logprobs"] = "classifier"
    quantization: Literal["none", "int8", "fp8"] = "none"
    request_timeout_s: Annotated[float, Field(gt=0.0)] = 10.0
    head_queries: Annotated[int, Field(ge=0)] = 1_000
    min_cache_confidence: Fraction = 0.5
    max_batch: Positive = 256
    max_body_bytes: Positive = 1_048_576
    max_waiting: Positive = 512
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    admin_port: Annotated[int, Field(ge=0, le=65_535)] = 8081
    workers: Positive = 1
    keys: Path | None = None
    access_log: bool = True
    traces: str | None = None
    trace_share: Fraction = 1.0
    hang_s: Annotated[float, Field(gt=0.0)] = 10.0
    self_check: Fraction = 0.9
    certain: Certain = Certain()
    write_back: WriteBack = WriteBack()
    consult: Consult = Consult()
    change: Change = Change()

    @model_validator(mode="after")
    def _read_by_vllm(self) -> Self:
        if self.reader == "prompt_logprobs" and self.weights == "adapter":
            raise ValueError(
                "`reader: prompt_logprobs` with `weights: adapter`: vLLM 0.32 fails at it; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _paid_once(self) -> Self:
        if self.consult.per_hour and not self.write_back.ttl_s:
            raise ValueError("`consult` without `write_back.ttl_s`: an answer must be kept, or is paid for again")
        return self
