"""The estimates of `limbeck plan` rest on measurements that are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limbeck.plan import QUERIES_PER_S, make_plan, minutes
from task.files import read_json
from task.load import LoadedTask
from teacher.backends.backend import backend_of
from tests.conftest import make_task


@pytest.mark.parametrize("backend", QUERIES_PER_S)
def test_the_rate_of_a_backend_is_the_one_that_was_measured_with_it(backend: str) -> None:
    rate, measured = QUERIES_PER_S[backend]
    (label,) = [s for s in read_json(Path(measured))["stages"] if s["name"] == "label"]
    assert rate == pytest.approx(label["figures"]["rows"] / label["wall_s"], rel=0.02)


def test_the_time_of_labels_that_are_there_already_is_that_of_reading_and_checking_them(tmp_path: Path) -> None:
    rows = [{"query": f"oat milk {i}", "labels": []} for i in range(9_004)]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    task = make_task(data={"dir": str(tmp_path), "labels": "labels.jsonl"})
    assert not backend_of(task).asks_llm
    (time,) = [x for x in make_plan(LoadedTask(task, tmp_path / "task.yaml"))["teacher"] if x.name == "time"]
    assert (time.value, time.basis.split(",")[:2]) == ("2 s", ["4", "430 queries/s"])


def test_durations() -> None:
    assert [minutes(s) for s in (0.2, 1.6, 600, 7_200)] == ["under 1 s", "2 s", "10 min", "2.0 h"]
