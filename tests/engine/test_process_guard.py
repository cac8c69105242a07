"""Child and grandchild processes end with the process that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.processes import gone

# Starts a group of a child and a grandchild under a guard, and prints their process ids.
PARENT = """
import subprocess, sys, time
from engine.process_guard import Guard
child = subprocess.Popen(
    ["sh", "-c", "sleep 300 & echo $!; wait"],
    stdout=subprocess.PIPE, text=True, start_new_session=True,
)
guard = Guard(child.pid)
print(child.pid, child.stdout.readline().strip(), flush=True)
if sys.argv[1] == "dismiss":
    guard.dismiss()
else:
    time.sleep(300)
"""


@pytest.mark.parametrize("with_child", [False, True])
def test_a_killed_parent_takes_the_whole_group_with_it(with_child: bool) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, "wait"], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child, grandchild = map(int, parent.stdout.readline().split())
    if with_child:
        os.kill(child, signal.SIGKILL)
    parent.kill()
    parent.wait()
    assert gone(child)
    assert gone(grandchild)


def test_a_dismissed_guard_kills_nothing() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, "dismiss"], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child, grandchild = map(int, parent.stdout.readline().split())
    parent.wait()
    assert not gone(grandchild, 0.5)
    os.killpg(child, signal.SIGKILL)
    assert gone(grandchild)
