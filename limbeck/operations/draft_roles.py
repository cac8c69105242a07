"""Roles for a new task: those of the gold labels, or what the catalogue's fields hold."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from task.normalize import normaliser
from task.readers import Item

_CLOSED = 40  # a field with at most so many values can be a closed role
_HELD = 0.3  # share of a role's gold values that a field must hold to be its field
_GROUNDED = 0.9  # … and to reject what it does not hold
_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Draft:
    """A role as it is written, and what it rests on."""

    role: Mapping[str, Any]
    why: str


def fields_of(items: Sequence[Item]) -> dict[str, list[str]]:
    """Catalogue field → its distinct values, the commonest first."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for item in items:
        for name in ("brand", "category.root", "category.leaf", *(f"attributes.{a}" for a in item.attributes)):
            found[name].update(item.values(name))
    if found["category.root"] == found["category.leaf"]:
        del found["category.root"]
    return {name: [v for v, _ in values.most_common()] for name, values in found.items() if values}


def from_catalogue(items: Sequence[Item]) -> list[Draft]:
    """A role for each field that queries can name."""
    out = []
    for field, values in fields_of(items).items():
        number = len({value.casefold() for value in values})
        shown = f"{field} has {number:,} values: {', '.join(values[:_SHOWN])}"
        if field == "brand":
            out.append(Draft({"name": "brand", "multiple": False, "catalogue": field, "grounded": True}, shown))
        elif field == "category.leaf":
            out.append(Draft({"name": "product", "catalogue": field}, shown))
        elif field == "category.root" and len(values) <= _CLOSED:
            out.append(Draft(
                {"name": "department", "kind": "closed", "multiple": False, "requires": ["product"],
                 "catalogue": field, "values": values}, f"{shown}; few enough for a list",
            ))
        elif field.startswith("attributes."):
            out.append(Draft({"name": field.removeprefix("attributes."), "catalogue": field}, shown))
    return out


def from_gold(gold: Sequence[Mapping[str, Any]], items: Sequence[Item]) -> list[Draft]:
    """The roles that gold labels have, each with the catalogue field that holds most of its values."""
    normalise = normaliser("v1")
    fields = {name: (values, {normalise(v) for v in values}) for name, values in fields_of(items).items()}
    texts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    outside: Counter[str] = Counter()
    several: set[str] = set()
    for row in gold:
        own = Counter(str(x["role"]) for x in row["labels"])
        several |= {role for role, n in own.items() if n > 1}
        for x in row["labels"]:
            texts[str(x["role"])][str(x["text"])] += 1
            outside[str(x["role"])] += str(x["text"]) not in str(row["query"])
    return [
        _gold_role(name, values, fields, outside=outside[name] > 0, several=name in several, normalise=normalise)
        for name, values in sorted(texts.items(), key=lambda x: -sum(x[1].values()))
    ]


def _gold_role(
    name: str, values: Counter[str], fields: Mapping[str, tuple[list[str], set[str]]], *, outside: bool, several: bool,
    normalise: Any,
) -> Draft:
    total = sum(values.values())
    held = {
        field: sum(n for v, n in values.items() if normalise(v) in known) / total
        for field, (_, known) in fields.items()
    }
    best = max(held, key=lambda f: held[f], default=None)
    role: dict[str, Any] = {"name": name} if several else {"name": name, "multiple": False}
    why = f"{total:,} labels, such as {', '.join(v for v, _ in values.most_common(_SHOWN))}"
    if best is not None and held[best] >= _HELD:
        role["catalogue"] = best
        why += f"; {held[best]:.0%} of them are in {best}"
        if held[best] >= _GROUNDED and not outside:
            role["grounded"] = True
    if outside:  # its values need not be words of the query
        listed = fields[best][0] if best is not None and held[best] >= _HELD and len(fields[best][0]) <= _CLOSED else []
        role |= {"kind": "closed", "values": sorted({*values, *listed})}
        why += "; not all are words of their query, so it is closed"
    return Draft(role, why)
