from __future__ import annotations

from pathlib import Path

import pytest

from task.captures import file_of
from task.errors import InputError
from task.feedback import Feedback, Kind, read_feedback
from task.files import write_jsonl
from task.labels import Label

DAY = 86_400.0


def made(kind: Kind, at: float) -> Feedback:
    return Feedback(
        query="oat milk" if kind != "wrong" else None, keyed_hash="ab" if kind == "wrong" else None, kind=kind,
        task="toy", bundle="b1" if kind == "right" else None,
        labels=(Label("product", "milk", 4, 8),) if kind == "labels" else None, item="i1" if kind == "item" else None,
        count=2 if kind == "item" else 1, at=at,
    )


def test_every_kind_is_read_as_it_was_written_within_the_time_that_is_asked_for(tmp_path: Path) -> None:
    given = [made("right", 10.0), made("wrong", DAY + 1), made("labels", DAY + 2), made("item", 3 * DAY)]
    for one in given:
        path = file_of(tmp_path, one.at)
        before = [x.row() for x in given if x.at < one.at and file_of(tmp_path, x.at) == path]
        write_jsonl(path, [*before, one.row()])
    assert list(read_feedback(tmp_path)) == given
    assert list(read_feedback(tmp_path, since=DAY + 2, until=3 * DAY)) == [given[2]]
    assert "query" not in given[1].row()


def test_a_correction_to_no_labels_is_not_a_missing_one(tmp_path: Path) -> None:
    one = Feedback("oat", None, "labels", "toy", None, (), None, 1, 5.0)
    write_jsonl(file_of(tmp_path, 5.0), [one.row()])
    assert list(read_feedback(tmp_path)) == [one]


@pytest.mark.parametrize("change", [{"kind": "maybe"}, {"kind": "item"}, {"count": None}, {"at": "noon"}])
def test_a_line_that_a_service_does_not_write_is_told(tmp_path: Path, change: dict[str, object]) -> None:
    path = file_of(tmp_path, 5.0)
    write_jsonl(path, [made("right", 5.0).row(), made("right", 5.0).row() | change])
    with pytest.raises(InputError, match=r"1970-01-01\.jsonl:2: not feedback"):
        list(read_feedback(tmp_path))
