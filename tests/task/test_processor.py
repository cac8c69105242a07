from __future__ import annotations

import sys

import pytest

from task.processor import cpuinfo


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc/cpuinfo is Linux's")
def test_the_first_line_with_one_of_the_fields() -> None:
    assert cpuinfo("no such field", "processor").replace("\t", "") == "processor: 0"


def test_a_field_that_is_not_there_is_empty() -> None:
    assert cpuinfo("no such field") == ""
