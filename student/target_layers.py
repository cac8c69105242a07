"""Whether the layers that an adapter names are layers of the base: PEFT passes over those that are not, if one is."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from pathlib import Path

from task.errors import Details, InputError, warn
from task.settings import Student


def check_targets(
    settings: Student, modules: Collection[str], *, linear: Collection[str], base: str | Path
) -> None:
    """Check the names of `student.lora.targets`, or of `student.peft.target_modules`, where they are a list.

    A name is that of a layer, or the end of its path. Some that are none are told, for the others are adapted.

    Args:
        modules: Paths of all modules of the base.
        linear: Paths of its linear layers, whose names the error lists.
        base: The base, as the error names it.

    Raises:
        InputError: None of them is a layer of the base.
    """
    given = settings.lora.targets if settings.peft is None else settings.peft.get("target_modules")
    if not isinstance(given, tuple | list):
        return
    unknown = [t for t in given if not any(m == t or m.endswith(f".{t}") for m in modules)]
    if not unknown:
        return
    known = sorted({path.rpartition(".")[2] for path in linear})
    near = {str(t): difflib.get_close_matches(str(t), known, 1) for t in unknown}
    text = f"the base has no layer of this name: {', '.join(map(repr, unknown))}"
    field = "student.lora.targets" if settings.peft is None else "student.peft.target_modules"
    details: Details = {
        "file": base, "field": field, "found": list(given),
        "expected": f"all-linear, attention, mlp, or names of layers: {', '.join(known)}",
        "fix": " ".join(f"Did you mean `{found[0]}`?" for found in near.values() if found),
    }
    if len(unknown) == len(given):
        raise InputError(text, **details)
    warn(text, **details)
