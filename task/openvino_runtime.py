"""A token classifier in OpenVINO's runtime: token ids in, scores out. Nothing here needs torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

MODEL_FILE: Final = "model.xml"  # the weights are in `model.bin` beside it
EXPORTED: Final = (MODEL_FILE, "model.bin")
Precision = Literal["float32", "bfloat16"]


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


class TokenClassifier:
    """A loaded model; one thread uses it at a time.

    Args:
        folder: With the files `EXPORTED`.
        precision: Of what is not in 8 bits; `bfloat16` falls back to float32 on processors without it.
        threads: Cores that a forward pass uses; None for all.
    """

    def __init__(self, folder: Path, *, precision: Precision, threads: int | None = None) -> None:
        ov = import_openvino()
        core = ov.Core()
        capable = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        compiled = core.compile_model(str(folder / MODEL_FILE), "CPU", {
            "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(threads or os.cpu_count() or 1),
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" and capable else "f32",
            # Threads that are bound to cores would share them with those of a second engine, as in a rollout.
            "ENABLE_CPU_PINNING": "NO",
        })
        self._request = compiled.create_infer_request()

    def scores(self, prompts: Sequence[Sequence[int]]) -> list[npt.NDArray[np.float32]]:
        """Scores of a batch of prompts: for each, shape (tokens, symbols)."""
        if not prompts:
            return []
        ids = np.zeros((len(prompts), max(map(len, prompts))), dtype=np.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = prompt
        found = self._request.infer([ids])[0]
        return [scores[: len(prompt)].copy() for scores, prompt in zip(found, prompts, strict=True)]
