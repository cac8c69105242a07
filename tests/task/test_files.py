from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from task.files import write_jsonl


def test_rows_are_written_one_by_one_and_all_or_none(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert write_jsonl(path, ({"n": n} for n in range(3))) == 3
    before = path.read_text()
    assert before.splitlines() == ['{"n": 0}', '{"n": 1}', '{"n": 2}']

    def broken() -> Iterator[dict[str, Any]]:
        yield {"n": 9}
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        write_jsonl(path, broken())
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]
