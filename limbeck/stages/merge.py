"""`merge`: adapter → merged model, with the check that both give the same answers."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from limbeck.artefacts import MergeFolder, TrainFolder
from limbeck.run import Run
from limbeck.stage import Figures, Stage
from limbeck.staleness import Rules
from task.errors import GateError
from task.files import read_json, write_json
from task.spec import Task

if TYPE_CHECKING:
    from task.codec import Codec
    from task.labels import Example

_PARITY_ROWS: Final = 200


def stage(name: str = "merge", *, trained: str = "train") -> Stage:
    """The stage, or under another name one that merges the adapter of stage `trained`."""
    return Stage(
        name=name, config=_config, inputs=lambda run: {"adapter": run.digest(trained)},
        rules=_rules,
        work=lambda run, folder: _work(run, TrainFolder(run.finished(trained)), MergeFolder(folder)),
        headline=lambda f: f"max |Δlogit| {f['max_logit_delta']:.3g}, {f['label_agreement']:.2%} of labels agree",
        phase="train", judged_by=frozenset({"gates"}),
    )


def _config(run: Run) -> object:
    """`serving.dtype` is what forgetting is measured in."""
    read = {"gates": {"merge_max_logit_delta", "merge_label_agreement"}, "serving": {"dtype"}}
    return run.task.model_dump(mode="json", include=read) | {"merge_base": run.task.student.merge_base}


def _rules(run: Run) -> Rules:
    from student import merging
    from task import codec

    return {"codec": codec.version(run.task), "merge": merging.VERSION}


def _work(run: Run, trained: TrainFolder, files: MergeFolder) -> Figures:
    from student.merging.forgetting import forgetting
    from student.merging.merge import merge
    from student.merging.parity import parity
    from student.merging.token_classifier import export_classifier
    from student.model import accelerator
    from task.codec import load_codec
    from task.model_store import fetch
    from task.tokenizer import load_tokenizer

    task = run.task
    base, codec = fetch(task.student.base), load_codec(trained.folder)
    tokenizer = load_tokenizer(base)
    if not files.parity.exists():  # else it is merged already, and other gates judge it
        run.progress.begin("merging")
        merge(base=base, adapter=trained.adapter, out=files.model, settings=task.student)
        write_json(files.codec, codec.to_json())
        run.progress.begin("checking that the merged model gives the adapter's answers")
        report = parity(
            base=base, adapter=trained.adapter, merged=files.model, codec=codec, tokenizer=tokenizer,
            examples=parity_rows(run.finished("curriculum"), codec), settings=task.student,
        )
        _check_matrices(report)
        write_json(files.parity, report)
    report = read_json(files.parity)
    _check_answers(report, task)
    if not files.forgetting.exists():
        if codec.answer_form.token_classifier:
            shutil.rmtree(files.classifier, ignore_errors=True)  # of an attempt that was killed
            export_classifier(files.model, codec.symbol_ids, files.classifier)
        run.progress.begin("measuring catastrophic forgetting")
        write_json(files.forgetting, forgetting(
            base=base, merged=files.model, tokenizer=tokenizer, dtype=task.serving.dtype, device=accelerator()
        ))
    return {**report, "perplexity_ratio": read_json(files.forgetting)["perplexity"]["ratio"]}


def parity_rows(curriculum: Path, codec: Codec) -> list[Example]:
    """The rows that adapter and merged model must agree on: dev rows, or training rows where so few have no dev row."""
    from teacher.curriculum.rows import read

    for part in ("dev", "train"):
        found = [r.example for r in read(curriculum, part) if codec.representable(r.example)]
        if found:
            return found[:_PARITY_ROWS]
    return []


def _check_matrices(report: Mapping[str, Any]) -> None:
    """Raise `GateError` where a matrix is not the sum of base and adapter. A figure that is no number is no pass."""
    if not report["matrix_error"] <= 1:
        raise GateError(
            f"merged ≠ trained: {report['worst_tensor']} differs from base + adapter by {report['matrix_error']} times "
            "what rounding explains; nothing is served. Run the same command again; if it fails again, this is a bug"
        )


def _check_answers(report: Mapping[str, Any], task: Task) -> None:
    """Raise `GateError` where the merged model's answers differ from the adapter's by more than the gates allow.

    A figure that is no number (NaN) is no pass.
    """
    gates = task.gates
    if not report["max_logit_delta"] <= gates.merge_max_logit_delta:
        raise GateError(
            f"merged ≠ trained: max |Δlogit| is {report['max_logit_delta']}, the gate "
            f"gates.merge_max_logit_delta allows {gates.merge_max_logit_delta}"
        )
    if not report["label_agreement"] >= gates.merge_label_agreement:
        raise GateError(
            f"merged ≠ trained: on {report['rows']:,} rows {report['label_agreement']:.2%} of the labels are the "
            f"adapter's, and gates.merge_label_agreement asks for {gates.merge_label_agreement:.2%}. Every matrix is "
            "the sum of base and adapter up to rounding, so these are close calls that rounding decides the other way; "
            "of few rows a label or two are a per cent. If that is good enough, lower the gate (--set "
            "gates.merge_label_agreement=0.95); else train on more rows"
        )


STAGE = stage()
