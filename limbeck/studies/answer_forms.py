"""The three answer forms side by side: same base, same data, same steps, same engine."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.pipeline import Pipeline
from limbeck.stage import run_stage
from limbeck.stages import train as training
from task.codec import Codec, Tokenizer
from task.files import read_json, write_json
from task.labels import Example
from task.spec import Task

FORMS = ("read", "write", "json")
_JSON_ROWS = 300
_PATIENCE_S = 600.0
_IDLE = {"read": 60, "write": 60, "json": 30}


def compare(pipeline: Pipeline, steps: int | None = None) -> Path:
    """Train and serve each form; writes `forms/forms.json`, which the next evaluation's report shows.

    Args:
        steps: Training steps of every form; None takes the task's own, and its trained student is used again.
    """
    pipeline.upto("curriculum")
    found = []
    for number, form in enumerate(FORMS, 1):
        pipeline.console.stage(f"form {form}", number, len(FORMS))
        found.append(_one(pipeline, form, steps))
        pipeline.console.finished(
            f"F1 {100 * found[-1]['f1']['value']:.1f}, p50 {found[-1]['latency']['p50_ms']['value']:.0f} ms"
        )
    reference = found[0]["latency"]["p50_ms"]["value"]
    for f in found:
        f["times_read"] = round(f["latency"]["p50_ms"]["value"] / reference, 2)
    path = pipeline.run / "forms" / "forms.json"
    write_json(path, {"forms": found})
    return path


def _one(pipeline: Pipeline, form: str, steps: int | None) -> dict[str, Any]:
    """Train, merge, bundle without a cache, serve, measure: three stages, each of which stands once it is done."""
    settings = pipeline.task.student
    own = settings.form == form and steps in (None, settings.max_steps)
    changes = {"form": form, "eval_rows": settings.eval_rows if form == "read" else 60}
    task = pipeline.task.model_copy(update={
        "student": settings.model_copy(update=changes if steps is None else {**changes, "max_steps": steps}),
        # A student of few steps has near ties, which rounding decides; nobody releases it, so this is told, not gated.
        "serving": pipeline.task.serving.model_copy(update={"reader": "classifier"}),
        "gates": pipeline.task.gates.model_copy(update={"merge_label_agreement": 0.0, "merge_max_logit_delta": 1e9}),
    })
    if own:
        pipeline.train()
        pipeline.merge()
        merged = pipeline.run / "merge"
    else:
        training.train(pipeline, task, f"forms/train-{form}")
        merged = training.merge(pipeline, task, f"forms/merge-{form}", f"forms/train-{form}").folder
    inputs = {"model": read_json(merged / "manifest.json")["digest"], "gold": pipeline.inputs.fingerprint("test")}
    config = {"serving": task.serving.model_dump(mode="json"), "eval": task.eval.model_dump(mode="json"), "form": form}
    measured = run_stage(
        pipeline.run, f"forms/measure-{form}", config=config, inputs=inputs,
        work=lambda folder: _measure(pipeline, task, merged, folder),
    )
    return {"form": form, "steps": steps or settings.max_steps, **measured.manifest["figures"]}


def _measure(pipeline: Pipeline, task: Task, merged: Path, folder: Path) -> dict[str, Any]:
    """Serve a merged model and measure it: one by one for the latency, then all gold rows for the quality."""
    from eval.endpoint import Target
    from eval.latency import percentiles
    from eval.load_generator import one_by_one
    from eval.quality import quality
    from serving.client import label_all, served
    from serving.release.bundle import build
    from task.codec import load_codec
    from task.tokenizer import load_tokenizer

    codec = load_codec(merged)
    shutil.rmtree(folder / "bundle", ignore_errors=True)
    model = merged / ("classifier" if codec.form == "read" else "model")
    # A batch of JSON answers takes a slow machine longer than anybody would wait for a single one.
    patient = task.model_copy(update={"serving": task.serving.model_copy(update={"request_timeout_s": _PATIENCE_S})})
    bundle = build(folder / "bundle", patient, codec, model, [], {})
    gold = pipeline.inputs.test[: _JSON_ROWS if codec.form == "json" else task.eval.max_rows]
    pipeline.console.begin("starting vLLM and the gateway")
    with served(bundle.folder, state=folder / "serve") as url:
        queries = [g.query for g in gold]
        one_by_one(Target(url), queries[-3:], use_cache=False)  # warm-up with other queries
        idle = one_by_one(Target(url), queries[: _IDLE[codec.form]], use_cache=False)
        pipeline.console.begin("the served student", len(gold))
        rows = label_all(url, gold, batch=16, timeout_s=_PATIENCE_S, done=pipeline.console.advance)
    answer_tokens = _answer_tokens(gold[: _IDLE[codec.form]], codec, load_tokenizer(bundle.model))
    shutil.rmtree(folder / "bundle")  # a second copy of the model
    return {
        "rows": len(gold), "f1": quality(gold, rows, task)["value"]["f1"], "answer_tokens": round(answer_tokens, 2),
        "latency": percentiles(idle.latency),
        "merge_label_agreement": read_json(merged / "parity.json")["label_agreement"],
    }


def _answer_tokens(gold: Sequence[Example], codec: Codec, tokenizer: Tokenizer) -> float:
    """Tokens decoded for a query, on average: none, one a unit and probe, or the JSON text of the right answer."""
    if codec.form == "read":
        return 0.0
    if codec.form == "write":
        return sum(codec.answer_length(g.query) for g in gold) / len(gold)
    return sum(len(codec.encode(g, tokenizer).targets) for g in gold) / len(gold)
