"""Products with weights in blocks against plain ones."""

from __future__ import annotations

import pytest
import torch

from student.kernels.frozen_linear import FrozenLinear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 7, 300])
def test_products_are_those_of_the_plain_weight(dtype: torch.dtype, tokens: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(48, 72).to(dtype)
    x, residual, grad = (torch.randn(tokens, n).to(dtype) for n in (72, 48, 48))
    before = residual.clone()
    frozen = FrozenLinear(weight)
    wide = weight.double()
    for found, wanted in (
        (frozen.forward(x), x.double() @ wide.T),
        (frozen.forward(x, residual=residual), x.double() @ wide.T + residual.double()),
        (frozen.backward(grad), grad.double() @ wide),
    ):
        assert found.dtype == dtype
        close = {"rtol": 1e-5, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-1}
        assert torch.allclose(found.double(), wanted, **close)
    assert torch.equal(residual, before)


def test_rows_of_a_larger_matrix_are_read_as_they_stand() -> None:
    torch.manual_seed(0)
    weight, wide = torch.randn(32, 64).bfloat16(), torch.randn(9, 128).bfloat16()
    frozen = FrozenLinear(weight)
    assert torch.equal(frozen.forward(wide[:, :64]), frozen.forward(wide[:, :64].contiguous()))
