"""A decoder layer of a Llama with LoRA over packed rows: forward, and backward by hand.

At a few hundred tokens PEFT's layers spend less time in their seven products than in the hundred small operations
around them: norms, casts, rotations, LoRA's own products. So q, k and v are one product here, and so are gate and up;
LoRA's A matrices of one input are stacked; residuals are added by the product that makes the other summand; keys are
not repeated for grouped queries; and nothing is computed for frozen weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from student.frozen import Frozen


@dataclass(slots=True)
class Adapted:
    """A layer's LoRA: what is learned, its place in its group's matrices, and B times its scale as products read it."""

    learned: tuple[Tensor, Tensor]
    scale: float
    outputs: slice
    ranks: slice
    b: Tensor


class GroupGradients(NamedTuple):
    """Where a group's gradients belong, fp32: of A (ranks, in), and of each B times its scale (its out, its rank)."""

    a: Tensor
    b: Sequence[Tensor]


class Group:
    """Linear layers that read the same input, as one: y = x Wᵀ + (x Aᵀ) Bᵀ, W frozen.

    W (out, in) holds the layers' weights one below the other; they become views of it. A (ranks, in) holds the
    adapters' A likewise; each B (its out, its rank) stands alone, for put together they would be nought for the most
    part. Where `a` and every `b` lie is for `student.packed` to say.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        bases = [layer.base_layer if hasattr(layer, "base_layer") else layer for layer in layers]
        weight = torch.cat([b.weight.detach() for b in bases]) if len(bases) > 1 else bases[0].weight.detach()
        self.adapted: list[Adapted] = []
        out = rank = 0
        for layer, base in zip(layers, bases, strict=True):
            end = out + len(base.weight)
            base.weight.data = weight[out:end]
            if layer is not base:
                a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
                ranks = slice(rank, rank + len(a))
                self.adapted.append(Adapted((a, b), layer.scaling["default"], slice(out, end), ranks, b.detach()))
                rank += len(a)
            out = end
        self.weight = Frozen(weight)
        self.a = weight.new_empty(rank, weight.shape[1])

    def forward(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs (tokens, out), with a residual added where there is one, and x Aᵀ (tokens, ranks)."""
        y = self.weight.forward(x, residual)
        down = x @ self.a.T
        for part in self.adapted:
            y[:, part.outputs].addmm_(down[:, part.ranks], part.b.T)
        return y, down

    def backward(
        self, grad: Tensor, x: Tensor, down: Tensor, into: GroupGradients, *, of_input: bool = True
    ) -> Tensor:
        """The gradient of the input (empty where nobody wants it); those of what is learned go where they belong."""
        grad_x = self.weight.backward(grad) if of_input else grad[:0]
        if not self.adapted:
            return grad_x
        parts = [grad[:, part.outputs] for part in self.adapted]
        each = [g @ part.b for g, part in zip(parts, self.adapted, strict=True)]
        grad_down = torch.cat(each, 1) if len(each) > 1 else each[0]
        if of_input:
            grad_x.addmm_(grad_down, self.a)
        into.a.copy_(grad_down.T @ x)
        for to, g, part in zip(into.b, parts, self.adapted, strict=True):
            to.copy_((down[:, part.ranks].T @ g).T)
        return grad_x


@dataclass(slots=True)
class Layer:
    """A decoder layer's frozen parts and its adapters."""

    qkv: Group
    o: Group
    gate_up: Group
    down: Group
    norms: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, layer: Any) -> Layer:
        """Take a layer of transformers over."""
        s, m = layer.self_attn, layer.mlp
        return cls(
            Group([s.q_proj, s.k_proj, s.v_proj]), Group([s.o_proj]), Group([m.gate_proj, m.up_proj]),
            Group([m.down_proj]),
            (layer.input_layernorm.weight.detach(), layer.post_attention_layernorm.weight.detach()),
        )

    @property
    def groups(self) -> tuple[Group, Group, Group, Group]:
        """In the order of the forward pass."""
        return self.qkv, self.o, self.gate_up, self.down


