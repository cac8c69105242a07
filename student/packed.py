"""A Llama with LoRA over packed rows, with a backward pass of its own: for short rows on a CPU.

A step over thirty queries is a few hundred tokens. At that size a layer's seven products take less time than the
hundred small operations around them: norms, casts, rotations, LoRA's own products; and batches of uneven queries are
half padding. So here rows stand one behind the other and only attention sees them as a table; q, k and v are one
product, so are gate and up; LoRA's A matrices of one input are stacked and the B matrices stand block by block in one
matrix; residuals are added by the product that makes the other summand; keys are not repeated for grouped queries; and
nothing is computed for frozen weights. The mathematics are those of transformers and PEFT, which
`tests/student/test_packed.py` holds it against; `benchmarks/training.py` says what it is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from student.frozen import Frozen
from student.fused import plain


def pack(model: Any) -> bool:
    """Let `TargetLogits` run a PEFT model packed, if it can: a Llama with plain LoRA on a CPU, no checkpointing."""
    from transformers.models.llama.modeling_llama import LlamaModel

    decoder = model.get_base_model().get_decoder()
    fit = (
        type(decoder) is LlamaModel and decoder.config.hidden_act == "silu" and decoder.device.type == "cpu"
        and not decoder.is_gradient_checkpointing
    )
    layers = [
        m for layer in decoder.layers for part in (layer.self_attn, layer.mlp) for n, m in part.named_children()
        if n.endswith("_proj")
    ] if fit else []
    if not layers or not all(m.bias is None if type(m) is torch.nn.Linear else plain(m) for m in layers):
        return False
    model.get_base_model().packed = Packed(decoder)
    return True


class Adapted(NamedTuple):
    """A layer's LoRA: what is learned, and where it stands in its group's matrices."""

    a: Tensor
    b: Tensor
    scale: float
    outputs: slice
    ranks: slice


class Group:
    """Linear layers that read the same input, as one: y = x Wᵀ + (x Aᵀ) Bᵀ, W frozen.

    W (out, in) holds the layers' weights one below the other; they become views of it. A (ranks, in) holds the
    adapters' A, B (out, ranks) their B times their scale, block by block.
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
                self.adapted.append(
                    Adapted(a, b, layer.scaling["default"], slice(out, end), slice(rank, rank + len(a)))
                )
                rank += len(a)
            out = end
        self.weight = Frozen(weight)
        self.a = weight.new_zeros(rank, weight.shape[1])
        self.b = weight.new_zeros(out, rank)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs (tokens, out), with a residual added where there is one, and x Aᵀ (tokens, ranks)."""
        y = self.weight.forward(x, residual)
        down = x @ self.a.T
        return (y.addmm_(down, self.b.T) if self.adapted else y), down

    def backward(
        self, grad: Tensor, x: Tensor, down: Tensor, *, of_input: bool = True
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Gradients of the input (empty where nobody wants it) and of what is learned, in fp32."""
        grad_x = self.weight.backward(grad) if of_input else grad[:0]
        if not self.adapted:
            return grad_x, ()
        grad_down = grad @ self.b
        if of_input:
            grad_x.addmm_(grad_down, self.a)
        grad_a = (grad_down.T @ x).float()
        grad_b = (down.T @ grad).float()  # (ranks, out), of which only the blocks count
        return grad_x, [
            g for x in self.adapted for g in (grad_a[x.ranks], grad_b[x.ranks, x.outputs].T * x.scale)
        ]


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
        """In the order in which gradients come."""
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


