"""A token classifier in OpenVINO's runtime: token ids in, scores out. Nothing here needs torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

MODEL_FILE: Final = "model.xml"
WEIGHTS_FILE: Final = "model.bin"
EXPORTED: Final = (MODEL_FILE, WEIGHTS_FILE)
Precision = Literal["float32", "bfloat16"]

LENGTHS: Final = (16, 32, 48)
"""Lengths of single prompts in tokens: the tiles of the matrix units hold 16 rows, so that most lengths in between cost
the same. On a Xeon with AMX and SmolLM2-135M in 8 bits a pass takes 11 ms at 16 tokens, 14 at 32 and 15 at 48; with
dynamic shapes 15, 17 and 20, and where the length changes from one prompt to the next 24 and more."""
LARGEST_FIXED: Final = 2**30  # bytes of weights: above it a pass is long beside its preparation


def precision_of(dtype: str) -> Precision:
    """The precision for a setting `dtype`; on CPUs `float16` is no faster than `bfloat16`, whose range is larger."""
    return "float32" if dtype == "float32" else "bfloat16"


def import_openvino() -> Any:
    """The package `openvino`, with its telemetry switched off.

    OpenVINO 2026.4 reports its import and each conversion to a web analytics service as soon as the package
    `openvino_telemetry` can be imported (openvino/tools/ovc/__init__.py), without asking first.
    """
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # its import fails from now on
    import openvino

    return openvino


def precision_hint(core: Any, precision: Precision) -> str:
    """OpenVINO's name of a precision; float32 for `bfloat16` on a processor without it."""
    capable = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if precision == "bfloat16" and capable else "f32"


class TokenClassifier:
    """A loaded model; one thread uses it at a time.

    A model of dynamic shapes prepares each operation anew whenever the shape differs from the last one's, which costs a
    small model as much as half a forward pass. Single prompts, whose latency somebody waits for, are therefore padded
    to a few lengths for which the model is compiled apart; a model that is too large for that has only the dynamic one.

    Args:
        folder: With the files `EXPORTED`.
        precision: Of what is not in 8 bits; `bfloat16` falls back to float32 on processors without it.
        threads: Cores that a forward pass uses; None for all.
        fixed: Whether to compile for `LENGTHS` too, which takes seconds, and the weights' memory for each.
    """

    def __init__(
        self, folder: Path, *, precision: Precision, threads: int | None = None, fixed: bool = False
    ) -> None:
        ov = import_openvino()
        core = ov.Core()
        options = {
            "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(threads or os.cpu_count() or 1),
            "INFERENCE_PRECISION_HINT": precision_hint(core, precision),
            # Threads that are bound to cores would share them with those of a second engine, as in a rollout.
            "ENABLE_CPU_PINNING": "NO",
        }
        model = core.read_model(str(folder / MODEL_FILE))
        self._any_shape = core.compile_model(model, "CPU", options).create_infer_request()
        self._single: dict[int, Any] = {}
        if fixed and (folder / WEIGHTS_FILE).stat().st_size <= LARGEST_FIXED:
            for length in LENGTHS:
                model.reshape([1, length])
                self._single[length] = core.compile_model(model, "CPU", options).create_infer_request()

    def scores(self, prompts: Sequence[Sequence[int]]) -> list[npt.NDArray[np.float32]]:
        """Scores of a batch of prompts: for each, shape (tokens, symbols)."""
        if not prompts:
            return []
        longest = max(map(len, prompts))
        request = self._any_shape
        if len(prompts) == 1 and self._single:
            longest = next((n for n in LENGTHS if n >= longest), -(-longest // LENGTHS[0]) * LENGTHS[0])
            request = self._single.get(longest, request)
        ids = np.zeros((len(prompts), longest), dtype=np.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = prompt
        found = request.infer([ids])[0]
        return [scores[: len(prompt)].copy() for scores, prompt in zip(found, prompts, strict=True)]
