"""Purchases after each query, as memory-mapped arrays: query → catalogue row → number of purchases."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from task.readers import Conversion, Item


class Purchases:
    """Purchases of the queries that have any, by query or by the query's row.

    Queries are sorted by code point and found by bisection.
    """

    def __init__(self, folder: Path) -> None:
        self.queries = _Texts(pa.ipc.open_file(pa.memory_map(str(folder / "queries.arrow"))).read_all().column("query"))
        # An empty file cannot be memory-mapped.
        mode: Literal["r"] | None = "r" if len(self.queries) else None
        self._starts, self._items, self._counts = (
            np.load(folder / f"{name}.npy", mmap_mode=mode) for name in ("starts", "items", "counts")
        )

    def of(self, query: str) -> dict[int, int]:
        """Catalogue row → purchases after the query; empty if there are none."""
        row = bisect_left(self.queries, query)
        return self.at(row) if row < len(self.queries) and self.queries[row] == query else {}

    def at(self, row: int) -> dict[int, int]:
        """Catalogue row → purchases after the query in a row."""
        part = slice(self._starts[row], self._starts[row + 1])
        return dict(zip(self._items[part].tolist(), self._counts[part].tolist(), strict=True))


def write_purchases(folder: Path, catalogue: Sequence[Item], conversions: Sequence[Conversion]) -> list[str]:
    """Write the arrays into `folder`; returns the queries, in order."""
    rows = {item.id: i for i, item in enumerate(catalogue)} if conversions else {}
    bought: defaultdict[str, dict[int, int]] = defaultdict(dict)
    for c in conversions:
        items = bought[c.query]
        items[rows[c.item_id]] = items.get(rows[c.item_id], 0) + c.count
    queries = sorted(bought)
    lengths = np.fromiter((len(bought[q]) for q in queries), np.int64, len(queries))
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({"query": pa.array(queries, pa.string())})
    with pa.OSFile(str(folder / "queries.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    np.save(folder / "starts.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    for name, of in (("items", dict.keys), ("counts", dict.values)):
        flat = np.fromiter((x for q in queries for x in of(bought[q])), np.int64, int(lengths.sum()))
        np.save(folder / f"{name}.npy", flat)
    return queries


class _Texts(Sequence[str]):
    """A column of texts, decoded on access."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, row: int) -> str:  # type: ignore[override]
        return str(self._column[row].as_py())
