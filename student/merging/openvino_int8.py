"""8-bit matrix products for an exported model: SmoothQuant with ranges measured on typical prompts.

A matrix product y = x·Wᵀ is computed as (x/s)·(W·s)ᵀ with both factors in 8 bits. The scale s of each input channel
moves part of the outliers from activations, which share one range, into weights, which have one per output:
s_j = max|x_j|^α / max|W_j|^(1−α) (Xiao et al. 2023, SmoothQuant). Each matrix takes the α that changes its outputs
least. In a few matrices, mostly the MLP's second ones, single tokens have activations a thousand times the usual; where
no α helps, the matrix stays in 16 bits.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from task.openvino_runtime import import_openvino, precision_hint
from task.processor import cpuinfo

Floats = npt.NDArray[np.float32]

_ALPHAS: Final = (0.5, 0.65, 0.8, 0.9)
_LARGEST_ERROR: Final = 0.02
"""Of a matrix's outputs, relative. On the market's student 153 of 210 matrices are below it. With only the weights of
the others in 8 bits, a query takes 4 % less time and a batch 12 % more on a processor with matrix units for bf16, and
fewer labels are those of the model in 32 bits."""
_SAMPLED: Final = 256  # tokens on which the errors are measured
_TOKENS_AT_ONCE: Final = 256  # the inputs of all products are held for so many
_LEAST_OUTPUTS: Final = 64  # smaller matrices, as the scores' one, stay as they are
_HEADROOM: Final = 1.02  # for activations larger than any that was measured


class _Product(NamedTuple):
    """A matrix product: its node, and its weights as (outputs, inputs)."""

    node: Any
    weights: Floats


@dataclass
class _Activations:
    """What was measured at the input of a product.

    Attributes:
        largest: max |x_j| of each channel over all prompts, shape (inputs,).
        sample: Some tokens, shape (tokens, inputs).
    """

    largest: Floats
    sample: Floats


def quantise(model: Any, prompts: Sequence[Sequence[int]]) -> dict[str, int]:
    """Put the matrix products of an OpenVINO model into 8 bits, in place, and all else into 16.

    Args:
        prompts: Token ids of typical prompts, a few hundred.

    Returns:
        The number of products `in_8_bits`, and of those `in_16_bits`.
    """
    op = import_openvino().opset13
    measured = _measure(model, prompts)
    count = {"in_8_bits": 0, "in_16_bits": 0}
    for product, activations in zip(list(_products(model)), measured, strict=True):
        error, scale = min(
            ((_error(product.weights, activations, s), s) for s in _scales(product.weights, activations)),
            key=lambda x: x[0],
        )
        if error > _LARGEST_ERROR:
            count["in_16_bits"] += 1
        else:
            _compute_in_8_bits(op, product, activations, scale)
            count["in_8_bits"] += 1
    _halve_tables(op, model)
    model.validate_nodes_and_infer_types()
    return count


def _products(model: Any) -> Iterator[_Product]:
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul" or not node.get_attributes()["transpose_b"]:
            continue
        weights = _constant(node.input_value(1))
        if weights is not None and weights.ndim == 2 and len(weights) >= _LEAST_OUTPUTS:
            yield _Product(node, weights)


def _measure(model: Any, prompts: Sequence[Sequence[int]]) -> list[_Activations]:
    """Run a copy of the model whose further outputs are the inputs of the products."""
    ov = import_openvino()
    copy = model.clone()
    copy.add_results([ov.opset13.result(p.node.input_value(0)) for p in _products(copy)])
    core = ov.Core()
    hint = {"INFERENCE_PRECISION_HINT": precision_hint(core, "bfloat16")}
    request = core.compile_model(copy, "CPU", hint).create_infer_request()
    every = max(1, sum(map(len, prompts)) // _SAMPLED)
    largest: list[Floats] = []
    samples: list[list[Floats]] = []
    seen = 0
    for batch in _of_one_length(prompts):
        found = [x.reshape(-1, x.shape[-1]) for x in list(request.infer([batch]).values())[1:]]
        now = [np.abs(x).max(0) for x in found]
        largest = [np.maximum(a, b) for a, b in zip(largest, now, strict=True)] if largest else now
        taken = np.arange(-seen % every, batch.size, every)
        seen += batch.size
        samples = samples or [[] for _ in found]
        for rows, x in zip(samples, found, strict=True):
            rows.append(x[taken])
    return [_Activations(a, np.concatenate(rows)) for a, rows in zip(largest, samples, strict=True)]


def _of_one_length(prompts: Sequence[Sequence[int]]) -> Iterator[npt.NDArray[np.int64]]:
    """Batches without padding: a model of dynamic shapes prepares its operations anew for each new shape."""
    by_length: dict[int, list[Sequence[int]]] = {}
    for prompt in prompts:
        by_length.setdefault(len(prompt), []).append(prompt)
    for length, same in sorted(by_length.items()):
        rows = max(1, _TOKENS_AT_ONCE // length)
        for at in range(0, len(same), rows):
            yield np.array(same[at : at + rows], dtype=np.int64)


def _scales(weights: Floats, activations: _Activations) -> Iterator[Floats]:
    a = np.maximum(activations.largest, 1e-5)
    w = np.maximum(np.abs(weights).max(0), 1e-5)
    for alpha in _ALPHAS:
        scale = a**alpha / w ** (1 - alpha)
        yield np.maximum(scale / np.exp(np.log(scale).mean()), 1e-3).astype(np.float32)


def _error(weights: Floats, activations: _Activations, scale: Floats) -> float:
    """Mean over tokens of |y − ŷ| / |y|, where ŷ is computed as `_compute_in_8_bits` does."""
    x, w = activations.sample / scale, weights * scale
    limit = weight_limit()
    x_step, w_step = _range(activations, scale) / 127, _rows_range(w) / limit
    x8 = np.clip(np.rint(x / x_step), -128, 127) * x_step
    w8 = np.clip(np.rint(w / w_step), -limit, limit) * w_step
    exact = activations.sample @ weights.T
    size = np.linalg.norm(exact, axis=1)
    return float((np.linalg.norm(x8 @ w8.T - exact, axis=1) / np.maximum(size, 1e-12)).mean())


@functools.cache
def weight_limit() -> int:
    """The largest weight in 8 bits on this machine: 127, or 63 where products would overflow.

    x86 processors without VNNI or AMX add two products of 8 bits in 16, which saturates: 2 · 255 · 127 > 32,767.
    OpenVINO (2026.4) lets it: scores of a small model were wrong by 0.17, with weights of 7 bits by 0.07 (AVX2 only).
    """
    flags = set(cpuinfo("flags").split())  # of x86; ARM has "Features", and no such sum
    return 63 if flags and not flags & {"avx512_vnni", "avx_vnni", "amx_int8"} else 127


def _range(activations: _Activations, scale: Floats) -> np.float32:
    return np.float32((np.maximum(activations.largest, 1e-5) / scale).max() * _HEADROOM)


def _rows_range(weights: Floats) -> Floats:
    largest: Floats = np.abs(weights).max(1, keepdims=True)
    return np.maximum(largest, np.float32(1e-12))


def _compute_in_8_bits(op: Any, product: _Product, activations: _Activations, scale: Floats) -> None:
    """Wrap both factors into FakeQuantize, from which OpenVINO's low-precision pass makes integer products."""
    node, weights = product.node, product.weights * scale
    top = _range(activations, scale)
    low, high = op.constant(-top), op.constant(np.float32(top * 127 / 128))
    scaled = op.multiply(node.input_value(0), op.constant((1 / scale).reshape(1, 1, -1)))
    node.input(0).replace_source_output(op.fake_quantize(scaled, low, high, low, high, 256).output(0))
    integers, step = _rounded(weights)
    stored = op.multiply(op.convert(op.constant(integers), "f32"), op.constant(step))
    node.input(1).replace_source_output(stored.output(0))


def _halve_tables(op: Any, model: Any) -> None:
    """Store embeddings and remaining matrices in 16 bits: in a model with FakeQuantize OpenVINO writes them in 32."""
    for node in model.get_ordered_ops():
        side = {"Gather": 0, "MatMul": 1}.get(node.get_type_name())
        table = None if side is None else _constant(node.input_value(side))
        if table is not None and table.ndim == 2:
            node.input(side).replace_source_output(op.convert(op.constant(table.astype(np.float16)), "f32").output(0))


def _constant(value: Any) -> Floats | None:
    """The constant that a node reads, whatever type it is stored in; None for anything else."""
    node = value.get_node()
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return node.get_data().astype(np.float32) if node.get_type_name() == "Constant" else None


def _rounded(weights: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    limit = weight_limit()
    step = (_rows_range(weights) / limit).astype(np.float32)
    return np.clip(np.rint(weights / step), -limit, limit).astype(np.int8), step
