"""A Llama with LoRA over packed rows, with a backward pass of its own: for short rows on a CPU.

A step over thirty queries is a few hundred tokens, and batches of uneven queries are half padding. So here rows stand
one behind the other. What a layer does with them, and why, is in `student/layer.py`. The mathematics are those of
transformers and PEFT, which `tests/student/test_packed.py` holds it against; `benchmarks/training.py` says what it is
worth. A thread for each half of the rows, instead of all threads for every operation, was tried and is no faster: it
does every small operation twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from student.kernels.decoder_layer import Layer
from student.kernels.fused_lora import plain
from student.kernels.native import Kernels, Rows, kernels


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
    functions = kernels(decoder.dtype)
    if functions is None:
        return False
    model.get_base_model().packed = Packed(decoder, functions)
    return True


class Packed:
    """The decoder of a causal LM."""

    def __init__(self, decoder: Any, functions: Kernels) -> None:
        self.decoder = decoder
        self.layers = [Layer.of(x, functions) for x in decoder.layers]
        self.learned = [p for layer in self.layers for p in layer.learned]

    def __call__(self, ids: Tensor, lengths: Tensor, wanted: Tensor) -> Tensor:
        """Hidden states after the last norm, of the tokens where something is read; the last layer works for no others.

        Args:
            ids: (rows, length), padded on the right.
            lengths: (rows,) tokens that count.
            wanted: (targets,) where they stand among the tokens that count, row after row.

        Returns:
            (targets, hidden).
        """
        hidden = self.decoder.embed_tokens(ids[torch.arange(ids.shape[1]) < lengths[:, None]])
        rows = self._rows(hidden, lengths)
        with torch.autocast("cpu", enabled=False):
            if torch.is_grad_enabled():
                hidden = _Stack.apply(hidden, self, rows, wanted, *self.learned)  # type: ignore[no-untyped-call]
            else:  # nothing is kept for a backward pass
                for layer, of in self.through(wanted):
                    hidden, _ = layer.forward(hidden, rows, of)
        normed: Tensor = self.decoder.norm(hidden)
        return normed

    def through(self, wanted: Tensor) -> list[tuple[Layer, Tensor | None]]:
        """Every layer, and the tokens that its output is wanted of where that is not all."""
        return [(layer, wanted if layer is self.layers[-1] else None) for layer in self.layers]

    def _rows(self, hidden: Tensor, lengths: Tensor) -> Rows:
        config, attention = self.decoder.config, self.decoder.layers[0].self_attn
        cos, sin = self.decoder.rotary_emb(hidden, torch.arange(int(lengths.max()))[None])  # (1, length, head_dim)
        return Rows(
            torch.nn.functional.pad(lengths.cumsum(0), (1, 0)), cos[0].float().contiguous(),
            sin[0].float().contiguous(), config.num_attention_heads, config.num_key_value_heads, attention.head_dim,
            attention.scaling, getattr(config, "is_causal", True),
        )


class _Stack(torch.autograd.Function):
    """All layers: hidden (tokens, width) → (wanted, width). What is learned is passed so that autograd knows of it."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, packed: Packed, rows: Rows, wanted: Tensor, *_: Tensor) -> Tensor:
        keep: list[tuple[Any, ...]] = []
        for layer, of in packed.through(wanted):
            hidden, kept = layer.forward(hidden, rows, of)
            keep.append(kept)
        ctx.packed, ctx.rows, ctx.wanted = packed, rows, wanted
        ctx.keep = keep  # neither inputs nor outputs: nothing that autograd would have to watch
        return hidden

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        packed, grad = ctx.packed, grad.contiguous()
        found: list[list[Tensor]] = []
        for layer, of in reversed(packed.through(ctx.wanted)):
            first = layer is packed.layers[0]
            grad, learned = layer.backward(grad, ctx.keep.pop(), ctx.rows, of, of_input=not first)
            found.append(learned)
        return None, None, None, None, *(g for learned in reversed(found) for g in learned)
