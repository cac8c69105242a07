"""Whether the result of a stage still follows from what it depends on, and if not, why.

A stage depends on settings (`config`), on the content of files and of earlier stages (`inputs`), and on parts of our
own code (`rules`: a version number, or the digest of a prompt). All three are in its manifest, and each is compared
with its present value:

- A setting that the manifest lacks had the value that is now its default, because it did not exist then.
- A rule that the manifest lacks had the version in `FIRST`, the one that it had when rules were first recorded.
- What a manifest holds and the stage does not depend on any more is ignored.
- An input in `LATER` is not compared where the manifest lacks it.
- A relative path is the same as the absolute one that it leads to.

Versions of Limbeck and of libraries are in the manifest, and make nothing stale.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from task.settings import CrossFit
from task.spec import Task

Rules = Mapping[str, int | str]

# What each rule was before manifests named rules. A rule that is added later gets the version that it had until then.
FIRST: Final[Rules] = {
    "readers": 1, "guardrails": 2, "confidence": 1, "imported labels": 1, "catalog backend": 2, "retrieval": 1,
    "context": 1, "answer parser": 1, "answer schema": "687ee514fe7a", "repair prompt": "4e2fb09d3b01",
    "verifier prompt": "c0657e06f236", "review prompt": "2f9ac8f1a5cc", "curriculum": 1, "label errors": 1, "codec": 1,
    "training": 1, "merge": 1, "calibration of the student": 1, "bundle format": 4, "metrics": 1, "report": 2,
    "model for OpenVINO": 0, "catalog categories": 0, "words of the catalogue": 0,  # there were none
}
# Inputs that were not recorded at first.
LATER: Final = frozenset({"catalogue", "init_adapter options", "reviewer", "teacher model"})

# Settings that no result depends on: how answers are waited for, and how a training is kept running. Where the prompt
# lies is one of them: its text is an input.
NO_EFFECT: Final[Mapping[str, Any]] = {
    "teacher": {
        "workers": True, "ray_address": True, "vllm": {"start_timeout_s", "warm_start"},
        "openai": {
            "prompt", "api_key_env", "concurrency", "requests_per_minute", "tokens_per_minute", "timeout_s",
            "deadline_s", "max_attempts", "batch_requests", "batch_poll_s", "budget",
        },
    },
    "student": {"ray_address", "max_failures", "save_every"},
}
UNTRAINED: Final = {*NO_EFFECT["student"], "merge_base"}  # of `student`: what no adapter depends on
_OF_TEACHERS: Final = {"description", "catalogue", "grounded", "pattern", "guard"}  # of a role
_OF_ANSWERS: Final = {"min_confidence"}  # of a role: how scores are read, which a training only uses on dev rows
_SECTIONS: Final[Mapping[str, type[BaseModel]]] = {"cross_fit": CrossFit}  # in a stage's config outside of their place
_SHOWN = 40  # characters of a value in a reason


@dataclass(frozen=True, slots=True)
class Ingredients:
    """Everything that the result of a stage depends on, JSON-ready."""

    config: object
    inputs: Mapping[str, str]
    rules: Rules


def settings_of_training(task: Task) -> dict[str, Any]:
    """The settings that an adapter depends on: of the roles, what student and codec read; of the student, no merge."""
    return task.model_dump(
        mode="json", include={"student", "roles", "normaliser"},
        exclude={"student": UNTRAINED, "roles": {"__all__": _OF_TEACHERS | _OF_ANSWERS}},
    )


def reasons(found: Mapping[str, Any], now: Ingredients) -> list[str]:
    """What has changed since a manifest was written, a phrase each; none if its result stands.

    Args:
        found: The manifest.
    """
    config = json.loads(json.dumps(now.config))
    recorded: Rules = found.get("rules", {})
    out = [*_settings(_with_defaults_of_now(found["config"], config, recorded), config, Task, ())]
    before: Mapping[str, str] = found["inputs"]
    names = {*before, *now.inputs} - (LATER - before.keys())
    out += [f"{name} changed" for name in sorted(names) if before.get(name) != now.inputs.get(name)]
    for name, value in sorted(now.rules.items()):
        old = recorded.get(name, FIRST[name])
        if old != value:
            out.append(f"{name} version {old} → {value}" if isinstance(value, int) else f"{name} changed")
    return out


def _with_defaults_of_now(config: Any, now: Any, rules: Rules) -> Any:
    """Settings of a manifest without a former default that means what the present one does.

    `serving.quantization` was `none` before it was `auto`, which is the same where no model for OpenVINO is made.
    """
    then, today = (
        x["serving"].get("quantization") if isinstance(x, dict) and isinstance(x.get("serving"), dict) else None
        for x in (config, now)
    )
    if then != "none" or today == "none" or "model for OpenVINO" in rules:
        return config
    return {**config, "serving": {k: v for k, v in config["serving"].items() if k != "quantization"}}


def _settings(found: Any, now: Any, model: type[BaseModel] | None, at: tuple[str, ...]) -> Iterator[str]:
    """Settings whose value is another, by their dotted name."""
    if isinstance(found, dict) and isinstance(now, dict) and model is not None:
        fields = model.model_fields
        # A key that is not dumped at its default may have had another value; other keys that are gone have no effect.
        undumped = [k for k in found if k not in now and k in fields and fields[k].exclude_if is not None]
        for key in (*now, *sorted(undumped)):
            field = fields.get(key)
            kind = _SECTIONS.get(key) if field is None else _model(field.annotation)
            yield from _settings(_value(found, key, field), _value(now, key, field), kind, (*at, key))
    elif isinstance(found, list) and isinstance(now, list) and model is not None and len(found) == len(now):
        for number, (before, value) in enumerate(zip(found, now, strict=True)):
            yield from _settings(before, value, model, (*at, str(number)))
    elif not _same(found, now):
        yield f"{'.'.join(at) or 'settings'} {_shown(found, now)}"


def _value(settings: Mapping[str, Any], key: str, field: FieldInfo | None) -> Any:
    """The value of a key; where there is none, the field's default."""
    if key in settings or field is None:
        return settings.get(key, PydanticUndefined)
    default = field.get_default(call_default_factory=True)
    return default if default is PydanticUndefined else to_jsonable_python(default)


def _model(annotation: Any) -> type[BaseModel] | None:
    """The model in a field's type, such as `Role` in `tuple[Role, ...]`; None where it holds plain values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in get_args(annotation) if (m := _model(a)) is not None), None)


def _same(found: Any, now: Any) -> bool:
    if isinstance(found, str) and isinstance(now, str) and Path(now).is_absolute():
        return Path(found).resolve() == Path(now).resolve()
    return bool(found == now)


def _named(what: str, values: Sequence[str]) -> str:
    """How many values, with the first of them."""
    return f"{len(values)} {what}" + (f" ({_short(values[0])})" if len(values) == 1 else "")


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _shown(found: Any, now: Any) -> str:
    if isinstance(found, list) and isinstance(now, list) and len(found) != len(now):
        entries = f"has {len(found)} → {len(now)} entries"
        if not all(isinstance(x, str) for x in (*found, *now)):
            return entries
        added, removed = ([x for x in a if x not in b] for a, b in ((now, set(found)), (found, set(now))))
        return f"{entries}, {_named('added', added)}, {_named('removed', removed)}"
    texts = ["nothing" if v is PydanticUndefined else json.dumps(v, ensure_ascii=False) for v in (found, now)]
    return "changed" if max(map(len, texts)) > _SHOWN else " → ".join(texts)
