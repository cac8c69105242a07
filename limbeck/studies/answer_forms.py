"""The three answer forms side by side: same base, same data, same steps, same engine."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from limbeck.artefacts import MergeFolder
from limbeck.run import Run
from limbeck.stage import Stage, execute
from limbeck.stages import merge, train
from task.codec import Codec, Tokenizer
from task.errors import InputError
from task.files import read_json, write_json
from task.forms import FORMS, Output
from task.labels import Example
from task.spec import Task

_PATIENCE_S = 600.0
_IDLE: Mapping[Output, int] = {"scores": 60, "symbols": 60, "text": 30}
# Forms that generate are slow: dev F1 during training is of few rows, text is generated for a part of the gold rows
# only.
_GENERATED_EVAL_ROWS, _TEXT_ROWS = 60, 300


def compare(run: Run, steps: int | None = None) -> Path:
    """Train and serve each form; writes `forms/forms.json`, which the next evaluation's report shows.

    Args:
        steps: Training steps of every form; None takes the task's own, and its trained student is used again.

    Raises:
        InputError: The task has a text role.
    """
    if run.task.text_roles:
        raise InputError(
            "the forms are compared with `read`, which cannot give free text",
            field=f"roles.{run.task.text_roles[0].name}.kind", found="`kind: text`",
            fix="Leave the role out to compare the forms: --set roles=…",
        )
    found = []
    for number, form in enumerate(FORMS, 1):
        run.progress.stage(f"form {form}", number, len(FORMS))
        found.append(_one(run, form, steps))
        run.progress.finished(
            f"F1 {100 * found[-1]['f1']['value']:.1f}, p50 {found[-1]['latency']['p50_ms']['value']:.0f} ms"
        )
    reference = found[0]["latency"]["p50_ms"]["value"]
    for f in found:
        f["times_read"] = round(f["latency"]["p50_ms"]["value"] / reference, 2)
    path = run.files.answer_forms
    write_json(path, {"forms": found})
    return path


def _one(run: Run, form: str, steps: int | None) -> dict[str, Any]:
    """Train, merge, bundle without a cache, serve and measure, in three stages."""
    settings = run.task.student
    own = settings.form == form and steps in (None, settings.max_steps)
    eval_rows = settings.eval_rows if FORMS[form].output == "scores" else _GENERATED_EVAL_ROWS
    changes = {"form": form, "eval_rows": eval_rows}
    task = run.task.model_copy(update={
        "student": settings.model_copy(update=changes if steps is None else {**changes, "max_steps": steps}),
        # A student of few steps has near ties, which rounding decides; as it is not released, this is reported only.
        "serving": run.task.serving.model_copy(update={"reader": "classifier"}),
        "gates": run.task.gates.model_copy(update={"merge_label_agreement": 0.0, "merge_max_logit_delta": 1e9}),
    })
    stages = (train.STAGE, merge.STAGE) if own else (
        train.stage(f"forms/train-{form}"), merge.stage(f"forms/merge-{form}", trained=f"forms/train-{form}")
    )
    variant = run if own else replace(run, task=task)
    for stage in stages:
        merged = execute(stage, variant)
    config = {"serving": task.serving.model_dump(mode="json"), "eval": task.eval.model_dump(mode="json"), "form": form}
    measured = execute(Stage(
        name=f"forms/measure-{form}", config=lambda _run: config,
        inputs=lambda run: {"model": merged.digest, "gold": run.inputs.fingerprint("test")},
        work=lambda run, folder: _measure(run, task, MergeFolder(merged.folder), folder),
        scratch=frozenset({"serve"}),
    ), run)
    return {"form": form, "steps": steps or settings.max_steps, **measured.figures}


def _measure(run: Run, task: Task, merged: MergeFolder, folder: Path) -> dict[str, Any]:
    """Serve a merged model and measure it: one by one for the latency, then all gold rows for the quality."""
    from eval.endpoint import Target
    from eval.latency import percentiles
    from eval.load_generator import one_by_one
    from eval.quality import quality
    from serving.client import label_all, served
    from serving.release.bundle import build
    from task.codec import load_codec
    from task.tokenizer import load_tokenizer

    codec = load_codec(merged.folder)
    shutil.rmtree(folder / "bundle", ignore_errors=True)
    model = merged.classifier if codec.answer_form.token_classifier else merged.model
    # A batch of JSON answers takes longer on a slow machine than the time-out of a single request.
    patient = task.model_copy(update={"serving": task.serving.model_copy(update={"request_timeout_s": _PATIENCE_S})})
    bundle = build(folder / "bundle", patient, codec, model, [], {})
    gold = run.inputs.test[: _TEXT_ROWS if codec.answer_form.output == "text" else task.eval.max_rows]
    run.progress.begin("starting the engine and the gateway")
    with served(bundle.folder, state=folder / "serve") as url:
        queries = [g.query for g in gold]
        one_by_one(Target(url), queries[-3:], use_cache=False)  # warm-up with other queries
        idle = one_by_one(Target(url), queries[: _IDLE[codec.answer_form.output]], use_cache=False)
        run.progress.begin("the served student", len(gold))
        rows = label_all(url, gold, batch=16, timeout_s=_PATIENCE_S, done=run.progress.advance)
    answer_tokens = _answer_tokens(gold[: _IDLE[codec.answer_form.output]], codec, load_tokenizer(bundle.model))
    shutil.rmtree(folder / "bundle")  # a second copy of the model
    return {
        "rows": len(gold), "f1": quality(gold, rows, task)["value"]["f1"], "answer_tokens": round(answer_tokens, 2),
        "latency": percentiles(idle.latency),
        "merge_label_agreement": read_json(merged.parity)["label_agreement"],
    }


def _answer_tokens(gold: Sequence[Example], codec: Codec, tokenizer: Tokenizer) -> float:
    """Mean tokens that are generated for a query; where they depend on the answer, for the right one."""
    return sum(codec.answer_form.generated(codec, g, tokenizer) for g in gold) / len(gold)
