"""The rules that strict structured output has for a JSON schema, as OpenAI documents them and servers enforce them."""

from __future__ import annotations

from typing import Any

_KEYWORDS = {"type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "description"}
_TYPES = {"string", "number", "integer", "boolean", "null", "array", "object"}
_MOST_VALUES, _MOST_VALUE_CHARS = 1_000, 15_000


def refusal(body: dict[str, Any]) -> str | None:
    """Why a server in strict mode refuses a body, or None."""
    given = body.get("response_format")
    if given is None:
        return None
    schema = given["json_schema"]["schema"]
    if schema.get("type") != "object" or "anyOf" in schema:
        return "the root of a schema must be an object and not `anyOf`"
    problem = _problem(schema, ())
    values = _enums(schema)
    if problem is None and sum(map(len, values)) > _MOST_VALUES:
        return "too many enum values"
    if problem is None and any(len(v) > 250 and sum(map(len, v)) > _MOST_VALUE_CHARS for v in values):
        return "the values of one enum are too long"
    return problem


def _problem(node: Any, place: tuple[str, ...]) -> str | None:
    at = f"In context={place}, "
    if not isinstance(node, dict):
        return at + "not a schema"
    if unknown := node.keys() - _KEYWORDS:
        return at + f"{', '.join(sorted(unknown))} is not permitted"
    if "anyOf" not in node and node.get("type") not in _TYPES:
        return at + "schema must have a 'type' key"
    if node.get("type") == "array" and "items" not in node:
        return at + "array schema missing items"
    if node.get("type") == "object":
        if node.get("additionalProperties") is not False:
            return at + "'additionalProperties' is required to be supplied and to be false"
        if set(node.get("required", ())) != set(node["properties"]):
            return at + "'required' is required to be supplied and to include every key in properties"
    inner = [*node.get("properties", {}).items(), *((str(i), x) for i, x in enumerate(node.get("anyOf", ())))]
    if "items" in node:
        inner.append(("items", node["items"]))
    return next((p for name, x in inner if (p := _problem(x, (*place, name))) is not None), None)


def _enums(node: dict[str, Any]) -> list[list[str]]:
    inner = [*node.get("properties", {}).values(), *node.get("anyOf", ()), *(node[k] for k in ("items",) if k in node)]
    return [*([node["enum"]] if "enum" in node else []), *(e for x in inner for e in _enums(x))]
