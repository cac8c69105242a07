"""Python's garbage collector around imports, which make many objects and no garbage.

A process that imports torch, transformers or vLLM spends a fifth of that time in the collector, which walks through
what has been imported over and over again.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Keep the collector from running in this block; where it is off already, it stays off."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
