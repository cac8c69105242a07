"""Products with a weight that never changes, laid out once as the processor's kernels read it.

A bf16 product on a CPU starts by rearranging its weight into blocks, which at a few hundred tokens is a tenth of its
time, anew for every product. oneDNN can be given the blocks instead; this is how torch's own compiler calls it. The
results were the same to the bit wherever it was tried. The price is the weight's memory twice more: the backward pass
reads it transposed.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TOKENS = 256  # what the blocks are chosen for; other numbers run as well


class Frozen:
    """W (out, in)."""

    def __init__(self, weight: Tensor) -> None:
        self.shape = weight.shape
        self._weight = weight
        self._blocks = [_blocks(w) for w in (weight, weight.T.contiguous())] if _can(weight) else []

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Give x Wᵀ, with a residual added where there is one. x (tokens, in), residual (tokens, out)."""
        if not self._blocks:
            return x @ self._weight.T if residual is None else torch.addmm(residual, x, self._weight.T)
        product = torch.ops.mkldnn._linear_pointwise
        if residual is None:
            return product(x, self._blocks[0], None, "none", [], "")  # type: ignore[no-any-return]
        return product.binary(x, residual, self._blocks[0], None, "add")  # type: ignore[no-any-return]

    def backward(self, grad: Tensor) -> Tensor:
        """The gradient of x: grad W. grad (tokens, out)."""
        if not self._blocks:
            return grad @ self._weight
        return torch.ops.mkldnn._linear_pointwise(  # type: ignore[no-any-return]
            grad, self._blocks[1], None, "none", [], ""
        )


def _can(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def _blocks(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight, _TOKENS)  # type: ignore[no-any-return]
