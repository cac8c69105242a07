from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.telemetry.kept_files import KeptFiles
from serving.telemetry.logs import LineLog, UncertainLog
from task.serving_settings import Certain


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(x) for x in path.read_text().splitlines()]


def test_lines_are_appended_and_a_file_that_was_moved_is_made_anew(tmp_path: Path) -> None:
    log = LineLog(tmp_path / "a.jsonl")
    log.add({"n": 1})
    log.flush()
    (tmp_path / "a.jsonl").rename(tmp_path / "old")
    log.add({"n": 2})
    log.flush()
    log.flush()
    assert (rows(tmp_path / "old"), rows(tmp_path / "a.jsonl")) == ([{"n": 1}], [{"n": 2}])


def test_a_full_disk_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    log = LineLog(tmp_path / "full")
    for number in range(3):
        log.add({"n": number})
    log.flush()
    assert log.dropped == 3
    (tmp_path / "full").unlink()
    log.add({"n": 3})
    log.flush()
    assert rows(tmp_path / "full") == [{"n": 3}]


@pytest.mark.parametrize("keep", ["query", "hash", "nothing"])
def test_uncertain_queries_are_counted_and_written_as_configured(tmp_path: Path, keep: str) -> None:
    log, settings = UncertainLog(KeptFiles(tmp_path)), Certain.model_validate({"keep": keep})
    for _ in range(3):
        log.add(bundle="b", query="oat milk", probability=0.2, settings=settings)
    log.add(bundle="b", query="secret name", probability=0.1, settings=settings)
    log.flush()
    if keep == "nothing":
        assert not (tmp_path / "uncertain.jsonl").exists()
        return
    found = rows(tmp_path / "uncertain.jsonl")
    assert [(r["count"], r["probability"]) for r in found] == [(3, 0.2), (1, 0.1)]
    assert [r.get("query") for r in found] == (["oat milk", "secret name"] if keep == "query" else [None, None])
    assert ("secret" in (tmp_path / "uncertain.jsonl").read_text()) == (keep == "query")
    key = KeptFiles(tmp_path).key
    assert found[0].get("keyed_hash") == (None if keep == "query" else key.hash("oat milk"))


def test_a_full_disk_costs_uncertain_queries_which_are_counted(tmp_path: Path) -> None:
    (tmp_path / "uncertain.jsonl").symlink_to("/dev/full")
    log = UncertainLog(KeptFiles(tmp_path))
    log.add(bundle="b", query="oat milk", probability=0.2, settings=Certain())
    log.flush()
    assert log.dropped == 1


def test_a_query_is_sampled_always_or_never(tmp_path: Path) -> None:
    log, settings = UncertainLog(KeptFiles(tmp_path)), Certain(sample=0.5)
    for _ in range(2):
        for number in range(200):
            log.add(bundle="b", query=f"query {number}", probability=0.2, settings=settings)
        log.flush()
    found = [r["query"] for r in rows(tmp_path / "uncertain.jsonl")]
    assert found[: len(found) // 2] == found[len(found) // 2 :]
    assert 70 < len(found) / 2 < 130


def test_a_line_is_one_line_to_every_reader(tmp_path: Path) -> None:
    log = LineLog(tmp_path / "a.jsonl")
    log.add({"query": "rice\u2028milk\u0085 \ud83e"})
    log.flush()
    (line,) = (tmp_path / "a.jsonl").read_text().splitlines()
    assert json.loads(line)["query"] == "rice\u2028milk\u0085 ?"
