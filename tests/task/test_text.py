"""Half characters, and JSON that is one line to every reader."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
from hypothesis import given
from hypothesis import strategies as st

from task.files import write_jsonl
from task.table_files import rows_of
from task.text import has_half_character, one_line, one_line_bytes, repaired
from tests.teacher.ledger.test_any_text import ANY_TEXT

WHOLE = ANY_TEXT.map(repaired)


@given(ANY_TEXT)
def test_a_repaired_text_is_unicode_and_the_same_where_it_was(text: str) -> None:
    found = repaired(text)
    assert found.encode().decode() == found
    assert not has_half_character(found)
    assert (found == text) == (not has_half_character(text))


def test_two_halves_become_the_character_that_they_are() -> None:
    assert repaired("\ud83e" + "\udd5b milk") == "\U0001f95b milk"
    assert repaired("\udd5b\ud83e milk \ud83e") == "\ufffd\ufffd milk \ufffd"


@given(WHOLE)
def test_a_json_line_is_one_line_to_every_reader(text: str) -> None:
    value = {"query": text, "labels": [text]}
    line = one_line(json.dumps(value, ensure_ascii=False))
    assert line.splitlines() == [line]
    assert one_line_bytes(json.dumps(value, ensure_ascii=False).encode()) == line.encode()
    two = httpx.Response(200, content=f"{line}\n{line}\n".encode())
    assert [json.loads(x) for x in two.iter_lines()] == [value, value]
    assert json.loads(line) == value


def test_our_json_lines_are_read_by_every_reader(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"

    @given(st.lists(WHOLE, min_size=1, max_size=4))
    def check(texts: list[str]) -> None:
        rows = [{"query": t} for t in texts]
        write_jsonl(path, rows)
        raw = path.read_bytes().decode()
        assert [json.loads(x) for x in raw.splitlines()] == rows
        assert [json.loads(x) for x in raw.split("\n")[:-1]] == rows
        assert [row for _, row in rows_of(path)] == rows

    check()
