"""The free text of an answer in the form `write`: a line for each value of a text role, after the symbols.

A line is the symbol of the role, the tokens of the text, and the separator; the stop token ends the answer. A text has
no line break, so the first separator ends it. Lines stand in the order of the roles, and of one role the more probable
value first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from task.labels import Example, Label, surest_first

MOST_TOKENS: Final = 256
"""The maximum number of tokens of all lines; a line that is cut off there is left out."""

_LINE_TOKENS: Final = 32  # of a line that is planned for: rewrites are queries, and these have 4 to 12 tokens


@dataclass(frozen=True, slots=True)
class TextRole:
    """A text role in the codec.

    Attributes:
        symbol: Token id that begins each of its lines; no symbol of another role.
        most: The most values for a query.
    """

    name: str
    symbol: int
    most: int


class WrittenText(NamedTuple):
    """A line that a student wrote; `probability` is the product of its tokens', given what precedes them."""

    role: str
    text: str
    probability: float


class WrittenTexts(NamedTuple):
    """The lines of an answer that can be read, in the order written.

    Attributes:
        probability: The product of the probabilities of all tokens, the stop token included.
        ended: Whether the stop token came; without it the line that was cut off is left out.
    """

    lines: tuple[WrittenText, ...]
    probability: float
    ended: bool


def most_tokens(roles: Sequence[TextRole]) -> int:
    """The maximum number of tokens that are generated for the lines of some roles and the stop token."""
    return min(MOST_TOKENS, _LINE_TOKENS * sum(r.most for r in roles)) + 1


def ranked(example: Example, role: str) -> list[Label]:
    """The values of a role, the more probable one first; those of equal confidence keep their order."""
    return surest_first(x for x in example.labels if x.role == role)


def lines(
    example: Example, roles: Sequence[TextRole], separator: Sequence[int], encode: Callable[[str], list[int]]
) -> Iterator[tuple[Label, list[int]]]:
    """Each value with the token ids of its line.

    Args:
        encode: A text's token ids.
    """
    for role in roles:
        for label in ranked(example, role.name):
            yield label, [role.symbol, *encode(label.text), *separator]


def read(
    ids: Sequence[int], log_probabilities: Sequence[float], roles: Sequence[TextRole], *, separator: Sequence[int],
    eos_id: int, decode: Callable[[Sequence[int]], str],
) -> WrittenTexts:
    """The lines of generated tokens; one that does not begin with the symbol of a role is left out.

    Args:
        log_probabilities: Of each token, natural logarithm.
        decode: The text of token ids.
    """
    names = {r.symbol: r.name for r in roles}
    found: list[WrittenText] = []
    start = at = 0
    while at < len(ids) and ids[at] != eos_id:
        if at > start and list(ids[at : at + len(separator)]) == list(separator):
            end = at + len(separator)
            if ids[start] in names:
                share = math.exp(min(0.0, sum(log_probabilities[start:end])))
                found.append(WrittenText(names[ids[start]], decode(ids[start + 1 : at]), share))
            start = at = end
        else:
            at += 1
    whole = math.exp(min(0.0, sum(log_probabilities[: at + 1])))
    return WrittenTexts(tuple(found), whole, at < len(ids))
