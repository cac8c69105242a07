"""Matrix products with a frozen weight, whose memory layout is prepared once for the processor's kernels.

A bf16 product on a CPU reorders its weight into blocks each time, which at a few hundred tokens takes a tenth of its
time. oneDNN also takes a weight that is reordered already; this is how torch's own compiler calls it. The results were
bit-identical on every machine tested. The cost is twice the weight's memory in addition, because the backward pass
needs the transpose as well.

`torch.ops.mkldnn._*` are private; they are called as in torch 2.13, which the requirements pin.
`tests/student/kernels/test_frozen_linear.py` compares them with plain products.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TOKENS = 256  # the number of tokens that the block layout is optimised for; it is correct for any number


class FrozenLinear:
    """A frozen weight W (out, in), without bias.

    Args:
        trained: Whether `backward` is needed; without it there is no transpose.
    """

    def __init__(self, weight: Tensor, *, trained: bool = True) -> None:
        self.weight = weight
        ways = (weight, weight.T.contiguous()) if trained else (weight,)
        self._blocks = [_blocks(w) for w in ways] if _can(weight) else []

    def forward(self, x: Tensor, *, residual: Tensor | None = None) -> Tensor:
        """Return x Wᵀ, plus the residual if given. x (tokens, in), residual (tokens, out)."""
        if not self._blocks:
            return x @ self.weight.T if residual is None else torch.addmm(residual, x, self.weight.T)
        product = torch.ops.mkldnn._linear_pointwise
        if residual is None:
            return product(x, self._blocks[0], None, "none", [], "")  # type: ignore[no-any-return]
        return product.binary(x, residual, self._blocks[0], None, "add")  # type: ignore[no-any-return]

    def backward(self, grad: Tensor) -> Tensor:
        """The gradient of x, which is grad W. grad (tokens, out)."""
        if not self._blocks:
            return grad @ self.weight
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