class Packed:
    """The decoder of a causal LM."""

    def __init__(self, decoder: Any) -> None:
        c = decoder.config
        self.decoder = decoder
        self.layers = [Layer.of(x) for x in decoder.layers]
        self.kv, self.each = c.num_key_value_heads, c.num_attention_heads // c.num_key_value_heads
        self.causal = getattr(c, "is_causal", True)
        self.dim, self.eps = decoder.layers[0].self_attn.head_dim, c.rms_norm_eps
        self.scaling = decoder.layers[0].self_attn.scaling
        found = [(g, x) for layer in self.layers for g in layer.groups for x in g.adapted]
        self.learned = [p for _, x in found for p in (x.a, x.b)]
        self._places = [place for g, x in found for place in (g.a[x.ranks], g.b[x.outputs, x.ranks])]
        self._scales = [scale for _, x in found for scale in (1.0, x.scale)]

    def __call__(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Hidden states after the last norm.

        Args:
            ids: (rows, length), padded on the right.
            lengths: (rows,) tokens that count.

        Returns:
            (tokens, hidden), row after row.
        """
        real = torch.arange(ids.shape[1]) < lengths[:, None]
        hidden = self.decoder.embed_tokens(ids[real])
        table = self._table(real, hidden)
        self._refresh()
        with torch.autocast("cpu", enabled=False):
            if torch.is_grad_enabled():
                hidden = _Stack.apply(hidden, self, table, *self.learned)  # type: ignore[no-untyped-call]
            else:  # nothing is kept for a backward pass
                for layer in self.layers:
                    hidden, _ = _layer_forward(self, layer, table, hidden)
        normed: Tensor = self.decoder.norm(hidden)
        return normed

    def _refresh(self) -> None:
        """Bring what is learned into the weights' precision and into its places."""
        with torch.no_grad():
            torch._foreach_copy_(self._places, torch._foreach_mul(self.learned, self._scales))

    def _table(self, real: Tensor, hidden: Tensor) -> Table:
        rows, length = real.shape
        cos, sin = self.decoder.rotary_emb(hidden, torch.arange(length)[None])  # (1, length, head_dim)
        position = real.nonzero()[:, 1]
        full = bool(real.all())
        if self.causal:
            mask = torch.full((length, length), float("-inf"), dtype=hidden.dtype).triu_(1).repeat(self.each, 1)
        else:
            mask = torch.zeros(rows, 1, length, dtype=hidden.dtype).masked_fill_(~real[:, None], float("-inf"))
            mask = mask.repeat_interleave(self.kv, 0)
        return Table(
            rows, length, cos[0, position, None], sin[0, position, None],
            None if full else real.flatten().nonzero()[:, 0], (real.flatten().cumsum(0) - 1).clamp_(min=0),
            mask,
        )


class _Stack(torch.autograd.Function):
    """All layers: hidden (tokens, width) → the same. What is learned is passed so that autograd knows of it."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, packed: Packed, table: Table, *_: Tensor) -> Tensor:
        keep: list[tuple[Tensor, ...]] = []
        for layer in packed.layers:
            hidden, kept = _layer_forward(packed, layer, table, hidden)
            keep.append(kept)
        ctx.packed, ctx.table = packed, table
        ctx.keep = keep  # neither inputs nor outputs: nothing that autograd would have to watch
        return hidden

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients: list[Sequence[Tensor]] = []
        for number in range(len(ctx.packed.layers) - 1, -1, -1):
            grad, found = _layer_backward(
                ctx.packed, ctx.packed.layers[number], ctx.table, grad, ctx.keep.pop(), of_input=number > 0
            )
            gradients.append(found)
        return None, None, None, *(g for found in reversed(gradients) for g in found)


def _layer_forward(p: Packed, layer: Layer, table: Table, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The layer's output, and what its backward pass needs."""
    heads, batch = p.kv * p.each, (table.rows, table.length)
    n1, unit1, scale1 = _norm(x, layer.norms[0], p.eps)
    qkv, down_qkv = layer.qkv.forward(n1)
    turned = qkv.view(len(x), heads + 2 * p.kv, p.dim)
    _rotate(turned[:, : heads + p.kv], table.cos, table.sin)
    q, k, v = table.spread(qkv).view(*batch, -1, p.dim).split_with_sizes((heads, p.kv, p.kv), 2)
    q = q.view(*batch, p.kv, p.each, p.dim).permute(0, 2, 3, 1, 4).reshape(-1, p.each * table.length, p.dim)
    k, v = (t.transpose(1, 2).reshape(-1, table.length, p.dim) for t in (k, v))
    shares = torch.softmax(torch.baddbmm(table.mask, q, k.transpose(1, 2), alpha=p.scaling), dim=-1)
    mixed = torch.bmm(shares, v).view(table.rows, p.kv, p.each, table.length, p.dim)
    mixed = table.gather(mixed.permute(0, 3, 1, 2, 4).reshape(table.rows * table.length, -1))
    middle, down_o = layer.o.forward(mixed, x)
    n2, unit2, scale2 = _norm(middle, layer.norms[1], p.eps)
    both, down_gate_up = layer.gate_up.forward(n2)
    gate, up = both.chunk(2, -1)
    silu = torch.nn.functional.silu(gate)
    act = silu * up
    out, down_down = layer.down.forward(act, middle)
    return out, (n1, unit1, scale1, q, k, v, shares, mixed, n2, unit2, scale2, both, silu, act,
                 down_qkv, down_o, down_gate_up, down_down)


def _layer_backward(
    p: Packed, layer: Layer, table: Table, grad: Tensor, kept: tuple[Tensor, ...], *, of_input: bool
) -> tuple[Tensor, Sequence[Tensor]]:
    """Gradients of the layer's input and of what it learns."""
    (n1, unit1, scale1, q, k, v, shares, mixed, n2, unit2, scale2, both, silu, act,
     down_qkv, down_o, down_gate_up, down_down) = kept
    heads, batch = p.kv * p.each, (table.rows, table.length)

    grad_act, of_down = layer.down.backward(grad, act, down_down)
    gate, up = both.chunk(2, -1)
    grad_both = torch.empty_like(both)
    grad_gate, grad_up = grad_both.chunk(2, -1)
    torch.ops.aten.silu_backward(grad_act * up, gate, grad_input=grad_gate)
    torch.mul(silu, grad_act, out=grad_up)
    grad_n2, of_gate_up = layer.gate_up.backward(grad_both, n2, down_gate_up)
    grad = _norm_backward(grad_n2, unit2, scale2, layer.norms[1], grad)

    grad_mixed, of_o = layer.o.backward(grad, mixed, down_o)
    grad_mixed = table.spread_gradient(grad_mixed).view(*batch, p.kv, p.each, p.dim)
    grad_mixed = grad_mixed.permute(0, 2, 3, 1, 4).reshape(q.shape)
    grad_shares = torch.bmm(grad_mixed, v.transpose(1, 2))
    grad_scores = torch._softmax_backward_data(grad_shares, shares, -1, shares.dtype).mul_(p.scaling)
    spread = grad.new_empty(*batch, heads + 2 * p.kv, p.dim)
    to_q, to_k, to_v = spread.split_with_sizes((heads, p.kv, p.kv), 2)
    to_q.view(*batch, p.kv, p.each, p.dim).copy_(
        torch.bmm(grad_scores, k).view(table.rows, p.kv, p.each, table.length, p.dim).permute(0, 3, 1, 2, 4)
    )
    for to, left, right in ((to_k, grad_scores, q), (to_v, shares, grad_mixed)):
        found = torch.bmm(left.transpose(1, 2), right).view(table.rows, p.kv, table.length, p.dim)
        to.copy_(found.transpose(1, 2))
    grad_qkv = table.gather(spread.view(table.rows * table.length, -1))
    _rotate(grad_qkv.view(len(grad), -1, p.dim)[:, : heads + p.kv], table.cos, -table.sin)
    grad_n1, of_qkv = layer.qkv.backward(grad_qkv, n1, down_qkv, of_input=of_input)
    if of_input:
        grad = _norm_backward(grad_n1, unit1, scale1, layer.norms[0], grad)
    return grad, [*of_qkv, *of_o, *of_gate_up, *of_down]


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