@dataclass(slots=True)
class Table:
    """How packed rows (tokens) become the table (rows · length) that attention sees, and back.

    Attributes:
        cos: Of every token's position, shape (tokens, 1, head_dim).
        sin: Likewise.
        place: Each token's place in the table, shape (tokens,); None where the rows fill it.
        token: The token at each place, anybody's where there is none, shape (rows · length,).
        mask: What a query may not see is minus infinity: what comes later, shape (queries per key · length, length);
            where attention goes in both directions what no row holds, shape (rows · keys, 1, length).
    """

    rows: int
    length: int
    cos: Tensor
    sin: Tensor
    place: Tensor | None
    token: Tensor
    mask: Tensor

    def spread(self, x: Tensor) -> Tensor:
        """From tokens to places; what stands where no token is must not matter."""
        return x if self.place is None else x.index_select(0, self.token)

    def spread_gradient(self, x: Tensor) -> Tensor:
        """From tokens to places, nought where no token is."""
        return x if self.place is None else x.new_zeros(len(self.token), x.shape[1]).index_copy_(0, self.place, x)

    def gather(self, x: Tensor) -> Tensor:
        """From places to tokens."""
        return x if self.place is None else x.index_select(0, self.place)


class Shape(NamedTuple):
    """What the layers of a decoder have in common: heads that hold keys, queries for each, their size, and factors."""

    kv: int
    each: int
    dim: int
    eps: float
    scaling: float

    @classmethod
    def of(cls, decoder: Any) -> Shape:
        """Those of a decoder of transformers."""
        c, attention = decoder.config, decoder.layers[0].self_attn
        each = c.num_attention_heads // c.num_key_value_heads
        return cls(c.num_key_value_heads, each, attention.head_dim, c.rms_norm_eps, attention.scaling)


