from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.bundle import build, open_bundle
from serving.engine import arguments
from task.codec import Codec
from task.errors import InputError
from task.labels import Example, Label
from task.settings import Serving
from task.spec import Task
from task.tokens import FastTokenizer

HEAD = [Example("oat milk", (Label("product", "oat milk", 0, 8),))]


@pytest.fixture
def folder(tmp_path: Path, task: Task, tiny_llama: Path, tokenizer: FastTokenizer) -> Path:
    build(tmp_path / "b", task, Codec.compile(task, [], tokenizer), tiny_llama, HEAD, {})
    return tmp_path / "b"


def test_it_opens_with_what_it_was_built_from(folder: Path, task: Task) -> None:
    opened = open_bundle(folder)
    assert opened.task == task
    assert opened.model_name.startswith("student@")
    assert len(opened.id) == 12


def test_equal_content_has_equal_names_and_other_weights_another(
    folder: Path, tmp_path: Path, task: Task, tiny_llama: Path, tiny_llama_untied: Path, tokenizer: FastTokenizer
) -> None:
    codec = Codec.compile(task, [], tokenizer)
    same = build(tmp_path / "same", task, codec, tiny_llama, HEAD, {"note": 1})
    fewer = build(tmp_path / "fewer", task, codec, tiny_llama, [], {})
    other = build(tmp_path / "other", task, codec, tiny_llama_untied, HEAD, {})
    first = open_bundle(folder)
    assert (same.id, same.model_name) == (first.id, first.model_name)
    assert (fewer.id != first.id, fewer.model_name == first.model_name) == (True, True)
    assert other.model_name != first.model_name


@pytest.mark.parametrize(("file", "kind"), [
    ("codec.json", "changed"), ("cache/values.bin", "changed"), ("model/tokenizer.json", "missing"),
    ("model/extra.bin", "not in the manifest"),
])
def test_damage_is_named(folder: Path, file: str, kind: str) -> None:
    path = folder / file
    if kind == "missing":
        path.unlink()
    else:
        content = path.read_bytes() if path.exists() else b""
        path.unlink(missing_ok=True)  # the model's files are hard links
        path.write_bytes(content + b" ")
    with pytest.raises(InputError, match=f"{file} is {kind}"):
        open_bundle(folder)


def test_remote_code_another_format_and_no_bundle_are_refused(folder: Path, tmp_path: Path) -> None:
    from task.files import sha256_file

    manifest = json.loads((folder / "manifest.json").read_text())
    config = folder / "model" / "config.json"
    value = json.loads(config.read_text()) | {"auto_map": {"AutoModel": "evil.Model"}}
    config.unlink()
    config.write_text(json.dumps(value))
    manifest["files"]["model/config.json"] = sha256_file(config)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="remote code"):
        open_bundle(folder)
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(InputError, match="another format"):
        open_bundle(folder)
    with pytest.raises(InputError, match="no bundle here"):
        open_bundle(tmp_path)


@pytest.mark.parametrize(("form", "pooling"), [("read", True), ("write", False), ("json", False)])
def test_the_engine_listens_on_loopback_and_runs_as_the_form_asks(form: str, pooling: bool) -> None:
    line = arguments(Path("m"), "student@0", form, Serving(), 1234)
    assert line[line.index("--host") + 1] == "127.0.0.1"
    assert ("--pooler-config" in line) == pooling
    assert "--trust-remote-code" not in line
