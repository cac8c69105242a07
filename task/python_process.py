"""Python processes of ours import what this process imports, and never files of the folder that they are started in.

`python -m` and `python -c` look for modules in the current folder first. A `task.py` or an `eval/` that lies there is
then taken for ours, a `types.py` for Python's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

# The folder with our packages: `site-packages`, or a checkout.
PACKAGES = Path(__file__).resolve().parent.parent


def python(*arguments: str) -> list[str]:
    """The command that starts this Python with arguments, without the current folder on its path."""
    return [sys.executable, "-P", *arguments]


def environment() -> dict[str, str]:
    """This process's environment for a child, whose own children do not see their current folder either.

    `PYTHONPATH` is kept, without empty entries, which Python would take for the current folder; a checkout comes first.
    """
    path = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    if str(PACKAGES) not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        path = [str(PACKAGES), *(p for p in path if p != str(PACKAGES))]
    found = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(path)}
    if not path:
        del found["PYTHONPATH"]
    return found


@contextlib.contextmanager
def without_current_folder() -> Iterator[None]:
    """Children that a library starts inside this block, with this process's own environment, do not see their folder.

    The environment is as before afterwards: what a caller starts later is the caller's own.
    """
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def ended(code: int | None) -> str:
    """How a process ended, by its exit code as `subprocess` gives it: below 0 a signal ended it."""
    if code is None or code >= 0:
        return f"ended with code {code}"
    names = {s.value: s.name for s in signal.Signals}
    return f"ended with code {code} ({names.get(-code, 'an unknown signal')})"
