"""A local LLM as teacher: the quality of its labels before and after the guardrails.

    python -m benchmarks.local_teacher runs/market

Labels the first 200 gold test queries of a finished market run twice: with the `vllm` backend, and with the `openai`
backend against the same kind of server, both with structured output and all context. Each labelling is scored raw
(every label that the model gave) and guarded (the labels that pass the guardrails); the difference in precision is a
paired bootstrap over queries. SmolLM2-135M is far too small for this task: low scores are expected.
Writes benchmarks/results/local_teacher.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.bootstrap import draw
from eval.matching import count
from eval.metrics import MICRO, of_table
from eval.significance import Paired
from limbeck.environment import device, git_commit, versions
from limbeck.inputs import Inputs
from llm_client.reply import rows_of
from task.files import write_json
from task.labels import Example, Label
from task.load import load_task
from task.model_store import fetch
from task.normalize import normaliser
from task.spec import Task
from teacher.backends.job import Sources
from teacher.backends.llm.local_model import LocalTeacher
from teacher.label import label_queries
from teacher.ledger.ledger import Ledger

ROWS = 200
RESULT = Path(__file__).parent / "results" / "local_teacher.json"
SETTINGS = {
    "teacher.backend": "vllm", "teacher.openai.prompt": "configs/prompts/label.j2", "teacher.openai.max_tokens": "160",
    "teacher.openai.context_tokens": "400", "teacher.openai.concurrency": "32", "teacher.openai.timeout_s": "300",
    "teacher.vllm.max_model_len": "2048",
    # The calibration rows serve as few-shot examples only: the scores need no confidence.
    "teacher.confidence.min_rows": "1000000",
}


def main() -> None:
    """Label twice, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run folder of the market")
    options = parser.parse_args()
    task = load_task(Path("configs/market.yaml"), [f"{k}={v}" for k, v in SETTINGS.items()]).task
    inputs = Inputs(task, options.run / "sample")
    gold = inputs.test[:ROWS]
    sources = replace(inputs.teacher, log=[replace(g, labels=()) for g in gold])
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found["vllm"] = measure(task, sources, gold, folder / "vllm", folder / "index")
        with LocalTeacher(task, fetch, folder / "teacher.log") as local:
            settings = local.settings().model_copy(update={"base_url": local.url()})
            teacher = task.teacher.model_copy(update={"backend": "openai", "openai": settings})
            served = task.model_copy(update={"teacher": teacher})
            found["openai"] = measure(served, sources, gold, folder / "openai", folder / "index")
    write_json(RESULT, {
        "model": task.teacher.vllm.model, "rows": len(gold), "backends": found, "versions": versions(),
        "device": device(), "git": git_commit(),
    })
    print(json.dumps(found, indent=2))


def measure(task: Task, sources: Sources, gold: Sequence[Example], folder: Path, index: Path) -> dict[str, Any]:
    """Label with a backend and score its labels before and after the guardrails."""
    started = time.monotonic()
    raw: dict[str, tuple[Label, ...]] = {}
    with Ledger(folder / "ledger.sqlite") as ledger:
        done = label_queries(task, sources, ledger, index, fetch)
        rows = {r.query: r for r in done.rows}
        for attempt in ledger.attempts():
            if attempt["outcome"] == "ok":
                given = rows_of(attempt["reply"]) or []
                raw[attempt["query"]] = tuple(Label(str(x.get("role")), str(x.get("text"))) for x in given)
        spent = ledger.spent()
    known = {r.name for r in task.roles}
    sides = {
        "raw": [replace(g, labels=tuple(x for x in raw.get(g.query, ()) if x.role in known)) for g in gold],
        "guarded": [replace(g, labels=rows[g.query].labels) for g in gold],
    }
    tables = {
        name: count(gold, side, sorted(known), "value", normaliser(task.normaliser)) for name, side in sides.items()
    }
    micro = {what: of_table(f, len(known)) for what, f in MICRO.items()}
    out: dict[str, Any] = {
        name: {
            what: draw(t, resamples=task.eval.resamples, seed=task.eval.seed).estimate(f, 0.95)
            for what, f in micro.items()
        }
        for name, t in tables.items()
    }
    both = Paired.of(tables["guarded"], tables["raw"], resamples=task.eval.resamples, seed=task.eval.seed)
    out["precision_gain"] = both.estimate(micro["precision"], 0.95)
    out |= {
        "statuses": dict(done.statuses), "verdicts": done.verdicts[:12], "attempts": spent["attempts"],
        "tokens": spent["prompt_tokens"] + spent["completion_tokens"], "seconds": round(time.monotonic() - started, 1),
    }
    return out


if __name__ == "__main__":
    main()
