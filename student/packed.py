"""A Llama with LoRA over packed rows, with a backward pass of its own: for short rows on a CPU.

A step over thirty queries is a few hundred tokens, and batches of uneven queries are half padding. So here rows stand
one behind the other, and only attention sees them as a table. What a layer does with them, and why, is in
`student/layer.py`. The mathematics are those of transformers and PEFT, which `tests/student/test_packed.py` holds it
against; `benchmarks/training.py` says what it is worth. A thread for each half of the rows, instead of all threads for
every operation, was tried and is no faster: it does every small operation twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from student.fused import plain
from student.layer import Group, GroupGradients, Layer, Shape, Table, layer_backward, layer_forward


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
    adapted = [m for m in layers if type(m) is not torch.nn.Linear]
    if not adapted or not all(plain(m) for m in adapted) or any(m.bias is not None for m in layers if m not in adapted):
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
        self.learned = Learned([g for layer in self.layers for g in layer.groups])

    def __call__(self, ids: Tensor, lengths: Tensor, wanted: Tensor) -> Tensor:
        """Hidden states after the last norm, of the tokens where something is read; the last layer works for no others.

        Args:
            ids: (rows, length), padded on the right.
            lengths: (rows,) tokens that count.
            wanted: (targets,) where they stand among the tokens that count, row after row.

        Returns:
            (targets, hidden).
        """
        real = torch.arange(ids.shape[1]) < lengths[:, None]
        hidden = self.decoder.embed_tokens(ids[real])
        table = self._table(real, hidden)
        self.learned.refresh()
        with torch.autocast("cpu", enabled=False):
            if torch.is_grad_enabled():
                hidden = _Stack.apply(hidden, self, table, wanted, *self.learned.parameters)  # type: ignore[no-untyped-call]
            else:  # nothing is kept for a backward pass
                for layer, of in self.through(wanted):
                    hidden, _ = layer_forward(self.shape, layer, table, hidden, of)
        normed: Tensor = self.decoder.norm(hidden)
        return normed

    def through(self, wanted: Tensor) -> list[tuple[Layer, Tensor | None]]:
        """Every layer, and the tokens that its output is wanted of where that is not all."""
        return [(layer, wanted if layer is self.layers[-1] else None) for layer in self.layers]

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


class Learned:
    """All A and B in one run of numbers each, in fp32 as the optimiser has them and in the weights' precision.

    There are hundreds of small matrices, and every step casts and scales each of them and its gradient. Bringing them
    into the weights' precision took 14 ms one by one and takes 0.7 ms at once, of a step's 600. The parameters become
    views of the run.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = groups
        adapted = [x for g in groups for x in g.adapted]
        self.parameters = [p for x in adapted for p in x.learned]
        runs = [torch.cat([x.learned[which].detach().flatten() for x in adapted]) for which in (0, 1)]
        self._a, self._b = runs
        self._low_a, self._low_b = (torch.empty_like(run, dtype=groups[0].a.dtype) for run in runs)
        scales = [x.scale for x in adapted]
        alike = all(scale == scales[0] for scale in scales)
        self._scale: float | Tensor = scales[0] if alike else torch.cat(
            [torch.full((x.learned[1].numel(),), x.scale) for x in adapted]
        )
        for group, low, own in zip(groups, self._places(self._low_a, self._low_b), self._places(*runs), strict=True):
            group.a = low.a
            for x, low_b, own_b in zip(group.adapted, low.b, own.b, strict=True):
                x.b = low_b
                x.learned[0].data, x.learned[1].data = own.a[x.ranks], own_b

    def refresh(self) -> None:
        """Bring what is learned into the weights' precision."""
        with torch.no_grad():
            self._low_a.copy_(self._a)
            torch.mul(self._b, self._scale, out=self._low_b)

    def gradients(self) -> Gradients:
        """Room for those of one pass."""
        a, b = torch.empty_like(self._a), torch.empty_like(self._b)
        return Gradients(b, self._scale, self._places(a, b))

    def _places(self, a: Tensor, b: Tensor) -> list[GroupGradients]:
        """Each group's part of a run of all A and of one of all B, in their shapes."""
        out, at_a, at_b = [], 0, 0
        for group in self.groups:
            rank, width = group.a.shape
            here = a[at_a : at_a + rank * width].view(rank, width)
            at_a += rank * width
            each = []
            for x in group.adapted:
                shape = x.learned[1].shape
                each.append(b[at_b : at_b + shape.numel()].view(shape))
                at_b += shape.numel()
            out.append(GroupGradients(here, each))
        return out


class Gradients(NamedTuple):
    """Of a pass, before B's have been multiplied by their scale."""

    b: Tensor
    scale: float | Tensor
    groups: list[GroupGradients]

    def done(self, groups: Sequence[Group]) -> list[Tensor]:
        """Those of the parameters, in their order."""
        self.b.mul_(self.scale)
        return [
            t for places, group in zip(self.groups, groups, strict=True)
            for x, of_b in zip(group.adapted, places.b, strict=True) for t in (places.a[x.ranks], of_b)
        ]


class _Stack(torch.autograd.Function):
    """All layers: hidden (tokens, width) → (wanted, width). What is learned is passed so that autograd knows of it."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, packed: Packed, table: Table, wanted: Tensor, *_: Tensor) -> Tensor:
        keep: list[tuple[Tensor, ...]] = []
        for layer, of in packed.through(wanted):
            hidden, kept = layer_forward(packed.shape, layer, table, hidden, of)
            keep.append(kept)
        ctx.packed, ctx.table, ctx.wanted = packed, table, wanted
        ctx.keep = keep  # neither inputs nor outputs: nothing that autograd would have to watch
        return hidden

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        packed = ctx.packed
        found = packed.learned.gradients()
        places = list(found.groups)
        for layer, of in reversed(packed.through(ctx.wanted)):
            into = [places.pop() for _ in layer.groups][::-1]
            grad = layer_backward(
                packed.shape, layer, ctx.table, grad, ctx.keep.pop(), into, of, of_input=bool(places),
            )
        return None, None, None, None, *found.done(packed.learned.groups)
