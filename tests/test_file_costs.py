"""The files that are started first exist, so that a file that moves keeps its place."""

from __future__ import annotations

from pathlib import Path

from tests.file_costs import CPU_SECONDS


def test_every_file_of_the_list_is_there() -> None:
    assert [name for name in CPU_SECONDS if not (Path(__file__).parent.parent / name).is_file()] == []
