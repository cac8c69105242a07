"""The bundle, the unit of release: a folder whose manifest holds the SHA-256 of every file in it.

manifest.json   format, id, form, model name, hashes, and the student's measured quality
task.json       the task as resolved
codec.json      the codec that the student was trained with
confidence.json calibration: accuracy by predicted probability (`task.calibration`)
reference.jsonl labels that the trained student gave outside of any engine, which an engine must reproduce
model/          what the engine loads: a token classifier (`read`) or a causal LM (`write`, `json`)
openvino/       the same model exported for OpenVINO, where the bundle can be served without a GPU
adapter/        a LoRA adapter that the engine adds to it while it runs, where the student was not merged
cache/          head queries with their labels (`serving.release.head_cache`)
items/          the words of the catalogue's items, where a text must find one of them (`task.word_index`)

Nothing in it can run code: weights are safetensors, nothing is pickled, no configuration names a module.
"""

from __future__ import annotations

import datetime
import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.adapters import ADAPTER_FILES, require_plain_lora
from serving.release import head_cache as cache
from task.calibration import Calibrator
from task.codec import Codec
from task.errors import InputError
from task.files import link_or_copy, read_json, sha256_file, sha256_json, write_json, write_jsonl
from task.labels import Example
from task.model_folder import spare_weights
from task.openvino_runtime import EXPORTED, MODEL_FILE
from task.spec import Task
from task.table_files import rows_of
from task.validation import violation
from task.word_index import WordIndex

