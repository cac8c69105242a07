"""Importing transformers and PEFT without the packages that they import and nobody here uses through them.

transformers (5.19) imports scikit-learn with every model that can generate, for assisted generation, and SciPy with
every model, for the losses of object detection; PEFT (0.21) imports bitsandbytes, whose kernels import torch's
compiler, also where no weight has 4 bits. Together they are two fifths of the processor time that a training worker
needs before its first step.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from task.garbage import no_collection


def import_transformers() -> None:
    """Import what transformers' models have in common, without scikit-learn and SciPy where they are not there yet."""
    if "transformers.modeling_utils" in sys.modules:
        return
    with no_collection(), _hidden("sklearn"), _hidden("scipy"):
        import transformers.generation.candidate_generator
        import transformers.modeling_utils
        import transformers.models.auto.modeling_auto  # noqa: F401


def import_peft() -> None:
    """Import PEFT, which then does not look for bitsandbytes unless `import_bitsandbytes` has been called."""
    import_transformers()
    if "peft" not in sys.modules:
        with no_collection(), _hidden("bitsandbytes"):
            import peft.import_utils

            peft.import_utils.is_bnb_available()  # PEFT keeps the answer


def import_bitsandbytes() -> None:
    """Import bitsandbytes, for weights of 4 bits, and let PEFT look for it from now on."""
    import bitsandbytes  # noqa: F401

    import_peft()
    import peft.import_utils

    peft.import_utils.is_bnb_available.cache_clear()
    peft.import_utils.is_bnb_4bit_available.cache_clear()


@contextlib.contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Let the import of a package fail in this block, as if it were not installed; one that is imported stays."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # what the import system takes for "cannot be imported"
    try:
        yield
    finally:
        del sys.modules[package]
