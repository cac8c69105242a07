"""`bundle`: merged model and labels → the unit that is released and served."""

from __future__ import annotations

import shutil
from pathlib import Path

from limbeck.artefacts import BundleFolder, MergeFolder
from limbeck.run import Run
from limbeck.stage import Figures, Stage
from limbeck.staleness import NO_EFFECT, Rules
from task import word_index
from task.codec import Codec, load_codec
from task.errors import InputError
from task.files import read_json
from task.labels import Example


def _inputs(run: Run) -> dict[str, str]:
    return {
        "model": run.digest("merge"), "labels": run.digest("label"), "gold": run.inputs.fingerprint("calibration"),
        **({"catalogue": run.inputs.fingerprint("catalogue")} if word_index.is_wanted(run.task) else {}),
    }


def _config(run: Run) -> object:
    """The whole task, which the bundle holds, less what judges or follows it, what has no effect, and data's places."""
    places = {"sample", "dir", "hub", "queries", "labels", "catalogue", "conversions", "gold"}
    return run.task.model_dump(mode="json", exclude={
        "gates": True, "eval": True, "rounds": True, "data": places, **NO_EFFECT,
    })


def _rules(run: Run) -> Rules:
    from limbeck import openvino_model
    from limbeck.judging import student_calibration
    from serving.release import bundle
    from student import merging
    from task import READERS, codec

    return {
        "bundle format": bundle.FORMAT, "calibration of the student": student_calibration.VERSION,
        "codec": codec.version(run.task), "merge": merging.VERSION, "readers": READERS,
        **({"model for OpenVINO": openvino_model.VERSION} if openvino_model.is_wanted(run.task) else {}),
        **({"words of the catalogue": word_index.VERSION} if word_index.is_wanted(run.task) else {}),
    }


def _work(run: Run, folder: Path) -> Figures:
    from limbeck import openvino_model
    from limbeck.judging.student_calibration import calibrate_student
    from serving.release.bundle import build
    from teacher.retrieval.hybrid_search import item_words

    files, merged = BundleFolder(folder), MergeFolder(run.finished("merge"))
    codec, head_queries = load_codec(merged.folder), _head_queries(run)
    shutil.rmtree(files.bundle, ignore_errors=True)
    for leftover in (files.engine, files.openvino):
        shutil.rmtree(leftover, ignore_errors=True)
    if run.task.serving.weights == "merged":
        model, adapter = _merged(run, codec, merged, files.engine), None
    else:
        model, adapter = _base_and_adapter(run, codec, files.engine)
    parity = read_json(merged.parity)
    calibrator, answers = calibrate_student(run, merged.model, codec)
    exported = None
    if openvino_model.is_wanted(run.task):
        exported = openvino_model.make(
            run, codec, classifier=merged.classifier, out=files.openvino, reference=answers
        )
    run.progress.begin("head cache", len(head_queries))
    cached = 0

    def done(rows: int) -> None:
        nonlocal cached
        cached += rows
        run.progress.advance(rows)

    made = build(
        files.bundle, run.task, codec, model, head_queries, {"merge": parity}, calibrator=calibrator, done=done,
        adapter=adapter, reference=answers, openvino=files.openvino if exported else None,
        items=item_words(run.task, run.inputs.catalogue),
    )
    for leftover in (files.engine, files.openvino):  # the bundle has links to their files
        shutil.rmtree(leftover, ignore_errors=True)
    return {
        "id": made.id, "model": made.model_name, "head_queries": cached,
        **({"openvino": exported} if exported else {}),
        "calibration": {k: calibrator.report[k] for k in ("auroc", "ece") if k in calibrator.report},
    }


def _merged(run: Run, codec: Codec, merged: MergeFolder, made: Path) -> Path:
    """The merged student as the engine loads it, in 8 bits if the task wants that."""
    settings = run.task.serving
    classified = codec.answer_form.token_classifier and settings.reader == "classifier"
    model = merged.classifier if classified else merged.model
    if settings.quantization != "int8":
        return model
    from student.merging.quantise import quantise

    quantise(model, made)
    return made


def _base_and_adapter(run: Run, codec: Codec, made: Path) -> tuple[Path, Path]:
    """The base that tasks share, and the student's adapter, which the engine adds while it runs.

    Raises:
        InputError: The engine takes adapters of this rank, or this many symbols, only with another setting.
    """
    from engine.adapters import rank
    from student.merging.token_classifier import export_classifier, shared_symbols
    from task.model_store import fetch
    from task.tokenizer import load_tokenizer

    run.finished("train")
    base, adapter = fetch(run.task.student.base), run.files.train.adapter
    adapters = run.task.serving.adapters
    if rank(adapter) > adapters.rank:
        raise InputError(
            "the adapter has a higher rank than engines take", field="serving.adapters.rank", found=adapters.rank,
            expected=f"at least {rank(adapter)}", fix="Raise it for all tasks that share the base",
        )
    if not codec.answer_form.token_classifier:
        return base, adapter
    symbols = shared_symbols(load_tokenizer(base), adapters.symbols)
    if not set(codec.symbol_ids) <= set(symbols):
        raise InputError(
            "the task needs symbols that the shared head lacks", field="serving.adapters.symbols",
            found=adapters.symbols, expected=f"more, for the codec has {len(codec.symbol_ids)}",
            fix="Raise it for all tasks that share the base",
        )
    export_classifier(base, symbols, made, shared=True)
    return made, adapter


def _head_queries(run: Run) -> list[Example]:
    """The most frequent queries with their labels, those that the teacher is confident of."""
    from task.table_files import rows_of
    from teacher.ledger.records import LedgerRow

    rows = [LedgerRow.from_json(r) for _, r in rows_of(run.files.label.labels)]
    top = sorted(rows, key=lambda r: -r.count)[: run.task.serving.head_queries]
    least = run.task.serving.min_cache_confidence
    return [Example(r.query, r.labels, r.count) for r in top if r.status == "accepted" and r.confidence >= least]


def _headline(figures: Figures) -> str:
    said = f"bundle {figures['id']}, {figures['head_queries']:,} head queries cached"
    exported = figures.get("openvino")
    if not exported or exported["agreement"] is None:
        return said
    number = f"{exported['compared']:,} " if "compared" in exported else ""  # bundles of before do not say it
    kept = f"{exported['agreement']:.1%} of {number}labels of the merged student"
    return f"{said}, in {exported['bits']} bits it keeps {kept}"


STAGE = Stage(
    name="bundle", config=_config, inputs=_inputs, rules=_rules, work=_work,
    headline=_headline, phase="train",
)
