"""Rows without padding through transformers' own modules, for training on GPUs.

The rows of a batch are concatenated, positions begin anew in each, and attention stays within a row. On a GPU it is
`torch.nn.attention.varlen`, which is FlashAttention over the rows' bounds (Dao et al. 2022). Where that has no kernel,
on a CPU and in fp32, it is PyTorch's SDPA with a block-diagonal mask: this computes all pairs of tokens of a batch and
not only those within rows, so it tests everything but the kernel, and is not a way to be fast.

`enable` sets the attribute `packed` on the base model, as `student.kernels.packed_llama` does on a CPU.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from student.model import TargetLogits, collate
from task.codec import Encoded

_LOG = logging.getLogger(__name__)
_NAME: Final = "limbeck_rows"
_ALLOWED: Final = {torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.03}  # of the logits' size
_LARGEST_HEAD: Final = 256  # of FlashAttention, in multiples of 8
_CAPABILITY: Final = (8, 0)  # Ampere


def enable(model: Any, rows: Sequence[Encoded], alphabet: Sequence[int] | None, *, device: str) -> bool:
    """Make `TargetLogits` compute no padding, if the model's attention allows it and a batch of rows proves it.

    Args:
        rows: Their logits are compared with those of padded rows before anything relies on them.

    Returns:
        Whether it does; otherwise the model computes padded rows as before, and a warning says why.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    why = _obstacle(inner, device)
    if why is None:
        before = inner.config._attn_implementation
        padded = _logits(model, rows, alphabet, device)
        _register()
        inner.set_attn_implementation(_NAME)
        inner.packed = PaddingFreeDecoder(inner.get_decoder())
        try:
            why = _difference(padded, _logits(model, rows, alphabet, device), inner.dtype)
        except (RuntimeError, ValueError, TypeError) as error:  # a kernel that this GPU or this torch does not have
            why = str(error)
        if why is not None:
            inner.set_attn_implementation(before)
            del inner.packed
    if why is not None:
        _LOG.warning("rows are padded in training: %s", why)
    return why is None


class PaddingFreeDecoder:
    """The decoder of a causal LM over concatenated rows; called as `student.kernels.packed_llama.PackedDecoder`."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self._causal = bool(getattr(decoder.config, "is_causal", True))

    def __call__(self, ids: Tensor, *, lengths: Tensor, wanted: Tensor) -> Tensor:
        """Hidden states after the last norm at the targets, shape (targets, hidden).

        Args:
            ids: (rows, length), padded on the right.
            lengths: (rows,) tokens of each row without padding.
            wanted: (targets,) index of each target's token among the concatenated rows.
        """
        columns = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        real = columns < lengths[:, None]
        whole = ids[real][None]  # (1, tokens)
        used = lengths[lengths > 0]
        starts = torch.nn.functional.pad(used.cumsum(0), (1, 0)).int()
        states: Tensor = self._decoder(
            input_ids=whole, position_ids=columns[real][None], attention_mask=self._mask(whole, used),
            cu_seq_lens_q=starts, max_length_q=ids.shape[1],
        ).last_hidden_state[0, wanted]
        return states

    def _mask(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """What tokens attend to, shape (1, 1, tokens, tokens); transformers passes four dimensions on as they are.

        One element where the kernel takes the rows' bounds and no mask: without any, transformers would make its own.
        """
        if _has_kernel(ids.device, _dtype_of(self._decoder, ids.device)):
            return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids.device)
        row = torch.repeat_interleave(torch.arange(len(lengths), device=ids.device), lengths)
        same = row[:, None] == row[None]
        return (same.tril() if self._causal else same)[None, None]


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
    scaling: float | None = None, cu_seq_lens_q: Tensor | None = None, max_length_q: int | None = None, **options: Any,
) -> tuple[Tensor, None]:
    """Attention within rows, as an attention function of transformers.

    Args:
        query: (1, heads, tokens, head_dim); key and value with their own number of heads.
        attention_mask: What tokens attend to; not read where there is a kernel.
        cu_seq_lens_q: The first token of each row, and the end of the last, int32; None for padded rows.
        max_length_q: At least the length of the longest row.

    Returns:
        (1, tokens, heads, head_dim), and no attention weights.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if cu_seq_lens_q is None or max_length_q is None or not _has_kernel(query.device, query.dtype):
        options.pop("is_causal", None)
        causal = None if cu_seq_lens_q is None else False  # the mask says it
        found: Tensor = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, is_causal=causal, **options
        )[0]
        return found, None
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))  # (tokens, heads, head_dim)
    mixed = varlen_attn(
        q, k, v.to(q.dtype), cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q, scale=scaling,
        window_size=(-1, 0) if getattr(module, "is_causal", True) else (-1, -1), enable_gqa=q.shape[1] != k.shape[1],
    )
    assert isinstance(mixed, Tensor)
    return mixed[None], None


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(_NAME, attention)
    AttentionMaskInterface.register(_NAME, sdpa_mask)  # of padded rows, and of generation in the dev evaluation


def _obstacle(inner: Any, device: str) -> str | None:
    """Why a model's attention cannot be computed so; None if it can."""
    decoder = inner.get_decoder()
    config = decoder.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if device.startswith("cuda") and not _has_kernel(torch.device(device), inner.dtype):
        return f"FlashAttention needs 16 bits and a GPU of compute capability {_CAPABILITY[0]} or more"
    if not getattr(decoder, "_supports_attention_backend", False):
        return f"{type(decoder).__name__} does not let its attention be replaced"
    if kinds != {"full_attention"} or getattr(config, "sliding_window", None):
        return "some layers attend to a window or have a state"
    if getattr(config, "attn_logit_softcapping", None) or getattr(config, "attention_dropout", 0.0):
        return "the scores of attention are capped or dropped out"
    if head % 8 or head > _LARGEST_HEAD:
        return f"FlashAttention has no heads of {head}"
    return None


def _has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    return (
        device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)
        and torch.cuda.get_device_capability(device) >= _CAPABILITY
    )


def _dtype_of(decoder: Any, device: torch.device) -> torch.dtype:
    """The dtype in which queries reach the attention function."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    found: torch.dtype = decoder.dtype
    return found


def _logits(model: Any, rows: Sequence[Encoded], alphabet: Sequence[int] | None, device: str) -> Tensor:
    kind, dtype = device.split(":")[0], next(model.parameters()).dtype
    ids, row_of, columns, _ = collate(rows, device)
    training = model.training
    model.eval()
    with torch.no_grad(), torch.autocast(kind, dtype=dtype, enabled=dtype != torch.float32):
        found: Tensor = TargetLogits(model, alphabet)(ids, rows=row_of, columns=columns)
    model.train(training)
    return found


def _difference(padded: Tensor, packed: Tensor, dtype: torch.dtype) -> str | None:
    """What is wrong with logits that should be equal; None if rounding explains their difference."""
    spread = (padded - padded.mean(-1, keepdim=True)).norm()
    error = float((packed - padded).norm() / spread)
    allowed = _ALLOWED[dtype]
    if error <= allowed:
        return None
    return f"without padding logits differ by {error:.2g} of their size, rounding explains {allowed:g}"