def layer_forward(
    s: Shape, layer: Layer, table: Table, x: Tensor, wanted: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The layer's output, of the wanted tokens if they are named, and what its backward pass needs."""
    heads, batch = s.kv * s.each, (table.rows, table.length)
    n1, unit1, scale1 = _norm(x, layer.norms[0], s.eps)
    qkv, down_qkv = layer.qkv.forward(n1)
    turned = qkv.view(len(x), heads + 2 * s.kv, s.dim)
    _rotate(turned[:, : heads + s.kv], table.cos, table.sin)
    q, k, v = table.spread(qkv).view(*batch, -1, s.dim).split_with_sizes((heads, s.kv, s.kv), 2)
    q = q.view(*batch, s.kv, s.each, s.dim).permute(0, 2, 3, 1, 4).reshape(-1, s.each * table.length, s.dim)
    k, v = (t.transpose(1, 2).reshape(-1, table.length, s.dim) for t in (k, v))
    shares = torch.softmax(torch.baddbmm(table.mask, q, k.transpose(1, 2), alpha=s.scaling), dim=-1)
    mixed = torch.bmm(shares, v).view(table.rows, s.kv, s.each, table.length, s.dim)
    mixed = table.gather(mixed.permute(0, 3, 1, 2, 4).reshape(table.rows * table.length, -1))
    if wanted is not None:
        mixed, x = mixed.index_select(0, wanted), x.index_select(0, wanted)
    middle, down_o = layer.o.forward(mixed, x)
    n2, unit2, scale2 = _norm(middle, layer.norms[1], s.eps)
    both, down_gate_up = layer.gate_up.forward(n2)
    gate, up = both.chunk(2, -1)
    silu = torch.nn.functional.silu(gate)
    act = silu * up
    out, down_down = layer.down.forward(act, middle)
    return out, (n1, unit1, scale1, q, k, v, shares, mixed, n2, unit2, scale2, both, silu, act,
                 down_qkv, down_o, down_gate_up, down_down)


def layer_backward(
    s: Shape, layer: Layer, table: Table, grad: Tensor, kept: tuple[Tensor, ...], into: Sequence[GroupGradients],
    wanted: Tensor | None = None, *, of_input: bool,
) -> Tensor:
    """The gradient of the layer's input from that of its output; those of what it learns go `into` their places."""
    (n1, unit1, scale1, q, k, v, shares, mixed, n2, unit2, scale2, both, silu, act,
     down_qkv, down_o, down_gate_up, down_down) = kept
    heads, batch = s.kv * s.each, (table.rows, table.length)
    to_qkv, to_o, to_gate_up, to_down = into

    grad_act = layer.down.backward(grad, act, down_down, to_down)
    gate, up = both.chunk(2, -1)
    grad_both = torch.empty_like(both)
    grad_gate, grad_up = grad_both.chunk(2, -1)
    torch.ops.aten.silu_backward(grad_act * up, gate, grad_input=grad_gate)
    torch.mul(silu, grad_act, out=grad_up)
    grad_n2 = layer.gate_up.backward(grad_both, n2, down_gate_up, to_gate_up)
    grad = _norm_backward(grad_n2, unit2, scale2, layer.norms[1], grad)

    grad_mixed = layer.o.backward(grad, mixed, down_o, to_o)
    if wanted is not None:
        grad_mixed, grad = (t.new_zeros(len(n1), t.shape[1]).index_add_(0, wanted, t) for t in (grad_mixed, grad))
    grad_mixed = table.spread_gradient(grad_mixed).view(*batch, s.kv, s.each, s.dim)
    grad_mixed = grad_mixed.permute(0, 2, 3, 1, 4).reshape(q.shape)
    grad_shares = torch.bmm(grad_mixed, v.transpose(1, 2))
    grad_scores = torch._softmax_backward_data(grad_shares, shares, -1, shares.dtype).mul_(s.scaling)
    spread = grad.new_empty(*batch, heads + 2 * s.kv, s.dim)
    to_q, to_k, to_v = spread.split_with_sizes((heads, s.kv, s.kv), 2)
    to_q.view(*batch, s.kv, s.each, s.dim).copy_(
        torch.bmm(grad_scores, k).view(table.rows, s.kv, s.each, table.length, s.dim).permute(0, 3, 1, 2, 4)
    )
    for to, left, right in ((to_k, grad_scores, q), (to_v, shares, grad_mixed)):
        found = torch.bmm(left.transpose(1, 2), right).view(table.rows, s.kv, table.length, s.dim)
        to.copy_(found.transpose(1, 2))
    grad_qkv = table.gather(spread.view(table.rows * table.length, -1))
    _rotate(grad_qkv.view(len(grad), -1, s.dim)[:, : heads + s.kv], table.cos, -table.sin)
    grad_n1 = layer.qkv.backward(grad_qkv, n1, down_qkv, to_qkv, of_input=of_input)
    if of_input:
        grad = _norm_backward(grad_n1, unit1, scale1, layer.norms[0], grad)
    return grad


def _norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """RMS norm (Zhang and Sennrich 2019): the result, x / rms, and 1 / rms (fp32, one per token)."""
    square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_()
    scale = square.div_(x.shape[-1]).add_(eps).rsqrt_()
    unit = (x * scale).to(x.dtype)
    return unit * weight, unit, scale


def _norm_backward(grad: Tensor, unit: Tensor, scale: Tensor, weight: Tensor, beside: Tensor) -> Tensor:
    """Gradient of a norm's input, and of the residual that goes beside it."""
    wide, direction = (grad * weight).float(), unit.float()
    along = torch.linalg.vecdot(wide, direction).div_(-unit.shape[-1])[:, None]
    return wide.addcmul_(direction, along).mul_(scale).add_(beside).to(unit.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotary positions (Su et al. 2021), in place, by halves as transformers does. x (tokens, heads, head_dim)."""
    half = x.shape[-1] // 2
    turned = torch.cat((x[..., half:].neg(), x[..., :half]), -1)
    x.mul_(cos).addcmul_(turned, sin)
