"""Several tasks on one base: each with its own adapter, codec and cache, added and removed while the engine runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engine.loopback import free_port
from serving.client import served
from serving.release.bundle import Bundle, build, open_bundle
from serving.release.kept_bundles import is_held
from serving.release.pointer import release
from student.inference import predict
from student.merging.token_classifier import export_classifier, shared_symbols
from task.codec import Codec
from task.errors import InputError
from task.files import read_json, write_json
from task.labels import Example, Label
from task.serving_settings import Change
from task.spec import Task
from task.tokenizer import FastTokenizer
from tests.conftest import make_task

SERVING = {"dtype": "float32", "max_model_len": 256, "weights": "adapter", "adapters": {"rank": 8, "symbols": 64}}
QUERIES = ["oat milk", "rice milk 1l", "fresh cheap organic", "verdant machine", "Käse"]
HEAD = [Example("tea", (Label("product", "tea", 0, 3),))]


def make_adapter(base: Path, folder: Path, seed: int, **config: Any) -> Path:
    """A LoRA adapter that changes what the base says: neither half of it is zero."""
    import torch
    from peft import LoraConfig, get_peft_model

    from student.model import load_base

    torch.manual_seed(seed)
    model = get_peft_model(load_base(base, torch.float32), LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False, **config
    ))
    model.save_pretrained(str(folder))
    return folder


def make_bundle(folder: Path, name: str, base: Path, tokenizer: FastTokenizer, seed: int) -> Bundle:
    """A bundle with an adapter; bundles of the same base have the same files in `model`."""
    task = make_task(name=name, serving=SERVING)
    export_classifier(base, shared_symbols(tokenizer, 64), folder / "base", shared=True)
    adapter = make_adapter(base, folder / "adapter", seed)
    return build(folder / name, task, Codec.compile(task, [], tokenizer), folder / "base", HEAD, {}, adapter=adapter)


def expected(base: Path, bundle: Bundle, tokenizer: FastTokenizer) -> list[set[tuple[object, ...]]]:
    """What the adapter says in transformers."""
    import torch
    from peft import PeftModel

    from student.model import load_base

    assert bundle.adapter is not None
    model = PeftModel.from_pretrained(load_base(base, torch.float32), str(bundle.adapter))
    found = predict(model, bundle.codec, tokenizer, bundle.task, [Example(q) for q in QUERIES])
    return [{x.key for x in row.labels} for row in found]


def test_bundles_of_one_base_name_one_engine(tiny_llama: Path, tokenizer: FastTokenizer, tmp_path: Path) -> None:
    one = make_bundle(tmp_path / "a", "one", tiny_llama, tokenizer, 1)
    two = make_bundle(tmp_path / "b", "two", tiny_llama, tokenizer, 2)
    assert one.engine_name == two.engine_name
    assert one.model_name != two.model_name
    assert one.head is not None
    assert set(one.codec.symbol_ids) < set(one.head)
    weights = one.folder / "adapter" / "adapter_model.safetensors"
    weights.unlink()
    shutil.copy(two.folder / "adapter" / "adapter_model.safetensors", weights)
    with pytest.raises(InputError, match=r"adapter_model.safetensors is changed"):
        open_bundle(one.folder)


@pytest.mark.parametrize("change", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "all"}])
def test_an_adapter_that_the_engine_would_add_in_part_is_refused(
    change: dict[str, Any], tiny_llama: Path, tokenizer: FastTokenizer, task: Task, tmp_path: Path
) -> None:
    adapter = make_adapter(tiny_llama, tmp_path / "adapter", 1)
    config = adapter / "adapter_config.json"
    write_json(config, read_json(config) | change)
    codec = Codec.compile(task, [], tokenizer)
    with pytest.raises(InputError, match="cannot add this adapter") as found:
        build(tmp_path / "bundle", task, codec, tiny_llama, [], {}, adapter=adapter)
    assert "serving.weights: merged" in str(found.value)


def test_a_quantised_student_is_merged() -> None:
    with pytest.raises(ValueError, match="takes plain LoRA on a base that is not quantised"):
        make_task(serving=SERVING, student={"quantization": "nf4"})


@dataclass
class Fleet:
    """A service that follows a folder of pointers."""

    url: str
    admin: str
    pointers: Path

    def status(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.admin}/status", timeout=10) as response:
            return dict(json.load(response))

    def until(self, holds: Callable[[dict[str, Any]], bool], seconds: float = 180.0) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if holds(found := self.status()):
                return found
            time.sleep(0.1)
        raise AssertionError(json.dumps(self.status(), indent=1))

    def ask(self, task: str, query: str) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.url}/v1/label", json.dumps({"query": query, "task": task}).encode()
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return dict(json.load(response))

    def says(self, task: str) -> list[set[tuple[object, ...]]]:
        return [{Label.from_json(x).key for x in self.ask(task, q)["labels"]} for q in QUERIES]


@pytest.fixture(scope="module")
def bundles(
    tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, tokenizer: FastTokenizer
) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return {
        name: make_bundle(folder / name, name, tiny_llama, tokenizer, seed)
        for seed, name in enumerate(("one", "two", "three"), 1)
    }


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, bundles: dict[str, Bundle]) -> Iterator[Fleet]:
    folder, admin = tmp_path_factory.mktemp("fleet"), free_port()
    pointers = folder / "tasks"
    for name in ("one", "two"):
        release(pointers / f"{name}.json", bundle=bundles[name].folder, change=Change(), ungated=True)
    with served(pointers, state=folder / "state", options=["--admin-port", str(admin)]) as url:
        yield Fleet(url, f"http://127.0.0.1:{admin}", pointers)


@pytest.mark.slow
def test_each_task_gets_its_own_students_answers_from_one_engine(
    fleet: Fleet, bundles: dict[str, Bundle], tiny_llama: Path, tokenizer: FastTokenizer
) -> None:
    wanted = {n: expected(tiny_llama, b, tokenizer) for n, b in bundles.items()}
    assert wanted["one"] != wanted["two"] != wanted["three"]
    for name in ("one", "two"):
        assert fleet.says(name) == wanted[name]
        assert fleet.ask(name, "tea")["source"] == "cache"
    tasks = fleet.status()["tasks"]
    assert tasks["one"]["active"]["pid"] == tasks["two"]["active"]["pid"]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fleet.ask("three", "oat milk")


@pytest.mark.slow
def test_a_task_comes_and_goes_while_the_engine_runs(
    fleet: Fleet, bundles: dict[str, Bundle], tiny_llama: Path, tokenizer: FastTokenizer
) -> None:
    pid = fleet.status()["tasks"]["one"]["active"]["pid"]
    pointer = fleet.pointers / "three.json"
    release(pointer, bundle=bundles["three"].folder, change=Change(), ungated=True)
    fleet.until(lambda s: s["news"][-1]["text"] == f"serving {bundles['three'].id}")
    kept = Path(fleet.status()["tasks"]["three"]["active"]["folder"])
    assert (kept.parent, is_held(kept)) == (fleet.pointers / "three.json.bundles", True)
    assert fleet.says("three") == expected(tiny_llama, bundles["three"], tokenizer)
    (fleet.pointers / "again.json").write_text(pointer.read_text())
    found = fleet.until(lambda s: s["news"][-1]["failed"])
    assert "two pointers to task 'three'" in found["news"][-1]["text"]
    (fleet.pointers / "again.json").unlink()
    pointer.unlink()
    fleet.until(lambda s: "three" not in s["tasks"])
    assert not is_held(kept)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fleet.ask("three", "oat milk")
    assert fleet.status()["tasks"]["one"]["active"]["pid"] == pid
    assert fleet.says("one") == expected(tiny_llama, bundles["one"], tokenizer)


@pytest.mark.slow
def test_an_engine_that_comes_back_has_its_adapters(
    fleet: Fleet, bundles: dict[str, Bundle], tiny_llama: Path, tokenizer: FastTokenizer
) -> None:
    before = fleet.status()["tasks"]["two"]["active"]
    os.killpg(before["pid"], signal.SIGKILL)
    fleet.until(lambda s: all(
        t["active"]["engine"] == "ready" and t["active"]["pid"] not in (None, before["pid"]) and t["asked"]
        for t in s["tasks"].values()
    ) and all(w["generation"] == s["generation"] for w in s["workers"]))
    for name in ("one", "two"):
        assert fleet.says(name) == expected(tiny_llama, bundles[name], tokenizer)
