"""The files of a model folder: which hold its weights, and whether they are complete. Without torch.

A folder may hold the same weights twice: Mistral's have `consolidated.safetensors` beside the files that transformers
reads, in other names and another layout. vLLM (0.32) takes any `consolidated*.safetensors` for the whole model. Only
what transformers reads is fetched, merged and bundled.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from task.errors import InputError

SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
_OTHER_FORMATS: Final = ("*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack")
_FIELD: Final = "student.base"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold a model's weights: `model.safetensors`, else those that the index names.

    Raises:
        InputError: There are none, or one that the index names is missing.
    """
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    if (folder / INDEX).exists():
        names = sorted(set(_weight_map(folder / INDEX).values()))
        for name in names:
            if not (folder / name).exists():
                raise InputError(
                    "a file of the model's weights is missing", file=folder / name, field=_FIELD,
                    expected=f"the {len(names)} files that {INDEX} names", fix="Copy or fetch the model again",
                )
        return [folder / name for name in names]
    others = sorted(p.name for pattern in (*_OTHER_FORMATS, "*.safetensors") for p in folder.glob(pattern))
    raise InputError(
        "the model folder has no weights in safetensors", file=folder, field=_FIELD,
        found=", ".join(others) or "no weights", expected=f"{SINGLE}, or {INDEX} and the files that it names",
        fix="Load the model with transformers and write it with save_pretrained(folder), which writes safetensors",
    )


def spare_weights(folder: Path) -> set[Path]:
    """Safetensors files of a folder that transformers does not read; empty if it is unknown which it reads."""
    try:
        read = set(weight_files(folder))
    except InputError:
        return set()
    return set(folder.glob("*.safetensors")) - read


def wanted_weights(names: Iterable[str], index: Mapping[str, Any] | None) -> list[str]:
    """Of the safetensors files of a repository those that transformers reads; all if that is unknown.

    Args:
        names: Files of the repository.
        index: Its `model.safetensors.index.json`, if it has one.
    """
    weights = [n for n in names if n.endswith(".safetensors")]
    if SINGLE in weights:
        return [SINGLE]
    if index is None:
        return [n for n in weights if not fnmatch.fnmatch(n, "consolidated*")] or weights
    named = set(index["weight_map"].values())
    return [n for n in weights if n in named]


def copied_files(folder: Path) -> list[Path]:
    """What a model folder has beside its weights and goes with every copy of them: configuration and tokenizer.

    The index of other weights than those that are read is left out, and so is our note of where a model came from.
    """
    found = [p for pattern in ("*.json", "*.jinja", "tokenizer.model") for p in folder.glob(pattern)]
    unread = {"store.json", *(p.name for p in folder.glob("consolidated*.json"))}
    if (folder / SINGLE).exists():
        unread.add(INDEX)
    return [p for p in found if p.name not in unread]


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor in a model's weights, from the headers of its files.

    Raises:
        InputError: A file is missing, truncated or damaged, or lacks a tensor that the index places there.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    files = weight_files(folder)
    for path in files:
        shapes |= shapes_in(path, field=_FIELD, fix="Copy or fetch the model again")
    if files != [folder / SINGLE]:
        missing = sorted(name for name in _weight_map(folder / INDEX) if name not in shapes)
        if missing:
            raise InputError(
                "the index names a tensor that its file does not hold", file=folder / INDEX, field=_FIELD,
                found=missing[0], expected=f"{len(missing)} tensors more in the files", fix="Copy or fetch it again",
            )
    return shapes


def shapes_in(path: Path, *, field: str, fix: str) -> dict[str, tuple[int, ...]]:
    """Name → shape of the tensors in one safetensors file; its length is checked against its header.

    Raises:
        InputError: The file cannot be read; `field` and `fix` are those of the error.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size if path.exists() else 0
        raise InputError(
            f"the safetensors file cannot be read: {error}", file=path, field=field, found=f"{size:,} bytes",
            expected="a complete file", fix=fix,
        ) from error


def read_config(path: Path, *, field: str = _FIELD) -> dict[str, Any]:
    """A JSON object of a model folder, such as its `config.json`.

    Raises:
        InputError: The file is missing or no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"a file of the model is missing ({error.strerror})", file=path, field=field,
            expected=f"a folder with {path.name}, as transformers' save_pretrained writes it",
        ) from error
    except ValueError as error:
        raise InputError(
            f"a file of the model is no JSON: {error}", file=path, field=field, fix="Copy or fetch it again",
        ) from error
    if not isinstance(value, dict):
        raise InputError(
            "a file of the model has the wrong content", file=path, field=field, found=type(value).__name__,
            expected="a JSON object", fix="Copy or fetch it again",
        )
    return value


def _weight_map(path: Path) -> dict[str, str]:
    named = read_config(path).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise InputError(
            "the index of the weights is empty", file=path, field=_FIELD, found=named,
            expected="weight_map: tensor → file", fix="Copy or fetch the model again",
        )
    return named
