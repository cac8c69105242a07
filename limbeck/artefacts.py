"""Paths of everything in a run folder: one class for each stage's folder, so that each path is defined once.

A stage writes into a folder with a temporary name, later stages read the finished one: one class describes both.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Folder:
    """A folder with entries of known names."""

    folder: Path


class Entry:
    """The path of a file or folder that a `Folder` holds."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, holder: Folder, _owner: type[Folder]) -> Path:
        return holder.folder / self._name


class LabelFolder(Folder):
    """What the `label` stage writes."""

    labels = Entry("labels.jsonl")  # a line per query of the log: status, labels, confidence
    compared = Entry("gold-test.jsonl")  # the same for gold test queries that the log lacks; nothing is learned from it
    verdicts = Entry("verdicts.json")  # what the guardrails rejected or repaired, counted by role and reason
    confidence = Entry("confidence.json")  # calibration of the teacher's confidence; absent with too few gold rows


class TrainFolder(Folder):
    """What a training run writes, be it the `train` stage or a variant of a study."""

    adapter = Entry("adapter")  # in PEFT's format
    codec = Entry("codec.json")
    history = Entry("history.jsonl")  # a line per step, written while the run is going on
    curve = Entry("curve.jsonl")  # a copy of the history, kept with the finished stage
    plot = Entry("curve.svg")  # the learning curve, as in the report
    order = Entry("order.json")  # SHA-256 of the planned row order and of the one that reached the optimiser
    measured = Entry("measured.json")  # trained parameters, steps, tokens, memory and seconds
    resources = Entry("resources.json")  # the plan's estimates beside what was measured
    predictions = Entry("predictions.jsonl")  # of a study's variant, on the gold rows

    def remove_temporary(self) -> None:
        """Delete what is of no use once the run has finished: checkpoints, the best adapter so far, Ray's files."""
        for name in ("checkpoints", "best", "ray"):
            shutil.rmtree(self.folder / name, ignore_errors=True)


class MergeFolder(Folder):
    """What the `merge` stage writes."""

    model = Entry("model")  # the merged causal language model
    classifier = Entry("classifier")  # the same as a token classifier, for the form `read`
    codec = Entry("codec.json")
    parity = Entry("parity.json")  # how far the merged model's answers are from the adapter's
    forgetting = Entry("forgetting.json")  # perplexity and general answers of base and merged model


class BundleFolder(Folder):
    """What the `bundle` stage writes."""

    bundle = Entry("bundle")
    manifest = Entry("bundle/manifest.json")  # the bundle's own, which also holds the verdict of its gate
    items = Entry("bundle/items")  # the words of the catalogue's items, where a text has to find one
    openvino = Entry("openvino")  # the model exported for OpenVINO while the bundle is being built
    engine = Entry("engine")  # the exported model while the bundle is being built; the bundle links to its files


class EvaluateFolder(Folder):
    """What the `evaluate` stage writes."""

    report = Entry("report.json")  # the HTML page, the Markdown summary and the CSV lie beside it
    served = Entry("serve")  # logs of the service that was measured

    def predictions(self, system: str) -> Path:
        """What a system answered on the gold rows."""
        return self.folder / "predictions" / f"{system.replace(' ', '-').replace(',', '')}.jsonl"


class RunFolder(Folder):
    """The folder of one task's run."""

    task = Entry("task.json")  # the task as the last command that ran a stage resolved it; nothing depends on it
    progress = Entry("progress.json")  # how far the command is that runs a stage now (`limbeck.progress_file`)
    ledger = Entry("ledger.sqlite")  # every attempt to label a query; outlives the label stage
    index = Entry("index")  # the retrieval index, and the embeddings of everything that looks something up
    sample = Entry("sample")  # the generated market, for tasks that ask for it
    curriculum = Entry("curriculum")  # a `datasets` folder
    answer_forms = Entry("forms/forms.json")  # what `limbeck forms` measured
    audit = Entry("audit")  # of `limbeck audit-context`
    rewrites = Entry("rewrites/rewrites.json")  # what `limbeck rewrites` measured
    ablation = Entry("ablate")
    sweep = Entry("sweep")

    @property
    def label(self) -> LabelFolder:
        """The folder of the `label` stage."""
        return LabelFolder(self.folder / "label")

    @property
    def train(self) -> TrainFolder:
        """The folder of the `train` stage."""
        return TrainFolder(self.folder / "train")

    @property
    def merge(self) -> MergeFolder:
        """The folder of the `merge` stage."""
        return MergeFolder(self.folder / "merge")

    @property
    def bundle(self) -> BundleFolder:
        """The folder of the `bundle` stage."""
        return BundleFolder(self.folder / "bundle")

    @property
    def evaluate(self) -> EvaluateFolder:
        """The folder of the `evaluate` stage."""
        return EvaluateFolder(self.folder / "evaluate")


def run_of_bundle(bundle: Path) -> RunFolder | None:
    """The run folder whose stage `bundle` wrote a bundle; None where the bundle lies elsewhere."""
    run = RunFolder(bundle.resolve().parent.parent)
    written = run.bundle.bundle == bundle.resolve() and (run.bundle.folder / "manifest.json").exists()
    return run if written else None
