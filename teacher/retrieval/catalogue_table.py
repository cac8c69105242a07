"""The catalogue as a memory-mapped table: items are decoded on access, and pickling it for a worker sends its path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import pyarrow as pa

from task.readers import Item

_SCHEMA = pa.schema([
    ("id", pa.string()), ("title", pa.string()), ("brand", pa.string()), ("category", pa.string()),
    ("attributes", pa.map_(pa.string(), pa.string())),
])
_BATCH = 16_384


class ItemTable(Sequence[Item]):
    """Items of an Arrow IPC file, by row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()

    def __reduce__(self) -> tuple[type[ItemTable], tuple[Path]]:
        return ItemTable, (self.path,)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, row: int) -> Item: ...
    @overload
    def __getitem__(self, row: slice) -> list[Item]: ...
    def __getitem__(self, row: int | slice) -> Item | list[Item]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        return _item(**{name: column[row].as_py() for name, column in self._columns()})

    def __iter__(self) -> Iterator[Item]:
        for batch in self._table.to_batches(max_chunksize=_BATCH):
            for row in batch.to_pylist():
                yield _item(**row)

    def _columns(self) -> Iterator[tuple[str, pa.ChunkedArray]]:
        return zip(_SCHEMA.names, self._table.columns, strict=True)


def write_items(path: Path, items: Sequence[Item]) -> None:
    """Write items as an Arrow IPC file: the same bytes for the same items."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        for at in range(0, len(items), _BATCH):
            rows = [
                {"id": i.id, "title": i.title, "brand": i.brand, "category": i.category,
                 "attributes": sorted(i.attributes.items())}
                for i in items[at : at + _BATCH]
            ]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, _SCHEMA))


def _item(
    id: str, title: str, brand: str | None, category: str | None, attributes: list[tuple[str, str]] | None  # noqa: A002
) -> Item:
    return Item(id, title, brand, category, dict(attributes or ()))
