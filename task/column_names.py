"""What others call the columns of queries and of counts, and how names of columns are compared."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

# The likeliest first. Names are compared in small letters, without signs.
QUERY: Final = (
    "query", "search query", "search term", "search phrase", "search", "term", "keyword", "keywords", "phrase", "q",
    "text",
)
COUNT: Final = (
    "count", "searches", "search count", "frequency", "freq", "volume", "impressions", "hits", "cnt", "n", "traffic",
)
BOUGHT: Final = ("count", "purchases", "orders", "conversions", "clicks", "quantity", "qty", "units", "cnt", "n")
SURELY_QUERY: Final = QUERY[:4]
EXPECTED_QUERY: Final = f"a column `query`, or one named {', '.join(QUERY[1:])}"
_SIMILAR: Final = 0.7  # of `difflib`: `serch trm` and `search term`


def plain(name: str) -> str:
    """`Search_Term`, `searchTerm` and `search-term` are one name."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.sub(r"[\W_]+", " ", spaced).strip().lower()


def named(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    """The first of the names that is one of those wanted; `n_searches` and `number of searches` are `searches`."""
    found = {plain(n): n for n in reversed(names)}
    for name, given in [*found.items()]:
        found.setdefault(re.sub(r"^(n|nr|num|number of|no of|total) ", "", name), given)
    return next((found[w] for w in wanted if w in found), None)


def query_column(names: Iterable[object]) -> str | None:
    """The column that holds the queries; None where no name is one of those."""
    given = [str(n) for n in names]
    return "query" if "query" in given else named(QUERY, given)


def count_column(row: Mapping[str, object], names: Sequence[str] = COUNT) -> str | None:
    """The column that holds the counts: `count`, else one named so whose value in this row is a whole number.

    Args:
        names: `COUNT` for queries, `BOUGHT` for conversions.
    """
    return "count" if "count" in row else named(names, [str(n) for n, value in row.items() if is_whole(value)])


def is_whole(value: object) -> bool:
    """Whether a cell can be a count, also where it is written as a text."""
    return (isinstance(value, int) and not isinstance(value, bool)) or str(value).strip().isdecimal()


def rename_to_query(names: Iterable[object]) -> str | None:
    """What to do about a table whose column of queries seems to have another name; None where none looks like it."""
    given = {plain(str(n)): str(n) for n in names}
    taken = query_column(given.values())
    if taken is None:
        taken = next((t for n, t in given.items() if difflib.get_close_matches(n, SURELY_QUERY, 1, _SIMILAR)), None)
    return None if taken is None else f"Rename the column {taken!r} to 'query'"
