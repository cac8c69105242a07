"""A Llama with LoRA over packed rows, with a backward pass of its own: for short rows on a CPU.

A step over thirty queries is a few hundred tokens, and batches of uneven queries are half padding. So here rows stand
one behind the other, and only attention sees them as a table. What a layer does with them, and why, is in
`student/layer.py`. The mathematics are those of transformers and PEFT, which `tests/student/test_packed.py` holds it
against; `benchmarks/training.py` says what it is worth. A thread for each half of the rows, instead of all threads for
every operation, was tried and is no faster: it does every small operation twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from student.fused import plain
from student.layer import Layer, Shape, Table, layer_backward, layer_forward


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


class Packed:
    """The decoder of a causal LM."""

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder
        self.layers = [Layer.of(x) for x in decoder.layers]
        self.shape = Shape.of(decoder)
        self.causal = getattr(decoder.config, "is_causal", True)
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
                    hidden, _ = layer_forward(self.shape, layer, table, hidden)
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
            mask = torch.full((length, length), float("-inf"), dtype=hidden.dtype).triu_(1).repeat(self.shape.each, 1)
        else:
            mask = torch.zeros(rows, 1, length, dtype=hidden.dtype).masked_fill_(~real[:, None], float("-inf"))
            mask = mask.repeat_interleave(self.shape.kv, 0)
        return Table(
            rows, length, cos[0, position, None], sin[0, position, None],
            None if full else real.flatten().nonzero()[:, 0], (real.flatten().cumsum(0) - 1).clamp_(min=0), mask,
        )


class _Stack(torch.autograd.Function):
    """All layers: hidden (tokens, width) → the same. What is learned is passed so that autograd knows of it."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, packed: Packed, table: Table, *_: Tensor) -> Tensor:
        keep: list[tuple[Tensor, ...]] = []
        for layer in packed.layers:
            hidden, kept = layer_forward(packed.shape, layer, table, hidden)
            keep.append(kept)
        ctx.packed, ctx.table = packed, table
        ctx.keep = keep  # neither inputs nor outputs: nothing that autograd would have to watch
        return hidden

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients: list[Sequence[Tensor]] = []
        layers = ctx.packed.layers
        for number in range(len(layers) - 1, -1, -1):
            grad, found = layer_backward(
                ctx.packed.shape, layers[number], ctx.table, grad, ctx.keep.pop(), of_input=number > 0
            )
            gradients.append(found)
        return None, None, None, *(g for found in reversed(gradients) for g in found)
