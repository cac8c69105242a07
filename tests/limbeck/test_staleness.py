"""Which stages are stale, and why. `fixtures/run-before` has manifests that were written before stages had rules."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from limbeck.artefacts import RunFolder
from limbeck.inputs import Inputs
from limbeck.pipeline import STAGES, run_up_to, states
from limbeck.progress_display import ProgressDisplay
from limbeck.run import Run
from limbeck.staleness import FIRST, Ingredients, reasons
from llm_client import prompt_rules
from task.forms import json_text
from task.load import load_task
from teacher.guardrails import label_checks
from tests.conftest import make_task
from tests.limbeck.run_before import now, stale
from tests.limbeck.test_cli import in_process as limbeck


def test_a_run_of_before_is_stale_only_by_rules_that_have_changed_since(before: Path) -> None:
    run = Run.of(load_task(before.parent / "task.yaml").task, before, ProgressDisplay())
    changed = {stage.name: {k for k, v in stage.rules(run).items() if v != FIRST[k]} for stage in STAGES}
    found = stale(before)
    assert found.keys() == {name for name, rules in changed.items() if rules}
    for name, why in found.items():
        assert {w.split(" version ")[0].removesuffix(" changed") for w in why} == changed[name]


def test_a_run_with_the_rules_of_now_is_unchanged(runs: Path) -> None:
    assert stale(runs) == {}


def test_gold_that_the_teacher_was_not_asked_about_makes_nothing_stale(before: Path, runs: Path) -> None:
    (runs / "before" / "label" / "gold-test.jsonl").unlink()
    run = Run.of(load_task(runs.parent / "task.yaml").task, runs, ProgressDisplay())
    found = {s.name: s for s in states(run)}
    why = ("1 gold test queries were not given to the teacher yet",)
    assert (found["label"].state, found["label"].why) == ("not finished", why)
    assert {s.state for s in found.values() if s.name not in {"label", "evaluate"}} == {"waits"}


# Rule → its next value (None: the next version), the stages that it makes stale, and its name in the reason.
RULES: Mapping[str, tuple[str | None, set[str], str]] = {
    "teacher.guardrails.label_checks.VERSION": (None, {"label"}, "guardrails"),
    "teacher.guardrails.confidence.VERSION": (None, {"label"}, "confidence"),
    "llm_client.reply.VERSION": (None, {"label"}, "answer parser"),
    "teacher.retrieval.VERSION": (None, {"label"}, "retrieval"),
    "teacher.retrieval.context.VERSION": (None, {"label"}, "context"),
    "llm_client.prompt.VERIFY": ("Is it right?", {"label"}, "verifier prompt"),
    "llm_client.prompt.REPAIR": ("Mend it.", {"label"}, "repair prompt"),
    "llm_client.prompt.REVIEW": ("Look again.", set(), ""),  # this task never has labels reviewed
    "teacher.backends.catalog.backend.VERSION": (None, set(), ""),  # another backend
    "teacher.backends.labels.VERSION": (None, set(), ""),
    "task.READERS": (None, {"label", "curriculum", "bundle", "evaluate"}, "readers"),
    "teacher.curriculum.VERSION": (None, {"curriculum"}, "curriculum"),
    "student.LABEL_ERRORS": (None, {"cross-fit"}, "label errors"),
    "task.codec.VERSION": (None, {"cross-fit", "train", "merge", "bundle"}, "codec"),
    "student.training.VERSION": (None, {"cross-fit", "train"}, "training"),
    "student.merging.VERSION": (None, {"merge", "bundle"}, "merge"),
    "limbeck.judging.student_calibration.VERSION": (None, {"bundle"}, "calibration of the student"),
    "serving.release.bundle.FORMAT": (None, {"bundle"}, "bundle format"),
    "limbeck.openvino_model.VERSION": (None, {"bundle"}, "model for OpenVINO"),
    "eval.VERSION": (None, {"evaluate"}, "metrics"),
    "eval.report_schema.SCHEMA": (None, {"evaluate"}, "report"),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_changed_rule_makes_exactly_its_stages_stale(
    rule: str, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, expected, name = RULES[rule]
    module, _, constant = rule.rpartition(".")
    old = getattr(importlib.import_module(module), constant)
    monkeypatch.setattr(rule, value or old + 1)
    why = f"{name} changed" if value else f"{name} version {old} → {old + 1}"
    assert stale(runs) == dict.fromkeys(expected, (why,))


def test_a_changed_answer_schema_makes_the_labels_stale(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = json_text.schema
    monkeypatch.setattr("task.forms.json_text.schema", lambda task: {**original(task), "description": "all of them"})
    prompt_rules._schema.cache_clear()
    try:
        assert stale(runs) == {"label": ("answer schema changed",)}
        assert stale(runs, "teacher.openai.structured_output=false")["label"] == (
            "teacher.openai.structured_output true → false",
        )
    finally:
        prompt_rules._schema.cache_clear()


@pytest.mark.parametrize(("override", "expected"), [
    ("instructions=Label it.", {"label", "bundle"}),
    ("teacher.openai.temperature=1", {"label", "bundle"}),
    ("teacher.backend=vllm", {"label", "bundle"}),
    ("curriculum.seed=1", {"curriculum", "bundle"}),
    ("curriculum.cross_fit.folds=3", {"cross-fit", "bundle"}),
    ("student.form=write", {"cross-fit", "train", "bundle"}),
    ("student.merge_base=plain", {"merge", "bundle"}),
    ("serving.dtype=float32", {"merge", "bundle", "evaluate"}),
    ("roles.0.guard.max_words=3", {"label", "bundle"}),
    ("roles.0.description=Goods", {"label", "bundle"}),
    ("teacher.openai.budget=3", set()),
    ("teacher.openai.concurrency=3", set()),
    ("teacher.workers=2", set()),
    ("student.save_every=3", set()),
    ("student.ray_address=auto", set()),
    ("description=Goods of all kinds", {"bundle"}),
    ("gates.merge_max_logit_delta=2", {"merge", "evaluate"}),
    ("gates.min_f1=0.5", {"evaluate"}),
    ("serving.head_queries=3", {"bundle", "evaluate"}),
    ("eval.seed=3", {"evaluate"}),
])
def test_a_changed_setting_makes_exactly_its_stages_stale(runs: Path, override: str, expected: set[str]) -> None:
    found = stale(runs, override)
    assert set(found) == expected
    assert all(len(why) == 1 for why in found.values())


@pytest.mark.parametrize(("name", "expected"), [
    ("prompt.j2", {"label": ("prompt changed",)}),
    ("queries.jsonl", {"label": ("data changed",)}),
    ("calibration.jsonl", {"label": ("data changed",), "curriculum": ("gold changed",), "bundle": ("gold changed",)}),
    ("test.jsonl", {
        "label": ("held_out changed",), "curriculum": ("gold changed",), "evaluate": ("gold changed",),
    }),
])
def test_a_changed_file_makes_exactly_its_stages_stale(
    runs: Path, name: str, expected: Mapping[str, tuple[str, ...]]
) -> None:
    with (runs.parent / name).open("a") as file:
        file.write('\n{"query": "tea", "labels": []}\n')
    assert stale(runs) == expected


def test_the_plan_says_which_and_why(runs: Path) -> None:
    manifest = runs / "before" / "label" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"rules": {**content["rules"], "guardrails": 1}}))
    done = limbeck("plan", runs.parent / "task.yaml", "--runs", runs, "--set", "eval.seed=3")
    lines = [" ".join(x.split()) for x in done.stdout.splitlines()]
    assert f"label stale: guardrails version 1 → {label_checks.VERSION}" in lines
    assert "curriculum run again if a stage before it gives another result" in lines
    assert "evaluate stale: eval.seed 0 → 3" in lines
    assert "Stages in" not in limbeck("plan", runs.parent / "task.yaml", "--runs", runs / "none").stdout
    assert not (runs / "none").exists()


def test_labels_that_stay_the_same_leave_later_stages_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"query": f"thing{i} milk", "labels": [{"role": "product", "text": "milk"}]} for i in range(9)]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    task = make_task(data={"dir": str(tmp_path), "labels": "labels.jsonl"})
    run = Run(task, RunFolder(tmp_path / "run"), Inputs(task, tmp_path / "sample"), ProgressDisplay())
    assert not run_up_to(run, "curriculum").skipped
    monkeypatch.setattr("teacher.guardrails.label_checks.VERSION", 99)
    assert [s.state for s in states(run)][:2] == ["stale", "waits"]
    assert run_up_to(run, "curriculum").skipped
    assert [s.state for s in states(run)][:2] == ["unchanged", "unchanged"]


def manifest_of(config: object, **more: object) -> dict[str, object]:
    return {"config": config, "inputs": {}, **more}


def test_a_setting_that_did_not_exist_had_its_default() -> None:
    before = make_task().model_dump(mode="json", include={"student", "roles"})
    del before["student"]["robust"], before["student"]["lora"]["dora"], before["roles"][1]["guard"]["snap"]

    def changed(student: dict[str, object]) -> list[str]:
        now = make_task(student=student).model_dump(mode="json", include={"student", "roles"})
        return reasons(manifest_of(before), Ingredients(now, {}, {}))

    assert changed({}) == []
    assert changed({"robust": 0.5}) == ["student.robust 0.0 → 0.5"]
    assert changed({"lora": {"dora": True}}) == ["student.lora.dora false → true"]


@pytest.mark.parametrize(("set_", "reason"), [
    ({"serving": {"quantization": "int8"}}, 'serving.quantization "int8" → "auto"'),
    ({"serving": {"engine": "vllm"}}, 'serving.engine "vllm" → "auto"'),
    ({"data": {"dir": ".", "labels": "labels.jsonl", "conflicts": "first"}}, 'data.conflicts "first" → "last"'),
    ({"data": {"dir": ".", "labels": "labels.jsonl", "outliers": "x.jsonl"}}, 'data.outliers "x.jsonl" → null'),
    ({"serving": {"capture": {"rows": 0}}}, 'serving.capture.rows 0 → 100'),
    ({"serving": {"consult": {"extra_body": {"seed": 1}}}}, 'serving.consult.extra_body {"seed": 1} → {}'),
])
def test_a_setting_that_is_set_back_to_its_default_is_a_change(set_: dict[str, Any], reason: str) -> None:
    """Some settings are not dumped at their default, so that manifests of before they existed stand."""
    found, then = (make_task(**changes).model_dump(mode="json") for changes in (set_, {}))
    assert list(reasons({"config": found, "inputs": {}}, Ingredients(then, {}, {}))) == [reason]
    name, _, change = reason.partition(" ")
    back = f"{name} {' → '.join(reversed(change.split(' → ')))}"
    assert list(reasons({"config": then, "inputs": {}}, Ingredients(found, {}, {}))) == [back]


def test_a_setting_of_no_more_use_is_ignored_and_a_key_of_a_mapping_is_not() -> None:
    now = make_task(student={"peft": {"peft_type": "IA3"}}).model_dump(mode="json", include={"student"})
    before = json.loads(json.dumps(now))
    before["student"]["gone"] = 1
    assert reasons(manifest_of(before), Ingredients(now, {}, {})) == []
    before["student"]["peft"]["extra"] = 1
    assert [r.split()[0] for r in reasons(manifest_of(before), Ingredients(now, {}, {}))] == ["student.peft"]


def test_a_relative_path_is_the_absolute_one_that_it_leads_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before, now = ({"student": {"init_adapter": p}} for p in ("runs/a/../a/adapter", str(tmp_path / "runs/a/adapter")))
    assert reasons(manifest_of(before), Ingredients(now, {}, {})) == []
    monkeypatch.chdir("/")
    assert len(reasons(manifest_of(before), Ingredients(now, {}, {}))) == 1


def test_every_rule_of_a_stage_has_a_first_version(runs: Path) -> None:
    named: set[str] = set()
    for overrides in ((), ("curriculum.cross_fit.action=ask",), ("teacher.backend=catalog", "data.catalogue=x.jsonl",
                      "roles.0.catalogue=brand", "roles.1.catalogue=category", "roles.1.separator=/"),
                      ("teacher.backend=labels", "data.labels=queries.jsonl"),
                      ("curriculum.cross_fit=null", "student.form=write", "data.catalogue=x.jsonl",
                       "roles.0.kind=text", "roles.0.grounded=true")):
        run = Run.of(load_task(runs.parent / "task.yaml", overrides).task, runs, ProgressDisplay())
        for stage in STAGES:
            if stage.wanted(run.task):
                named |= stage.rules(run).keys()
    assert named == FIRST.keys()


def test_a_changed_taxonomy_is_told_by_what_came_and_went_and_replies_stand(runs: Path) -> None:
    file = runs.parent / "taxonomy.txt"
    tree = ("roles.1.values=null", "roles.1.values_from.file=" + str(file), "roles.1.separator=/")
    file.write_text("food/milk\nfood/bread\n")
    now(runs, *tree)
    assert stale(runs, *tree) == {}
    file.write_text("# the same, in another order\nfood/bread\n\nfood/milk\n")
    assert stale(runs, *tree) == {}
    file.write_text("food/bread\nfood/milk\ndrinks\n")
    found = stale(runs, *tree)
    assert set(found) == {"label", "cross-fit", "train", "bundle"}
    assert set(found.values()) == {("roles.1.values has 2 → 3 entries, 1 added (drinks), 0 removed",)}
    assert set(stale(runs, *tree[:1], *tree[2:], "roles.1.values=[food/bread,food/milk]",
                     "roles.1.min_confidence=0.5")) == {"label", "bundle"}
    done = limbeck("plan", runs.parent / "task.yaml", "--runs", runs, *(x for s in tree for x in ("--set", s)))
    assert "train stale: roles.1.values has 2 → 3 entries, 1 added (drinks), 0 removed" in " ".join(done.stdout.split())


def test_no_quantization_stays_no_quantization() -> None:
    config = {"serving": {"quantization": "none"}}
    assert reasons({"config": config, "inputs": {}, "rules": {}}, Ingredients(config, {}, {})) == []