FORMAT = 4
_ITEMS = "items"
_MODEL_FILES = {".json", ".safetensors", ".jinja", ".txt", ".model"}


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle.

    Attributes:
        runs_as: How the engine runs it: `read` (a token classifier), `prompt_logprobs`, `write`, `json` (a causal LM).
        head: Token ids of the columns of the model's scores, where tasks share it; None where they are the codec's.
        items: The words of the catalogue's items; None where no text has to find one, and in bundles of before.
    """

    folder: Path
    manifest: Mapping[str, Any]
    task: Task
    codec: Codec
    calibrator: Calibrator
    runs_as: str
    head: tuple[int, ...] | None = None
    items: WordIndex | None = None

    @property
    def id(self) -> str:
        """Twelve hex digits of the hash over all files."""
        return str(self.manifest["id"])

    @property
    def model_name(self) -> str:
        """The name that the engine serves: it changes whenever the weights do."""
        return str(self.manifest["model_name"])

    @property
    def engine_name(self) -> str:
        """The name of what is in `model`: bundles that have it in common can share an engine."""
        return str(self.manifest["engine_name"])

    @property
    def adapter(self) -> Path | None:
        """The folder of the adapter, None where the student was merged."""
        return self.folder / "adapter" if "adapter/adapter_config.json" in self.manifest["files"] else None

    @property
    def model(self) -> Path:
        """The folder that the engine loads."""
        return self.folder / "model"

    def reference(self) -> list[Example]:
        """Queries with the labels that the trained student gave them outside of any engine; may be empty."""
        path = self.folder / "reference.jsonl"
        return [Example.from_json(row) for _, row in rows_of(path)] if path.stat().st_size else []

    @property
    def openvino(self) -> Path | None:
        """The folder of the model that was exported for OpenVINO, None where there is none."""
        return self.folder / "openvino" if f"openvino/{MODEL_FILE}" in self.manifest["files"] else None

    @property
    def small_files(self) -> dict[str, str]:
        """SHA-256 by name of all files that a gateway reads: all but the weights."""
        return {
            k: v for k, v in self.manifest["files"].items()
            if not k.endswith(".safetensors") and not k.startswith("openvino/")
        }


def build(
    folder: Path, task: Task, codec: Codec, model: Path, head: Iterable[Example], quality: Mapping[str, Any],
    *, calibrator: Calibrator | None = None, done: Callable[[int], None] = lambda _: None,
    adapter: Path | None = None, reference: Iterable[Example] = (), openvino: Path | None = None,
    items: WordIndex | None = None,
) -> Bundle:
    """Write a bundle into `folder`, which must not exist.

    Args:
        model: The exported model; its files are linked where the file system can, else copied.
        head: Accepted labellings of the most frequent queries; one that the task does not allow is left out.
        quality: The student's measured quality, kept in the manifest.
        calibrator: Turns the student's raw probability into a calibrated one; None leaves it as it is.
        done: Called with the number of head queries as they are written.
        adapter: A trained LoRA adapter for `model`, which is then the base that tasks share.
        reference: Queries with the labels that the trained student gives them outside of any engine.
        openvino: The folder of the same model, exported for OpenVINO.
        items: The words of the catalogue's items, if a text role has to find one.

    Raises:
        InputError: The adapter is of a kind that the engine cannot add while it runs.
    """
    (folder / "model").mkdir(parents=True)
    for path in sorted(set(model.iterdir()) - spare_weights(model)):
        if path.is_file() and path.suffix in _MODEL_FILES:
            link_or_copy(path, target=folder / "model" / path.name)
    if adapter is not None:
        require_plain_lora(adapter)
        (folder / "adapter").mkdir()
        for name in ADAPTER_FILES:
            link_or_copy(adapter / name, target=folder / "adapter" / name)
    if openvino is not None:
        (folder / "openvino").mkdir()
        for name in EXPORTED:
            link_or_copy(openvino / name, target=folder / "openvino" / name)
    if items is not None:
        items.write(folder / _ITEMS)
    write_json(folder / "task.json", task.model_dump(mode="json"))
    write_json(folder / "codec.json", codec.to_json())
    write_json(folder / "confidence.json", (calibrator or Calibrator()).to_json())
    write_jsonl(folder / "reference.jsonl", (x.to_json() for x in reference))
    engine, weights = _names(_hashes(folder))
    cache.build(
        folder / "cache", (x for x in head if violation(task, x.query, x.labels) is None),
        normaliser_name=task.normaliser, key=_cache_key(task, codec, weights), done=done,
    )
    files = _hashes(folder)
    write_json(folder / "manifest.json", {
        "format": FORMAT, "id": _digest(files), "task": task.name, "form": codec.form,
        "model_name": f"student@{weights}", "engine_name": engine, "normaliser": task.normaliser,
        "quality": dict(quality),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "files": files,
    })
    return open_bundle(folder)


def open_bundle(folder: Path) -> Bundle:
    """Open a bundle, after every file in it has been hashed again and checked.

    Raises:
        InputError: No bundle, another format, a file missing, added or changed, a file or setting that could run code,
            or a head cache that was made for another task, codec or model.
    """
    path = folder / "manifest.json"
    if not path.exists():
        raise InputError(
            "no bundle here", file=folder, expected="a folder with manifest.json", fix="`limbeck bundle TASK` makes one"
        )
    manifest = read_json(path)
    if manifest.get("format") != FORMAT:
        raise InputError(
            "a bundle of another format", file=path, found=manifest.get("format"), expected=str(FORMAT),
            fix="Make it again with `limbeck bundle TASK`",
        )
    expected, found = manifest["files"], _hashes(folder)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            kind = "missing" if name not in found else "not in the manifest" if name not in expected else "changed"
            raise InputError(f"the bundle is damaged: {name} is {kind}", file=folder, fix="Make or fetch it again")
    _refuse_code(folder / "model")
    if (folder / "openvino").exists():
        _refuse_other_files(folder / "openvino", EXPORTED)
    if (folder / "adapter").exists():
        _refuse_code(folder / "adapter")
        require_plain_lora(folder / "adapter")
    engine, weights = _names(found)
    named = (manifest["id"], manifest["model_name"], manifest["engine_name"])
    if named != (_digest(found), f"student@{weights}", engine):
        raise InputError(
            "the manifest's names are not those of its content", file=path, found=manifest["id"],
            expected=_digest(found), fix="Make or fetch it again",
        )
    bundle = _read(folder, manifest)
    key, expected_key = cache.HeadCache(folder / "cache").key, _cache_key(bundle.task, bundle.codec, weights)
    if key != expected_key:
        raise InputError(
            "the head cache was made for another task, codec or model", file=folder / "cache", found=key,
            expected=expected_key, fix="Make the bundle again with `limbeck bundle TASK`",
        )
    return bundle


def stamp(folder: Path, checks: Sequence[Mapping[str, Any]], overrides: Sequence[str] = ()) -> None:
    """Write the gate's result into the manifest, bound to the bundle's id.

    Args:
        checks: `eval.gate.Check.to_json` of each rule.
        overrides: Settings that the gate took in place of the bundle's own (`serving.release.verdict`).
    """
    path = folder / "manifest.json"
    manifest = read_json(path)
    write_json(path, manifest | {"gate": {
        "bundle": manifest["id"], "ok": all(c["ok"] for c in checks),
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "checks": list(checks),
        **({"overrides": list(overrides)} if overrides else {}),
    }})


def gate_failure(bundle: Bundle) -> str | None:
    """Why a bundle has not passed a gate, or None where it has."""
    gate = bundle.manifest.get("gate")
    if gate is None:
        return "no gate has judged it"
    if gate["bundle"] != bundle.id:
        return f"the gate judged other content, id {gate['bundle']}"
    failed = [c["text"] for c in gate["checks"] if not c["ok"]]
    return None if gate["ok"] else "it did not pass: " + "; ".join(failed)


def made_at(bundle: Bundle) -> int:
    """When a bundle was made, in seconds since 1970."""
    return int(datetime.datetime.fromisoformat(bundle.manifest["created"]).timestamp())


def copy_small(bundle: Bundle, target: Path) -> Path:
    """Copy the small files, and verify the copy.

    A gateway maps the cache for as long as it serves, so it needs files that no other process writes.

    Raises:
        InputError: A file has changed since the bundle was opened.
    """
    shutil.rmtree(target, ignore_errors=True)
    for name, digest in bundle.small_files.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.folder / name, path)
        if sha256_file(path) != digest:
            raise InputError(f"the bundle is damaged: {name} is changed", file=bundle.folder)
    write_json(target / "manifest.json", dict(bundle.manifest))
    return target


def open_copy(folder: Path) -> Bundle:
    """Open a copy made by `copy_small`, which was verified then."""
    return _read(folder, read_json(folder / "manifest.json"))


def _read(folder: Path, manifest: Mapping[str, Any]) -> Bundle:
    task = Task.model_validate(read_json(folder / "task.json"))
    codec = Codec.from_json(read_json(folder / "codec.json"))
    head = folder / "model" / "head.json"
    return Bundle(
        folder=folder, manifest=manifest, task=task, codec=codec,
        calibrator=Calibrator.from_json(read_json(folder / "confidence.json")),
        runs_as=_runs_as(folder / "model", codec),
        head=tuple(read_json(head)["symbol_ids"]) if head.exists() else None,
        items=WordIndex.open(folder / _ITEMS) if (folder / _ITEMS).exists() else None,
    )


def _runs_as(model: Path, codec: Codec) -> str:
    if not codec.answer_form.token_classifier:
        return codec.form
    architecture = read_json(model / "config.json")["architectures"][0]
    return "prompt_logprobs" if architecture.endswith("ForCausalLM") else codec.form


def _names(files: Mapping[str, str]) -> tuple[str, str]:
    """The engine's name, from the model and its export; the digest of all weights, the adapter's as well."""
    model = {k: v for k, v in files.items() if k.startswith(("model/", "openvino/"))}
    adapter = {k: v for k, v in files.items() if k.startswith("adapter/")}
    kind = "base" if adapter else "student"
    return f"{kind}@{_digest(model)}", _digest(model | adapter)


def _refuse_code(model: Path) -> None:
    """Raise `InputError` for a file or setting that a loader would execute or unpickle."""
    for path in sorted(model.rglob("*")):
        if path.is_file() and path.suffix not in _MODEL_FILES:
            raise InputError(
                "a file that does not belong in a model", file=path, found=path.suffix,
                expected="one of: " + ", ".join(sorted(_MODEL_FILES)), fix="Save the weights as safetensors",
            )
        if path.suffix == ".json" and "auto_map" in _keys(read_json(path)):
            raise InputError("the model asks for remote code (auto_map)", file=path, fix="Use a model without it")


def _refuse_other_files(folder: Path, names: Sequence[str]) -> None:
    for path in sorted(folder.rglob("*")):
        if path.name not in names or not path.is_file():
            raise InputError(
                "a file that does not belong in an exported model", file=path, found=path.name,
                expected="only " + ", ".join(names), fix="Make or fetch the bundle again",
            )


def _keys(value: object) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*(_keys(v) for v in value.values()))
    return set().union(*(_keys(v) for v in value)) if isinstance(value, list) else set()


def _cache_key(task: Task, codec: Codec, weights: str) -> str:
    """Key of what cached labels depend on: they must never be used with another task, codec or model."""
    roles = task.model_dump(mode="json", include={"name", "roles", "normaliser"})
    return sha256_json({"task": roles, "codec": codec.to_json(), "model": weights})


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): sha256_file(p)
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p != folder / "manifest.json"
    }


def _digest(files: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(f"{k}:{v}\n" for k, v in sorted(files.items())).encode()).hexdigest()[:12]
