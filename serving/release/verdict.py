"""The settings by which a bundle was judged, where they are not its own, and how every command names them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from serving.release.bundle import Bundle, gate_failure
from task.spec import Task

# What does not decide: checked by other stages, or only shown.
_NOT_JUDGED = ("gates.merge_", "eval.cost.", "eval.errors", "eval.note", "eval.reference_rows")


def overrides(own: Task, judged: Task) -> list[str]:
    """The settings of `judged` that differ from a bundle's own: `gates.slo.ms=1500`."""
    before, after = (dict([*_leaves(task.gates, "gates."), *_leaves(task.eval, "eval.")]) for task in (own, judged))
    return [
        f"{k}={_value(v)}" for k, v in after.items()
        if not k.startswith(_NOT_JUDGED) and (k not in before or before[k] != v)
    ]


def overridden(bundle: Bundle) -> list[str]:
    """The settings that the gate which a bundle passed took in place of its own."""
    return [] if gate_failure(bundle) is not None else list(bundle.manifest["gate"].get("overrides", ()))


def in_words(changed: Sequence[str]) -> str:
    """`2 rules overridden: gates.slo.ms=1500, gates.teacher_margin=0.1`."""
    rules = all(x.startswith("gates.") for x in changed)
    what = ("rule" if rules else "setting") + ("" if len(changed) == 1 else "s")
    return f"{len(changed)} {what} overridden: {', '.join(changed)}"


def verdict(bundle: Bundle) -> str:
    """`passed`, `passed, with gates.slo.ms=1500`, or why it has not passed."""
    changed = overridden(bundle)
    return gate_failure(bundle) or ("passed, with " + ", ".join(changed) if changed else "passed")


def _leaves(section: BaseModel, above: str) -> Iterator[tuple[str, Any]]:
    """A section's settings by name; one that is null now is named alone, without what was in it."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield above + name, value


def _value(value: object) -> str:
    """As it is written in a task file: whole numbers without decimals."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str) else json.dumps(value)
