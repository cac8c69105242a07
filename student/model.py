"""Loading the base model, and its logits at the targets only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from task.codec import Codec, Encoded
from task.errors import InputError
from task.model_imports import import_bitsandbytes, import_transformers
from task.processor import Dtype, computed_in
from task.settings import Student

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PAD = 0
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


def accelerator() -> str:
    """The device to compute on: cuda where there is a GPU, else cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype_on(device: str, wanted: Dtype) -> torch.dtype:
    """The type to compute in on a device: the settings' `dtype`, or fp32 on a CPU that would only emulate it."""
    return _DTYPES[computed_in(wanted, gpu=device.startswith("cuda"))]


def on_device(model: Any, device: str) -> Any:
    """The model on a device; NF4 weights stay where they were loaded."""
    return model if getattr(model, "is_loaded_in_4bit", False) else model.to(device)


def load_base(path: Path, dtype: torch.dtype, settings: Student | None = None) -> PreTrainedModel:
    """A causal LM from a local folder; in NF4 with double quantisation if the settings say so.

    On a CPU attention is computed as plain matrix products (`eager`): on queries of 20 tokens the backward pass of the
    fused kernel took 37 % of a step, the products take 6 %.

    Raises:
        InputError: The folder lacks weights of the model, which transformers would draw at random.
    """
    import_transformers()
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    set_verbosity_error()
    disable_progress_bar()
    extra: dict[str, Any] = {}
    if settings and settings.quantization == "nf4":
        import_bitsandbytes()
        extra["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    loaded: tuple[PreTrainedModel, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(
        str(path), dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True,
        attn_implementation="sdpa" if torch.cuda.is_available() else "eager", output_loading_info=True, **extra,
    )
    model, report = loaded
    if report["missing_keys"]:
        raise InputError(
            "the model folder lacks weights of the model", file=path, field="student.base",
            found=f"no {sorted(report['missing_keys'])[0]}", expected=f"{len(report['missing_keys'])} tensors more",
            fix="Take config.json and weights from one source",
        )
    model.config.use_cache = False
    _keep_layout(model)
    return model


def _keep_layout(model: Any) -> None:
    """Keep 4-bit weights in the layout that has a backward pass.

    On a CPU with AVX512-BF16 bitsandbytes (0.50.2) packs a layer's weights anew at the first forward pass in eval
    mode, rounds its block scales to bf16, and does not undo it when training goes on; the packed product has no
    gradient of its input, so only what stands above the last such layer would learn, without an error.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def empty_model(path: Path) -> PreTrainedModel:
    """A causal LM of a local folder without weights (on the device `meta`), for its shapes and module names."""
    import_transformers()
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        )
    return model


def linear_layers(model: Any) -> list[str]:
    """Paths of all linear layers except the LM head: those that QLoRA quantises and `all-linear` adapts."""
    lm_head = model.get_output_embeddings()
    return [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not lm_head]


class TargetLogits(torch.nn.Module):
    """Logits at the targets over an alphabet of tokens; the LM head is not applied to anything else.

    Rows are padded on the right: causal attention needs no mask for padding, bidirectional attention does, and a model
    for which `student.kernels.packed_llama.pack` succeeded computes no padding at all.

    Args:
        alphabet: Token ids; None for the whole vocabulary.
        packed: Whether to run such a model packed; False takes its own modules.
    """

    def __init__(self, model: Any, alphabet: Sequence[int] | None, *, packed: bool = True) -> None:
        super().__init__()
        self.model = model
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._decoder = inner.get_decoder()
        self._packed = getattr(inner, "packed", None) if packed else None
        self._lm_head = inner.get_output_embeddings()
        self._alphabet = None if alphabet is None else torch.tensor(list(alphabet))

    @property
    def is_packed(self) -> bool:
        """Whether no padding is computed."""
        return self._packed is not None

    def forward(self, ids: Tensor, *, rows: Tensor, columns: Tensor) -> Tensor:
        """Logits in fp32.

        Args:
            ids: (batch, length).
            rows: (targets,) row of each target.
            columns: (targets,) position of each target.

        Returns:
            (targets, alphabet), or (targets, vocabulary) without an alphabet.
        """
        hidden = self.hidden(ids, rows=rows, columns=columns)
        if self._alphabet is None:
            logits: Tensor = self._lm_head(hidden).float()
            return logits
        weight = self._lm_head.weight.detach()[self._alphabet.to(self._lm_head.weight.device)]
        with torch.autocast(hidden.device.type, enabled=False):  # a small product, whose results are near-ties in bf16
            chosen: Tensor = hidden.float() @ weight.float().T
            return chosen

    def hidden(self, ids: Tensor, *, rows: Tensor, columns: Tensor) -> Tensor:
        """Hidden states that the LM head is applied to, shape (targets, hidden); arguments as above."""
        lengths = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        lengths.scatter_reduce_(0, rows, columns + 1, "amax")
        if self._packed is None or not len(rows):
            mask = None
            if not getattr(self._decoder.config, "is_causal", True):  # a row without targets attends to its first token
                mask = torch.arange(ids.shape[1], device=ids.device) < lengths.clamp(min=1)[:, None]
            states: Tensor = self._decoder(input_ids=ids, attention_mask=mask).last_hidden_state[rows, columns]
            return states
        packed: Tensor = self._packed(
            ids, lengths=lengths, wanted=(lengths.cumsum(0) - lengths)[rows] + columns
        )
        return packed


def alphabet_of(codec: Codec, settings: Student) -> tuple[int, ...] | None:
    """Token ids that compete for a target in the loss; None for the whole vocabulary."""
    return codec.answer_form.loss_alphabet(codec, settings.softmax)


def collate(examples: Sequence[Encoded], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A batch, padded on the right to its longest row.

    Returns:
        ids (batch, length), rows (targets,), columns (targets,), target token ids (targets,).
    """
    width = max(len(e.ids) for e in examples)
    ids = torch.full((len(examples), width), PAD, dtype=torch.long)
    rows: list[int] = []
    columns: list[int] = []
    targets: list[int] = []
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        rows += [row] * len(example.positions)
        columns += example.positions
        targets += example.targets
    plain = (ids, *(torch.tensor(x, dtype=torch.long) for x in (rows, columns, targets)))
    return tuple(t.to(device) for t in plain)  # type: ignore[return-value]
