from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from limbeck.cli import app
from limbeck.rounds import picks
from limbeck.rounds.picks import Candidate, candidates, draws
from task import captures, feedback
from task.captures import Capture, file_of
from task.errors import InputError
from task.feedback import Feedback, Kind
from task.files import write_jsonl
from task.labels import Label
from task.readers import read_queries
from tests.documented import ROOT, documented
from tests.limbeck.rounds.test_drift import KNOWN, RELEASE, capture, task_file

__all__ = ["task_file"]
VERSION = "v1"
PROMPT = ROOT / "configs" / "prompts" / "label.j2"


def verdict(query: str, kind: Kind, *, bundle: str | None = None, count: int = 1) -> Feedback:
    return Feedback(query, None, kind, "t", bundle, (Label("product", query),) if kind == "labels" else None,
                    "1" if kind == "item" else None, count, RELEASE)


def found(held: list[Capture], said: list[Feedback] | None = None, known: set[str] | None = None) -> list[Candidate]:
    return candidates(held, said or [], known=known or set(), normalise_with=VERSION)


def test_spellings_are_one_query_under_the_most_frequent_one() -> None:
    held = [capture("Oat  Milk", 1, count=1, weight=3.0), capture("oat milk", 2, count=5, weight=5.0),
            capture("soy", 3), capture("  ", 4)]
    one, other = found(held, known={"soy"})
    assert (one.query, one.requests, one.known) == ("oat milk", 8.0, False)
    assert (other.query, other.known) == ("soy", True)


def test_the_error_is_that_of_the_bundle_that_answered_last() -> None:
    held = [capture("a", 1, bundle="old", probability=0.1), capture("b", 1, bundle="old", probability=0.2),
            capture("a", 2, bundle="new", probability=0.9, weight=1.0),
            capture("a", 3, bundle="new", probability=0.5, weight=3.0),
            capture("c", 3, source="cache", probability=None)]
    assert [c.error for c in found(held)] == pytest.approx([0.4, 0.8, 0.0])
    assert found(held)[0].expected_errors == pytest.approx(6.0 * 0.4)


def test_clients_verdicts_count_beside_the_probability() -> None:
    held = [capture(q, 1, probability=0.9) for q in "abcde"]
    said = [verdict("A", "wrong", count=3), verdict("b", "right", bundle="b"), verdict("c", "labels"),
            verdict("d", "wrong", bundle="another"), verdict("e", "item", count=9)]
    rows = found(held, said)
    assert [c.error for c in rows] == pytest.approx([3.1 / 4, 0.1 / 2, 1.1 / 2, 0.1, 0.1])
    assert [c.judged for c in rows] == [3, 1, 1, 0, 0]


def test_without_any_probability_traffic_decides() -> None:
    held = [capture("a", 1, probability=None), capture("b", 1, probability=None, source="cache")]
    assert [c.error for c in found(held)] == [1.0, 0.0]


def test_draws_follow_the_traffic() -> None:
    rows = [Candidate(str(i), requests, 0.0, 0, False) for i, requests in enumerate((60.0, 30.0, 10.0))]
    drawn = draws(rows, 100_000, seed=0)
    assert sum(drawn.values()) == 100_000
    assert [drawn[i] / 1_000 for i in range(3)] == pytest.approx([60, 30, 10], abs=0.7)  # four standard deviations
    assert draws(rows, 0, seed=0) == {}


def state_of(tmp_path: Path, held: list[Capture], said: list[Feedback] | None = None) -> Path:
    state = tmp_path / "state"
    write_jsonl(file_of(state / captures.FOLDER, RELEASE), (c.row() for c in held))
    if said:
        write_jsonl(file_of(state / feedback.FOLDER, RELEASE), (f.row() for f in said))
    return state


def asked(task_file: Path, state: Path, *more: str, overwrite: bool = True) -> Any:
    return CliRunner().invoke(app, [
        "pick", str(task_file), "--budget", "20", "--state", str(state), "--out", str(state / "picks.jsonl"),
        "--runs", str(state / "runs"), *(["--overwrite"] if overwrite else []), *more,
    ])


HELD = [
    *(capture(q, RELEASE, weight=5.0, probability=0.2) for q in KNOWN[:20]),
    *(capture(f"zog number {i}", RELEASE, weight=2.0, probability=0.5 + i / 100) for i in range(40)),
]


