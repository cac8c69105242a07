"""Rows of a table, whatever holds it: JSON lines, CSV, Parquet, a folder of such files, a `datasets` repository.

A malformed row is an error that names file and line; rows are never skipped silently. What a column means is for
`task.readers`; here only tokens with tags become queries with labels (`task.tagged_tokens`).
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from task.column_names import query_column
from task.errors import InputError
from task.spreadsheet import text_of_cell
from task.tagged_tokens import LocatedRow, Row, spans_of_tags

# Columns of a CSV file that hold JSON; in any other column `[2024]` and `{}` are text.
_JSON_COLUMNS: Final = frozenset({"labels", "attributes", "tokens", "tags", "ner_tags"})
# A CSV file with both is a labelling job's (`limbeck ledger --export`): its cells are safe for spreadsheet programs.
_EXPORTED: Final = frozenset({"labels", "status"})
_TO_UTF8: Final = "Convert the file, for instance with `iconv -f {} -t utf-8`"
_BYTE_ORDER_MARKS: Final = (  # UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)


def rows_of(source: Path | str) -> Iterator[tuple[int, Row]]:
    """Rows of a table with their line (or row) numbers from 1.

    Args:
        source: A path ending in .jsonl, .csv, .tsv or .parquet, a folder of such files, or `hub:REPOSITORY:SPLIT`.

    Raises:
        InputError: The file is missing, unreadable, malformed or empty.
    """
    return ((line, row) for _, line, row in located_rows(source))


def located_rows(source: Path | str) -> Iterator[LocatedRow]:
    """The rows of `rows_of`, each with the file that holds it: in a folder, lines are counted within each file."""
    if isinstance(source, str) and source.startswith("hub:"):
        from task.hub_tables import hub_rows

        rows, tags = hub_rows(source)
        return _not_empty(source, spans_of_tags(((source, n, row) for n, row in rows), tags))
    path = Path(source)
    return _not_empty(path, spans_of_tags(_rows_of_files(path, files_of(path))))


def files_of(source: Path) -> list[Path]:
    """The files that hold a table: the file itself, or those of a folder, in the order of their names.

    Spark, Ray Data and Dask write a table as a folder; names that begin with `_` or `.` are their marks and metadata.

    Raises:
        InputError: There is no such file, a file is of an unknown kind, or a folder holds files of several kinds.
    """
    if not source.exists():
        raise InputError("no such file", file=source, fix="Check the path")
    files = [source]
    if source.is_dir():
        files = sorted(
            p for p in source.rglob("*")
            if p.is_file() and not any(_hidden(part) for part in p.relative_to(source).parts)
        )
    for path in files:
        if path.suffix not in _READERS:
            raise InputError(
                "unknown kind of file", file=path, found=path.suffix, expected=f"one of: {', '.join(_READERS)}"
            )
        if path.suffix != files[0].suffix:
            raise InputError(
                "files of several kinds in one folder", file=path, found=path.suffix,
                expected=f"{files[0].suffix}, as {files[0].name}", fix="A folder holds the files of one table",
            )
    return files


def _hidden(name: str) -> bool:
    """A mark or metadata (`_SUCCESS`, `_metadata`, `.part-0.crc`), not a partition such as `_day=3`."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def _rows_of_files(source: Path, files: list[Path]) -> Iterator[LocatedRow]:
    for path in files:
        partition = _partition(path.relative_to(source).parts[:-1])
        for line, row in _READERS[path.suffix](path):
            yield path, line, {**partition, **row} if partition else row


def _partition(folders: tuple[str, ...]) -> dict[str, str]:
    """The columns that stand in the names of folders (`day=2026-11-28`), as Hive and Spark write them."""
    pairs = (folder.split("=", 1) for folder in folders if "=" in folder)
    return {k: unquote(v) for k, v in pairs if v != "__HIVE_DEFAULT_PARTITION__"}


def _not_empty(source: Path | str, rows: Iterator[LocatedRow]) -> Iterator[LocatedRow]:
    empty = True
    try:
        for row in rows:
            empty = False
            yield row
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=source) from error
    if empty:
        kind = "split" if isinstance(source, str) else "folder" if source.is_dir() else "file"
        raise InputError(f"the {kind} holds no rows", file=source, expected="at least one row")


def _encoding(path: Path) -> str:
    """UTF-8, with or without a byte order mark, or what a byte order mark says.

    Raises:
        InputError: It looks like UTF-16 and has no byte order mark.
    """
    with path.open("rb") as file:
        head = file.read(4)
    found = next((name for mark, name in _BYTE_ORDER_MARKS if head.startswith(mark)), None)
    if found is None and b"\0" in head:
        kind = "utf-16le" if head[1:2] == b"\0" else "utf-16be"
        raise InputError(
            "not UTF-8", file=path, line=1, found=head, expected="UTF-8, or UTF-16 with a byte order mark",
            fix=_TO_UTF8.format(kind),
        )
    return found or "utf-8-sig"


