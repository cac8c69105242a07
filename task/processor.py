"""What Linux says about this machine's processor, and which number formats it multiplies."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

Dtype = Literal["bfloat16", "float16", "float32"]

# What oneDNN asks for before it multiplies in a format (ideep, `mkldnn_bf16_device_check`): with AVX-512 alone it
# widens bf16 in registers. fp16 needs instructions of its own.
_ANY_OF: Final[dict[str, tuple[set[str], ...]]] = {
    "bfloat16": ({"avx512bw", "avx512vl", "avx512dq"}, {"avx_ne_convert"}, {"bf16"}),
    "float16": ({"avx512_fp16"}, {"avx_ne_convert"}, {"asimdhp"}),
}


def cpuinfo(*fields: str) -> str:
    """The first line of `/proc/cpuinfo` with one of these fields, such as `flags : …`; empty where there is none."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((x for x in lines if x.startswith(fields)), "")


def computed_in(wanted: Dtype, *, gpu: bool) -> Dtype:
    """The number format to compute in: `wanted`, or fp32 on a processor without products of that format.

    There torch (2.11) multiplies 16-bit matrices in plain loops: on an AMD EPYC with AVX2 at 1.3 to 19 GFLOP/s against
    128 to 160 in fp32, and a training step of SmolLM2 took a minute.
    """
    if gpu or wanted == "float32":
        return wanted
    flags = set(cpuinfo("flags", "Features").split())
    return wanted if any(needed <= flags for needed in _ANY_OF[wanted]) else "float32"
