from __future__ import annotations

import datetime
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from typer.testing import CliRunner

from limbeck.cli import app
from limbeck.progress_display import ProgressDisplay
from limbeck.rounds.drift import TooFewError, unseen_words
from limbeck.run import Run
from serving.telemetry.drift_gauges import DriftGauges
from task.captures import FOLDER, Capture, file_of
from task.errors import InputError, InputWarning
from task.feedback import Feedback, Kind
from task.files import write_jsonl
from task.load import load_task
from tests.documented import documented

DAY = 86_400.0
RELEASE = datetime.datetime(2026, 11, 2, tzinfo=datetime.UTC).timestamp()
KNOWN = [f"{a} {b}" for a in ("oat", "soy", "rice", "nut", "whole", "goat") for b in (
    "milk", "cream", "cheese", "butter", "bread", "tea", "coffee", "juice", "water", "jam", "soap", "cake", "pasta",
    "beans", "oil", "salt", "sugar", "honey", "pie", "soup", "stew", "nuts", "tarts", "rolls", "chips")]


@pytest.fixture
def task_file(tmp_path: Path, embedder_folder: Path) -> Path:
    write_jsonl(tmp_path / "log.jsonl", ({"query": q, "count": 9} for q in KNOWN))
    write_jsonl(tmp_path / "items.jsonl", [{"id": "1", "title": "Oat Milk", "category": "Dairy > oat milk"}])
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({
        "name": "t", "roles": [{"name": "product", "catalogue": "category.leaf"}],
        "data": {"dir": str(tmp_path), "queries": "log.jsonl", "catalogue": "items.jsonl"},
        "teacher": {"retrieval": {"embedder": str(embedder_folder)}},
    }))
    return tmp_path / "t.yaml"


def capture(query: str, at: float, **fields: Any) -> Capture:
    return Capture(**{
        "query": query, "keyed_hash": None, "count": 1, "weight": 2.0, "source": "student", "status": "ok",
        "bundle": "b", "task": "t", "probability": 0.95, "roles": {"product": 1}, "at": at, **fields,
    })


def weeks(state: Path, *, new: bool = False, texts: bool = True, size: int = 1_000, **now: Any) -> Path:
    """A week after the release, and one a fortnight later, in which a tenth of the queries may have new words."""
    rng, found = random.Random(3), []
    for begin, later in ((RELEASE, False), (RELEASE + 14 * DAY, True)):
        for i in range(size):
            number = rng.randrange(len(KNOWN))
            query = KNOWN[number] if not (new and later and i % 10 == 0) else f"{KNOWN[number]} zog"
            kept = capture(query, begin + i * 7 * DAY / size, **(now if later else {}))
            found.append(kept if texts else replace(kept, query=None, keyed_hash=f"h{number}"))
    for file in {file_of(state / FOLDER, c.at) for c in found}:
        write_jsonl(file, (c.row() for c in found if file_of(state / FOLDER, c.at) == file))
    return state


def asked(task_file: Path, state: Path, *more: str) -> Any:
    return CliRunner().invoke(app, [
        "drift", str(task_file), "--state", str(state), "--since", "2026-11-16", "--runs", str(state / "runs"), *more,
    ])


def gauges(state: Path) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(DriftGauges(state))
    return registry


def test_calm_weeks_are_no_drift(task_file: Path, tmp_path: Path) -> None:
    words = documented("limbeck drift TASK --since 2026-11-16", TASK=task_file)
    state = weeks(tmp_path / "s")
    done = CliRunner().invoke(app, [*words, "--state", str(state), "--runs", str(tmp_path / "runs"), "--fail"])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "Nothing has moved beyond what weeks of the same market differ by." in done.output
    assert b'limbeck_drifted{task="t"} 0.0' in generate_latest(gauges(state))


def test_new_words_and_doubt_call_for_a_round(task_file: Path, tmp_path: Path) -> None:
    state = weeks(tmp_path / "s", new=True, probability=0.8)
    done = asked(task_file, state, "--json", str(tmp_path / "out.json"))
    assert done.exit_code == 0, (done.output, done.exception)
    assert "A round is worth its money: 10.0 % of the traffic has words" in done.output
    assert "expected error went from 5.0 % to 20.0 %" in done.output
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["round"] is True
    assert set(found["figures"]) == {"cache", "role product", "expected error", "unseen words", "queries"}
    assert asked(task_file, state, "--fail").exit_code == 1


