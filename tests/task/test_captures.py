from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task.captures import Capture, day_of, file_of, read_captures
from task.errors import InputError
from task.files import write_jsonl
from tests.strategies import QUERIES

DAY = 86_400.0
MIDNIGHT = datetime.datetime(2026, 11, 29, tzinfo=datetime.UTC).timestamp()


def capture(at: float, **fields: Any) -> Capture:
    return Capture(**{
        "query": "oat milk", "keyed_hash": None, "count": 1, "weight": 1.0, "source": "student", "status": "ok",
        "bundle": "b", "task": "t", "probability": 0.5, "roles": {"product": 1}, "at": at, **fields,
    })


def kept(folder: Path, *captures: Capture) -> Path:
    for file in {file_of(folder, c.at) for c in captures}:
        write_jsonl(file, (c.row() for c in captures if file_of(folder, c.at) == file))
    return folder


def test_a_day_ends_at_midnight_of_utc(tmp_path: Path) -> None:
    assert file_of(tmp_path, MIDNIGHT - 0.001).name == "2026-11-28.jsonl"
    assert file_of(tmp_path, MIDNIGHT).name == "2026-11-29.jsonl"
    assert day_of(tmp_path / "2026-11-29.jsonl") == datetime.date(2026, 11, 29)
    assert day_of(tmp_path / "access.jsonl") is None


def test_only_the_wanted_time_is_read_and_in_order(tmp_path: Path) -> None:
    times = [MIDNIGHT + d * DAY + s for d in (-1, 0, 1) for s in (0.0, DAY - 1)]
    folder = kept(tmp_path, *map(capture, times))
    (tmp_path / "notes.jsonl").write_text("{}\n")
    assert [c.at for c in read_captures(folder)] == times
    assert [c.at for c in read_captures(folder, since=MIDNIGHT, until=MIDNIGHT + DAY)] == times[2:4]
    assert [c.at for c in read_captures(folder, since=MIDNIGHT + 1)] == times[3:]


@given(
    QUERIES, st.none() | st.floats(0, 1), st.integers(1), st.floats(1, 1e9),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, query: str, probability: float | None, count: int, weight: float,
    roles: dict[str, int],
) -> None:
    folder = tmp_path_factory.mktemp("captures")
    for row in (
        capture(MIDNIGHT, query=query, probability=probability, count=count, weight=weight, roles=roles),
        capture(MIDNIGHT, query=None, keyed_hash="0f"), capture(MIDNIGHT, query=None),
    ):
        assert list(read_captures(kept(folder, row))) == [row]


@pytest.mark.parametrize("change", [{"weight": "much"}, {"roles": ["product"]}, {"source": ...}, {"count": None}])
def test_a_line_that_is_no_capture_names_file_and_line(tmp_path: Path, change: dict[str, Any]) -> None:
    row = {k: v for k, v in (capture(MIDNIGHT).row() | change).items() if v is not ...}
    (tmp_path / "2026-11-29.jsonl").write_text(json.dumps(capture(MIDNIGHT).row()) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(InputError, match="not a capture") as error:
        list(read_captures(tmp_path))
    assert "2026-11-29.jsonl" in str(error.value)
    assert "2" in str(error.value)
