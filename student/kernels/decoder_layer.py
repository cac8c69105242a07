"""A decoder layer of a Llama with LoRA over packed rows: forward, and backward by hand.

At a few hundred tokens PEFT's layers spend less time in their seven products than in the hundred small operations
around them: norms, casts, rotations, LoRA's own products. So q, k and v are one product with frozen weights here, and
so are gate and up; residuals are added by the product that makes the other summand; norms, attention, gates and each
adapter are one call of `student/kernels`; and nothing is computed for frozen weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, cat

from student.kernels.frozen_linear import Frozen
from student.kernels.native import Kernels, Rows


@dataclass(slots=True)
class Adapted:
    """A layer's LoRA: what is learned, and its place among its group's outputs."""

    a: Tensor
    b: Tensor
    scale: float
    outputs: slice


class Group:
    """Linear layers that read the same input, as one: y = x Wᵀ + s (x Aᵀ) Bᵀ, W frozen.

    W (out, in) holds the layers' weights one below the other; they become views of it. Each adapter A (rank, in),
    B (its out, rank) is fp32, as the optimiser has it.
    """

    def __init__(self, layers: Sequence[Any], kernels: Kernels) -> None:
        bases = [layer.base_layer if hasattr(layer, "base_layer") else layer for layer in layers]
        weight = cat([b.weight.detach() for b in bases]) if len(bases) > 1 else bases[0].weight.detach()
        self.learned: list[Tensor] = []
        self.adapted: list[Adapted] = []
        out = 0
        for layer, base in zip(layers, bases, strict=True):
            end = out + len(base.weight)
            base.weight.data = weight[out:end]
            if layer is not base:
                a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
                self.learned += [a, b]
                self.adapted.append(Adapted(a.detach(), b.detach(), layer.scaling["default"], slice(out, end)))
            out = end
        self.weight = Frozen(weight)
        self._kernels = kernels

    def forward(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Outputs (tokens, out), with a residual added where there is one, and what the way back needs."""
        y = self.weight.forward(x, residual)
        return y, [self._kernels.lora(x, p.a, p.b, p.scale, y[:, p.outputs]) for p in self.adapted]

    def backward(
        self, grad: Tensor, x: Tensor, downs: Sequence[Tensor], *, of_input: bool = True
    ) -> tuple[Tensor, list[Tensor]]:
        """The gradient of the input (empty where nobody wants it), and those of what is learned: first A, then B."""
        grad_x = self.weight.backward(grad) if of_input else grad[:0]
        learned: list[Tensor] = []
        for p, down in zip(self.adapted, downs, strict=True):
            learned += self._kernels.lora_backward(
                grad[:, p.outputs], x, p.a, p.b, p.scale, down, grad_x if of_input else None
            )
        return grad_x, learned


@dataclass(slots=True)
class Layer:
    """A decoder layer's frozen parts and its adapters."""

    qkv: Group
    o: Group
    gate_up: Group
    down: Group
    norms: tuple[Tensor, Tensor]
    eps: float
    kernels: Kernels

    @classmethod
    def of(cls, layer: Any, kernels: Kernels) -> Layer:
        """Take a layer of transformers over."""
        s, m = layer.self_attn, layer.mlp
        norms = layer.input_layernorm, layer.post_attention_layernorm
        return cls(
            Group([s.q_proj, s.k_proj, s.v_proj], kernels), Group([s.o_proj], kernels),
            Group([m.gate_proj, m.up_proj], kernels), Group([m.down_proj], kernels),
            (norms[0].weight.detach(), norms[1].weight.detach()), norms[0].variance_epsilon, kernels,
        )

    @property
    def learned(self) -> list[Tensor]:
        """What is learned, in the order of the forward pass: first A, then B."""
        return [p for g in (self.qkv, self.o, self.gate_up, self.down) for p in g.learned]

    def forward(self, x: Tensor, rows: Rows, wanted: Tensor | None = None) -> tuple[Tensor, tuple[Any, ...]]:
        """The layer's output, of the wanted tokens if they are named, and what its backward pass needs."""
        n1, scale1 = self.kernels.norm(x, self.norms[0], self.eps)
        qkv, downs_qkv = self.qkv.forward(n1)
        mixed, sums = self.kernels.attention(qkv, rows)
        beside = x
        if wanted is not None:
            mixed, beside = mixed.index_select(0, wanted), x.index_select(0, wanted)
        middle, downs_o = self.o.forward(mixed, beside)
        n2, scale2 = self.kernels.norm(middle, self.norms[1], self.eps)
        both, downs_gate_up = self.gate_up.forward(n2)
        act = self.kernels.gate(both)
        out, downs_down = self.down.forward(act, middle)
        return out, (x, n1, scale1, qkv, sums, mixed, middle, n2, scale2, both, act,
                     downs_qkv, downs_o, downs_gate_up, downs_down)

    def backward(
        self, grad: Tensor, kept: tuple[Any, ...], rows: Rows, wanted: Tensor | None = None, *, of_input: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """The gradient of the layer's input from that of its output, and those of what is learned, in its order."""
        (x, n1, scale1, qkv, sums, mixed, middle, n2, scale2, both, act,
         downs_qkv, downs_o, downs_gate_up, downs_down) = kept
        grad_act, of_down = self.down.backward(grad, act, downs_down)
        grad_both = self.kernels.gate_backward(grad_act, both)
        grad_n2, of_gate_up = self.gate_up.backward(grad_both, n2, downs_gate_up)
        grad = self.kernels.norm_backward(grad_n2, middle, scale2, self.norms[1], grad)
        grad_mixed, of_o = self.o.backward(grad, mixed, downs_o)
        if wanted is not None:
            grad_mixed, grad = (t.new_zeros(len(x), t.shape[1]).index_add_(0, wanted, t) for t in (grad_mixed, grad))
        grad_qkv = self.kernels.attention_backward(grad_mixed, qkv, sums, rows)
        grad_n1, of_qkv = self.qkv.backward(grad_qkv, n1, downs_qkv, of_input=of_input)
        if of_input:
            grad = self.kernels.norm_backward(grad_n1, x, scale1, self.norms[0], grad)
        return grad, [*of_qkv, *of_o, *of_gate_up, *of_down]
