"""The pipeline: sample → label → curriculum → train → merge → bundle → evaluate, each a stage with a manifest."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from limbeck.inputs import Inputs
from limbeck.progress_display import Console
from limbeck.stage import Result, run_stage
from limbeck.stages import train as training
from task.codec import Codec
from task.errors import GateError, InputError
from task.files import read_json, sha256_file, write_json, write_jsonl
from task.labels import Example
from task.load import LoadedTask
from task.model_store import fetch_ahead
from task.spec import Task
from teacher.backends.job import Plan

STAGES = ("label", "curriculum", "train", "merge", "bundle", "evaluate")


class Pipeline:
    """The stages of one task in one run folder."""

    def __init__(self, loaded: LoadedTask, runs: Path, console: Console) -> None:
        self.task: Task = loaded.task
        self.run = runs / self.task.name
        self.console = console
        self.inputs = Inputs(self.task, self.run)
        self.results: dict[str, Result] = {}
        self.index = self.run / "index"  # of every stage that looks something up, for as long as the run folder lives

    def upto(self, last: str) -> Result:
        """Run every stage up to and including `last`; those that stand are passed over."""
        steps: dict[str, Callable[[], Result]] = {
            "label": self.label, "curriculum": self.curriculum, "train": self.train, "merge": self.merge,
            "bundle": self.bundle, "evaluate": self.evaluate,
        }
        names = STAGES[: STAGES.index(last) + 1]
        self.run.mkdir(parents=True, exist_ok=True)
        if "train" in names:
            fetch_ahead(self.task.student.base)
        self.inputs.prepare()
        for number, name in enumerate(names, 1):
            self.console.stage(name, number, len(names))
            result = steps[name]()
            self.results[name] = result
            seconds = result.manifest["wall_s"]
            state = "unchanged, not run again" if result.skipped else f"done in {seconds:,.0f} s"
            self.console.finished(f"{state} · {_headline(name, result.manifest['figures'])}")
        return self.results[last]

    # -- stages ---------------------------------------------------------------------------------------------------

    def label(self) -> Result:
        """Queries, catalogue, conversions → ledger and labels."""
        from teacher.backends.backend import backend_of

        task = self.task

        def work(folder: Path) -> Mapping[str, Any]:
            from eval.report import write_labels
            from task.model_store import fetch
            from teacher.label import label_queries
            from teacher.ledger.ledger import Ledger
            from teacher.ledger.records import STATUSES

            with Ledger(self.run / "ledger.sqlite") as ledger:
                done = label_queries(task, self.inputs.teacher, ledger, self.index, fetch, self.console)
                rows = write_jsonl(folder / "labels.jsonl", (r.to_json() for r in done.rows))
            write_json(folder / "verdicts.json", done.verdicts)
            confidence = None if done.calibration is None else done.calibration.to_json()
            if confidence is not None:
                write_json(folder / "confidence.json", confidence)
            statuses: dict[str, Any] = {s: done.statuses.get(s, 0) for s in STATUSES}
            write_labels(folder, {
                "task": task.name, "backend": task.teacher.backend, "rows": rows, "statuses": statuses,
                "spent": done.spent, "confidence": confidence, "verdicts": done.verdicts, "level": task.eval.confidence,
                "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            })
            threshold = None if done.calibration is None else done.calibration.threshold
            return {"rows": rows, **statuses, "spent": dict(done.spent), "threshold": threshold}

        config = task.model_dump(
            mode="json", include={"instructions", "roles", "examples", "normaliser", "teacher"}
        ) | {"max_query_chars": task.data.max_query_chars}
        inputs = {"data": self.inputs.fingerprint("queries", "labels", "catalogue", "conversions", "calibration")}
        prompt = task.teacher.openai.prompt
        if backend_of(task).asks_llm and prompt is not None and Path(prompt).exists():
            inputs |= {"prompt": sha256_file(Path(prompt)), "held_out": self.inputs.fingerprint("test")}
        return run_stage(self.run, "label", config=config, inputs=inputs, work=work)

    def plan_labels(self) -> Plan:
        """What the label stage would ask, judge again, and leave alone."""
        from task.model_store import fetch
        from teacher.label import plan_labelling
        from teacher.ledger.ledger import Ledger

        self.inputs.prepare()
        with Ledger(self.run / "ledger.sqlite") as ledger:
            return plan_labelling(self.task, self.inputs.teacher, ledger, self.index, fetch, self.console)

    def curriculum(self) -> Result:
        """Labels → splits."""
        from task.readers import rows_of
        from teacher.curriculum.build import build
        from teacher.curriculum.rows import write
        from teacher.ledger.records import LedgerRow

        def work(folder: Path) -> Mapping[str, Any]:
            rows = [LedgerRow.from_json(r) for _, r in rows_of(self.folder("label") / "labels.jsonl")]
            gold = [*self.inputs.test, *self.inputs.teacher.calibration]
            made = build(self.task, rows, gold, self._threshold())
            if not made.train:
                raise InputError(
                    "no labelling was accepted: there is nothing to learn from",
                    file=self.folder("label") / "labels.jsonl", found=made.left_out,
                    fix="Lower curriculum.min_confidence, or look at verdicts.json beside the labels",
                )
            write(made, self.task, folder)
            return {"train": len(made.train), "dev": len(made.dev), "left_out": made.left_out}

        return run_stage(
            self.run, "curriculum",
            config=self.task.model_dump(mode="json", include={"normaliser": True, "curriculum": True})
            | {"curriculum": self.task.curriculum.model_dump(mode="json", exclude={"cross_fit"})},
            inputs={"labels": self.digest("label"), "gold": self.inputs.fingerprint("calibration", "test")},
            work=work,
        )

    def train(self) -> Result:
        """Curriculum → adapter."""
        return training.train(self, self.task, "train")

    def merge(self) -> Result:
        """Adapter → merged model and parity report."""
        return training.merge(self, self.task, "merge", "train")

    def bundle(self) -> Result:
        """Merged model and labels → bundle."""

        def work(folder: Path) -> Mapping[str, Any]:
            from limbeck.judging.student_calibration import calibrate_student
            from serving.release.bundle import build
            from task.codec import load_codec

            merged = self.folder("merge")
            codec = load_codec(merged)
            head = self._head()
            shutil.rmtree(folder / "bundle", ignore_errors=True)
            model, adapter = self._servable(codec, merged, folder)
            parity = read_json(merged / "parity.json")
            calibrator, answers = calibrate_student(self, merged / "model", codec)
            self.console.begin("head cache", len(head))
            made = build(
                folder / "bundle", self.task, codec, model, head, {"merge": parity}, calibrator, self.console.advance,
                adapter, answers,
            )
            shutil.rmtree(folder / "engine", ignore_errors=True)  # the bundle has links to its files
            report = calibrator.report
            return {
                "id": made.id, "model": made.model_name, "head_queries": len(head),
                "calibration": {k: report[k] for k in ("auroc", "ece") if k in report},
            }

        return run_stage(
            self.run, "bundle", config=self.task.model_dump(mode="json", exclude={"gates", "eval"}),
            inputs={
                "model": self.digest("merge"), "labels": self.digest("label"),
                "gold": self.inputs.fingerprint("calibration"),
            },
            work=work,
        )

    def evaluate(self) -> Result:
        """Gold, bundle, endpoint → report."""

        def work(folder: Path) -> Mapping[str, Any]:
            from limbeck.stages.evaluate import evaluate

            return evaluate(self, folder)

        inputs = {n: self.digest(n) for n in ("label", "train", "merge", "bundle")}
        forms = self.run / "forms" / "forms.json"
        if forms.exists():
            inputs["forms"] = sha256_file(forms)
        return run_stage(
            self.run, "evaluate", config=self.task.model_dump(mode="json", include={"eval", "gates", "serving"}),
            inputs=inputs | {"gold": self.inputs.fingerprint("test")}, work=work,
        )

    def gate(self, result: Result) -> None:
        """Note the verdict of an evaluation in the bundle, which may then be released or not.

        An evaluation that was not run again leaves a verdict that is there already: `limbeck gate` may have found more.

        Raises:
            GateError: A rule of the task's `gates` does not hold; the message names each.
        """
        from serving.release.bundle import stamp

        checks, bundle = result.manifest["figures"]["checks"], self.run / "bundle" / "bundle"
        if not result.skipped or "gate" not in read_json(bundle / "manifest.json"):
            stamp(bundle, checks)
        failed = [c["text"] for c in checks if not c["ok"]]
        if failed:
            raise GateError("the bundle does not pass: " + "; ".join(failed))

    # -- helpers --------------------------------------------------------------------------------------------------

    def _threshold(self) -> float:
        """The confidence below which a label of the teacher's is doubtful."""
        path = self.folder("label") / "confidence.json"
        found = read_json(path)["threshold"] if path.exists() else self.task.teacher.confidence.threshold
        return float(found or 0.0)

    def _servable(self, codec: Codec, merged: Path, folder: Path) -> tuple[Path, Path | None]:
        """What the engine loads: the merged student, in 8 bits if wanted, or the base and the student's adapter."""
        made, reader = folder / "engine", self.task.serving.reader
        shutil.rmtree(made, ignore_errors=True)
        if self.task.serving.weights == "merged":
            model = merged / ("classifier" if codec.form == "read" and reader == "classifier" else "model")
            if self.task.serving.quantization != "int8":
                return model, None
            from student.merging.quantise import quantise

            quantise(model, made)
            return made, None
        from engine.adapters import rank
        from student.merging.token_classifier import export_classifier, shared_symbols
        from task.model_store import fetch
        from task.tokenizer import load_tokenizer

        base, adapter = fetch(self.task.student.base), self.folder("train") / "adapter"
        adapters = self.task.serving.adapters
        if rank(adapter) > adapters.rank:
            raise InputError(
                "the adapter has a higher rank than engines take", field="serving.adapters.rank", found=adapters.rank,
                expected=f"at least {rank(adapter)}", fix="Raise it for all tasks that share the base",
            )
        if codec.form != "read":
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

    def _head(self) -> list[Example]:
        """Accepted labels of the most frequent queries."""
        from task.readers import rows_of
        from teacher.ledger.records import LedgerRow

        rows = [LedgerRow.from_json(r) for _, r in rows_of(self.folder("label") / "labels.jsonl")]
        top = sorted(rows, key=lambda r: -r.count)[: self.task.serving.head_queries]
        least = self.task.serving.min_cache_confidence
        return [
            Example(r.query, r.labels, r.count) for r in top if r.status == "accepted" and r.confidence >= least
        ]

    def folder(self, name: str) -> Path:
        """The folder of a stage that has been run; `InputError` where it has not."""
        folder = self.run / name
        if not (folder / "manifest.json").exists():
            raise InputError(f"stage {name!r} has not been run", file=folder, fix=f"Run `limbeck {name} TASK` first")
        return folder

    def digest(self, name: str) -> str:
        """What depends on a stage's outputs depends on this."""
        return str(read_json(self.folder(name) / "manifest.json")["digest"])


def _headline(name: str, f: Mapping[str, Any]) -> str:
    """The figure of a stage that a person wants to see at once."""
    match name:
        case "label":
            return f"{f['accepted']:,} of {f['rows']:,} queries accepted, {f['spent']['cost']:.2f} spent"
        case "curriculum":
            return f"{f['train']:,} train and {f['dev']:,} dev rows"
        case "train":
            score = "" if f["dev_f1"] is None else f", dev F1 {100 * f['dev_f1']:.1f}"
            return f"{f['steps']:,} steps, loss {f['loss']:.3f}{score}"
        case "merge":
            return f"max |Δlogit| {f['max_logit_delta']:.3g}, {f['label_agreement']:.2%} of labels agree"
        case "bundle":
            return f"bundle {f['id']}, {f['head_queries']:,} head queries cached"
        case _:
            return f"{f['summary']}"
