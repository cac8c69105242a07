"""One spelling for each value of a catalogue: `AQUACLEAR` and `AquaClear` are one brand, and a prompt shows it once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from task.readers import Item

Spellings = Mapping[str, str]  # value → the spelling that stands for it; values that have one spelling are left out


def spellings(field: str, catalogue: Sequence[Item], normalise: Callable[[str], str]) -> Spellings:
    """The spellings of a catalogue field's values that are one value: the most frequent one, of two the first.

    Args:
        normalise: Which two texts count as the same.
    """
    items = Counter(v for item in catalogue for v in item.values(field))
    same: defaultdict[str, list[str]] = defaultdict(list)
    for value in items:  # in the order of the catalogue
        same[normalise(value)].append(value)
    return {v: max(found, key=items.__getitem__) for found in same.values() if len(found) > 1 for v in found}


def once(values: Sequence[str], spelling: Spellings, most: int) -> list[str]:
    """The first values, each once. Where those have one spelling each, they stay as they are.

    Args:
        values: The best first; more than `most`, so that others can take the place of further spellings.
    """
    first = list(values[:most])
    if len({spelling.get(v, v) for v in first}) == len(first):
        return first
    return list(dict.fromkeys(spelling.get(v, v) for v in values))[:most]


def most_spellings(spelling: Spellings) -> int:
    """The largest number of spellings of one value."""
    return max(Counter(spelling.values()).values(), default=1)
