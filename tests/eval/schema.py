"""Whether a value read from JSON has exactly the keys and types of a TypedDict."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, Union, is_typeddict


def mismatches(value: Any, kind: Any, where: str = "") -> list[str]:
    """The places that differ, such as `cost: keys {'extra'}`; none where the value conforms."""
    return list(_mismatches(value, kind, where))


def _mismatches(value: Any, kind: Any, where: str) -> Iterator[str]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.NotRequired:
        kind = arguments[0]
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return
    if is_typeddict(kind):
        yield from _of_typed_dict(value, kind, where)
    elif origin in (Union, types.UnionType):
        found = [list(_mismatches(value, of, where)) for of in arguments]
        if all(found):
            yield from min(found, key=len) if value is not None else [f"{where}: {value!r}"]
    elif origin is list:
        for number, item in enumerate(value if isinstance(value, list) else [value]):
            yield from _mismatches(item, arguments[0], f"{where}[{number}]")
    elif origin is dict:
        for key, item in value.items() if isinstance(value, dict) else [("", value)]:
            yield from _mismatches(item, arguments[1], f"{where}.{key}")
    elif origin is Literal:
        if value not in arguments:
            yield f"{where}: {value!r}"
    elif not isinstance(value, (int, float) if kind is float else kind):
        yield f"{where}: {value!r}"


def _of_typed_dict(value: Any, kind: Any, where: str) -> Iterator[str]:
    hints = typing.get_type_hints(kind, include_extras=True)
    # `__required_keys__` does not know NotRequired in modules whose annotations are strings.
    required = {key for key, of in hints.items() if typing.get_origin(of) is not typing.NotRequired}
    if not isinstance(value, dict):
        yield f"{where}: {value!r}"
        return
    if wrong := (set(value) - set(hints)) | (required - set(value)):
        yield f"{where}: keys {wrong}"
    for key, of in hints.items():
        if key in value:
            yield from _mismatches(value[key], of, f"{where}.{key}".lstrip("."))
