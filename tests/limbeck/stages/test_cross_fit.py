"""The cross-fit stage for real: students under Ray find planted errors, and training leaves them out."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import yaml

from limbeck.pipeline import run_up_to
from limbeck.progress_display import ProgressDisplay
from limbeck.run import Run
from limbeck.stage import execute
from limbeck.stages.cross_fit import (
    PACKED,
    STAGE,
    after_review,
    cleaned,
    doubted,
    missing,
    read_suspects,
    without,
    write_suspects,
)
from student.label_errors import Suspect
from task.codec import Codec
from task.files import read_json
from task.labels import Doubt, Example, Label
from task.load import load_task
from task.training_row import TrainingRow
from teacher.backends.llm.review import CUT
from teacher.curriculum.rows import read
from teacher.ledger.records import LedgerRow
from tests.conftest import make_task

BRANDS, PRODUCTS = ["verdant", "oatly", "zing", "kora"], ["milk", "bread", "tea", "rice", "soap", "juice"]
ENDS = ["", "1l", "fresh", "cheap", "big", "new", "best", "500g", "online", "today"]


def labelled() -> list[dict[str, object]]:
    """`brand product end`; in every twelfth row brand and product have changed their roles."""
    out = []
    for i, (brand, product, end) in enumerate(itertools.product(BRANDS, PRODUCTS, ENDS)):
        roles = ("product", "brand") if i % 12 == 5 else ("brand", "product")
        labels = [{"role": r, "text": t} for r, t in zip(roles, (brand, product), strict=True)]
        out.append({"query": f"{brand} {product} {end}".strip(), "labels": labels})
    return out


def planted(tmp_path: Path, tiny_llama: Path, steps: int, progress: ProgressDisplay) -> Run:
    """A task with the planted errors, run as far as its curriculum."""
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(r) + "\n" for r in labelled()))
    (tmp_path / "task.yaml").write_text(yaml.safe_dump({
        "name": "planted", "roles": [{"name": "brand"}, {"name": "product"}],
        "data": {"dir": ".", "labels": "labels.jsonl"}, "teacher": {"backend": "labels"},
        "curriculum": {"dev_fraction": 0.05, "cross_fit": {"folds": 2, "steps": steps}},
        "student": {
            "base": str(tiny_llama), "dtype": "float32", "batch_size": 16, "max_steps": 4, "learning_rate": 0.01,
            "lora": {"rank": 4, "alpha": 8}, "eval_every": 100, "cpus_per_worker": 1, "warmup_steps": 2,
        },
    }))
    run = Run.of(load_task(tmp_path / "task.yaml").task, tmp_path / "runs", progress)
    run_up_to(run, "curriculum")
    return run


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_planted_errors_are_found_and_not_learned_from(tiny_llama: Path, tmp_path: Path) -> None:
    with ProgressDisplay() as progress:
        run = planted(tmp_path, tiny_llama, 60, progress)
        run_up_to(run, "train")
        done = execute(STAGE, run)
    assert done.skipped  # it stands already: training wanted it
    wrong = {str(r["query"]) for r in labelled() if r["labels"][0]["role"] == "product"}  # type: ignore[index]
    rows = {r.example.query: r for r in read(run.finished("curriculum"), "train")}
    found = {json.loads(x)["query"] for x in (done.folder / "suspects.jsonl").read_text().splitlines()}
    assert len(found & wrong) >= 0.8 * len(wrong & set(rows))
    assert len(found & wrong) >= 0.8 * len(found)
    left = {r.example.query: r for r in read(done.folder, "train")}
    assert set(left) == set(rows)
    assert {q for q, r in left.items() if r.doubts} == found
    job = json.loads((run.finished("train") / "job.json").read_text())
    assert {r["query"] for r in job["train"] if r["doubts"]} == found
    assert not (done.folder / "folds").exists()
    assert len(read_json(done.folder / PACKED)) == 2
    assert 0 < done.figures["packed_logit_error"] < 1e-3
    assert done.figures["packed_label_agreement"] == 1


def test_the_share_of_decisions_that_are_doubted() -> None:
    """Words of every query, and each closed role once."""
    task = make_task()
    examples = [Example("oat milk"), Example("rye")]
    codec = Codec(
        form="read", segmentation="whitespace", roles=("brand", "product"), single=(), closed=(),
        symbol_ids=(1, 2, 3, 4, 5), separator=(0,), eos_id=0,
    )
    assert doubted(2, examples, codec, task) == round(2 / (3 + 2 * 2), 4)
    assert doubted(0, [], codec, task) == 0.0


def test_students_that_doubt_too_much_change_nothing() -> None:
    """Three of the seven decisions about two queries, where a fifth is the most that students are believed."""
    task = make_task(curriculum={"cross_fit": {"folds": 2}})
    rows = [TrainingRow(Example(q)) for q in ("oat milk", "rye")]
    codec = Codec(
        form="read", segmentation="whitespace", roles=("brand", "product"), single=(), closed=(),
        symbol_ids=(1, 2, 3, 4, 5), separator=(0,), eos_id=0,
    )

    def suspect(row: int, start: int, end: int) -> Suspect:
        return Suspect(row, Doubt("brand", start, end), given=0.01, instead=0.9, says="brand")

    many = [suspect(0, 0, 3), suspect(0, 4, 8), suspect(1, 0, 3)]
    left, figures = cleaned(task, rows, rows, many, codec, review=dict)
    assert figures == {"suspects": 3, "rows_with_suspects": 0, "doubted": round(3 / 7, 4), "train": 2}
    assert left == rows
    left, figures = cleaned(task, rows, rows, many[:1], codec, review=dict)
    assert (figures["rows_with_suspects"], [len(r.doubts) for r in left]) == (1, [1, 0])


def test_what_is_suspected_is_masked_or_its_row_dropped() -> None:
    rows = [TrainingRow(Example(q), cluster=q) for q in ("oat milk", "tea")]
    doubt = Doubt("brand", 0, 3)
    masked = without(rows, {"oat milk": [doubt]}, "mask")
    assert [r.doubts for r in masked] == [(doubt,), ()]
    assert [r.example.query for r in without(rows, {"oat milk": [doubt]}, "drop")] == ["tea"]


def test_what_the_teacher_says_at_the_second_look_counts() -> None:
    old, new = (Label("brand", "oat", 0, 3),), (Label("product", "oat", 0, 3, confidence=0.4),)
    names = ["insists tea", "changes tea", "fails tea", "undoubted tea", "cut tea", "partial tea"]
    rows = [TrainingRow(Example(q, old), cluster=q, confidence=0.9) for q in names]
    doubt = Doubt("brand", 0, 3)
    doubts = {q: [doubt] for q in names if q != "undoubted tea"}
    reviewed = {
        names[0]: LedgerRow(names[0], 1, "", "accepted", old, 1.0),
        names[1]: LedgerRow(names[1], 1, "", "accepted", new, 1.0),
        names[2]: LedgerRow(names[2], 1, "", "failed", (), 0.0),
        names[4]: LedgerRow(names[4], 1, "", "failed", (), 0.0, reason=CUT),
        names[5]: LedgerRow(names[5], 1, "", "partial", (), 0.0),
    }
    after, counts = after_review(rows, doubts, reviewed)
    assert counts == {"insisted": 1, "changed": 1, "unanswered": 3, "no_answer": 1}
    assert [r.doubts for r in after] == [(), (), (doubt,), (), (doubt,), (doubt,)]
    assert [r.example.labels for r in after] == [old, (Label("product", "oat", 0, 3),), old, old, old, old]


def test_doubts_without_an_answer_leave_the_stage_open(tmp_path: Path) -> None:
    run = Run.of(make_task(), tmp_path, ProgressDisplay())
    figures = {"suspects": 5, "rows_with_suspects": 4, "doubted": 0.1, "train": 9}
    assert missing(run, figures) is None  # of before, or without questions
    assert missing(run, figures | {"no_answer": 0}) is None
    left = missing(run, figures | {"no_answer": 3})
    assert left is not None
    assert (left.text, left.fails) == ("3 of 4 doubted queries got no answer when reviewed", True)


def test_suspects_are_read_as_they_were_written(tmp_path: Path) -> None:
    """A stage that only lacks answers trains no student again."""
    usable = [TrainingRow(Example(q)) for q in ("oat milk", "rye")]
    found = [Suspect(1, Doubt("brand", 0, 3), 0.01, 0.9, "nothing"), Suspect(0, Doubt("aisle"), 0.2, 0.7, "dairy")]
    write_suspects(tmp_path / "suspects.jsonl", usable, found)
    assert read_suspects(tmp_path / "suspects.jsonl", usable) == found
