"""Nothing outlives us: a process group is killed when this process ends, however it ends.

vLLM's core and workers are grandchildren. The kernel's signal for orphans reaches only the child between, and where
that one is killed as well, as Ray does with the children of its actors, they would live on and hold their memory. So a
process that belongs to nobody waits at a pipe: its other end closes with us.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

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
    """Watches over one process group."""

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
        """The group is gone: its number may soon be somebody else's."""
        if self._pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._pipe, b"x")
            os.close(self._pipe)
            self._pipe = None
