from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from eval.report import write_rounds
from limbeck.artefacts import RunFolder
from limbeck.progress_display import ProgressDisplay
from limbeck.rounds.folders import round_folder
from limbeck.rounds.history import Ending, Opening, Outcome, Round, alone, open_round, rounds_of
from limbeck.rounds.learned import labelled_queries
from limbeck.rounds.round import _origin
from limbeck.rounds.view import page_of, rows_of_rounds, table
from limbeck.rounds.watch import due
from limbeck.run import Run
from task.errors import InputError
from task.files import write_json, write_jsonl
from task.settings import Cost
from tests.conftest import make_task

NOW = datetime.datetime(2026, 11, 29, tzinfo=datetime.UTC).timestamp()


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "toy")


def opening(tmp_path: Path, student: str = "a", origin: int = 0) -> Opening:
    return Opening(
        opened="2026-11-01T00:00:00+00:00", since=0.0, until=NOW, student=student, origin=origin,
        pointer=tmp_path / "live.json", state=tmp_path / "state", asked=True, attempt=0,
    )


def test_rounds_follow_each_other_and_are_read_back(run: RunFolder, tmp_path: Path) -> None:
    assert rounds_of(run.folder) == []
    first = open_round(run, opening(tmp_path))
    assert rounds_of(run.folder) == [first]
    done = first.end("refused", "F1 is lower", bundle="b")
    round_folder(run.folder, 2).folder.mkdir()  # of a process that was killed before it could say what the round is
    second = open_round(run, opening(tmp_path, "b", 1))
    assert second.number == 2
    assert rounds_of(run.folder) == [done, second]


def test_a_damaged_file_names_itself_and_what_to_do(run: RunFolder, tmp_path: Path) -> None:
    one = open_round(run, opening(tmp_path))
    one.folder.opening.write_text('{"opened": "yesterday"}')
    with pytest.raises(InputError, match=r"round\.json: not what a round writes: Field required\. Restore it"):
        rounds_of(run.folder)


def test_two_at_once_are_one_too_many(run: RunFolder) -> None:
    with alone(run):
        pass
    with (
        FileLock(run.folder / "rounds" / "lock"), pytest.raises(InputError, match="a round of this task is running"),
        alone(run),
    ):
        pass


def test_the_released_student_is_looked_for_in_the_run_and_its_rounds(run: RunFolder, tmp_path: Path) -> None:
    run.bundle.bundle.mkdir(parents=True)
    write_json(run.bundle.manifest, {"id": "a"})
    rounds = [open_round(run, opening(tmp_path)).end("released", "served", bundle="b")]
    rounds.append(open_round(run, opening(tmp_path, "b", 1)).end("refused", "worse", bundle="c"))
    assert [_origin(run, rounds, s, tmp_path / "live.json") for s in ("a", "b", "c")] == [0, 1, 2]
    with pytest.raises(InputError, match="neither this run's nor one of its rounds'"):
        _origin(run, rounds, "d", tmp_path / "live.json")


def test_what_released_rounds_have_labelled_is_known(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "log.jsonl", [{"query": "oat milk"}])
    task = make_task(data={"dir": str(tmp_path), "queries": "log.jsonl", "labels": "log.jsonl"})
    run = Run.of(task, tmp_path / "runs", ProgressDisplay())
    for query, ending in (("rye bread", "released"), ("zog", "refused")):
        one = open_round(run.files, opening(tmp_path))
        write_jsonl(one.folder.label.labels, [{"query": query}])
        write_jsonl(one.folder.label.random, [{"query": f"{query} drawn"}])
        one.end("released" if ending == "released" else "refused", "")
    assert [x.query for x in labelled_queries(run)] == ["oat milk", "rye bread", "rye bread drawn"]


def ended(days_ago: float, ending: Ending = "released") -> Round:
    at = datetime.datetime.fromtimestamp(NOW - days_ago * 86_400, datetime.UTC).isoformat(timespec="seconds")
    return Round(1, round_folder(Path("x"), 1), opening(Path("x")), Outcome(ending=ending, why="", finished=at))


@pytest.mark.parametrize(("rounds", "every", "why"), [
    ([], None, None), ([], 30.0, "there was no round yet"), ([ended(10)], 30.0, None), ([ended(10)], None, None),
    ([ended(31)], 30.0, "the last round ended 31.0 days ago"),
    ([ended(31), ended(1, "not worth it")], 30.0, "the last round ended 31.0 days ago"),
])
def test_a_round_is_due_by_schedule(rounds: list[Round], every: float | None, why: str | None) -> None:
    assert due(rounds, every, NOW) == why


def test_a_round_that_was_stopped_is_always_due(run: RunFolder, tmp_path: Path) -> None:
    assert due([open_round(run, opening(tmp_path))], None, NOW) == "round 1 is not finished"


def test_the_bill_of_a_round_and_when_it_is_earned_back(run: RunFolder, tmp_path: Path) -> None:
    one = open_round(run, opening(tmp_path))
    for stage, seconds, figures in (("label", 3600, {"cost": 7.0}), ("train", 7200, {})):
        one.folder.folder.joinpath(stage).mkdir()
        write_json(one.folder.folder / stage / "manifest.json", {
            "figures": figures, "wall_s": seconds, "inputs": {}, "device": {"cores": 2},
        })
    prices = Cost(label_hour=1.0, train_hour=2.5)
    cost: Any = {"per_million": {"teacher": 2_000.0, "served": 500.0}, "queries_a_day": 100.0}
    (row,) = rows_of_rounds([one], prices, cost)
    assert (row["cost"], row["machines"]) == (7.0, 6.0)
    assert row["break_even"] == {"queries": round(13 / 0.0015), "days": round(13 / 0.0015 / 100, 3)}
    assert f"| 7.00 | 6.00 | {round(13 / 0.0015):,} queries |" in table([row])
    for unknown in (None, cost | {"imported": True}, cost | {"per_million": {"teacher": 1.0, "served": 1.0}}):
        assert rows_of_rounds([one], prices, unknown)[0]["break_even"] is None
    (listed,) = rows_of_rounds([one])
    assert listed["machines"] > 0  # at the list price of the machine that the manifest names


def test_the_list_says_where_an_unfinished_round_stands(run: RunFolder, tmp_path: Path) -> None:
    one = open_round(run, opening(tmp_path))
    assert rows_of_rounds([one])[0]["ending"] == "begun"
    one.folder.folder.joinpath("drift").mkdir()
    write_json(one.folder.folder / "drift" / "manifest.json", {
        "figures": {"sentence": "Nothing has moved."}, "wall_s": 60, "inputs": {},
    })
    row = rows_of_rounds([one])[0]
    assert (row["ending"], row["drift"], row["minutes"]) == ("after drift", "Nothing has moved.", 1.0)
    assert "| 1 | 2026-11-01T00:00 | after drift | 0 | 0.00 | 0.00 | – | 1.0 | – | – | not finished" in table([row])
    page = page_of(make_task(), [one])
    assert page["cost"] == 0.0
    write_rounds(tmp_path / "rounds.html", page)
    html = (tmp_path / "rounds.html").read_text()
    assert "after drift" in html
    assert "Nothing has moved." in html
    assert "<svg" not in html  # no student was judged yet
    write_rounds(tmp_path / "rounds.html", page_of(make_task(), []))
    assert "There was no round yet." in (tmp_path / "rounds.html").read_text()
