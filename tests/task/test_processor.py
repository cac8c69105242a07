from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch

from task import processor
from task.processor import Dtype, computed_in, cpuinfo


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc/cpuinfo is Linux's")
def test_the_first_line_with_one_of_the_fields() -> None:
    assert cpuinfo("no such field", "processor").replace("\t", "") == "processor: 0"


def test_a_field_that_is_not_there_is_empty() -> None:
    assert cpuinfo("no such field") == ""


@pytest.mark.parametrize(("dtype", "supported"), [
    ("bfloat16", torch.ops.mkldnn._is_mkldnn_bf16_supported), ("float16", torch.ops.mkldnn._is_mkldnn_fp16_supported),
])
def test_16_bits_are_kept_where_torch_multiplies_them(dtype: Dtype, supported: Callable[[], bool]) -> None:
    assert (computed_in(dtype, gpu=False) == dtype) == supported()


@pytest.mark.parametrize(("line", "wanted", "found"), [
    ("flags : fpu avx2 fma", "bfloat16", "float32"),
    ("flags : fpu avx2 fma", "float16", "float32"),
    ("flags : avx2 avx512f avx512bw avx512vl avx512dq", "bfloat16", "bfloat16"),
    ("flags : avx2 avx512f avx512bw avx512vl avx512dq", "float16", "float32"),
    ("flags : avx2 avx512f", "bfloat16", "float32"),
    ("Features : fp asimd bf16", "bfloat16", "bfloat16"),
    ("", "bfloat16", "float32"),
])
def test_a_processor_without_16_bit_products_computes_in_fp32(
    line: str, wanted: Dtype, found: Dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "cpuinfo", lambda *_fields: line)
    assert computed_in(wanted, gpu=False) == found
    assert computed_in(wanted, gpu=True) == wanted
    assert computed_in("float32", gpu=False) == "float32"
