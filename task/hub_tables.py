"""Tables of the `datasets` library: a repository of the hub, or a folder; classes by their names."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from task.errors import InputError, cause_of, warn
from task.tagged_tokens import TAG_COLUMNS

Row = Mapping[str, Any]
# What `datasets` makes rows of; other files of a repository are cards, licences and code.
_DATA: Final = frozenset({".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".txt"})

# A task file names files; the same names lead to splits.
_SPLITS: Final[Mapping[str, str]] = {
    "train.jsonl": "train", "dev.jsonl": "validation", "validation.jsonl": "validation", "test.jsonl": "test",
}


def split_of(file: str) -> str:
    """The split that a file's name in the `data` section stands for; a split's own name is itself."""
    return _SPLITS.get(file, file)


def hub_rows(source: str) -> tuple[Iterator[tuple[int, Row]], Sequence[str]]:
    """The rows of a split, numbered from 1, and the names of its tags if it has tokens and tags.

    Args:
        source: `hub:NAME:SPLIT`; the name is a repository's, or a folder's: one that `save_to_disk` wrote, or one of
            data files.

    Raises:
        InputError: It cannot be loaded, or lacks the split.
    """
    _, name, split = source.split(":", 2)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    table = _loaded(name, split)
    names = ClassNames(table.features)
    return ((n, names.of(row, source, n)) for n, row in enumerate(table, 1)), names.tags


def _loaded(name: str, split: str) -> Any:
    import datasets

    folder = Path(name)
    saved = folder.is_dir() and any((folder / f).exists() for f in ("dataset_dict.json", "state.json"))
    try:
        if saved:
            loaded = datasets.load_from_disk(name)
            if isinstance(loaded, datasets.DatasetDict):
                return loaded[split]
            if str(loaded.split) != split:
                warn(
                    f"the folder holds one table without a name of its split; it is read as {split!r}",
                    field="data.hub", found=name, fix="Save a DatasetDict with a table for each split",
                )
            return loaded
        builder = datasets.load_dataset_builder(name)
        _tell_left_out(name, builder)
        return datasets.load_dataset(name, split=split)
    except Exception as error:  # the library raises many kinds of exceptions for a missing repository or network
        raise InputError(
            f"cannot load split {split!r} of dataset {name!r}: {cause_of(error)}",
            field="data.hub",
            fix="Check the name and the network, or use local files with --set data.dir=DIR",
        ) from error


def _tell_left_out(name: str, builder: Any) -> None:
    """Name the data files that belong to no split.

    As soon as the name of one file has a split's word in it, `datasets` (5.2) passes over every file without one.
    """
    configs = (getattr(builder, "builder_configs", None) or {}).values()
    used = {
        str(f) for c in (*configs, builder.config) for files in (getattr(c, "data_files", None) or {}).values()
        for f in files
    }
    if not used:
        return
    known = {_inside(name, f) for f in used}
    left = sorted(f for f in _files(name) if Path(f).suffix in _DATA and f not in known)
    if left:
        warn(
            f"{len(left)} data files of dataset {name!r} belong to no split and are not read", field="data.hub",
            found=left[:5], expected="train, validation, dev or test in the name of every file",
            fix="Rename them, list them under `configs` in the dataset's README.md, or use data.dir",
        )


def _inside(name: str, file: str) -> str:
    """The path inside the dataset of a file that `datasets` names with its folder or its address."""
    if file.startswith("hf://"):
        return file.partition("@")[2].partition("/")[2]
    return os.path.relpath(os.path.realpath(file), os.path.realpath(name))


def dataset_files(folder: Path) -> list[Path]:
    """The files of a dataset in a folder, less hidden ones and what `datasets` itself keeps there."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith((".", "cache-")))


def _files(name: str) -> list[str]:
    """Paths of a dataset's files; none if the hub cannot be asked (a dataset of the cache can be loaded without it)."""
    if (folder := Path(name)).is_dir():
        return [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")]
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return list(HfApi().list_repo_files(name, repo_type="dataset"))
    except (HfHubHTTPError, OSError):
        return []


class ClassNames:
    """Puts names in place of the numbers of `ClassLabel` features.

    Attributes:
        tags: Names of the classes of the tag column; none without one.
    """

    def __init__(self, features: Mapping[str, Any]) -> None:
        """Take the features of a table; those of a Parquet file are in its schema's metadata."""
        self._features = {k: f for k, f in features.items() if "ClassLabel" in repr(f)}
        column = next((c for c in TAG_COLUMNS if c in features), None) if "tokens" in features else None
        inner = getattr(features[column], "feature", None) if column else None
        self.tags: Sequence[str] = getattr(inner, "names", None) or ()

    def of(self, row: Row, file: Path | str, line: int) -> Row:
        """The row with names.

        Raises:
            InputError: A number is not one of a class.
        """
        out = dict(row)
        for name, feature in self._features.items():
            if name not in row:
                continue
            try:
                out[name] = _named(feature, row[name])
            except (ValueError, IndexError) as error:
                raise InputError(
                    f"not a class of the column: {error}", file=file, line=line, field=name, found=row[name],
                    expected=f"numbers of classes of {feature}", fix="Correct the column's numbers or its ClassLabel",
                ) from error
        return out


def _named(feature: Any, value: Any) -> Any:
    if value is None:
        return None
    if hasattr(feature, "int2str"):
        return value if isinstance(value, str) else feature.int2str(value)
    if isinstance(feature, Mapping):
        return {k: _named(feature[k], v) if k in feature else v for k, v in value.items()}
    inner = getattr(feature, "feature", None)
    return [_named(inner, v) for v in value] if inner is not None and isinstance(value, list) else value
