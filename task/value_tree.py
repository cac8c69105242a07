"""Trees of values: a taxonomy of paths, or a large flat set that is divided into one.

A closed role of thousands of values cannot have a symbol for each. Its values are the nodes of a tree, and a value is
named by the path to it: one symbol a level, of a small set that all levels share. Siblings have different symbols, so
that a path of symbols leads to one node. Cousins may share one; those next to each other in the tree, which are the
easiest to confuse, do not.

A node with more children than there are symbols gets inserted levels, which have no value of their own: its children,
in the order of their texts, are cut into ranges of equal size. A flat set is the children of the root. Ranges of texts
are used rather than clusters of meanings because they need no model, are the same for everybody, and keep values that
begin with the same words together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

# The most children of a node. The head of the student has so many rows, and an engine returns so many scores for each
# token of the prompt. Shopify's taxonomy of 10,595 categories has no node with more than 80.
MOST_CHILDREN = 127
# A flat set of more values is divided; one of fewer has a symbol for each value.
MOST_SYMBOLS = 1000


@dataclass(frozen=True, slots=True)
class ValueTree:
    """The nodes below the root, level by level; siblings stand side by side.

    Attributes:
        values: The value of each node; empty for one of an inserted level.
        parents: Index of its parent; -1 for the root.
        codes: From 1: siblings have different ones. 0 is left for "none of the children".
    """

    values: tuple[str, ...]
    parents: tuple[int, ...]
    codes: tuple[int, ...]

    @property
    def width(self) -> int:
        """Symbols that name a child of any node, and one for none of them."""
        return 1 + max(self.codes)

    @property
    def depth(self) -> int:
        """Levels: the symbols of the longest path."""
        return max(depths(self.parents))


@dataclass(slots=True)
class _Node:
    value: str
    children: dict[str, _Node] = field(default_factory=dict)


def depths(parents: Sequence[int]) -> list[int]:
    """The level of each node; 1 for a child of the root. Parents must stand before their children."""
    out: list[int] = []
    for parent in parents:
        out.append(1 if parent < 0 else out[parent] + 1)
    return out


def path_problem(value: str, separator: str) -> str | None:
    """What is wrong with a path of a taxonomy; None if nothing is."""
    parts = value.split(separator)
    if any(not part.strip() for part in parts):
        return f"{value!r} has an empty part between two separators {separator!r}"
    if any(part != part.strip() for part in parts):
        return f"{value!r} has a part that begins or ends with a blank; the separator is {separator!r}"
    return None


def nodes(values: Iterable[str], separator: str | None) -> frozenset[str]:
    """The values and, of a taxonomy, all that lie above them."""
    if separator is None:
        return frozenset(values)
    return frozenset(above for value in values for above in ancestors(value, separator))


def ancestors(value: str, separator: str) -> tuple[str, ...]:
    """The path of every node from the first level down to a value, itself included."""
    return tuple(itertools.accumulate(value.split(separator), lambda above, part: f"{above}{separator}{part}"))


def is_tree(values: Sequence[str], separator: str | None) -> bool:
    """Whether values are answered by a path in a tree: taxonomies and large sets; others have a symbol for each."""
    return separator is not None or len(values) > MOST_SYMBOLS


def tree_of(values: Sequence[str], separator: str | None) -> ValueTree | None:
    """The tree by which a role's values are answered; None for a flat set that has a symbol for each."""
    return build(values, separator) if is_tree(values, separator) else None


def build(values: Sequence[str], separator: str | None, most: int = MOST_CHILDREN) -> ValueTree:
    """The tree of a set of values; the order in which they are given does not matter.

    Args:
        values: At least one; with a separator, paths without a `path_problem`.
        separator: What stands between the parts of a path; None for a flat set.
        most: The most children of a node, at least 2.
    """
    root = _Node("")
    for value in sorted(values, key=_order):
        node = root
        for above in (value,) if separator is None else ancestors(value, separator):
            node = node.children.setdefault(above, _Node(above))
    out: list[tuple[str, int]] = []
    codes: list[int] = []
    level = [(child, -1) for child in _split(list(root.children.values()), most)]
    widths = []
    while level:
        first = len(out)
        out += [(node.value, parent) for node, parent in level]
        widths.append(len(level))
        level = [
            (child, first + number) for number, (node, _) in enumerate(level)
            for child in _split(sorted(node.children.values(), key=lambda c: _order(c.value)), most)
        ]
    used = min(most, max(widths))
    for width in widths:
        codes += [1 + place % used for place in range(width)]
    return ValueTree(tuple(v for v, _ in out), tuple(p for _, p in out), tuple(codes))


def _order(value: str) -> tuple[str, str]:
    return value.casefold(), value


def _split(children: list[_Node], most: int) -> list[_Node]:
    """At most `most` nodes that stand for the children: themselves, or inserted ones of equal size above them."""
    if len(children) <= most:
        return children
    levels = 2
    while most**levels < len(children):
        levels += 1
    groups = min(most, math.ceil(len(children) ** (1 / levels)))
    size = math.ceil(len(children) / groups)
    return [
        _Node("", {c.value: c for c in children[at : at + size]}) for at in range(0, len(children), size)
    ]
