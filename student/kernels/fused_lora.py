"""PEFT's LoRA layers with the same mathematics in four matrix products instead of a dozen operations.

PEFT computes `W x`, then `B(A(x))`, scales it and adds it: on CPU the casts and element-wise passes over full-size
activations cost more than the products themselves. Here the scale is folded into B (rank × out numbers instead of
tokens × out) and both sums are accumulated by the product that computes them.

`fuse` replaces `forward` of PEFT's modules, as they are in PEFT 0.21, which the requirements pin.
`tests/student/kernels/test_packed_llama.py` compares logits and gradients with PEFT's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _LoraLinear(torch.autograd.Function):
    """y = x Wᵀ + (x Aᵀ)(s B)ᵀ with W frozen. x (tokens, in), W (out, in), A (rank, in), B (out, rank)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        a16, b16 = a.to(weight.dtype), (b * scale).to(weight.dtype)
        down = x @ a16.T  # (tokens, rank)
        y = torch.addmm(x @ weight.T, down, b16.T)
        ctx.save_for_backward(x, weight, a16, b16, down)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a16, b16, down = ctx.saved_tensors
        grad_down = grad @ b16  # (tokens, rank)
        grad_x = torch.addmm(grad @ weight, grad_down, a16) if ctx.needs_input_grad[0] else None
        grad_a = (grad_down.T @ x).float()
        grad_b = (grad.T @ down).float() * ctx.scale
        return grad_x, None, grad_a, grad_b, None


def fuse(model: Any) -> int:
    """Replace the forward pass of every plain LoRA layer; returns the number of layers.

    A layer with dropout, DoRA, a bias, several adapters or a quantised weight keeps PEFT's own.
    """
    layers = [m for m in model.modules() if is_plain_lora(m)]
    for layer in layers:
        layer.forward = _forward(layer)
    return len(layers)


def is_plain_lora(module: Any, *, trained: bool = True) -> bool:
    """Whether a module is PEFT's LoRA layer of one adapter that computes W x + s B A x only, with W not quantised.

    Args:
        trained: Whether it will be trained; in evaluation dropout does nothing.
    """
    from peft.tuners.lora import Linear

    return (
        type(module) is Linear and list(module.lora_A) == ["default"]
        and type(module.base_layer) is torch.nn.Linear and module.base_layer.bias is None
        and (not trained or isinstance(module.lora_dropout["default"], torch.nn.Identity))
        and not module.use_dora.get("default", False) and not module.lora_bias.get("default", False)
    )


def _forward(module: Any) -> Any:
    weight, scale = module.base_layer.weight, module.scaling["default"]
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight

    def forward(x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).to(weight.dtype)
        y: Tensor = _LoraLinear.apply(flat, weight, a, b, scale)  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], y.shape[-1])

    return forward
