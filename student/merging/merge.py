"""Merge the adapter into the base, shard by shard.

W' = cast(fp32(W) + s · B·A), one cast; s is the module's alpha / rank, or alpha / √rank with rsLoRA. This works on the
safetensors files themselves rather than through PEFT: it needs memory for one shard, adds in fp32 whatever dtype the
base is stored in, and leaves every other tensor as it was. Three kinds of adapter need more:

- DoRA: the rows of W + s · B·A are scaled to the trained magnitudes.
- QLoRA: the adapter was trained against the NF4-rounded base, so it is added to that base: every linear layer is
  quantised to NF4 and dequantised first. PEFT's own merge quantises the sum again, which loses the adapter's small
  updates.
- Other methods of PEFT: their own merge, in fp32 and in memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from student.adapter_files import WEIGHTS, by_module, read_adapter_config, scale_of
from student.adapters import load_adapter
from student.model import empty_model, linear_layers, load_base
from student.peft_options import check_options
from task.model_folder import copied_files, weight_files
from task.settings import Student

Change = Callable[[str, Tensor], Tensor | None]


def merge(*, base: Path, adapter: Path, out: Path, settings: Student | None = None) -> int:
    """Write the merged model into `out`; returns the number of matrices that the adapter changed.

    Args:
        settings: How the adapter was trained; needed if its base was quantised.

    Raises:
        InputError: The adapter holds something that cannot be merged, or the base's weights are incomplete.
        ValueError: The adapter changes a matrix that the base does not have.
    """
    config = read_adapter_config(adapter, field="adapter")
    check_options(config, field="adapter", file=adapter / "adapter_config.json")
    out.mkdir(parents=True, exist_ok=True)
    for path in copied_files(base):
        shutil.copy2(path, out / path.name)
    if config["peft_type"] == "LORA":
        return _merge_lora(base=base, adapter=adapter, config=config, out=out, settings=settings)
    return _merge_other(base=base, adapter=adapter, out=out)


def _merge_lora(
    *, base: Path, adapter: Path, config: Mapping[str, Any], out: Path, settings: Student | None
) -> int:
    parts = by_module(load_file(str(adapter / WEIGHTS)), file=adapter / WEIGHTS)
    quantised = merged_into_rounded(settings)
    rounded = set(linear_layers(empty_model(base))) if quantised else set()
    left = set(parts)

    def change(module: str, weight: Tensor) -> Tensor | None:
        changed = nf4_round_trip(weight) if module in rounded else None
        if module in parts:
            left.discard(module)
            p = parts[module]
            changed = add_lora(
                weight if changed is None else changed, a=p["A"], b=p["B"],
                scale=scale_of(module, config, len(p["A"])), magnitude=p.get("magnitude"),
            )
        return changed

    _rewrite(base, out, change)
    if left:
        raise ValueError(f"the base has no {sorted(left)[0]} to merge into ({len(left)} are missing)")
    return len(parts)


def merged_into_rounded(settings: Student | None) -> bool:
    """Whether the adapter is added to the NF4-rounded base, which it was trained against."""
    return settings is not None and settings.quantization == "nf4" and settings.merge_base == "trained-against"


def _merge_other(*, base: Path, adapter: Path, out: Path) -> int:
    """PEFT's own merge of the whole model in fp32; weights that it changed are cast once and replace the base's."""
    merged = load_adapter(load_base(base, torch.float32), adapter).merge_and_unload()
    state = merged.state_dict()
    count = 0

    def change(module: str, weight: Tensor) -> Tensor | None:
        nonlocal count
        found: Tensor | None = state.get(f"{module}.weight")
        if found is None or torch.equal(found, weight.float()):
            return None
        count += 1
        return found.to(weight.dtype)

    _rewrite(base, out, change)
    return count


def _rewrite(base: Path, out: Path, change: Change) -> None:
    """Copy the base's shards, with each weight replaced by `change(module, weight)` unless that is None."""
    for shard in weight_files(base):
        tensors = load_file(str(shard))
        for name in list(tensors):
            if name.endswith(".weight"):
                changed = change(name.removesuffix(".weight"), tensors[name])
                if changed is not None:
                    tensors[name] = changed.contiguous()
        save_file(tensors, str(out / shard.name), metadata={"format": "pt"})


def add_lora(weight: Tensor, *, a: Tensor, b: Tensor, scale: float, magnitude: Tensor | None = None) -> Tensor:
    """W + s · B·A in fp32, cast once to W's dtype; with DoRA's magnitudes each row is scaled to that norm.

    W (out, in), A (rank, in), B (out, rank), magnitude (out,).
    """
    whole = weight.float() + scale * (b.float() @ a.float())
    if magnitude is not None:
        whole = whole * (magnitude.float() / whole.norm(dim=1))[:, None]
    return whole.to(weight.dtype)


def nf4_round_trip(weight: Tensor) -> Tensor:
    """A weight quantised to NF4 with double quantisation and dequantised (Dettmers et al. 2023)."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True, blocksize=64)
    found: Tensor = dequantize_4bit(packed, state)
    return found.reshape(weight.shape).to(weight.dtype)
