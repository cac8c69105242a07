"""Freed memory is kept between steps."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, sys
from student.training.malloc_settings import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()

def step():
    parts = [bytearray(100_000) for _ in range(1_000)]
    while parts:
        parts.pop()

for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library has no such setting")
def test_later_steps_use_the_memory_of_earlier_ones() -> None:
    faults = {
        how: int(subprocess.run(
            [sys.executable, "-c", STEPS, how], check=True, capture_output=True, text=True
        ).stdout) for how in ("kept", "plain")
    }
    assert faults["kept"] < 1_000 < faults["plain"]
