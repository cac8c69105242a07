"""Export of a token classifier to OpenVINO, the engine of machines without a GPU.

transformers' own modelling code is traced, so every architecture that it computes without data-dependent branches can
be exported. Prompts of a batch are padded on the right; in a causal model no token sees the padding, so the exported
model takes token ids and nothing else.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch

from student.merging.openvino_int8 import quantise
from task.model_imports import import_transformers
from task.openvino_runtime import MODEL_FILE, import_openvino

_EXAMPLE: Final = (2, 8)  # any size: both dimensions of the exported model are dynamic


class ExportError(ValueError):
    """OpenVINO cannot express the model; the message says why."""


def export(classifier: Path, out: Path, *, prompts: Sequence[Sequence[int]] | None = None) -> dict[str, Any]:
    """Write a token classifier in OpenVINO's format: `trace`, then `write`.

    Args:
        classifier: A `…ForSequenceClassification` as `student.merging.token_classifier` writes it.
        out: The folder to make.
        prompts: See `write`.

    Returns:
        See `write`.

    Raises:
        ExportError: The architecture cannot be exported.
    """
    return write(trace(classifier), out, prompts=prompts)


def write(model: Any, out: Path, *, prompts: Sequence[Sequence[int]] | None = None) -> dict[str, Any]:
    """Write a traced model, which stays as it is, so that it can be written in another precision too.

    Args:
        model: From `trace`.
        out: The folder to make.
        prompts: Token ids of typical prompts, from which the activations' ranges are taken; with them the matrix
            products are computed in 8 bits, without them in the precision that the engine chooses.

    Returns:
        `matrices`: how many products are quantised in which way (`openvino_int8.quantise`); empty without prompts.
    """
    figures: dict[str, int] = {}
    if prompts is not None:
        model = model.clone()
        figures = quantise(model, prompts)
    out.mkdir(parents=True)
    import_openvino().save_model(model, str(out / MODEL_FILE), compress_to_fp16=True)
    return {"matrices": figures}


def trace(classifier: Path) -> Any:
    """A token classifier as an OpenVINO model in 32 bits.

    Raises:
        ExportError: The architecture cannot be exported.
    """
    import_transformers()
    from transformers import AutoModelForSequenceClassification

    ov = import_openvino()
    model = AutoModelForSequenceClassification.from_pretrained(
        classifier, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    example = torch.zeros(_EXAMPLE, dtype=torch.int64)
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            # Branches on the number of tokens become constants; `limbeck.openvino_model` compares labels afterwards.
            warnings.filterwarnings("ignore", message="Converting a tensor to a Python boolean")
            return ov.convert_model(_Scores(model), example_input=(example,), input=[([-1, -1], ov.Type.i64)])
    except Exception as error:  # OpenVINO raises what its front end happens to raise
        raise ExportError(f"{model.config.architectures[0]}: {str(error).strip().splitlines()[-1]}") from error


class _Scores(torch.nn.Module):
    """Token ids → scores of the symbols at every position."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone = getattr(model, model.base_model_prefix)
        self.score = model.score

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Scores, shape (batch, tokens, symbols), of ids of shape (batch, tokens)."""
        # A mask of four dimensions is used as it is; without one transformers inspects the position ids, which OpenVINO
        # 2026.4 cannot express (`aten::diff`).
        at = torch.arange(ids.shape[1])
        mask = (at[None, :] <= at[:, None])[None, None]
        states = self.backbone(input_ids=ids, attention_mask=mask, position_ids=at[None], use_cache=False)
        return self.score(states.last_hidden_state)  # type: ignore[no-any-return]
