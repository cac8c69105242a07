"""The C sources of this folder, compiled once for the local processor, and called with tensors.

A step over thirty queries is thousands of small operations, each of which takes torch longer to dispatch than to
compute. Without a C compiler `kernels` returns None, and training uses PEFT's own layers.
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
from task.processor import cpuinfo

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
    """Where rows begin and end among packed tokens, and the shape of attention.

    Attributes:
        starts: First token of each row, and the end of the last row, shape (rows + 1,), int64.
        cos: Rotary embedding of every position, fp32, shape (longest row, head_dim).
        sin: Likewise.
        heads: Query heads.
        kv: Key-value heads.
        dim: Numbers of a head.
        scaling: Factor of the attention scores.
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
    """The functions for activations of one dtype. All tensors are contiguous unless a stride is named."""

    def __init__(self, library: Path, dtype: torch.dtype) -> None:
        self.dtype = dtype
        loaded = ctypes.CDLL(str(library))
        self._call: dict[str, Any] = {}
        for name, arguments in _ARGUMENTS.items():
            function = self._call[name] = getattr(loaded, name)
            function.argtypes, function.restype = arguments, None

    def norm(self, x: Tensor, *, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """RMS norm of x (tokens, width), and 1 / rms of every token (fp32)."""
        out, scale = torch.empty_like(x), torch.empty(len(x))
        self._call["norm_forward"](
            x.data_ptr(), weight.data_ptr(), eps, *x.shape, out.data_ptr(), scale.data_ptr(), _threads()
        )
        return out, scale

    def norm_backward(
        self, grad: Tensor, *, x: Tensor, scale: Tensor, weight: Tensor, residual_grad: Tensor
    ) -> Tensor:
        """Gradient of the norm's input, plus the gradient that reaches that input through the residual connection."""
        out = torch.empty_like(x)
        self._call["norm_backward"](
            grad.data_ptr(), x.data_ptr(), scale.data_ptr(), weight.data_ptr(), residual_grad.data_ptr(),
            *x.shape,
            out.data_ptr(), _threads(),
        )
        return out

    def gate(self, gate_up: Tensor) -> Tensor:
        """SiLU of the first half of the columns, times the second: (tokens, 2 width) → (tokens, width)."""
        tokens, width = len(gate_up), gate_up.shape[1] // 2
        out = gate_up.new_empty(tokens, width)
        self._call["gate_forward"](gate_up.data_ptr(), tokens, width, out.data_ptr(), _threads())
        return out

    def gate_backward(self, grad: Tensor, *, gate_up: Tensor) -> Tensor:
        """The gradient of `gate_up`."""
        out = torch.empty_like(gate_up)
        self._call["gate_backward"](grad.data_ptr(), gate_up.data_ptr(), *grad.shape, out.data_ptr(), _threads())
        return out

    def lora(self, x: Tensor, *, a: Tensor, b: Tensor, scale: float, y: Tensor) -> Tensor:
        """Add scale · (x Aᵀ) Bᵀ to y in place.

        Args:
            x: (tokens, in).
            a: (rank, in), fp32.
            b: (out, rank), fp32.
            y: (tokens, out), rows `y.stride(0)` apart.

        Returns:
            scale · x Aᵀ, fp32, shape (tokens, rank), zero-padded to a multiple of 16 columns, for `lora_backward`.
        """
        padded = -len(a) % _PADDED + len(a)
        down, transposed = torch.empty(len(x), padded), torch.empty(x.shape[1], padded)
        self._call["lora_forward"](
            x.data_ptr(), x.shape[1], a.data_ptr(), b.data_ptr(), len(a), scale, len(x), transposed.data_ptr(),
            down.data_ptr(), y.data_ptr(), y.stride(0), len(b), _threads(),
        )
        return down

    def lora_backward(
        self, grad: Tensor, *, x: Tensor, a: Tensor, b: Tensor, scale: float, down: Tensor, grad_x: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Gradients of A and B, fp32.

        Args:
            grad: Of y, shape and stride as y.
            down: What `lora` returned.
            grad_x: (tokens, in), to which the gradient of x is added in place; None where it is not needed.
        """
        grad_a, grad_b, back = torch.empty_like(a), torch.empty_like(b), torch.empty_like(down)
        self._call["lora_backward"](
            grad.data_ptr(), grad.stride(0), len(b), x.data_ptr(), x.shape[1], a.data_ptr(), b.data_ptr(), len(a),
            scale, down.data_ptr(), len(x), back.data_ptr(), None if grad_x is None else grad_x.data_ptr(),
            grad_a.data_ptr(), grad_b.data_ptr(), _threads(),
        )
        return grad_a, grad_b

    def attention(self, qkv: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Attention within each row.

        Args:
            qkv: (tokens, (heads + 2 kv) · head_dim); rotary positions are applied to its queries and keys in place.

        Returns:
            (tokens, heads · head_dim); log-sum-exp of the scores, shape (tokens, heads), for `attention_backward`.
        """
        mixed, logsum = qkv.new_empty(len(qkv), rows.heads * rows.dim), torch.empty(len(qkv), rows.heads)
        self._call["attention_forward"](
            ctypes.byref(_heads(rows)), qkv.data_ptr(), mixed.data_ptr(), logsum.data_ptr(), _threads()
        )
        return mixed, logsum

    def attention_backward(self, grad: Tensor, *, qkv: Tensor, logsum: Tensor, rows: Rows) -> Tensor:
        """The gradient of `qkv` as it was before rotary positions were applied; `qkv` as `attention` left it."""
        out = torch.empty_like(qkv)
        self._call["attention_backward"](
            ctypes.byref(_heads(rows)), qkv.data_ptr(), grad.data_ptr(), logsum.data_ptr(), out.data_ptr(), _threads()
        )
        return out


def _heads(rows: Rows) -> _Heads:
    return _Heads(
        rows=len(rows.starts) - 1, heads=rows.heads, kv=rows.kv, dim=rows.dim, starts=rows.starts.data_ptr(),
        cos=rows.cos.data_ptr(), sin=rows.sin.data_ptr(), scaling=rows.scaling, causal=rows.causal,
    )


def _threads() -> int:
    return torch.get_num_threads()


@lru_cache
def kernels(dtype: torch.dtype) -> Kernels | None:
    """The kernels for activations of a dtype; None for an unsupported dtype, or where they cannot be compiled."""
    if dtype not in _DEFINED:
        return None
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        _LOG.warning("no C compiler found (CC, cc or gcc): training on a CPU takes PEFT's layers, which are slower")
        return None
    processor = _processor()
    flags = (*_FLAGS, *(("-mprefer-vector-width=512",) if "avx512f" in processor else ()), *_DEFINED[dtype])
    sources = [p.read_text() for p in sorted(p for p in _SOURCES.iterdir() if p.suffix in {".c", ".h"})]
    inputs = "\0".join((*sources, compiler, *flags, processor))
    library = home() / "kernels" / f"{hashlib.sha256(inputs.encode()).hexdigest()[:12]}.so"
    if not library.exists() and not _compile(compiler, flags, library):
        return None
    return Kernels(library, dtype)


def _compile(compiler: str, flags: tuple[str, ...], library: Path) -> bool:
    """Several workers may compile at once: each under its own temporary name, renamed when complete."""
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
    """What a compiled library depends on (`-march=native`, libc): a home folder may be shared by different machines."""
    return " ".join(filter(None, [*platform.libc_ver(), cpuinfo("flags", "Features")]))
