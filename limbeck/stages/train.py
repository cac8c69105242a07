"""The stages that make a student: train and merge."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.plan import beside
from limbeck.stage import Result, run_stage
from limbeck.stages.cross_fit import cross_fit
from limbeck.student_jobs import make_job
from task.errors import GateError
from task.files import read_json, sha256_file, write_json
from task.spec import Task

if TYPE_CHECKING:
    from limbeck.pipeline import Pipeline

_PARITY_ROWS = 200


def train(pipeline: Pipeline, task: Task, name: str) -> Result:
    """Train an adapter for a task's answer form as stage `name`."""
    source = "curriculum" if task.curriculum.cross_fit is None else cross_fit(pipeline).name

    def work(folder: Path) -> Mapping[str, Any]:
        from student.training.launch import launch
        from teacher.curriculum.rows import read

        pipeline.console.begin("fetching the base model")
        rows = read(pipeline.folder(source), "train")
        dev = [r.example for r in read(pipeline.folder(source), "dev")]
        job = make_job(task, rows, dev, folder, task.curriculum.order)
        write_json(folder / "codec.json", job.codec.to_json())
        history = launch(job, pipeline.console)
        order = read_json(folder / "order.json")
        if order["sha256"] != order["planned"]:
            raise RuntimeError("the order that reached the optimiser is not the curriculum's")
        for done in ("checkpoints", "best", "ray"):
            shutil.rmtree(folder / done, ignore_errors=True)
        shutil.copy2(folder / "history.jsonl", folder / "curve.jsonl")
        write_json(folder / "resources.json", beside(task, read_json(folder / "measured.json")))
        scores = [h["dev_f1"] for h in history if "dev_f1" in h]
        return {
            "base": task.student.base, "form": job.codec.form, "segmentation": job.codec.segmentation,
            "rows": len(job.train), "not_representable": len(rows) - len(job.train),
            "steps": len(history), "loss": history[-1]["loss"], "adapter_of_step": order["adapter_of_step"],
            "dev_f1": (max(scores) if task.student.keep_best else scores[-1]) if scores else None,
            "examples_per_s": round(sum(h["rows"] for h in history) / sum(h["seconds"] for h in history), 2),
        }

    inputs = {"curriculum": pipeline.digest(source)}
    earlier = Path(task.student.init_adapter or "") / "adapter_model.safetensors"
    if task.student.init_adapter and earlier.exists():
        inputs["init_adapter"] = sha256_file(earlier)
    return run_stage(
        pipeline.run, name, config=task.model_dump(mode="json", include={"student", "roles", "normaliser"})
        | {"order": task.curriculum.order}, inputs=inputs, work=work,
    )


def merge(pipeline: Pipeline, task: Task, name: str, trained: str) -> Result:
    """Merge the adapter of stage `trained` as stage `name`."""

    def work(folder: Path) -> Mapping[str, Any]:
        from student.merging.forgetting import forgetting
        from student.merging.merge import merge as fold_in
        from student.merging.parity import parity
        from student.merging.token_classifier import export_classifier
        from student.model import accelerator
        from task.codec import load_codec
        from task.model_store import fetch
        from task.tokenizer import load_tokenizer
        from teacher.curriculum.rows import read

        base, adapter = fetch(task.student.base), pipeline.folder(trained) / "adapter"
        codec = load_codec(pipeline.folder(trained))
        pipeline.console.begin("merging")
        matrices = fold_in(base, adapter, folder / "model", task.student)
        write_json(folder / "codec.json", codec.to_json())
        pipeline.console.begin("proving that merged = adapter")
        dev = [r.example for r in read(pipeline.folder("curriculum"), "dev")]
        dev = [x for x in dev if codec.representable(x)][:_PARITY_ROWS]
        report = parity(base, adapter, folder / "model", codec, load_tokenizer(base), dev, task.student)
        write_json(folder / "parity.json", report)
        gates = task.gates
        if report["max_logit_delta"] > gates.merge_max_logit_delta:
            raise GateError(
                f"merged ≠ trained: max |Δlogit| is {report['max_logit_delta']}, the gate "
                f"gates.merge_max_logit_delta allows {gates.merge_max_logit_delta}"
            )
        if report["label_agreement"] < gates.merge_label_agreement:
            raise GateError(
                f"merged ≠ trained: {report['label_agreement']:.2%} of labels agree, the gate "
                f"gates.merge_label_agreement asks for {gates.merge_label_agreement:.2%}"
            )
        pipeline.console.begin("what the base has forgotten")
        kept = forgetting(base, folder / "model", load_tokenizer(base), task.serving.dtype, accelerator())
        write_json(folder / "forgetting.json", kept)
        if codec.form == "read":
            export_classifier(folder / "model", codec.symbol_ids, folder / "classifier")
        return {"matrices": matrices, **report, "perplexity_ratio": kept["perplexity"]["ratio"]}

    return run_stage(
        pipeline.run, name,
        config=task.model_dump(mode="json", include={"gates"}) | {"merge_base": task.student.merge_base},
        inputs={"adapter": pipeline.digest(trained)}, work=work,
    )
