"""`limbeck gate` says what it lacks before it starts an engine."""

from __future__ import annotations

from pathlib import Path

from serving.release.bundle import build
from task.codec import Codec
from task.spec import Task
from task.tokenizer import FastTokenizer
from tests.limbeck.test_cli import in_process as limbeck


def test_a_missing_option_is_said_before_anything_is_started(
    task: Task, tiny_llama: Path, tokenizer: FastTokenizer, tmp_path: Path
) -> None:
    bundle = build(tmp_path / "bundle", task, Codec.compile(task, [], tokenizer), tiny_llama, [], {}).folder
    gold = tmp_path / "gold.jsonl"
    gold.write_text('{"query": "oat milk", "labels": [{"role": "product", "text": "oat milk"}]}\n')

    def said(*rules: str) -> tuple[int, str]:
        done = limbeck("gate", bundle, "--gold", gold, *(x for r in rules for x in ("--set", r)))
        assert "starting" not in done.stderr
        return done.returncode, done.stderr

    code, text = said("gates.teacher_margin=0.01")
    assert (code, "limbeck: --teacher: needed for gates.teacher_margin" in text) == (2, True)
    code, text = said()
    assert (code, "no reference answers to compare its engine with" in text) == (2, True)
    code, text = said("gates.engine_label_agreement=null", "gates.slo={ms: 100}", "eval.latency.seconds=0")
    assert (code, "eval.latency.seconds: gates.slo needs a latency run" in text) == (2, True)
