"""The files of a saved LoRA adapter: its configuration, its matrices by module, and each module's scale."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from task.errors import InputError
from task.model_folder import read_config, shapes_in
from task.model_imports import import_peft

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
_KEY: Final = re.compile(r"base_model\.model\.(.+)\.lora_(?:([AB])\.weight|(magnitude)_vector(?:\.weight)?)")

T = TypeVar("T")


def adapter_shapes(folder: Path, *, field: str) -> dict[str, tuple[int, ...]]:
    """Name → shape of an adapter's tensors, from the header of its file.

    Raises:
        InputError: The folder has no adapter in safetensors, or a damaged one.
    """
    if not (folder / WEIGHTS).exists():
        found = sorted(p.name for p in folder.glob("adapter_model*"))
        raise InputError(
            "the adapter has no weights in safetensors", file=folder / WEIGHTS, field=field,
            found=", ".join(found) or "no weights", expected=WEIGHTS,
            fix="Load the adapter with PEFT and write it with save_pretrained(folder)",
        )
    return shapes_in(folder / WEIGHTS, field=field, fix="Copy the adapter again")


def by_module(tensors: Mapping[str, T], *, file: Path) -> dict[str, dict[str, T]]:
    """Module → its `A`, `B` and, with DoRA, `magnitude`.

    Raises:
        InputError: The adapter holds something else, which the merge would leave out.
    """
    out: dict[str, dict[str, T]] = {}
    for key, value in tensors.items():
        match = _KEY.fullmatch(key)
        if not match:
            raise InputError(
                "the adapter holds a tensor that is not a LoRA matrix and cannot be merged", file=file, found=key,
                expected="lora_A, lora_B and lora_magnitude_vector of linear layers",
                fix="Train the adapter without modules_to_save, biases and adapted embeddings",
            )
        out.setdefault(match[1], {})[match[2] or match[3]] = value
    return out


def scale_of(module: str, config: Mapping[str, Any], rank: int) -> float:
    """The factor of B·A in a module: alpha / rank, or alpha / √rank with rsLoRA.

    Args:
        config: `adapter_config.json`; its `alpha_pattern` names modules with another alpha.
        rank: Rows of the module's A, which differ where a `rank_pattern` says so.
    """
    import_peft()
    from peft.utils.other import get_pattern_key

    patterns = config.get("alpha_pattern") or {}
    alpha = patterns.get(get_pattern_key(patterns.keys(), module), config["lora_alpha"])
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def read_adapter_config(folder: Path, *, field: str) -> dict[str, Any]:
    """An adapter's `adapter_config.json`.

    Raises:
        InputError: It is missing or no JSON object.
    """
    return read_config(folder / CONFIG, field=field)
