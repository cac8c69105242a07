"""A verdict under other rules than the bundle's own says which: when it is given, at the release, and in a service."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from limbeck.judging import gate as judging
from limbeck.judging.gate import _Measured
from limbeck.judging.served import Served
from limbeck.run import Run
from limbeck.stage import Result
from limbeck.stages.evaluate import note_verdict
from serving.release.bundle import Bundle, build, gate_failure, open_bundle, stamp
from serving.release.verdict import overridden, overrides, verdict
from task.codec import Codec
from task.files import write_jsonl
from task.labels import Example, Label
from task.load import override_judging
from task.spec import Task
from task.tokenizer import FastTokenizer
from tests.conftest import make_task
from tests.limbeck.test_cli import in_process

GOLD = [Example(f"oat {word}", (Label("product", word, 4, 4 + len(word)),)) for word in ("milk", "cream")]
WRONG = [GOLD[0], Example(GOLD[1].query)]  # F1 66.7 %
GATES = {"engine_label_agreement": None, "min_f1": 0.9}
CHECK = {"rule": "min_f1", "ok": True, "text": "F1 95.0 % (gate min_f1: at least 90 %)"}


@pytest.fixture
def bundle(tmp_path: Path, tiny_llama: Path, tokenizer: FastTokenizer, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """With gates of its own; instead of being served it gives the wrong answers."""
    task = make_task(gates=GATES, eval={"resamples": 50})
    served = Served(list(WRONG), [None] * len(GOLD), [None] * len(GOLD), 1.0, None)
    monkeypatch.setattr(judging, "_measured", lambda *_, **__: _Measured(served, [], []))
    write_jsonl(tmp_path / "gold.jsonl", (g.to_json() for g in GOLD))
    return build(tmp_path / "bundle", task, Codec.compile(task, [], tokenizer), tiny_llama, [], {})


def test_a_loosened_verdict_is_told_apart_wherever_it_is_shown(bundle: Bundle, tmp_path: Path) -> None:
    gate = ("gate", bundle.folder, "--gold", tmp_path / "gold.jsonl")
    assert in_process(*gate).stdout.endswith("failed: 1 of 2 rules\n")
    assert "overrides" not in open_bundle(bundle.folder).manifest["gate"]

    loose = "1 rule overridden: gates.min_f1=0.5"
    done = in_process(*gate, "--set", "gates.min_f1=0.5", "--set", "gates.slice_rows=100")  # the second is its own
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"passed, with {loose}"), done.stderr
    stamped = open_bundle(bundle.folder)
    assert (stamped.id, stamped.manifest["gate"]["overrides"]) == (bundle.id, ["gates.min_f1=0.5"])
    assert verdict(stamped) == "passed, with gates.min_f1=0.5"

    released = in_process("release", bundle.folder, tmp_path / "live.json")
    assert released.returncode == 0
    assert f"bundle {bundle.id} passed its gate with {loose}" in released.stderr

    done = in_process(*gate, "--set", "gates.min_f1=0.8")
    assert done.stdout.endswith("failed: 1 of 2 rules, with 1 rule overridden: gates.min_f1=0.8\n")
    failed = open_bundle(bundle.folder)
    assert (overridden(failed), verdict(failed)) == ([], gate_failure(failed))


def test_a_verdict_by_the_bundles_own_rules_is_as_before(bundle: Bundle, tmp_path: Path) -> None:
    stamp(bundle.folder, [CHECK])
    own = open_bundle(bundle.folder)
    assert set(own.manifest["gate"]) == {"bundle", "ok", "at", "checks"}
    assert verdict(own) == "passed"
    assert "passed its gate" not in in_process("release", bundle.folder, tmp_path / "live.json").stderr


@pytest.mark.parametrize("min_f1", [0.9, 0.5])
def test_a_run_whose_gates_were_changed_after_the_bundle_says_so_too(bundle: Bundle, min_f1: float) -> None:
    """`limbeck evaluate TASK --set gates…` judges without making the bundle again."""
    task = override_judging(bundle.task, [f"gates.min_f1={min_f1}"])
    files = SimpleNamespace(bundle=SimpleNamespace(bundle=bundle.folder, manifest=bundle.folder / "manifest.json"))
    run = cast("Run", SimpleNamespace(task=task, files=files))
    note_verdict(run, Result("evaluate", bundle.folder, {"figures": {"checks": [CHECK]}}, skipped=False))
    assert overridden(open_bundle(bundle.folder)) == ([] if min_f1 == 0.9 else ["gates.min_f1=0.5"])


SLO = {"slo": {"percentile": "p99", "ms": 500}}


@pytest.mark.parametrize(("own", "given", "expected"), [
    (SLO, ["gates.slo.ms=1500", "gates.teacher_margin=0.1"], ["gates.teacher_margin=0.1", "gates.slo.ms=1500"]),
    (SLO, ["gates.slo=null"], ["gates.slo=null"]),
    (SLO, ["gates.slo.ms=1500", "gates.slo.ms=500"], []),
    ({}, ["gates.slo={ms: 99.5}"], ["gates.slo.percentile=p99", "gates.slo.ms=99.5"]),
    ({"traffic_margin": 0.02}, ["gates.traffic_margin=0.0"], ["gates.traffic_margin=0"]),  # its default is left out
    ({}, ["eval.confidence=0.5", "eval.note=x", "gates.merge_label_agreement=0.5"], ["eval.confidence=0.5"]),
])
def test_what_differs_from_the_bundles_own_settings(own: dict[str, Any], given: list[str], expected: list[str]) -> None:
    task: Task = make_task(gates=own)
    assert overrides(task, override_judging(task, given)) == expected
