"""What a gate compares with is found in the run that the bundle lies in, or missed before anything is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval.gate import Check
from limbeck.artefacts import EvaluateFolder, LabelFolder
from limbeck.judging.gate_evidence import advise
from limbeck.judging.gate_sources import merged_answers, sources_of
from limbeck.judging.offline_systems import MERGED, answered, teacher_labels
from limbeck.pipeline import run_up_to
from limbeck.progress_display import ProgressDisplay
from limbeck.run import Run
from limbeck.stage import Stage, execute
from task.errors import InputError, InputWarning
from task.labels import Example, Label
from task.spec import Task
from tests.conftest import make_task

GATES = {"teacher_margin": 0.01, "slice_margin": 0.03}
GOLD = [
    Example("thing0 milk", (Label("product", "milk", 7, 11),)), Example("new milk", (Label("product", "milk", 4, 8),)),
]


def task_of(folder: Path, counts: bool = True) -> Task:
    rows = [
        {"query": f"thing{i} milk", "count": 9 - i if counts else 1, "labels": [{"role": "product", "text": "milk"}]}
        for i in range(5)
    ]
    (folder / "labels.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return make_task(data={"dir": str(folder), "labels": "labels.jsonl"}, gates=GATES, eval={"head": 1, "torso": 2})


def bundle_of(run: Run) -> Path:
    """A bundle stage that names the labels that it was made of; what the bundle holds does not matter here."""
    run_up_to(run, "label")

    def work(_run: Run, folder: Path) -> dict[str, int]:
        (folder / "bundle").mkdir()
        (folder / "bundle" / "task.json").write_text("{}")
        return {}

    done = execute(Stage(
        name="bundle", config=lambda _run: {}, inputs=lambda r: {"labels": r.digest("label")}, work=work
    ), run)
    return done.folder / "bundle"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.of(task_of(tmp_path), tmp_path / "runs", ProgressDisplay())


def test_teacher_and_traffic_are_those_of_the_run(run: Run) -> None:
    with pytest.warns(InputWarning, match="the teacher has answers to 1 of 2 gold queries; it is compared on these"):
        found = sources_of(bundle_of(run), run.task, GOLD, teacher_file=None, log_file=None)
    assert found.teacher is not None
    assert [[x.text for x in r.labels] for r in found.teacher] == [["milk"], []]
    assert found.rows == [0]
    assert found.traffic == ["head", "tail"]


def test_imported_labels_are_compared_with_only_where_a_rule_asks(
    run: Run, recwarn: pytest.WarningsRecorder
) -> None:
    """A warning that the teacher lacks answers, and to label again, was of a comparison that nobody made."""
    plain = run.task.model_copy(update={"gates": make_task().gates})
    found = sources_of(bundle_of(run), plain, GOLD, teacher_file=None, log_file=None)
    assert found.teacher is None
    assert [str(w.message) for w in recwarn if "the teacher has answers" in str(w.message)] == []


def test_a_query_without_an_answer_is_none_that_the_teacher_is_compared_on(tmp_path: Path) -> None:
    rows = [{"query": g.query, "labels": [], "status": s} for g, s in zip(GOLD, ("failed", "accepted"), strict=True)]
    folder = LabelFolder(tmp_path)
    more = {"count": 1, "confidence": 1.0, "reason": ""}
    folder.labels.write_text("".join(json.dumps(r | more) + "\n" for r in rows))
    assert answered(folder, GOLD) == {GOLD[1].query}
    assert teacher_labels(folder, GOLD[:1]) is None
    found = teacher_labels(folder, GOLD)
    assert found is not None
    assert [len(r.labels) for r in found] == [0, 0]


def test_files_that_are_given_come_before_the_run(run: Run, tmp_path: Path) -> None:
    (tmp_path / "teacher.jsonl").write_text('{"query": "new milk", "labels": [{"role": "product", "text": "milk"}]}\n')
    (tmp_path / "log.jsonl").write_text('{"query": "new milk", "count": 9}\n{"query": "thing0 milk", "count": 1}\n')
    found = sources_of(
        bundle_of(run), run.task, GOLD, teacher_file=tmp_path / "teacher.jsonl", log_file=tmp_path / "log.jsonl"
    )
    assert found.teacher is not None
    assert [len(r.labels) for r in found.teacher] == [0, 1]
    assert found.rows == [1]
    assert found.traffic == ["torso", "head"]


def test_a_bundle_outside_of_a_run_names_the_option_at_once(run: Run, tmp_path: Path) -> None:
    elsewhere = tmp_path / "bundle"
    bundle_of(run).rename(elsewhere)
    with pytest.raises(InputError, match=r"--teacher: needed for gates.teacher_margin and gates.slice_margin, and the "
                       r"bundle lies in no run folder.*--set gates.teacher_margin=null"):
        sources_of(elsewhere, run.task, GOLD, teacher_file=None, log_file=None)
    teacher = tmp_path / "labels.jsonl"
    with pytest.raises(InputError, match=r"--log: needed for gates.slice_margin"):
        sources_of(elsewhere, run.task, GOLD, teacher_file=teacher, log_file=None)
    plain = make_task(data={"dir": str(tmp_path), "labels": "labels.jsonl"})
    found = sources_of(elsewhere, plain, GOLD, teacher_file=None, log_file=None)
    assert (found.teacher, found.traffic) == (None, None)


def test_gold_that_the_teacher_never_saw_names_the_option(run: Run) -> None:
    with pytest.raises(InputError, match=r"--teacher: .* fewer than half of the gold queries have labels in .*label"):
        sources_of(bundle_of(run), run.task, GOLD[1:], teacher_file=None, log_file=None)


def test_labels_that_the_bundle_was_not_made_of_are_left(run: Run, tmp_path: Path) -> None:
    bundle = bundle_of(run)
    other = {"query": "thing0 milk", "labels": [{"role": "brand", "text": "thing0"}]}
    (tmp_path / "labels.jsonl").write_text(json.dumps(other) + "\n")
    run_up_to(Run.of(run.task, tmp_path / "runs", ProgressDisplay()), "label")
    with pytest.raises(InputError, match="--teacher"):
        sources_of(bundle, run.task, GOLD, teacher_file=None, log_file=None)


def test_a_log_without_counts_names_the_option(tmp_path: Path) -> None:
    run = Run.of(task_of(tmp_path, counts=False), tmp_path / "runs", ProgressDisplay())
    with pytest.raises(InputError, match=r"--log: .*all queries of .* have one count"):
        sources_of(bundle_of(run), run.task, GOLD, teacher_file=None, log_file=None)


def evaluated(run: Run, bundle: str) -> None:
    """An evaluate stage that names the bundle that it judged, with the merged model's answers."""
    def work(run: Run, folder: Path) -> dict[str, int]:
        answers = EvaluateFolder(folder).predictions(MERGED)
        answers.parent.mkdir()
        answers.write_text("".join(json.dumps(g.to_json()) + "\n" for g in GOLD))
        return {}

    execute(Stage(name="evaluate", config=lambda _run: {}, inputs=lambda _run: {"bundle": bundle}, work=work), run)


