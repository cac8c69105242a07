"""Where everything in a run folder lies: one class for each stage's folder, so that a path is spelled once.

A stage writes into a folder with a temporary name, later stages read the finished one: one class describes both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LabelFolder:
    """What the `label` stage writes."""

    folder: Path

    @property
    def labels(self) -> Path:
        """One JSON line per query of the log: status, labels, confidence."""
        return self.folder / "labels.jsonl"

    @property
    def verdicts(self) -> Path:
        """What the guardrails rejected or repaired, counted by role and reason."""
        return self.folder / "verdicts.json"

    @property
    def confidence(self) -> Path:
        """The calibration of the teacher's confidence; absent where there were too few gold rows for one."""
        return self.folder / "confidence.json"


@dataclass(frozen=True, slots=True)
class TrainFolder:
    """What a training run writes, be it the `train` stage or a variant of a study."""

    folder: Path

    @property
    def adapter(self) -> Path:
        """The adapter in PEFT's format."""
        return self.folder / "adapter"

    @property
    def codec(self) -> Path:
        """The codec that the student was trained with."""
        return self.folder / "codec.json"

    @property
    def history(self) -> Path:
        """A JSON line per step, written while the run is going on."""
        return self.folder / "history.jsonl"

    @property
    def curve(self) -> Path:
        """A copy of the history that is kept with the finished stage."""
        return self.folder / "curve.jsonl"

    @property
    def order(self) -> Path:
        """SHA-256 of the row order that was planned and of the one that reached the optimiser."""
        return self.folder / "order.json"

    @property
    def measured(self) -> Path:
        """Trained parameters, steps, tokens, memory and seconds of the run."""
        return self.folder / "measured.json"

    @property
    def resources(self) -> Path:
        """The plan's estimates beside what was measured."""
        return self.folder / "resources.json"

    @property
    def predictions(self) -> Path:
        """What a study's variant answered on the gold rows."""
        return self.folder / "predictions.jsonl"

    @property
    def temporary(self) -> tuple[Path, ...]:
        """Folders that are of no use once the run has finished."""
        return self.folder / "checkpoints", self.folder / "best", self.folder / "ray"


@dataclass(frozen=True, slots=True)
class MergeFolder:
    """What the `merge` stage writes."""

    folder: Path

    @property
    def model(self) -> Path:
        """The merged causal language model."""
        return self.folder / "model"

    @property
    def classifier(self) -> Path:
        """The merged model as a token classifier, for the form `read`."""
        return self.folder / "classifier"

    @property
    def codec(self) -> Path:
        """The codec that the student was trained with."""
        return self.folder / "codec.json"

    @property
    def parity(self) -> Path:
        """How far the merged model's answers are from the adapter's."""
        return self.folder / "parity.json"

    @property
    def forgetting(self) -> Path:
        """What the base answered before and answers after the merge."""
        return self.folder / "forgetting.json"


@dataclass(frozen=True, slots=True)
class BundleFolder:
    """What the `bundle` stage writes."""

    folder: Path

    @property
    def bundle(self) -> Path:
        """The bundle."""
        return self.folder / "bundle"

    @property
    def manifest(self) -> Path:
        """The bundle's own manifest, which also holds the verdict of its gate."""
        return self.bundle / "manifest.json"

    @property
    def engine(self) -> Path:
        """The exported model while the bundle is being built; the bundle links to its files."""
        return self.folder / "engine"


@dataclass(frozen=True, slots=True)
class EvaluateFolder:
    """What the `evaluate` stage writes."""

    folder: Path

    @property
    def report(self) -> Path:
        """Every figure of the report; the HTML page, the Markdown summary and the CSV lie beside it."""
        return self.folder / "report.json"

    @property
    def served(self) -> Path:
        """Logs of the service that was measured."""
        return self.folder / "serve"

    def predictions(self, system: str) -> Path:
        """What a system answered on the gold rows."""
        return self.folder / "predictions" / f"{system.replace(' ', '-').replace(',', '')}.jsonl"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of one task's run."""

    path: Path

    @property
    def ledger(self) -> Path:
        """Every attempt to label a query; outlives the label stage."""
        return self.path / "ledger.sqlite"

    @property
    def index(self) -> Path:
        """The retrieval index and the embeddings of everything that looks something up."""
        return self.path / "index"

    @property
    def sample(self) -> Path:
        """The generated market, for tasks that ask for it."""
        return self.path / "sample"

    @property
    def label(self) -> LabelFolder:
        """The folder of the `label` stage."""
        return LabelFolder(self.path / "label")

    @property
    def curriculum(self) -> Path:
        """The folder of the `curriculum` stage, a `datasets` folder."""
        return self.path / "curriculum"

    @property
    def train(self) -> TrainFolder:
        """The folder of the `train` stage."""
        return TrainFolder(self.path / "train")

    @property
    def merge(self) -> MergeFolder:
        """The folder of the `merge` stage."""
        return MergeFolder(self.path / "merge")

    @property
    def bundle(self) -> BundleFolder:
        """The folder of the `bundle` stage."""
        return BundleFolder(self.path / "bundle")

    @property
    def evaluate(self) -> EvaluateFolder:
        """The folder of the `evaluate` stage."""
        return EvaluateFolder(self.path / "evaluate")

    @property
    def answer_forms(self) -> Path:
        """What `limbeck forms` measured."""
        return self.path / "forms" / "forms.json"

    @property
    def audit(self) -> Path:
        """The folder of `limbeck audit-context`."""
        return self.path / "audit"

    @property
    def ablation(self) -> Path:
        """The folder of `limbeck ablate`."""
        return self.path / "ablate"

    @property
    def sweep(self) -> Path:
        """The folder of `limbeck sweep`."""
        return self.path / "sweep"
