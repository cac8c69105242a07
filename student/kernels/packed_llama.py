"""A Llama with LoRA over packed rows (concatenated without padding) and a hand-written backward pass, for CPUs.

A step over thirty queries has a few hundred tokens, and in batches of queries of different lengths half of all tokens
are padding. What a layer computes and why it is faster is in `student.kernels.decoder_layer`; `benchmarks/training.py`
measures the speed-up. A thread for each half of the rows, instead of all threads for every operation, was tried and is
no faster: it does every small operation twice.

`pack` relies on the module names of transformers 5.19 and PEFT 0.21, which the requirements pin, and sets the attribute
`packed` on the base model, which `TargetLogits` looks for. `pack_forward` does the same for evaluation.
`tests/student/kernels/test_packed_llama.py` compares logits and gradients with those of transformers and PEFT.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear

from student.kernels.decoder_layer import DecoderLayer, ForwardLinear, FusedLinear
from student.kernels.fused_lora import is_plain_lora
from student.kernels.native import Kernels, Rows, kernels


def pack(model: Any) -> bool:
    """Make `TargetLogits` run a PEFT model packed, if possible: a Llama with plain LoRA on a CPU, no checkpointing.

    Returns:
        Whether it is possible; otherwise the model is left as it was.
    """
    inner = model.get_base_model()
    projections = _projections(inner)
    adapted = [m for m in projections if type(m) is not Linear]
    if not adapted or not all(is_plain_lora(m) for m in adapted):
        return False
    return _packed(inner, FusedLinear)


def pack_forward(model: Any) -> bool:
    """The same for a model that is only evaluated, with plain LoRA or without an adapter; later changes are not seen.

    The model's own modules keep working, with the same weights: they are what the packed forward is checked against.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    projections = _projections(inner)
    if not projections or not all(type(m) is Linear or is_plain_lora(m, trained=False) for m in projections):
        return False
    return _packed(inner, ForwardLinear)


def _projections(inner: Any) -> list[Any]:
    """The linear layers of a causal LM's decoder; none if it cannot be run packed."""
    from transformers.models.llama.modeling_llama import LlamaModel

    decoder = inner.get_decoder()
    if not (
        type(decoder) is LlamaModel and decoder.config.hidden_act == "silu" and decoder.device.type == "cpu"
        and not decoder.is_gradient_checkpointing
    ):
        return []
    found = [
        m for layer in decoder.layers for part in (layer.self_attn, layer.mlp) for n, m in part.named_children()
        if n.endswith("_proj")
    ]
    return [] if any(type(m) is Linear and m.bias is not None for m in found) else found


def _packed(inner: Any, linear: type[FusedLinear | ForwardLinear]) -> bool:
    functions = kernels(inner.get_decoder().dtype)
    if functions is None:
        return False
    inner.packed = PackedDecoder(inner.get_decoder(), functions, linear)
    return True


class PackedDecoder:
    """The decoder of a causal LM, over packed rows; shares its weights."""

    def __init__(
        self, decoder: Any, functions: Kernels, linear: type[FusedLinear | ForwardLinear] = FusedLinear
    ) -> None:
        self.decoder = decoder
        self.layers = [DecoderLayer.of(x, functions, linear) for x in decoder.layers]
        self.trainable = [p for layer in self.layers for p in layer.trainable]

    def __call__(self, ids: Tensor, *, lengths: Tensor, wanted: Tensor) -> Tensor:
        """Hidden states after the last norm at the targets; the last layer computes these tokens only.

        Args:
            ids: (rows, length), padded on the right.
            lengths: (rows,) tokens of each row without padding.
            wanted: (targets,) index of each target's token in the packed rows.

        Returns:
            (targets, hidden).
        """
        hidden = self.decoder.embed_tokens(ids[torch.arange(ids.shape[1]) < lengths[:, None]])
        rows = self._rows(hidden, lengths)
        with torch.autocast("cpu", enabled=False):
            if torch.is_grad_enabled():
                hidden = _Layers.apply(hidden, self, rows, wanted, *self.trainable)  # type: ignore[no-untyped-call]
            else:  # no activations are saved for a backward pass
                for layer, part in self.layers_with_wanted(wanted):
                    hidden, _ = layer.forward(hidden, rows, part)
        normed: Tensor = self.decoder.norm(hidden)
        return normed

    def layers_with_wanted(self, wanted: Tensor) -> list[tuple[DecoderLayer, Tensor | None]]:
        """Every layer, with the tokens of which its output is needed; None for all, as in every layer but the last."""
        return [(layer, wanted if layer is self.layers[-1] else None) for layer in self.layers]

    def _rows(self, hidden: Tensor, lengths: Tensor) -> Rows:
        config, attention = self.decoder.config, self.decoder.layers[0].self_attn
        cos, sin = self.decoder.rotary_emb(hidden, torch.arange(int(lengths.max()))[None])  # (1, length, head_dim)
        return Rows(
            starts=torch.nn.functional.pad(lengths.cumsum(0), (1, 0)), cos=cos[0].float().contiguous(),
            sin=sin[0].float().contiguous(), heads=config.num_attention_heads, kv=config.num_key_value_heads,
            dim=attention.head_dim, scaling=attention.scaling, causal=getattr(config, "is_causal", True),
        )


class _Layers(torch.autograd.Function):
    """All layers: hidden (tokens, width) → (wanted, width). Trainable tensors are inputs so that autograd sees them."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, packed: PackedDecoder, rows: Rows, wanted: Tensor, *_: Tensor) -> Tensor:
        keep: list[tuple[Any, ...]] = []
        for layer, part in packed.layers_with_wanted(wanted):
            hidden, saved = layer.forward(hidden, rows, part)
            keep.append(saved)
        ctx.packed, ctx.rows, ctx.wanted = packed, rows, wanted
        ctx.keep = keep  # neither inputs nor outputs, so `save_for_backward` is not needed
        return hidden

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        packed, grad = ctx.packed, grad.contiguous()
        found: list[list[Tensor]] = []
        for layer, part in reversed(packed.layers_with_wanted(ctx.wanted)):
            first = layer is packed.layers[0]
            grad, grads = layer.backward(grad, ctx.keep.pop(), ctx.rows, part, of_input=not first)
            found.append(grads)
        return None, None, None, None, *(g for grads in reversed(found) for g in grads)
