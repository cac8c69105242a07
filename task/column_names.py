"""What others call the column of queries, and how names of columns are compared."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Final

# The likeliest first. Names are compared in small letters, without signs.
QUERY: Final = (
    "query", "search query", "search term", "search phrase", "search", "term", "keyword", "keywords", "phrase", "q",
    "text",
)
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


def rename_to_query(names: Iterable[object]) -> str | None:
    """What to do about a table whose column of queries seems to have another name; None where none looks like it."""
    given = {plain(str(n)): str(n) for n in names}
    taken = query_column(given.values())
    if taken is None:
        taken = next((t for n, t in given.items() if difflib.get_close_matches(n, SURELY_QUERY, 1, _SIMILAR)), None)
    return None if taken is None else f"Rename the column {taken!r} to 'query'"
