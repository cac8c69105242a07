"""A decoder layer of a Llama with LoRA over packed rows: forward, and a hand-written backward pass.

At a few hundred tokens PEFT's layers spend less time in their seven matrix products than in the hundred small
operations around them: norms, casts, rotations, LoRA's own products. So q, k and v are one product with frozen weights
here, and so are gate and up; residuals are added by the product that computes the other summand; norms, attention,
gates and each adapter are one call of `student.kernels.native`; and no gradients are computed for frozen weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, cat

from student.kernels.frozen_linear import FrozenLinear
from student.kernels.native import Kernels, Rows


@dataclass(slots=True)
class LoraFactors:
    """A layer's LoRA: A (rank, in), B (out, rank), scale, and its columns among the outputs of the fused layers."""

    a: Tensor
    b: Tensor
    scale: float
    outputs: slice


class FusedLinear:
    """Linear layers with the same input, as one: y = x Wᵀ + s (x Aᵀ) Bᵀ, W frozen.

    W (out, in) is the layers' weights concatenated along the outputs; the layers' own weights become views of it. Each
    adapter, A (rank, in) and B (its out, rank), is fp32, as in the optimiser.

    Args:
        trained: Whether `backward` is needed.
    """

    def __init__(self, layers: Sequence[Any], kernels: Kernels, *, trained: bool = True) -> None:
        bases = [layer.base_layer if hasattr(layer, "base_layer") else layer for layer in layers]
        weight = cat([b.weight.detach() for b in bases]) if len(bases) > 1 else bases[0].weight.detach()
        self.trainable: list[Tensor] = []
        self.adapters: list[LoraFactors] = []
        out = 0
        for layer, base in zip(layers, bases, strict=True):
            end = out + len(base.weight)
            base.weight.data = weight[out:end]
            if layer is not base:
                a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
                self.trainable += [a, b]
                self.adapters.append(LoraFactors(a.detach(), b.detach(), layer.scaling["default"], slice(out, end)))
            out = end
        self.weight = FrozenLinear(weight, trained=trained)
        self._kernels = kernels

    def forward(self, x: Tensor, *, residual: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Outputs (tokens, out), plus a residual of that shape if given, and x Aᵀ of every adapter for `backward`."""
        y = self.weight.forward(x, residual=residual)
        return y, [self._kernels.lora(x, a=p.a, b=p.b, scale=p.scale, y=y[:, p.outputs]) for p in self.adapters]

    def backward(
        self, grad: Tensor, *, x: Tensor, downs: Sequence[Tensor], of_input: bool = True
    ) -> tuple[Tensor, list[Tensor]]:
        """The gradient of the input (empty unless `of_input`), and those of each adapter's A and B."""
        grad_x = self.weight.backward(grad) if of_input else grad[:0]
        grads: list[Tensor] = []
        for p, down in zip(self.adapters, downs, strict=True):
            grads += self._kernels.lora_backward(
                grad[:, p.outputs], x=x, a=p.a, b=p.b, scale=p.scale, down=down, grad_x=grad_x if of_input else None
            )
        return grad_x, grads


class ForwardLinear(FusedLinear):
    """The same for a model that is not trained any more: adapters are rounded to W's dtype, as PEFT does in autocast.

    `lora` of the kernels computes in fp32, which over a thousand tokens took a third of the time. Here A of all
    adapters are one matrix, and s B is in blocks, so that d = x Aᵀ and y = x Wᵀ + d (s B)ᵀ are products of the
    processor's matrix units. Where the layers widen, y = [x d] [W s B]ᵀ copies the smaller of x and y.
    """

    def __init__(self, layers: Sequence[Any], kernels: Kernels) -> None:
        super().__init__(layers, kernels, trained=False)
        if not self.adapters:
            return
        a, b = self._joined()
        weight = self.weight.weight
        self._a, self._wide = FrozenLinear(a, trained=False), weight.shape[1] < weight.shape[0]
        if self._wide:
            self.weight = FrozenLinear(cat([weight, b], 1), trained=False)
        else:
            self._b = FrozenLinear(b, trained=False)

    def _joined(self) -> tuple[Tensor, Tensor]:
        """A of all adapters (ranks, in), and s B of each in the rows of its outputs and the columns of its ranks."""
        weight = self.weight.weight
        a = cat([p.a for p in self.adapters]).to(weight.dtype)
        b = weight.new_zeros(len(weight), len(a))
        at = 0
        for p in self.adapters:
            b[p.outputs, at : at + len(p.a)] = p.b * p.scale
            at += len(p.a)
        return a, b

    def forward(self, x: Tensor, *, residual: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Outputs (tokens, out), plus a residual of that shape if given; nothing for `backward`."""
        if not self.adapters:
            return self.weight.forward(x, residual=residual), []
        down = self._a.forward(x)  # (tokens, ranks)
        if self._wide:
            return self.weight.forward(cat([x, down], 1), residual=residual), []
        return self.weight.forward(x, residual=self._b.forward(down, residual=residual)), []


@dataclass(slots=True)
class DecoderLayer:
    """A decoder layer's frozen weights and its adapters."""

    qkv: FusedLinear
    o: FusedLinear
    gate_up: FusedLinear
    down: FusedLinear
    norms: tuple[Tensor, Tensor]
    eps: float
    kernels: Kernels

    @classmethod
    def of(cls, layer: Any, kernels: Kernels, linear: type[FusedLinear | ForwardLinear] = FusedLinear) -> DecoderLayer:
        """From a decoder layer of transformers, with which it shares its weights; `linear` computes its products."""
        s, m = layer.self_attn, layer.mlp
        norms = layer.input_layernorm, layer.post_attention_layernorm
        return cls(
            qkv=linear([s.q_proj, s.k_proj, s.v_proj], kernels), o=linear([s.o_proj], kernels),
            gate_up=linear([m.gate_proj, m.up_proj], kernels), down=linear([m.down_proj], kernels),
            norms=(norms[0].weight.detach(), norms[1].weight.detach()), eps=norms[0].variance_epsilon, kernels=kernels,
        )

    @property
    def trainable(self) -> list[Tensor]:
        """A and B of every adapter, in the order of the forward pass."""
        return [p for g in (self.qkv, self.o, self.gate_up, self.down) for p in g.trainable]

    def forward(self, x: Tensor, rows: Rows, wanted: Tensor | None = None) -> tuple[Tensor, tuple[Any, ...]]:
        """The layer's output and what its backward pass needs.

        Args:
            x: (tokens, hidden).
            wanted: Indices of the tokens of which an output is needed; None for all.
        """
        n1, scale1 = self.kernels.norm(x, weight=self.norms[0], eps=self.eps)
        qkv, downs_qkv = self.qkv.forward(n1)
        mixed, logsum = self.kernels.attention(qkv, rows)
        residual = x
        if wanted is not None:
            mixed, residual = mixed.index_select(0, wanted), x.index_select(0, wanted)
        middle, downs_o = self.o.forward(mixed, residual=residual)
        n2, scale2 = self.kernels.norm(middle, weight=self.norms[1], eps=self.eps)
        gate_up, downs_gate_up = self.gate_up.forward(n2)
        act = self.kernels.gate(gate_up)
        out, downs_down = self.down.forward(act, residual=middle)
        return out, (x, n1, scale1, qkv, logsum, mixed, middle, n2, scale2, gate_up, act,
                     downs_qkv, downs_o, downs_gate_up, downs_down)

    def backward(
        self, grad: Tensor, saved: tuple[Any, ...], rows: Rows, wanted: Tensor | None = None, *, of_input: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """The gradient of the layer's input (valid if `of_input`), and those of `trainable`, in that order.

        Args:
            grad: The gradient of the layer's output.
            saved: What `forward` returned beside its output.
            rows: As given to `forward`.
            wanted: As given to `forward`.
        """
        (x, n1, scale1, qkv, logsum, mixed, middle, n2, scale2, gate_up, act,
         downs_qkv, downs_o, downs_gate_up, downs_down) = saved
        grad_act, of_down = self.down.backward(grad, x=act, downs=downs_down)
        grad_gate_up = self.kernels.gate_backward(grad_act, gate_up=gate_up)
        grad_n2, of_gate_up = self.gate_up.backward(grad_gate_up, x=n2, downs=downs_gate_up)
        grad = self.kernels.norm_backward(grad_n2, x=middle, scale=scale2, weight=self.norms[1], residual_grad=grad)
        grad_mixed, of_o = self.o.backward(grad, x=mixed, downs=downs_o)
        if wanted is not None:
            grad_mixed, grad = (t.new_zeros(len(x), t.shape[1]).index_add_(0, wanted, t) for t in (grad_mixed, grad))
        grad_qkv = self.kernels.attention_backward(grad_mixed, qkv=qkv, logsum=logsum, rows=rows)
        grad_n1, of_qkv = self.qkv.backward(grad_qkv, x=n1, downs=downs_qkv, of_input=of_input)
        if of_input:
            grad = self.kernels.norm_backward(grad_n1, x=x, scale=scale1, weight=self.norms[0], residual_grad=grad)
        return grad, [*of_qkv, *of_o, *of_gate_up, *of_down]