def text_lines(path: Path, *, appended: bool = True) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, split at line feeds only: other separators may stand inside a JSON text.

    Args:
        appended: Whether a byte order mark in front of a later line is that of a file that was appended.
    """
    encoding = _encoding(path)
    if encoding != "utf-8-sig":
        with path.open(encoding=encoding, newline="\n") as text:
            try:
                yield from enumerate(text, 1)
            except UnicodeError as error:
                raise _not_encoded(path, encoding, error) from error
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            raw = line.removeprefix(codecs.BOM_UTF8) if appended or number == 1 else line
            try:
                yield number, raw.decode()
            except UnicodeDecodeError as error:
                raise InputError(
                    "not UTF-8", file=path, line=number, found=raw[error.start : error.end],
                    fix=_TO_UTF8.format("latin1"),
                ) from error


def _not_encoded(path: Path, encoding: str, error: UnicodeError) -> InputError:
    """The error for a file that is not what its byte order mark says, as one that was cut in the middle."""
    return InputError(
        f"not {encoding.upper()}, which its byte order mark says: {error}", file=path,
        found=f"{path.stat().st_size} bytes", expected="a whole file", fix="Copy or export it again",
    )


def jsonl_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """The objects of a file of JSON lines, with their line numbers; empty lines are passed over."""
    for number, text in text_lines(path):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(
                f"not JSON: {error.msg} at column {error.colno}", file=path, line=number, found=text.strip(),
                expected="one JSON object a line",
            ) from error
        except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
            problem = "nested too deeply" if isinstance(error, RecursionError) else str(error).partition(";")[0]
            raise InputError(f"not JSON: {problem}", file=path, line=number) from error
        if not isinstance(row, dict):
            raise InputError("not an object", file=path, line=number, found=row, expected="one JSON object a line")
        yield number, row


def _csv(path: Path) -> Iterator[tuple[int, Row]]:
    encoding = _encoding(path)
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(file, strict=True, delimiter=delimiter)
        try:
            header = _header(path, next(reader, []))
            exported = _EXPORTED.issubset(header)
            queries = query_column(header) if "tokens" not in header else None
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise InputError(
                        "wrong number of columns", file=path, line=reader.line_num, found=cells,
                        expected=f"{len(header)}: {', '.join(header)}",
                    )
                if exported:
                    cells = [text_of_cell(c) for c in cells]
                yield reader.line_num, {
                    k: _json_cell(v) if k in _JSON_COLUMNS else v
                    for k, v in zip(header, cells, strict=True)
                    if v != "" or k == queries  # a log may have a query without text
                }
        except UnicodeError as error:
            if encoding != "utf-8-sig":
                raise _not_encoded(path, encoding, error) from error
            raise InputError(
                "not UTF-8", file=path, line=reader.line_num + 1, fix=_TO_UTF8.format("latin1")
            ) from error
        except csv.Error as error:
            raise InputError(f"not CSV: {error}", file=path, line=reader.line_num) from error


def _header(path: Path, cells: list[str]) -> list[str]:
    """Names of columns: blanks around a name do not belong to it.

    Raises:
        InputError: Two columns have one name.
    """
    names = [c.strip() for c in cells]
    twice = next((n for n in names if n and names.count(n) > 1), None)
    if twice is not None:
        raise InputError(
            f"two columns are called {twice!r}", file=path, line=1, found=cells, fix="Remove or rename one of them"
        )
    if len(names) == 1 and any(x in names[0] for x in ";\t") and path.suffix != ".tsv":
        raise InputError(
            "one column", file=path, line=1, found=cells[0], expected="names with commas between them",
            fix="Write the file with commas in place of semicolons; one with tabs is read if its name ends in .tsv",
        )
    return names


def _json_cell(text: str) -> Any:
    """The value of a CSV cell in a column of lists or mappings; text that is not JSON stays text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _parquet(path: Path) -> Iterator[tuple[int, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise InputError(f"not Parquet: {error}", file=path) from error
    header = _header(path, table.schema_arrow.names)
    named = _class_names(table.schema_arrow)
    queries = query_column(header) if "tokens" not in header else None
    number = 0
    for batch in table.iter_batches(batch_size=8192):
        for row in batch.rename_columns(header).to_pylist():
            number += 1
            present = {k: "" if v is None else v for k, v in row.items() if v is not None or k == queries}
            yield number, named(present, path, number) if named else present


def _class_names(schema: Any) -> Callable[[Row, Path, int], Row] | None:
    """The names of classes that `datasets` keeps in the schema's metadata; None where there are none."""
    if b"ClassLabel" not in (schema.metadata or {}).get(b"huggingface", b""):
        return None
    import datasets

    from task.hub_tables import ClassNames

    return ClassNames(datasets.Features.from_arrow_schema(schema)).of


_READERS: Final[Mapping[str, Callable[[Path], Iterator[tuple[int, Row]]]]] = {
    ".jsonl": jsonl_rows, ".json": jsonl_rows, ".ndjson": jsonl_rows, ".csv": _csv, ".tsv": _csv,
    ".parquet": _parquet,
}
KINDS: Final = tuple(_READERS)