def test_a_gate_compares_the_engine_on_the_gold_rows_of_the_run_that_evaluated_the_bundle(
    run: Run, tmp_path: Path
) -> None:
    """On reference rows alone, a gate passed what the run had failed on gold."""
    bundle = bundle_of(run)
    assert merged_answers(bundle, GOLD) is None
    evaluated(run, run.digest("bundle"))
    assert merged_answers(bundle, GOLD[1:]) == GOLD[1:]
    assert merged_answers(bundle, [*GOLD, Example("a query of other gold")]) is None
    evaluated(run, "another bundle")
    assert merged_answers(bundle, GOLD) is None
    elsewhere = tmp_path / "bundle"
    bundle.rename(elsewhere)
    assert merged_answers(elsewhere, GOLD) is None


@pytest.mark.parametrize(("figures", "said"), [
    ({"openvino": {"bits": 16}}, r"Set serving\.dtype: float32"),
    ({"openvino": None}, r"Set serving\.quantization: none or"),
])
def test_the_advice_fits_the_bits_of_the_export(tmp_path: Path, figures: dict[str, Any], said: str) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_text(json.dumps({"figures": figures}))
    check = Check("engine_label_agreement", ok=False, found="93 %", asked="at least 99 %", evidence={"value": 0.93},
                  what="labels")
    with pytest.warns(InputWarning, match=said):
        advise([check], make_task(), tmp_path / "bundle" / "bundle")
