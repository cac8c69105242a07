"""The bundle: the unit that is released. One folder whose manifest holds the SHA-256 of everything in it.

manifest.json   format, id, form, model name, hashes, and what the student was measured at
task.json       the task as resolved
codec.json      the codec that the student was trained with
model/          what the engine loads: a token classifier (`read`) or a causal LM (`write`, `json`)
cache/          head queries with their labels (`serving.cache`)
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.cache import HeadCache
from task.codec import Codec
from task.errors import InputError
from task.files import read_json, sha256_file, write_json
from task.labels import Example
from task.spec import Task

FORMAT = 1
_ALLOWED = {".json", ".safetensors", ".jinja", ".npy", ".bin", ".txt", ".model"}


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle."""

    folder: Path
    manifest: Mapping[str, Any]
    task: Task
    codec: Codec

    @property
    def id(self) -> str:
        """Twelve hex digits of the hash over all files."""
        return str(self.manifest["id"])

    @property
    def model_name(self) -> str:
        """The name that the engine serves: it changes whenever the weights do."""
        return str(self.manifest["model_name"])

    @property
    def model(self) -> Path:
        """The folder that the engine loads."""
        return self.folder / "model"


def build(
    folder: Path, task: Task, codec: Codec, model: Path, head: Iterable[Example], quality: Mapping[str, Any]
) -> Bundle:
    """Write a bundle into `folder`, which must not exist.

    Args:
        model: The exported model; its files are linked where the file system can, else copied.
        head: Accepted labellings of the most frequent queries.
        quality: What the student was measured at, kept in the manifest.
    """
    (folder / "model").mkdir(parents=True)
    for path in sorted(model.iterdir()):
        if path.is_file() and path.suffix in _ALLOWED:
            _link(path, folder / "model" / path.name)
    write_json(folder / "task.json", task.model_dump(mode="json"))
    write_json(folder / "codec.json", codec.to_json())
    HeadCache.build(folder / "cache", head, task.normaliser)
    files = _hashes(folder)
    weights = {k: v for k, v in files.items() if k.startswith("model/")}
    write_json(folder / "manifest.json", {
        "format": FORMAT, "id": _digest(files), "task": task.name, "form": codec.form,
        "model_name": f"student@{_digest(weights)}", "normaliser": task.normaliser, "quality": dict(quality),
        "files": files,
    })
    return open_bundle(folder)


def open_bundle(folder: Path) -> Bundle:
    """Open and verify.

    Raises:
        InputError: No bundle, another format, a file missing, added or changed, or remote code asked for.
    """
    path = folder / "manifest.json"
    if not path.exists():
        raise InputError(
            "no bundle here", file=folder, expected="a folder with manifest.json", fix="`limbeck bundle TASK` makes one"
        )
    manifest = read_json(path)
    if manifest.get("format") != FORMAT:
        raise InputError("a bundle of another format", file=path, found=manifest.get("format"), expected=str(FORMAT))
    expected, found = manifest["files"], _hashes(folder)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            kind = "missing" if name not in found else "not in the manifest" if name not in expected else "changed"
            raise InputError(f"the bundle is damaged: {name} is {kind}", file=folder, fix="Make or fetch it again")
    config = read_json(folder / "model" / "config.json")
    if "auto_map" in config:
        raise InputError("the model asks for remote code (auto_map)", file=folder / "model" / "config.json")
    task = Task.model_validate(read_json(folder / "task.json"))
    return Bundle(folder, manifest, task, Codec.from_json(read_json(folder / "codec.json")))


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): sha256_file(p)
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p != folder / "manifest.json"
    }


def _digest(files: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(f"{k}:{v}\n" for k, v in sorted(files.items())).encode()).hexdigest()[:12]


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)
