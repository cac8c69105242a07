"""`student/kernels/*.c`, compiled once for this processor, and called with tensors.

A step over thirty queries makes thousands of small operations, and torch takes longer to begin one than to do it. Where
there is no C compiler, `kernels` is None and training takes PEFT's own layers.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from task.model_store import home

_LOG = logging.getLogger(__name__)
_SOURCES = Path(__file__).parent
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
_DEFINED = {torch.float32: (), torch.bfloat16: ("-DBF16",)}
_PADDED = 16  # RANKS in lora.c

_P, _N, _F, _I = ctypes.c_void_p, ctypes.c_long, ctypes.c_float, ctypes.c_int
_ARGUMENTS = {
    "norm_forward": (_P, _P, _F, _N, _N, _P, _P, _I),
    "norm_backward": (_P, _P, _P, _P, _P, _N, _N, _P, _I),
    "gate_forward": (_P, _N, _N, _P, _I),
    "gate_backward": (_P, _P, _N, _N, _P, _I),
    "lora_forward": (_P, _N, _P, _P, _N, _F, _N, _P, _P, _P, _N, _N, _I),
    "lora_backward": (_P, _N, _N, _P, _N, _P, _P, _N, _F, _P, _N, _P, _P, _P, _P, _I),
    "attention_forward": (_P, _P, _P, _P, _I),
    "attention_backward": (_P, _P, _P, _P, _P, _I),
}


class Rows(NamedTuple):
    """How packed tokens are rows, and what attention has to know of them.

    Attributes:
        starts: Where each row begins, and where the last one ends, shape (rows + 1,), int64.
        cos: Of every position, fp32, shape (longest, head_dim).
        sin: Likewise.
    """

    starts: Tensor
    cos: Tensor
    sin: Tensor
    heads: int
    kv: int
    dim: int
    scaling: float
    causal: bool


class _Heads(ctypes.Structure):
    _fields_ = (
        ("rows", _N), ("heads", _N), ("kv", _N), ("dim", _N), ("starts", _P), ("cos", _P), ("sin", _P),
        ("scaling", _F), ("causal", _I),
    )


class Kernels:
    """The functions for activations of one dtype. All tensors are contiguous but where a step is named."""

    def __init__(self, library: Path, dtype: torch.dtype) -> None:
        self.dtype = dtype
        loaded = ctypes.CDLL(str(library))
        self._call: dict[str, Any] = {}
        for name, arguments in _ARGUMENTS.items():
            function = self._call[name] = getattr(loaded, name)
            function.argtypes, function.restype = arguments, None

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """RMS norm of x (tokens, width), and 1 / rms of every token (fp32)."""
        out, scale = torch.empty_like(x), torch.empty(len(x))
        self._call["norm_forward"](
            x.data_ptr(), weight.data_ptr(), eps, *x.shape, out.data_ptr(), scale.data_ptr(), _threads()
        )
        return out, scale

    def norm_backward(self, grad: Tensor, x: Tensor, scale: Tensor, weight: Tensor, beside: Tensor) -> Tensor:
        """Gradient of the norm's input, with that of the residual beside it added."""
        out = torch.empty_like(x)
        self._call["norm_backward"](
            grad.data_ptr(), x.data_ptr(), scale.data_ptr(), weight.data_ptr(), beside.data_ptr(), *x.shape,
            out.data_ptr(), _threads(),
        )
        return out

    def gate(self, both: Tensor) -> Tensor:
        """SiLU of the first half of the columns, times the second: (tokens, 2 width) → (tokens, width)."""
        tokens, width = len(both), both.shape[1] // 2
        out = both.new_empty(tokens, width)
        self._call["gate_forward"](both.data_ptr(), tokens, width, out.data_ptr(), _threads())
        return out

    def gate_backward(self, grad: Tensor, both: Tensor) -> Tensor:
        """The gradient of `both`."""
        out = torch.empty_like(both)
        self._call["gate_backward"](grad.data_ptr(), both.data_ptr(), *grad.shape, out.data_ptr(), _threads())
        return out

    def lora(self, x: Tensor, a: Tensor, b: Tensor, scale: float, y: Tensor) -> Tensor:
        """Add scale · (x Aᵀ) Bᵀ to y, whose rows may be wider; returns scale · x Aᵀ, fp32, padded with noughts.

        Args:
            x: (tokens, in).
            a: (rank, in), fp32.
            b: (out, rank), fp32.
            y: (tokens, out), rows `y.stride(0)` apart.
        """
        padded = -len(a) % _PADDED + len(a)
        down, turned = torch.empty(len(x), padded), torch.empty(x.shape[1], padded)
        self._call["lora_forward"](
            x.data_ptr(), x.shape[1], a.data_ptr(), b.data_ptr(), len(a), scale, len(x), turned.data_ptr(),
            down.data_ptr(), y.data_ptr(), y.stride(0), len(b), _threads(),
        )
        return down

    def lora_backward(
        self, grad: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float, down: Tensor, grad_x: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Gradients of A and B, fp32; that of x is added to `grad_x`. `grad` as y was, `down` as `lora` gave it."""
        grad_a, grad_b, back = torch.empty_like(a), torch.empty_like(b), torch.empty_like(down)
        self._call["lora_backward"](
            grad.data_ptr(), grad.stride(0), len(b), x.data_ptr(), x.shape[1], a.data_ptr(), b.data_ptr(), len(a),
            scale, down.data_ptr(), len(x), back.data_ptr(), None if grad_x is None else grad_x.data_ptr(),
            grad_a.data_ptr(), grad_b.data_ptr(), _threads(),
        )
        return grad_a, grad_b

    def attention(self, qkv: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Attention within each row: (tokens, heads · head_dim), and what the way back needs.

        `qkv` (tokens, (heads + 2 kv) · head_dim) has its queries and keys turned by their positions afterwards.
        """
        mixed, sums = qkv.new_empty(len(qkv), rows.heads * rows.dim), torch.empty(len(qkv), rows.heads)
        self._call["attention_forward"](
            ctypes.byref(_heads(rows)), qkv.data_ptr(), mixed.data_ptr(), sums.data_ptr(), _threads()
        )
        return mixed, sums

    def attention_backward(self, grad: Tensor, qkv: Tensor, sums: Tensor, rows: Rows) -> Tensor:
        """The gradient of `qkv` as it was before its queries and keys were turned."""
        out = torch.empty_like(qkv)
        self._call["attention_backward"](
            ctypes.byref(_heads(rows)), qkv.data_ptr(), grad.data_ptr(), sums.data_ptr(), out.data_ptr(), _threads()
        )
        return out


def _heads(rows: Rows) -> _Heads:
    return _Heads(
        len(rows.starts) - 1, rows.heads, rows.kv, rows.dim, rows.starts.data_ptr(), rows.cos.data_ptr(),
        rows.sin.data_ptr(), rows.scaling, rows.causal,
    )


def _threads() -> int:
    return torch.get_num_threads()


@lru_cache
def kernels(dtype: torch.dtype) -> Kernels | None:
    """The kernels for activations of a dtype; None where there are none for it, or no compiler that makes them."""
    if dtype not in _DEFINED:
        return None
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        _LOG.warning("no C compiler found (CC, cc or gcc): training on a CPU takes PEFT's layers, which are slower")
        return None
    processor = _processor()
    flags = (*_FLAGS, *(("-mprefer-vector-width=512",) if "avx512f" in processor else ()), *_DEFINED[dtype])
    sources = [p.read_text() for p in sorted(p for p in _SOURCES.iterdir() if p.suffix in {".c", ".h"})]
    made_of = "\0".join((*sources, compiler, *flags, processor))
    library = home() / "kernels" / f"{hashlib.sha256(made_of.encode()).hexdigest()[:12]}.so"
    if not library.exists() and not _compile(compiler, flags, library):
        return None
    return Kernels(library, dtype)


def _compile(compiler: str, flags: tuple[str, ...], library: Path) -> bool:
    """Several workers may do this at once: each under a name of its own, put in place at once."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as name:
        made = Path(name) / library.name
        done = subprocess.run(
            [compiler, *flags, *map(str, sorted(_SOURCES.glob("*.c"))), "-o", str(made), "-lm"],
            capture_output=True, text=True, check=False,
        )
        if done.returncode:
            _LOG.warning(
                "%s cannot compile %s: training on a CPU takes PEFT's layers, which are slower\n%s",
                compiler, _SOURCES.name, done.stderr[-2_000:],
            )
            return False
        made.replace(library)
    return True


def _processor() -> str:
    """What `-march=native` and the C library depend on: a home may be shared by machines that differ."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return " ".join([*platform.libc_ver(), *[x for x in lines if x.startswith(("flags", "Features"))][:1]])
