"""Which stages are stale after a change of what they read, beside the settings and rules of `test_staleness`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from limbeck.progress_display import ProgressDisplay
from limbeck.run import Run
from limbeck.stage import ingredients
from limbeck.staleness import Ingredients, reasons
from limbeck.student_jobs import variant
from limbeck.studies.sweep import trial_key
from task.load import load_task
from tests.limbeck.run_before import now, stale


def test_a_field_of_the_task_that_only_the_prompt_reads_makes_the_labels_stale(runs: Path) -> None:
    with (runs.parent / "prompt.j2").open("a") as file:
        file.write("{{ task.description }}")
    assert stale(runs, "description=Goods")["label"] == ('description "" → "Goods"', "prompt changed")


def with_line(path: Path) -> str:
    with path.open("a") as file:
        file.write('{"query": "tea", "labels": []}\n')
    return path.name


def test_an_annotators_file_makes_the_report_stale_and_nothing_before_it(runs: Path) -> None:
    shutil.copy(runs.parent / "test.jsonl", runs.parent / "ann.jsonl")
    override = "data.gold.annotations=[ann.jsonl]"
    now(runs, override)
    assert stale(runs, override) == {}
    with_line(runs.parent / "ann.jsonl")
    assert stale(runs, override) == {"evaluate": ("gold changed",)}


def test_the_catalogue_makes_the_report_stale_that_compares_with_a_dictionary_of_it(runs: Path) -> None:
    (runs.parent / "items.jsonl").write_text('{"id": "1", "title": "Milk"}\n')
    override = "data.catalogue=items.jsonl"
    now(runs, override)
    with_line(runs.parent / "items.jsonl")
    assert stale(runs, override) == {"label": ("data changed",), "evaluate": ("catalogue changed",)}


def test_the_options_of_an_earlier_adapter_count_like_its_weights(runs: Path) -> None:
    adapter = runs.parent / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    (adapter / "adapter_config.json").write_text('{"lora_alpha": 8}')
    override = f"student.init_adapter={adapter}"
    now(runs, override)
    (adapter / "adapter_config.json").write_text('{"lora_alpha": 16}')
    assert stale(runs, override) == {"train": ("init_adapter options changed",)}
    manifest = runs / "before" / "train" / "manifest.json"  # of before the options were recorded
    content = json.loads(manifest.read_text())
    del content["inputs"]["init_adapter options"]
    manifest.write_text(json.dumps(content))
    assert stale(runs, override) == {}


def test_labels_that_are_reviewed_depend_on_the_reviewer(runs: Path) -> None:
    override = "curriculum.cross_fit.action=ask"
    now(runs, override)
    assert stale(runs, override, "teacher.openai.concurrency=3") == {}
    assert stale(runs, override, "teacher.openai.model=b")["cross-fit"] == ("reviewer changed",)


def test_a_local_teacher_is_asked_again_when_its_files_change(runs: Path) -> None:
    """As `label --plan` says: the model's digest is a part of each request's key."""
    folder = runs.parent / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "chat_template.jinja").write_text("a")
    overrides = ("teacher.backend=vllm", f"teacher.vllm.model={folder}")
    now(runs, *overrides)
    assert stale(runs, *overrides) == {}
    (folder / "chat_template.jinja").write_text("b")
    assert stale(runs, *overrides) == {"label": ("teacher model changed",)}
    now(runs, *overrides)
    (folder / "model.safetensors").write_bytes(b"WEIGHTS!")
    assert stale(runs, *overrides) == {"label": ("teacher model changed",)}
    assert stale(runs, *overrides[:1], "teacher.backend=openai").keys() == {"label", "bundle"}


def test_a_dataset_in_a_folder_is_read_again_when_its_files_change(runs: Path) -> None:
    folder = runs.parent / "set"
    folder.mkdir()
    for name in ("train", "test"):  # `datasets` wants the same columns in all splits
        (folder / f"{name}.jsonl").write_text('{"query": "milk", "labels": [{"role": "product", "text": "milk"}]}\n')
    overrides = (f"data.hub={folder}", "data.dir=null", "data.queries=train.jsonl", "data.gold.test=test.jsonl",
                 "data.gold.calibration=null")
    (runs / "before" / "label" / "gold-test.jsonl").write_text('{"query": "milk", "labels": []}\n')
    now(runs, *overrides)
    assert stale(runs, *overrides) == {}
    (folder / "train.jsonl").write_text('{"query": "tea", "labels": [{"role": "product", "text": "tea"}]}\n')
    assert stale(runs, *overrides)["label"] == ("data changed", "held_out changed")


def test_variants_of_a_study_are_trained_again_when_the_training_changes(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(*overrides: str) -> tuple[Ingredients, str]:
        run = Run.of(load_task(runs.parent / "task.yaml", overrides).task, runs, ProgressDisplay())
        stage = variant("ablate/a", lambda _run, _folder: {}, order="shuffled", inputs={})
        return ingredients(stage, run), trial_key(run, run.task)

    before, key = of()
    manifest = {"config": before.config, "inputs": {}}  # of before studies had rules
    assert reasons(manifest, before) == []
    assert reasons(manifest, of("student.ray_address=auto")[0]) == []
    monkeypatch.setattr("student.training.VERSION", 9)
    assert reasons(manifest, of()[0]) == ["training version 1 → 9"]
    assert of()[1] != key