def test_a_state_folder_that_cannot_be_written_to_costs_only_the_gauges(task_file: Path, tmp_path: Path) -> None:
    state = weeks(tmp_path / "s")
    (state / "drift").write_text("in the way")
    with pytest.warns(InputWarning, match="cannot be left for the service's metrics"):
        done = asked(task_file, state, "--json", str(tmp_path / "out.json"))
    assert done.exit_code == 0
    assert json.loads((tmp_path / "out.json").read_text())["drifted"] is False


def judged(state: Path, *, wrong: int, size: int = 200) -> None:
    """Of the verdicts in the reference week a tenth are wrong, of those a fortnight later one in `wrong`."""
    found: list[Feedback] = []
    for begin, every in ((RELEASE, 10), (RELEASE + 14 * DAY, wrong)):
        kinds: list[Kind] = ["right" if i % every else ("wrong", "labels")[i % 2] for i in range(size)]
        found += [
            Feedback(KNOWN[i % len(KNOWN)], None, kind, "t", (None, "b")[i % 2], () if kind == "labels" else None, None,
                     1, begin + i * 7 * DAY / size)
            for i, kind in enumerate(kinds)
        ]
        # Of other bundles, or no verdicts at all.
        found.append(Feedback("oat milk", None, "wrong", "t", "earlier", None, None, 500, begin))
        found.append(Feedback("oat milk", None, "item", "t", "b", None, "1", 500, begin))
    for file in {file_of(state / "feedback", f.at) for f in found}:
        write_jsonl(file, (f.row() for f in found if file_of(state / "feedback", f.at) == file))


def test_clients_that_call_more_answers_wrong_call_for_a_round(task_file: Path, tmp_path: Path) -> None:
    state = weeks(tmp_path / "s")
    judged(state, wrong=3)
    done = asked(task_file, state)
    assert "A round is worth its money: clients call 33.5 % of the answers that they judge wrong (10.0 %" in done.output
    judged(state, wrong=9)
    assert "Nothing has moved" in asked(task_file, state).output
    judged(state, wrong=3, size=25)
    assert "Not measured: called wrong (a period has fewer than 30 verdicts of clients)" in asked(
        task_file, state
    ).output


def test_words_of_one_query_each_are_slips_and_no_drift(task_file: Path, tmp_path: Path) -> None:
    run = Run.of(load_task(task_file).task, tmp_path / "runs", ProgressDisplay())
    texts = ["oat milk", "oat mlik", "soy zog", "nut zog", "rice zog"]
    assert unseen_words(run, texts) == [False, False, True, True, True]
    assert unseen_words(run, texts[:4]) == [False] * 4


def test_a_service_that_keeps_hashes_only_is_judged_by_its_answers(task_file: Path, tmp_path: Path) -> None:
    done = asked(task_file, weeks(tmp_path / "s", texts=False, roles={}))
    assert "role product" in done.output
    assert "the service does not keep texts" in done.output
    assert "The traffic has moved, but nothing says that answers are worse" in done.output


def test_too_few_captures_are_no_measurement(task_file: Path, tmp_path: Path) -> None:
    done = asked(task_file, weeks(tmp_path / "s", size=40))
    assert isinstance(done.exception, TooFewError)
    assert done.exception.exit_code == 3


def test_no_captures_and_a_period_inside_of_the_reference_are_bad_input(task_file: Path, tmp_path: Path) -> None:
    none = asked(task_file, tmp_path / "none")
    assert isinstance(none.exception, InputError)
    assert none.exception.exit_code == 2
    assert "no captures of this task" in str(none.exception)
    early = CliRunner().invoke(app, [
        "drift", str(task_file), "--state", str(weeks(tmp_path / "s")), "--since", "2026-11-05",
    ])
    assert isinstance(early.exception, InputError)
    assert early.exception.field == "--since"
    assert early.exception.problem.endswith("is the reference, and ends at 2026-11-09")
    assert "found '2026-11-05'; expected 2026-11-09 or later" in str(early.exception)
