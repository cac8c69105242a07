"""Whether every tensor of a merged model is base + adapter, up to the rounding of its dtype.

Logits at a few hundred targets can agree although one layer has the wrong scale; here each matrix is compared with what
PEFT's own merge of that layer gives in fp32, and every other tensor with the base's. PEFT (0.21.2) computes scales and
deltas from the adapter by itself, so an error of `student.merging.merge` is not repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from student.adapters import adapted_layers
from student.merging.merge import merged_into_rounded, nf4_round_trip
from task.model_folder import tensor_shapes, weight_files
from task.settings import Student

_SUMMATION = 2.0**-18  # of the largest element: fp32 sums in another order


def compare_tensors(model: Any, *, base: Path, merged: Path, settings: Student | None) -> dict[str, Any]:
    """Compare a merged model with its base and adapter, tensor by tensor.

    Args:
        model: Base and adapter in fp32, as PEFT loads them; its layers are merged, so that it cannot be used again.
        settings: How the adapter was trained.

    Returns:
        `checked_tensors`: how many; `matrix_error`: the largest difference of an element, in units of what rounding to
        the tensor's dtype explains (at most 1 if the merge is right; infinite for a tensor that one of the models
        lacks); `worst_tensor`: its tensor.
    """
    layers = dict(adapted_layers(model))
    rounded = _rounded(model) if merged_into_rounded(settings) else set()
    names, found = tensor_shapes(base), tensor_shapes(merged)
    worst, where = 0.0, ""
    for name in sorted(names.keys() ^ found.keys()):
        worst, where = float("inf"), name
    sources = _sources(base)
    with torch.no_grad():
        for path in weight_files(merged):
            with safe_open(str(path), "pt") as file:
                for name in sorted(set(file.keys()) & sources.keys()):
                    module = name.removesuffix(".weight")
                    plain = _read(sources[name], name)
                    weight = nf4_round_trip(plain) if module in rounded else plain
                    adapted = name.endswith(".weight") and module in layers
                    exact = _adapted(layers[module], weight) if adapted else weight
                    error = _error(file.get_tensor(name), exact, as_is=not adapted)
                    if not error <= worst:  # not a number is an error as well
                        worst, where = error, name
    return {"checked_tensors": len(found), "matrix_error": round(worst, 4), "worst_tensor": where}


def _adapted(layer: Any, weight: Tensor) -> Tensor:
    """The merged weight of a layer in fp32.

    PEFT's merge of a 4-bit layer quantises the sum again, so there its delta is added to the layer's rounded weight.
    """
    if not _is_4bit(layer.get_base_layer()):
        layer.merge()
        merged: Tensor = layer.get_base_layer().weight
        return merged.float()
    (adapter,) = layer.active_adapters
    whole = weight.float() + layer.get_delta_weight(adapter).float()
    if adapter in layer.lora_magnitude_vector:
        magnitude: Tensor = layer.lora_magnitude_vector[adapter].weight.float()
        whole = whole * (magnitude / whole.norm(dim=1))[:, None]
    return torch.as_tensor(whole)


def _error(found: Tensor, exact: Tensor, *, as_is: bool) -> float:
    """The largest difference in units of the expected rounding; tensors without an adapter must be equal."""
    if found.shape != exact.shape:
        return float("inf")
    if as_is:
        return 0.0 if torch.equal(found, exact) else float("inf")
    info = torch.finfo(found.dtype)
    allowed = exact.abs() * (info.eps / 2) + exact.abs().max() * _SUMMATION + info.smallest_normal * info.eps
    return float(((found.float() - exact).abs() / allowed).max())


def _rounded(model: Any) -> set[str]:
    inner = model.get_base_model()
    names = (n.removesuffix(".base_layer") for n, m in inner.named_modules() if _is_4bit(m))
    return set(names)


def _is_4bit(layer: Any) -> bool:
    from bitsandbytes.nn import Linear4bit

    return isinstance(layer, Linear4bit)


def _sources(base: Path) -> Mapping[str, Path]:
    """Tensor → the file of the base that holds it."""
    out: dict[str, Path] = {}
    for path in weight_files(base):
        with safe_open(str(path), "pt") as file:
            out |= dict.fromkeys(file.keys(), path)
    return out


def _read(path: Path, name: str) -> Tensor:
    with safe_open(str(path), "pt") as file:
        tensor: Tensor = file.get_tensor(name)
        return tensor
