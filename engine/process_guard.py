"""Child processes end with this process, however it ends.

vLLM's core and workers are grandchildren. The kernel's parent-death signal reaches only their parent, our direct child.
If that child is killed as well, as Ray does with the children of its actors, they would keep running and keep their
memory. So a detached process waits at a pipe, whose other end closes when this process ends, and kills the group.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG = 1
_CODE = """
import os, signal, sys
if os.fork():
    os._exit(0)
if not os.read(0, 1):
    try:
        os.killpg(int(sys.argv[1]), signal.SIGKILL)
    except ProcessLookupError:
        pass
"""


class Guard:
    """Kills one process group when this process ends."""

    def __init__(self, group: int) -> None:
        """Kill `group` when this process ends, unless it is dismissed before."""
        there, here = os.pipe()
        self._pipe: int | None = here
        try:
            subprocess.run(
                [sys.executable, "-ISc", _CODE, str(group)], stdin=there, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, start_new_session=True, check=True,
            )
        finally:
            os.close(there)

    def dismiss(self) -> None:
        """The group has ended: its id may soon belong to another one."""
        if self._pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._pipe, b"x")
            os.close(self._pipe)
            self._pipe = None


def die_with_parent() -> None:
    """Ask Linux to send SIGTERM to this process when its parent ends, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