def test_new_labels_are_within_the_budget_and_go_where_errors_are(task_file: Path, tmp_path: Path) -> None:
    done = asked(task_file, state_of(tmp_path, HELD))
    assert done.exit_code == 0, (done.output, done.exception)
    rows = [json.loads(x) for x in (tmp_path / "state" / "picks.jsonl").read_text().splitlines()]
    random = [r for r in rows if r["why"] == "random"]
    errors = [r for r in rows if r["why"] == "errors"]
    assert sum(r["draws"] for r in random) == 5
    assert sum(not r["known"] for r in rows) <= 20
    assert not any(r["known"] for r in errors)
    assert len({r["query"] for r in rows}) == len(rows)
    assert [r["covers"] for r in errors] == sorted((r["covers"] for r in errors), reverse=True)
    assert "60 distinct queries stand for 180 requests." in done.output
    assert "Cost: about 0.00" in done.output
    refused = asked(task_file, tmp_path / "state", overwrite=False)
    assert isinstance(refused.exception, InputError)
    assert "--out: the file is there already" in str(refused.exception)
    again = asked(task_file, tmp_path / "state", "--out", str(tmp_path / "again.jsonl"))
    assert again.exit_code == 0
    assert (tmp_path / "again.jsonl").read_text() == (tmp_path / "state" / "picks.jsonl").read_text()


def test_with_a_large_budget_everything_that_may_be_wrong_is_picked(
    task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = state_of(tmp_path, [capture(f"zog number {i}", RELEASE, probability=0.9 + i / 100) for i in range(11)])
    monkeypatch.chdir(tmp_path)
    words = documented("limbeck pick TASK --budget 500", TASK=task_file)
    done = CliRunner().invoke(app, [*words, "--state", str(state), "--random", "0"])
    assert done.exit_code == 0, (done.output, done.exception)
    log = read_queries(tmp_path / "picks.jsonl")
    assert {x.query for x in log} == {f"zog number {i}" for i in range(10)}
    assert all(x.count == 2 for x in log)


def test_a_query_that_clients_call_wrong_is_picked_first(task_file: Path, tmp_path: Path) -> None:
    held = [replace(c, probability=0.99) for c in HELD]
    done = asked(task_file, state_of(tmp_path, held, [verdict("zog number 7", "wrong", count=9)]), "--random", "0")
    rows = [json.loads(x) for x in (tmp_path / "state" / "picks.jsonl").read_text().splitlines()]
    assert rows[0]["query"] == "zog number 7"
    assert "90%, 9 verdicts" in done.output


def test_the_cost_is_that_of_the_teachers_model(task_file: Path, tmp_path: Path) -> None:
    spec = yaml.safe_load(task_file.read_text())
    spec["teacher"] |= {"backend": "openai", "openai": {
        "base_url": "http://127.0.0.1:9/v1", "model": "m", "prompt": str(PROMPT),
    }}
    task_file.write_text(yaml.safe_dump(spec))
    state = state_of(tmp_path, HELD)
    assert "Cost: unknown; set teacher.openai.price_input_per_million" in asked(task_file, state).output
    spec["teacher"]["openai"] |= {"price_input_per_million": 1000.0, "price_output_per_million": 1000.0}
    task_file.write_text(yaml.safe_dump(spec))
    done = asked(task_file, state)
    assert "Cost: about 0.00" not in done.output
    assert "labels by the teacher 'openai'" in done.output


def test_where_there_are_too_many_candidates_it_is_said(
    task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = state_of(tmp_path, HELD)
    assert "were candidates" not in asked(task_file, state, "--random", "0").output
    monkeypatch.setattr(picks, "MOST_CANDIDATES", 10)
    said = asked(task_file, state, "--random", "0").output
    assert "10 picks cover 9.1 of 24.4 (37%)" in said
    assert "The 10 queries with the most expected errors were candidates; they have 9.1 of these." in said


def test_no_captures_and_no_texts_are_bad_input(task_file: Path, tmp_path: Path) -> None:
    none = asked(task_file, tmp_path / "none")
    assert isinstance(none.exception, InputError)
    assert "no captures of this task in this period" in str(none.exception)
    hashed = [replace(c, query=None, keyed_hash="h") for c in HELD]
    kept = asked(task_file, state_of(tmp_path, hashed))
    assert isinstance(kept.exception, InputError)
    assert kept.exception.exit_code == 2
    assert "keeps no texts" in str(kept.exception)
    assert not (tmp_path / "state" / "picks.jsonl").exists()
