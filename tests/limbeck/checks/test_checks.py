"""What is wrong with a task is known before anything is spent: each fault is found, and a sound task has none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from limbeck.checks.checks import check, check_before_run, render
from limbeck.pipeline import run_up_to
from limbeck.progress_display import ProgressDisplay
from limbeck.run import Run
from task.errors import InputError, InputWarning
from task.load import load_task
from tests.limbeck.test_cli import in_process
from tests.llm_client.fake_api import FakeApi
from tests.teacher.test_label import PROMPT

BRANDS = ("oatly", "verdant", "acme")
KEY = "LIMBECK_TEST_KEY"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    monkeypatch.setenv(KEY, "right")
    with FakeApi() as running:
        running.key = "right"
        yield running


def table(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def gold(n: int) -> list[dict[str, Any]]:
    return [
        {"query": f"{b} milk {i}", "labels": [{"role": "brand", "text": b}, {"role": "product", "text": "milk"}]}
        for i in range(n) for b in BRANDS
    ]


@pytest.fixture
def shop(tmp_path: Path, api: FakeApi, tiny_llama: Path, embedder_folder: Path) -> dict[str, Any]:
    """A sound task; a test breaks a part of it."""
    table(tmp_path / "queries.jsonl", [{"query": f"{b} milk", "count": i} for i, b in enumerate(BRANDS, 1)])
    table(tmp_path / "items.jsonl", [{"id": b, "title": f"{b} milk", "brand": b} for b in BRANDS])
    table(tmp_path / "bought.jsonl", [{"query": "oatly milk", "item_id": "oatly"}])
    table(tmp_path / "calibration.jsonl", gold(20))
    table(tmp_path / "test.jsonl", [{**r, "query": f"new {r['query']}"} for r in gold(80)])
    return {
        "name": "shop",
        "roles": [{"name": "brand", "catalogue": "brand", "grounded": True}, {"name": "product"}],
        "data": {"dir": str(tmp_path), "queries": "queries.jsonl", "catalogue": "items.jsonl",
                 "conversions": "bought.jsonl", "gold": {"calibration": "calibration.jsonl", "test": "test.jsonl"}},
        "teacher": {
            "backend": "openai", "retrieval": {"embedder": str(embedder_folder)},
            "openai": {"base_url": api.url, "model": "m", "prompt": str(PROMPT), "api_key_env": KEY, "budget": 1.0,
                       "price_input_per_million": 1.0, "price_output_per_million": 2.0},
        },
        "student": {"base": str(tiny_llama), "warmup_steps": 0},
    }


def run_of(shop: dict[str, Any], folder: Path) -> Run:
    (folder / "task.yaml").write_text(json.dumps(shop))
    return Run.of(load_task(folder / "task.yaml").task, folder / "runs", ProgressDisplay())


def test_a_sound_task_passes_and_nothing_is_written_or_paid(
    shop: dict[str, Any], tmp_path: Path, api: FakeApi
) -> None:
    found = check(run_of(shop, tmp_path), call=True)
    assert [f.text for f in found if f.state != "ok"] == []
    names = {f.name for f in found}
    assert names >= {
        "data.queries", "data.catalogue", "data.conversions", "data.gold.calibration", "data.gold.test", "roles",
        "teacher.openai.prompt", "teacher.openai: price", f"key in {KEY}", "teacher.openai.base_url", "student.base",
        "student: symbols", "teacher.retrieval.embedder", "disk", "memory",
        "student.dtype",
    }
    assert (api.events, api.bodies) == (["models", "models"], [])  # with the key, and without it
    assert not (tmp_path / "runs").exists()
    check_before_run(run_of(shop, tmp_path))


Break = Callable[[dict[str, Any], Path], object]
SYMBOLS, MANY = (
    {"name": "many", "kind": "closed", "values": [f"value {i}" for i in range(n)]} for n in (1_000, 3_000)
)
TAXONOMY = {
    "name": "category", "kind": "closed", "multiple": False, "separator": " > ",
    "values": [f"Food > Kind {i}" for i in range(201)],
}


def openai(shop: dict[str, Any], **settings: Any) -> None:
    shop["teacher"]["openai"].update(settings)


# What is broken → the name of the finding, and what it says.
FAULTS: dict[str, tuple[Break, str, str]] = {
    "misspelt file": (lambda s, _: s["data"].update(queries="quries.jsonl"), "data.queries", "no such file"),
    "bad row": (lambda _, f: (f / "test.jsonl").write_text('{"query": "x"}\n'), "data.gold.test", "test.jsonl:1"),
    "wrong ids": (lambda _, f: table(f / "bought.jsonl", [{"query": "x", "item_id": "9"}]), "data.conversions", "item"),
    "no such field": (lambda s, _: s["roles"][0].update(catalogue="attributes.maker"), "roles", "attributes.maker"),
    "no gold": (lambda s, _: s["data"]["gold"].pop("test"), "data.gold.test", "nothing to evaluate on"),
    "no price": (lambda s, _: openai(s, price_input_per_million=None), "teacher.openai: price", "needs a price"),
    "no prompt": (lambda s, _: openai(s, prompt="none.j2"), "teacher.openai.prompt", "cannot read the prompt"),
    "a bad key": (lambda s, _: openai(s, api_key_env="LIMBECK_BAD_KEY"), "key in LIMBECK_BAD_KEY", "in a header"),
    "no key": (lambda s, _: openai(s, api_key_env="LIMBECK_NO_KEY", base_url="https://api.openai.com/v1"),
               "key in LIMBECK_NO_KEY", "not set"),
    "no base": (lambda s, _: s["student"].update(base="smolm"), "student.base", "no such model"),
    "bad targets": (lambda s, _: s["student"].update(lora={"targets": ["qproj"]}), "student.base", "qproj"),
    "too few symbols": (lambda s, _: s["roles"].append(SYMBOLS), "student: symbols", "too few tokens for the symbols"),
    "several of thousands": (lambda s, _: s["roles"].append(MANY), "student: symbols", "several are not supported yet"),
    "no counts": (
        lambda s, f: (s.update(gates={"slice_margin": 0.03}), table(f / "queries.jsonl", [{"query": "a milk"}])),
        "gates.slice_margin", "one count",
    ),
    "few samples": (lambda s, _: s.update(gates={"slo": {"ms": 100}}, eval={"latency": {"seconds": 1}}), "gates.slo",
                    "a p99 needs 299"),
    "no GPU": (lambda s, _: s["student"].update(use_gpu=True), "GPU", "no NVIDIA GPU"),
    "too many workers": (
        lambda s, _: s["student"].update(base="meta-llama/Meta-Llama-3-8B-Instruct", workers=400), "memory",
        "for each of 400 workers",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_and_keeps_the_run_from_spending(
    shop: dict[str, Any], tmp_path: Path, api: FakeApi, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMBECK_BAD_KEY", "a\nb")
    monkeypatch.setattr("limbeck.checks.machine.has_gpu", lambda: False)
    damage, name, said = FAULTS[fault]
    damage(shop, tmp_path)
    run = run_of(shop, tmp_path)
    wrong = [f for f in check(run) if f.state == "bad"]
    assert [f.name for f in wrong if said in f.text] == [name], [f.text for f in wrong]
    with pytest.raises(InputError, match="nothing was spent") as caught:
        check_before_run(run_of(shop, tmp_path))
    assert said in str(caught.value)
    assert api.bodies == []


NOTES: dict[str, tuple[Break, str]] = {
    "calibration": (lambda _, f: table(f / "calibration.jsonl", gold(2)), "6 queries, and teacher.confidence.min_rows"),
    "margin": (lambda s, _: s.update(gates={"teacher_margin": 0.01}), "gates.teacher_margin 0.01"),
    "few gold rows": (lambda _, f: table(f / "test.jsonl", [{**r, "query": f"new {r['query']}"} for r in gold(2)]),
                      "±17.0 points for F1, at an F1 of 90%, and ±9.1 for ΔF1"),
    "column": (lambda _, f: table(f / "queries.jsonl", [{"query": "a milk", "Cuont": 3}]), "columns not read: Cuont"),
    "keys": (lambda s, f: s.update(serving={"keys": str(f / "keys.json")}), "keys.json is not here, and `limbeck"),
    "role": (lambda s, _: s["roles"].append({"name": "size"}), "has the role 'size'"),
    "unknown price": (lambda s, _: openai(s, price_input_per_million=None, budget=None), "no known price"),
    "key of a local server": (lambda s, _: openai(s, api_key_env="LIMBECK_NO_KEY"), "go out without a key"),
    "warm-up": (lambda s, _: s["student"].update(warmup_steps=20), "all within the warm-up of 20"),
    "few steps": (
        lambda s, _: s["student"].update(warmup_steps=20, max_steps=1, batch_size=1), "Raise student.max_steps, 1 now"
    ),
    "budget": (lambda s, _: openai(s, budget=0.001), "0.001 may stop the job early: at least"),
    "spellings": (
        lambda s, _: s["roles"].append({"name": "kind", "kind": "closed", "values": ["Milk", "Oats", "milk"]}),
        "1 of its values are spelt in several ways, such as 'Milk' and 'milk'",
    ),
    "slices": (lambda s, _: s.update(gates={"slice_margin": 0.3, "slice_rows": 999}), "no slice is judged"),
    "labels beside": (
        lambda s, f: (table(f / "l.jsonl", gold(1)), s["data"].update(labels="l.jsonl")), "labels are not used",
    ),
    "never labelled": (lambda s, _: s["teacher"].update(backend="catalog"), "never gives this role"),
    "no candidates": (
        lambda s, _: (s["roles"].append(TAXONOMY), openai(s, context=["items"])), "the prompt has no candidates",
    ),
}


@pytest.mark.parametrize("name", NOTES)
def test_what_is_worth_knowing_is_told_and_keeps_nothing_from_running(
    shop: dict[str, Any], tmp_path: Path, name: str
) -> None:
    change, said = NOTES[name]
    change(shop, tmp_path)
    found = check(run_of(shop, tmp_path))
    assert [f.text for f in found if f.state == "bad"] == []
    assert len([f for f in found if f.state == "note" and said in f.text]) == 1, [f.text for f in found]
    with pytest.warns(InputWarning, match=said):
        check_before_run(run_of(shop, tmp_path))


def test_only_models_that_can_be_trained_are_named_as_bases(shop: dict[str, Any], tmp_path: Path) -> None:
    shop["student"].update(base="smolm")
    (found,) = [f for f in check(run_of(shop, tmp_path)) if f.name == "student.base"]
    assert found.fix == "Name a folder, a hub repository or one of: SmolLM2-135M-Instruct"


def test_imported_labels_cannot_be_compared_with(shop: dict[str, Any], tmp_path: Path) -> None:
    table(tmp_path / "labels.jsonl", gold(3))
    shop["data"].update(labels="labels.jsonl", queries=None)
    shop.update(teacher={"backend": "labels"}, gates={"teacher_margin": 0.05, "slice_margin": 0.05})
    wrong = {f.name for f in check(run_of(shop, tmp_path)) if f.state == "bad"}
    assert wrong == {"gates.teacher_margin", "gates.slice_margin"}


@pytest.mark.parametrize(("key", "models", "state", "said"), [
    ("right", ["m", "n"], "ok", "m is listed"), ("wrong", ["m"], "bad", "the key is refused"),
    ("right", ["n"], "bad", "lists 1 models, and not 'm': n"), ("right", None, "note", "only a paid call"),
])
def test_a_free_call_tells_whether_key_and_model_are_accepted(
    shop: dict[str, Any], tmp_path: Path, api: FakeApi, key: str, models: list[str] | None, state: str, said: str
) -> None:
    api.key, api.models = key, models
    (found,) = [f for f in check(run_of(shop, tmp_path), call=True) if f.name == "teacher.openai.base_url"]
    assert (found.state, said in found.found) == (state, True)
    openai(shop, base_url="http://127.0.0.1:9/v1")
    (found,) = [f for f in check(run_of(shop, tmp_path), call=True) if f.name == "teacher.openai.base_url"]
    assert found.state == "bad"
    assert api.bodies == []


@pytest.mark.parametrize(("key", "state", "said"), [
    ("wrong", "note", "only a paid call can try the key"), ("", "ok", "answers without a key"),
])
def test_a_list_that_anybody_is_told_says_nothing_of_the_key(
    shop: dict[str, Any], tmp_path: Path, api: FakeApi, monkeypatch: pytest.MonkeyPatch, key: str, state: str, said: str
) -> None:
    api.key = None
    monkeypatch.setenv(KEY, key)
    (found,) = [f for f in check(run_of(shop, tmp_path), call=True) if f.name == "teacher.openai.base_url"]
    assert (found.state, said in found.found) == (state, True)


def test_the_command_shows_the_list_and_its_exit_code(shop: dict[str, Any], tmp_path: Path, api: FakeApi) -> None:
    run_of(shop, tmp_path)
    command = (tmp_path / "task.yaml", "--runs", tmp_path / "runs")
    shown = render(check(run_of(shop, tmp_path)))
    assert "✓ data.queries: 3 rows in " in shown
    assert "✗" not in shown
    broken = ("--set", "data.queries=none.jsonl")
    wrong = in_process("check", *command, *broken, "--json")
    assert wrong.returncode == 2
    listed = json.loads(wrong.stdout)
    assert (listed["task"], listed["ok"]) == ("shop", False)
    assert [c["name"] for c in listed["checks"] if c["state"] == "bad"] == ["data.queries"]
    stopped = in_process("run", *command, *broken)
    assert stopped.returncode == 2
    assert "checks failed, nothing was spent:\n  ✗ data.queries: " in stopped.stderr
    assert not (tmp_path / "runs").exists()
    planned = in_process("plan", *command, "--set", "data.gold.test=null")
    assert planned.returncode == 0, planned.stderr
    assert "✗ data.gold.test: no gold test rows" in planned.stdout.partition("Plan of shop")[0]
    assert api.bodies == []


def test_a_key_is_not_needed_where_the_labels_are_there(
    shop: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openai(shop, context=[])
    run_up_to(run_of(shop, tmp_path), "label")
    monkeypatch.delenv(KEY)
    names = {f.name for f in check(run_of(shop, tmp_path))}
    assert "teacher.openai.api_key_env" in names
    assert f"key in {KEY}" not in names
