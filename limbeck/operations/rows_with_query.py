"""Files of a run folder that hold a query: found in all of them, and taken out of tables of rows."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

_DOCUMENTS: Final = frozenset({".html", ".md", ".json", ".csv", ".svg", ".txt", ".log"})

# Folders of weights: their tokenizers have every word.
_WEIGHTS: Final = frozenset({
    "model", "classifier", "adapter", "openvino", "engine", "checkpoints", "best", "ray", "index",
})

Same = Callable[[str], bool]


def holders(folder: Path, query: str, same: Same) -> Iterator[Path]:
    """The files below a folder that hold a query: a row with it, an entry of a head cache, or its text in a document.

    A document counts if it has the text in any letters, also within other words: it may hold the query. Folders of
    weights are left out.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file() or _WEIGHTS & set(path.relative_to(folder).parts[:-1]):
            continue
        if path.suffix in (".jsonl", ".parquet"):
            found = count(path, same) > 0
        elif path.name == "cache.json":
            found = _cached(path.parent, query)
        else:
            found = path.suffix in _DOCUMENTS and mentions(path, query)
        if found:
            yield path


def count(path: Path, same: Same) -> int:
    """How many rows of a table (JSON lines or Parquet) are about a query."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        table = pq.ParquetFile(path)
        if "query" not in table.schema_arrow.names:
            return 0
        return sum(
            same(str(q)) for b in table.iter_batches(columns=["query"]) for q in b.column(0).to_pylist()
        )
    with path.open("rb") as file:
        return sum(_is(line, same) for line in file)


def remove(path: Path, same: Same) -> int:
    """Take the rows about a query out of a table; returns how many. The file is replaced, all or nothing."""
    found = count(path, same)
    if not found:
        return 0
    temporary = path.with_name(f".{path.name}.tmp")
    if path.suffix == ".parquet":
        _write_parquet(path, temporary, same)
    else:
        with path.open("rb") as file, temporary.open("wb") as left:
            left.writelines(line for line in file if not _is(line, same))
    temporary.replace(path)
    return found


def _write_parquet(path: Path, target: Path, same: Same) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path)
    with pq.ParquetWriter(target, table.schema_arrow) as writer:
        for batch in table.iter_batches():
            keep = pa.array([not same(str(q)) for q in batch.column("query").to_pylist()])
            writer.write_batch(batch.filter(keep))


def _is(line: bytes, same: Same) -> bool:
    try:
        row: Any = json.loads(line)
    except ValueError:
        return False
    return isinstance(row, dict) and isinstance(row.get("query"), str) and same(row["query"])


def _cached(folder: Path, query: str) -> bool:
    from serving.release.head_cache import HeadCache

    cache = HeadCache(folder, mapped=False)
    return cache.find(cache.normalise(query)) is not None


def mentions(path: Path, query: str) -> bool:
    """Whether a document has the text of a query, in any letters, also within other words."""
    text = path.read_text(encoding="utf-8", errors="replace").casefold()
    wanted = query.casefold().strip()
    return any(form in text for form in (
        wanted, html.escape(wanted), json.dumps(wanted)[1:-1],
    ))
