from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.vllm_process import arguments
from serving.release.bundle import _digest, build, copy_small, open_bundle, open_copy
from serving.release.head_cache import HeadCache
from task.codec import Codec
from task.errors import InputError
from task.files import sha256_file
from task.labels import Example, Label
from task.serving_settings import Serving
from task.spec import Task
from task.tokenizer import FastTokenizer

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


def test_it_brings_what_the_trained_student_said(
    folder: Path, tmp_path: Path, task: Task, tiny_llama: Path, tokenizer: FastTokenizer
) -> None:
    assert open_bundle(folder).reference() == []
    other = build(tmp_path / "o", task, Codec.compile(task, [], tokenizer), tiny_llama, HEAD, {}, reference=HEAD)
    assert other.reference() == HEAD
    assert (other.model_name, other.id != open_bundle(folder).id) == (open_bundle(folder).model_name, True)


def test_the_head_cache_leaves_out_what_the_task_does_not_allow(
    tmp_path: Path, task: Task, tiny_llama: Path, tokenizer: FastTokenizer
) -> None:
    wrong = [
        Example("rye bread", (Label("colour", "rye", 0, 3),)), Example("soy milk", (Label("aisle", "moon"),)),
        Example("rice", (Label("product", "rice", 1, 5),)),
    ]
    written = []
    codec = Codec.compile(task, [], tokenizer)
    made = build(tmp_path / "b", task, codec, tiny_llama, [*wrong, *HEAD], {}, done=written.append)
    assert list(HeadCache(made.folder / "cache").queries()) == [x.query for x in HEAD]
    assert sum(written) == len(HEAD)


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
    ("model/extra.bin", "not in the manifest"), ("confidence.json", "changed"), ("model/model.safetensors", "changed"),
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


def replaced(folder: Path, name: str, content: bytes) -> None:
    """Another content for a file, and a manifest that says so: what a careful attacker would write."""
    path = folder / name
    path.unlink(missing_ok=True)  # the model's files are hard links
    path.write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    files = {**manifest["files"], name: sha256_file(path)}
    model = {k: v for k, v in files.items() if k.startswith("model/")}
    manifest |= {"files": files, "id": _digest(files), "model_name": f"student@{_digest(model)}"}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_remote_code_is_refused_wherever_it_is_asked_for(folder: Path, name: str) -> None:
    value = json.loads((folder / "model" / name).read_text()) | {"x": [{"auto_map": {"AutoModel": "evil.Model"}}]}
    replaced(folder, f"model/{name}", json.dumps(value).encode())
    with pytest.raises(InputError, match="remote code"):
        open_bundle(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl", "modeling_evil.py", "lib.so"])
def test_what_could_run_code_has_no_place_in_a_model(folder: Path, tiny_llama: Path, name: str) -> None:
    replaced(folder, f"model/{name}", b"cos\nsystem\n")
    with pytest.raises(InputError, match=f"{name}: a file that does not belong"):
        open_bundle(folder)


@pytest.mark.parametrize("changed", ["role", "codec", "model"])
def test_a_cache_of_another_task_codec_or_model_is_refused(
    folder: Path, tmp_path: Path, task: Task, tokenizer: FastTokenizer, tiny_llama: Path, tiny_llama_untied: Path,
    changed: str,
) -> None:
    roles = [r if r.name != "aisle" else r.model_copy(update={"values": ("dairy", "wine")}) for r in task.roles]
    other = task.model_copy(update={"roles": tuple(roles)}) if changed == "role" else task
    form = "write" if changed == "codec" else None
    build(
        tmp_path / "other", other, Codec.compile(other, [], tokenizer, form),
        tiny_llama_untied if changed == "model" else tiny_llama, HEAD, {},
    )
    for path in (tmp_path / "other" / "cache").iterdir():
        replaced(folder, f"cache/{path.name}", path.read_bytes())
    with pytest.raises(InputError, match="head cache was made for another task, codec or model"):
        open_bundle(folder)


def test_a_manifest_cannot_name_itself_otherwise(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"model_name": "student@000000000000"}))
    with pytest.raises(InputError, match="not those of its content"):
        open_bundle(folder)


def test_a_gateways_copy_is_verified_and_has_no_weights(folder: Path, tmp_path: Path) -> None:
    opened = open_bundle(folder)
    copy = copy_small(opened, tmp_path / "copy")
    assert not list(copy.rglob("*.safetensors"))
    assert open_copy(copy).task == opened.task
    (folder / "cache" / "values.bin").write_bytes(b"cut")
    assert HeadCache(copy / "cache").get("oat milk") is not None
    with pytest.raises(InputError, match=r"values\.bin is changed"):
        copy_small(opened, tmp_path / "again")


def test_another_format_and_no_bundle_are_refused(folder: Path, tmp_path: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(InputError, match="another format"):
        open_bundle(folder)
    with pytest.raises(InputError, match="no bundle here"):
        open_bundle(tmp_path)


@pytest.mark.parametrize(("form", "pooling"), [("read", True), ("write", False), ("json", False)])
def test_the_engine_listens_on_loopback_and_runs_as_the_form_asks(form: str, pooling: bool) -> None:
    line = arguments(Path("m"), name="student@0", runs_as=form, settings=Serving(), port=1234)
    assert line[line.index("--host") + 1] == "127.0.0.1"
    assert ("--pooler-config" in line) == pooling
    assert "--trust-remote-code" not in line
