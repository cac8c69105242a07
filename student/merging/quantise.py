"""The student in 8 bits (W8A8): int8 weights with a scale per output, activations quantised per token at run time.

The checkpoint has the format of compressed-tensors, which vLLM runs on CPUs and GPUs with integer matrix products.
Weights are rounded to nearest, scaled by the largest magnitude of each output row: at 8 bits finer methods change next
to nothing (Dettmers et al. 2022, Xiao et al. 2023), and evaluation measures the loss. LM head and embeddings are not
quantised.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from task.files import read_json, write_json
from task.model_folder import INDEX, spare_weights

_LINEAR = "_proj.weight"
_ARGUMENTS: dict[str, Any] = {"num_bits": 8, "type": "int", "symmetric": True}
_SCHEME = {
    "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
    "ignore": ["lm_head", "score"],
    "config_groups": {"group_0": {
        "targets": ["Linear"],
        "weights": {**_ARGUMENTS, "strategy": "channel", "dynamic": False},
        "input_activations": {**_ARGUMENTS, "strategy": "token", "dynamic": True},
    }},
}


def quantise(model: Path, out: Path) -> int:
    """Copy a model folder to `out` with its linear layers in 8 bits, shard by shard.

    Returns:
        The number of quantised matrices.
    """
    out.mkdir(parents=True, exist_ok=True)
    count = 0
    weight_map: dict[str, str] = {}
    for path in sorted(set(model.iterdir()) - spare_weights(model)):
        if path.suffix == ".safetensors":
            tensors: dict[str, torch.Tensor] = {}
            for name, tensor in load_file(str(path)).items():
                if name.endswith(_LINEAR):
                    tensors[name], tensors[f"{name}_scale"] = rounded(tensor)
                    count += 1
                else:
                    tensors[name] = tensor
            save_file(tensors, str(out / path.name), metadata={"format": "pt"})
            weight_map |= dict.fromkeys(tensors, path.name)
        elif path.is_file() and path.name not in {"config.json", INDEX}:
            shutil.copy2(path, out / path.name)
    write_json(out / "config.json", read_json(model / "config.json") | {"quantization_config": _SCHEME})
    if len(set(weight_map.values())) > 1:
        size = sum(p.stat().st_size for p in out.glob("*.safetensors"))
        write_json(out / INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})
    return count


def rounded(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers and scales of a matrix.

    Args:
        weight: Shape (outputs, inputs).

    Returns:
        int8 of the same shape; float32 scales, shape (outputs, 1). Integers times scales differ from the matrix by
        half a scale at most.
    """
    exact = weight.float()
    scale = exact.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
    return (exact / scale).round().clamp(-127, 127).to(torch.int8), scale
