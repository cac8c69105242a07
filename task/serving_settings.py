"""How a bundle is served: the section `serving` of a task file.

A bundle contains the section that it was made with; `limbeck serve … --set` overrides its values.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from task.endpoint import BaseUrl, ExtraBody
from task.settings import EngineSettings, Fraction, Positive, Strict

Seconds = Annotated[float, Field(ge=0.0)]


def _origin(value: str) -> str:
    if value != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\sA-Z/?#@*,]+", value):
        raise ValueError(f"expected a scheme, a host and perhaps a port, as https://shop.example, or *; found {value}")
    return value


# As browsers send it: in small letters, with neither a path nor a slash at the end.
Origin = Annotated[str, AfterValidator(_origin)]


class Certain(Strict):
    """Thresholds on a labelling's probability of being right: below `uncertain` it is marked, below `abstain` withheld.

    `keep` is what is recorded of a client's query in `uncertain.jsonl`, in captures and in feedback: its text, a hash
    with the state folder's key that allows counting only, or nothing. `sample` is the share of distinct uncertain
    queries that are recorded.
    """

    uncertain: Fraction = 0.5
    abstain: Fraction = 0.0
    keep: Literal["query", "hash", "nothing"] = "query"
    sample: Fraction = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.abstain > self.uncertain:
            raise ValueError(
                f"`abstain` is {self.abstain:g}; expected at most `uncertain`, which is {self.uncertain:g}"
            )
        return self


class Capturing(Strict):
    """The sample of answered queries that a service keeps for the next round (`captures/` in its state folder).

    For each window of `window_s` seconds at most `rows` are written, by all workers together, each with the number of
    requests that it stands for; 0 writes none. Captures, feedback and uncertain queries are removed after `days`.
    """

    rows: Annotated[int, Field(ge=0)] = 100
    window_s: Annotated[float, Field(ge=1.0, le=3_600.0)] = 60.0
    days: Positive = 90


class WriteBack(Strict):
    """Cache of student answers with at least this `probability`, for `ttl_s` seconds; 0 caches none."""

    ttl_s: Seconds = 0.0
    probability: Fraction = 0.9
    rows: Positive = 1_000_000


class Consult(Strict):
    """A teacher LLM that is asked while the client waits, at most `per_hour` times, if the student is uncertain.

    Any OpenAI-compatible endpoint; the key is read from the environment variable `api_key_env`. If one query in a
    hundred waits for an LLM, the service's p99 is the LLM's latency; with 0, the default, no query does. The fields of
    `extra_body` are added to every request; null leaves a field out.
    """

    per_hour: Annotated[int, Field(ge=0)] = 0
    base_url: BaseUrl = "https://api.openai.com/v1"
    model: str = "gpt-4.1-mini"
    api_key_env: str = "OPENAI_API_KEY"
    timeout_s: Annotated[float, Field(gt=0.0)] = 3.0
    # Left out where it is empty: bundles and stages of before have no such field, and are not to be made again for it.
    extra_body: ExtraBody = Field(default={}, exclude_if=lambda value: not value)


class Bounds(Strict):
    """How much worse than the released bundle a new one may be while clients are asked by it; null judges none.

    All figures are of the student's answers, caches' left out, in the same time, each distinct query counted once.
    `errors` is how much larger the share may be that failed: invalid answers, errors of the engine, refusals, answers
    that were not there by their deadline; `abstained` the share without labels because they were too improbable.
    `slower` is how many times as long the answers may take at the 95th percentile. `probability` is how much lower the
    mean probability of the labellings may be. Nothing is judged on fewer than `least` answers of either bundle.
    """

    errors: Fraction | None = 0.01
    slower: Annotated[float, Field(ge=1.0)] | None = 1.5
    abstained: Fraction | None = 0.05
    probability: Fraction | None = 0.05
    least: Positive = 200

    @property
    def judged(self) -> int:
        """How many of the four are judged."""
        return sum(bound is not None for bound in (self.errors, self.slower, self.abstained, self.probability))


class Change(Strict):
    """How a new bundle replaces the released one: shadow traffic, then canary, then all traffic.

    For `shadow_s` seconds the share `shadow` of the queries for the student also goes to the new one, whose answers are
    compared and not returned; then it answers the share `canary` for `canary_s` seconds; then all. A new bundle that
    leaves one of `bounds` in the canary, or in the `watch_s` seconds after it has taken over, is refused: the bundle
    before it answers again. The old engine keeps running for `keep_s` seconds, and at least as long as the new bundle
    is watched, so that a rollback need not start it.
    """

    shadow: Fraction = 0.0
    shadow_s: Seconds = 0.0
    canary: Fraction = 0.0
    canary_s: Seconds = 0.0
    # Both left out at their defaults: bundles, stages and pointers of before have no such fields.
    watch_s: Seconds = Field(default=0.0, exclude_if=lambda value: not value)
    bounds: Bounds = Field(default=Bounds(), exclude_if=lambda value: value == Bounds())
    keep_s: Seconds = 120.0

    @model_validator(mode="after")
    def _watched_against_a_canary(self) -> Self:
        if self.watch_s and not (self.canary and self.canary_s):
            raise ValueError(
                "`watch_s` needs `canary` and `canary_s`: the new bundle is compared with what the one before it did "
                "during the canary"
            )
        return self


class Adapters(Strict):
    """Adapters that an engine loads for one base while it runs.

    `at_once` of them may be in one batch, `loaded` stay in memory, `rank` is the highest rank allowed. For the form
    `read` the output layer of the base has `symbols` rows, enough for the symbols of later tasks as well.
    """

    at_once: Positive = 4
    loaded: Positive = 32
    rank: Literal[8, 16, 32, 64, 128, 256] = 32
    symbols: Positive = 128


class Serving(EngineSettings):
    """Engine, cache of head queries, and gateway.

    `engine` is what runs the student: `vllm`, or `openvino`, which serves a merged student of the form `read` on CPUs
    in less than half of the time; `auto` takes OpenVINO where there is no GPU and the bundle has a model for it, which
    is added where no GPU is found while it is made. `weights` puts the merged model into the bundle, or the base and an
    `adapter` that the engine loads while it runs, so that tasks with the same base share one engine. `reader` is how
    the form `read` is served: a token `classifier` scores the task's symbols only; `prompt_logprobs` asks the causal LM
    itself for the likeliest tokens after each word, so that its engine can also generate. `quantization: int8` puts
    8-bit weights into the bundle, for CPUs and GPUs; with `fp8` vLLM quantises, on GPUs that support it; `auto` takes 8
    bits with OpenVINO, where they keep 99 % of the trained student's labels, and none with vLLM.

    `workers` gateway processes share one port; `admin_port` (0 takes a free one) is for operators. `request_timeout_s`
    is a request's deadline; a client may ask for a shorter one. At most `max_waiting` queries of a worker wait for the
    student; more are refused. `keys` names the file of API keys that `limbeck key` writes; without it no key is
    required. `cors_origins` are the origins, such as `https://shop.example`, whose web pages may send requests (CORS);
    `"*"` are all; by default there are none. `traces` is the OTLP/HTTP address of an OpenTelemetry collector; of the
    requests without a trace the share `trace_share` is traced. An engine that for `hang_s` seconds answers none of the
    queries that wait, and computes nothing, is killed and started again. At each start an engine labels queries that
    are stored in the bundle, and must reproduce at least the share `self_check` of the labels that the trained student
    gave in transformers.
    """

    # `auto` is not dumped: stages of before there were these choices are not to be made again for them.
    engine: Annotated[Literal["auto", "openvino", "vllm"], Field(exclude_if=lambda value: value == "auto")] = "auto"
    weights: Literal["merged", "adapter"] = "merged"
    adapters: Adapters = Adapters()
    reader: Literal["classifier", "prompt_logprobs"] = "classifier"
    quantization: Annotated[
        Literal["auto", "none", "int8", "fp8"], Field(exclude_if=lambda value: value == "auto")
    ] = "auto"
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
    cors_origins: tuple[Origin, ...] = ()
    access_log: bool = True
    traces: str | None = None
    trace_share: Fraction = 1.0
    hang_s: Annotated[float, Field(gt=0.0)] = 10.0
    self_check: Fraction = 0.9
    certain: Certain = Certain()
    # Left out at its defaults: bundles and stages of before have no such section, and are not to be made again for it.
    capture: Capturing = Field(default=Capturing(), exclude_if=lambda value: value == Capturing())
    write_back: WriteBack = WriteBack()
    consult: Consult = Consult()
    change: Change = Change()

    @model_validator(mode="after")
    def _read_by_vllm(self) -> Self:
        if self.reader == "prompt_logprobs" and self.weights == "adapter":
            raise ValueError(
                "`reader: prompt_logprobs` does not work with `weights: adapter` in vLLM 0.32; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _paid_once(self) -> Self:
        if self.consult.per_hour and not self.write_back.ttl_s:
            raise ValueError(
                "`consult` needs `write_back.ttl_s`: without kept answers the same query would be paid for again"
            )
        return self
