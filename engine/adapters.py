"""LoRA adapters that vLLM can load onto a base model while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from task.errors import InputError
from task.files import read_json

ADAPTER_FILES: Final = ("adapter_config.json", "adapter_model.safetensors")
_MUST_BE_EMPTY: Final = (
    "use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "target_parameters", "trainable_token_indices",
    "lora_bias",
)


def require_plain_lora(folder: Path) -> None:
    """Raise `InputError` for an adapter that is not plain LoRA, which vLLM would refuse or, worse, apply in part."""
    path = folder / ADAPTER_FILES[0]
    config = read_json(path)
    kind = config.get("peft_type")
    odd = {k: config[k] for k in _MUST_BE_EMPTY if config.get(k)}
    if config.get("bias", "none") != "none":
        odd["bias"] = config["bias"]
    if kind != "LORA" or odd:
        raise InputError(
            "an engine cannot add this adapter while it runs", file=path, found=odd or kind,
            expected="plain LoRA (rsLoRA as well)", fix="Merge it: serving.weights: merged",
        )


def rank(folder: Path) -> int:
    """The rank of an adapter."""
    return int(read_json(folder / ADAPTER_FILES[0])["r"])
