"""Which labels a page shows and in what order, as the query of its address has it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args
from unicodedata import normalize
from urllib.parse import urlencode

from task.text import repaired
from teacher.ledger.records import STATUSES, Status

Order = Literal["doubt", "traffic", "confidence", "query", "random"]
Student = Literal["agrees", "disagrees"]
ORDERS: Final[tuple[Order, ...]] = get_args(Order)
CURSORS: Final = ("after", "before")  # of a page; they stand in the same address and are not part of the filter
_YES_NO: Final = {"yes": True, "no": False}
_MOST: Final = 2**63 - 1  # the greatest number that the ledger holds


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFilter:
    """Rows that a page shows: those that pass everything given. Texts are compared in any case (`fold`).

    Attributes:
        status: One of these; empty for any.
        role: Rows with a label of it.
        value: Rows with this value of `role`, which must be given.
        reason: Rows that have this reason: of their status, or of a label that the guardrails rejected or repaired.
        confidence_from: Least confidence of the labelling as a whole.
        confidence_to: Greatest confidence.
        count_from: Least traffic.
        count_to: Greatest traffic.
        student: Whether the student predicts the same labels as the teacher.
        reviewed: Whether a person has decided about the row.
        text: A part of the query; all of its characters count.
        order: `doubt`: (1 - confidence) × traffic, greatest first; `traffic`: greatest first; `confidence`: least
            first; `query`: by the folded text; `random`: shuffled.
        reverse: The order backwards.
        seed: Of the order `random`.
    """

    status: tuple[Status, ...] = ()
    role: str = ""
    value: str = ""
    reason: str = ""
    confidence_from: float | None = None
    confidence_to: float | None = None
    count_from: int | None = None
    count_to: int | None = None
    student: Student | None = None
    reviewed: bool | None = None
    text: str = ""
    order: Order = "doubt"
    reverse: bool = False
    seed: int = 0

    @classmethod
    def from_query(cls, params: Mapping[str, str] | Iterable[tuple[str, str]]) -> LabelFilter:
        """Read names and values of an address, decoded; an empty value is none, `after` and `before` are left out.

        Args:
            params: `status` may come several times, or once with commas.

        Raises:
            ValueError: An unknown name, or a value that no row can have; the message is for the user.
        """
        given: dict[str, Any] = {}
        for name, value in params.items() if isinstance(params, Mapping) else params:
            if value == "" or name in CURSORS:
                continue
            if name not in _READERS:
                raise ValueError(f"There is no filter `{name}`; there are {', '.join(_READERS)}.")
            read = _READERS[name](name, value)
            if name == "status":
                read = tuple(dict.fromkeys((*given.get(name, ()), *read)))
            elif name in given:
                raise ValueError(f"`{name}` is given twice.")
            given[name] = read
        _check(given)
        return cls(**given)

    def to_query(self) -> str:
        """The query of an address, encoded, that `from_query` reads as this filter; defaults are left out."""
        return urlencode([
            (name, _written(value)) for name in _READERS
            if (value := getattr(self, name)) != getattr(_EVERYTHING, name)
        ])


def fold(text: str) -> str:
    """A text for comparison in any case: composed (NFC) and case-folded."""
    return text.lower() if text.isascii() else normalize("NFC", normalize("NFC", text).casefold())


def _check(given: Mapping[str, Any]) -> None:
    if "value" in given and "role" not in given:
        raise ValueError("A value without a role: choose the role that has it.")
    for name in ("confidence", "count"):
        low, high = given.get(f"{name}_from"), given.get(f"{name}_to")
        if low is not None and high is not None and low > high:
            raise ValueError(f"No row has a {name} from {low} to {high}: the first is the greater one.")


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _text(_: str, value: str) -> str:
    return repaired(value)  # as the ledger holds it


def _choice(known: Iterable[str]) -> Any:
    def read(name: str, value: str) -> str:
        if value not in known:
            raise ValueError(f"`{name}` is {value!r}; it can be {', '.join(known)}.")
        return value

    return read


def _statuses(name: str, value: str) -> tuple[str, ...]:
    one = _choice(STATUSES)
    return tuple(dict.fromkeys(one(name, part) for part in value.split(",")))


def _yes_no(name: str, value: str) -> bool:
    return _YES_NO[_choice(_YES_NO)(name, value)]


def _confidence(name: str, value: str) -> float:
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if not 0.0 <= found <= 1.0:
        raise ValueError(f"`{name}` is {value!r}; it must be a number from 0 to 1, such as 0.85.")
    return found + 0.0  # no negative zero, which would be written differently


def _whole(name: str, value: str) -> int:
    if not (value.isascii() and value.isdecimal()) or len(value) > 19 or int(value) > _MOST:
        raise ValueError(f"`{name}` is {value!r}; it must be a whole number, 0 or greater.")
    return int(value)


# In the order in which an address has them.
_READERS: Final = {
    "status": _statuses, "role": _text, "value": _text, "reason": _text, "confidence_from": _confidence,
    "confidence_to": _confidence, "count_from": _whole, "count_to": _whole,
    "student": _choice(get_args(Student)), "reviewed": _yes_no, "text": _text, "order": _choice(ORDERS),
    "reverse": _yes_no, "seed": _whole,
}
_EVERYTHING: Final = LabelFilter()
