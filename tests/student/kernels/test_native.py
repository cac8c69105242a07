"""The kernels against the same formulas in torch, in double precision, with gradients by autograd."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from student.adapters import add_adapter
from student.kernels import native
from student.kernels.native import Kernels, Rows
from student.kernels.packed_llama import pack
from student.model import load_base
from tests.conftest import make_task

WITHOUT_AVX512 = ("-mno-avx512f", "-mno-avx512bf16")


def made(dtype: torch.dtype) -> Kernels:
    found = native.kernels(dtype)
    assert found is not None
    return found


@pytest.fixture(params=["fp32", "bf16", "bf16 without AVX-512"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernels]:
    if "without" in request.param:
        if platform.machine() != "x86_64":
            pytest.skip("no AVX-512 on this architecture, so nothing is left out")
        monkeypatch.setattr(native, "_FLAGS", (*native._FLAGS, *WITHOUT_AVX512))
    native.kernels.cache_clear()
    yield made(torch.float32 if request.param == "fp32" else torch.bfloat16)
    native.kernels.cache_clear()


def random(kernels: Kernels, *shape: int) -> Tensor:
    return torch.randn(*shape).to(kernels.dtype)


def close(kernels: Kernels, found: Tensor, wanted: Tensor) -> bool:
    loose = 2e-5 if kernels.dtype == torch.float32 else 2e-2
    return torch.allclose(found.double(), wanted, rtol=loose, atol=loose * float(wanted.detach().abs().max()))


def gradients(y: Tensor, grad: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(y, of, grad.double())


@pytest.mark.parametrize("width", [5, 16, 72])
def test_a_norm_and_its_gradient(kernels: Kernels, width: int) -> None:
    torch.manual_seed(0)
    x, grad, beside = (random(kernels, 7, width) for _ in range(3))
    weight = random(kernels, width)
    out, scale = kernels.norm(x, weight=weight, eps=1e-5)
    wide = x.double().requires_grad_()
    wanted = wide * (wide.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight.double()
    assert close(kernels, out, wanted)
    (of_x,) = gradients(wanted, grad, wide)
    found = kernels.norm_backward(grad, x=x, scale=scale, weight=weight, residual_grad=beside)
    assert close(kernels, found, of_x + beside.double())


@pytest.mark.parametrize("width", [5, 16, 72])
def test_a_gate_and_its_gradient(kernels: Kernels, width: int) -> None:
    torch.manual_seed(0)
    both, grad = 4 * random(kernels, 7, 2 * width), random(kernels, 7, width)
    wide = both.double().requires_grad_()
    wanted = torch.nn.functional.silu(wide[:, :width]) * wide[:, width:]
    assert close(kernels, kernels.gate(both), wanted)
    (of_both,) = gradients(wanted, grad, wide)
    assert close(kernels, kernels.gate_backward(grad, gate_up=both), of_both)


def test_gates_far_out_are_nought_or_open(kernels: Kernels) -> None:
    far = torch.tensor([[-1e4, -200.0, -90.0, 90.0, 200.0, 1e4] + [1.0] * 6]).to(kernels.dtype)
    assert close(kernels, kernels.gate(far)[0], torch.tensor([0.0, 0, 0, *far[0, 3:6].double()], dtype=torch.double))


@pytest.mark.parametrize("tokens", [1, 12, 31])
@pytest.mark.parametrize(("width", "out", "rank"), [(32, 48, 16), (5, 7, 1), (72, 100, 3), (144, 64, 20)])
def test_an_adapter_and_its_gradients(kernels: Kernels, width: int, out: int, rank: int, tokens: int) -> None:
    torch.manual_seed(0)
    x, y, grad = random(kernels, tokens, width), random(kernels, tokens, out + 9), random(kernels, tokens, out + 9)
    of_x = random(kernels, tokens, width)
    a, b = torch.randn(rank, width), torch.randn(out, rank)
    before, of_x_before = y.clone(), of_x.clone()
    down = kernels.lora(x, a=a, b=b, scale=0.5, y=y[:, 4 : 4 + out])
    wide = [t.double().requires_grad_() for t in (x, a, b)]
    added = 0.5 * wide[0] @ wide[1].T @ wide[2].T
    assert close(kernels, y[:, 4 : 4 + out], before[:, 4 : 4 + out].double() + added)
    assert torch.equal(y[:, :4], before[:, :4])
    assert torch.equal(y[:, 4 + out :], before[:, 4 + out :])
    wanted = gradients(added, grad[:, 4 : 4 + out], *wide)
    given = {"x": x, "a": a, "b": b, "scale": 0.5, "down": down}
    of_a, of_b = kernels.lora_backward(grad[:, 4 : 4 + out], **given, grad_x=of_x)
    assert close(kernels, of_x, of_x_before.double() + wanted[0])
    assert close(kernels, of_a, wanted[1])
    assert close(kernels, of_b, wanted[2])
    alone = kernels.lora_backward(grad[:, 4 : 4 + out], **given, grad_x=None)
    assert torch.equal(alone[0], of_a)
    assert torch.equal(alone[1], of_b)


def rows_of(lengths: list[int], heads: int, kv: int, dim: int, *, causal: bool) -> Rows:
    angles = torch.outer(torch.arange(max(lengths)).float(), 0.1 ** torch.linspace(0, 1, dim // 2)).repeat(1, 2)
    starts = torch.tensor([0, *lengths]).cumsum(0)
    return Rows(
        starts=starts, cos=angles.cos(), sin=angles.sin(), heads=heads, kv=kv, dim=dim, scaling=dim**-0.5,
        causal=causal,
    )


def attention(qkv: Tensor, rows: Rows) -> Tensor:
    """Row by row, head by head."""
    out = []
    half = rows.dim // 2
    for start, end in zip(rows.starts[:-1].tolist(), rows.starts[1:].tolist(), strict=True):
        part = qkv[start:end].unflatten(1, (-1, rows.dim)).transpose(0, 1)  # (heads + 2 kv, length, dim)
        swapped = torch.cat((-part[..., half:], part[..., :half]), -1)
        turned = part * rows.cos[: end - start].double() + swapped * rows.sin[: end - start].double()
        keys = turned[rows.heads : rows.heads + rows.kv].repeat_interleave(rows.heads // rows.kv, 0)
        values = part[rows.heads + rows.kv :].repeat_interleave(rows.heads // rows.kv, 0)
        scores = turned[: rows.heads] @ keys.transpose(1, 2) * rows.scaling
        if rows.causal:
            scores = scores + torch.full((end - start, end - start), float("-inf"), dtype=scores.dtype).triu(1)
        out.append((scores.softmax(-1) @ values).transpose(0, 1).flatten(1))
    return torch.cat(out)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("heads", "kv", "dim"), [(2, 1, 64), (3, 3, 6), (4, 2, 24)])
@pytest.mark.parametrize("lengths", [[1], [8, 16], [5, 33, 1, 9, 20]], ids=str)
def test_attention_and_its_gradient(
    kernels: Kernels, lengths: list[int], heads: int, kv: int, dim: int, *, causal: bool
) -> None:
    torch.manual_seed(0)
    rows = rows_of(lengths, heads, kv, dim, causal=causal)
    qkv, grad = random(kernels, sum(lengths), (heads + 2 * kv) * dim), random(kernels, sum(lengths), heads * dim)
    wide = qkv.double().requires_grad_()
    wanted = attention(wide, rows)
    mixed, sums = kernels.attention(qkv, rows)
    assert close(kernels, mixed, wanted)
    (of_qkv,) = gradients(wanted, grad, wide)
    assert close(kernels, kernels.attention_backward(grad, qkv=qkv, logsum=sums, rows=rows), of_qkv)


def test_the_number_of_threads_changes_nothing(kernels: Kernels) -> None:
    def everything() -> list[Tensor]:
        torch.manual_seed(0)
        rows = rows_of([5, 33, 1, 9], 4, 2, 24, causal=True)
        qkv, grad = random(kernels, 48, 192), random(kernels, 48, 96)
        mixed, sums = kernels.attention(qkv, rows)
        first = mixed[0].contiguous()
        a, b, y, of_x = torch.randn(8, 96), torch.randn(200, 8), random(kernels, 48, 200), random(kernels, 48, 96)
        down = kernels.lora(mixed, a=a, b=b, scale=2.0, y=y)
        out, scale = kernels.norm(mixed, weight=first, eps=1e-5)
        return [
            mixed, kernels.attention_backward(grad, qkv=qkv, logsum=sums, rows=rows), y, out, kernels.gate(y),
            kernels.norm_backward(grad, x=mixed, scale=scale, weight=first, residual_grad=grad),
            *kernels.lora_backward(y, x=mixed, a=a, b=b, scale=2.0, down=down, grad_x=of_x), of_x,
        ]

    before = torch.get_num_threads()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(everything())
    torch.set_num_threads(before)
    for one, two, three in zip(*found, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_what_is_no_number_is_not_hidden(kernels: Kernels) -> None:
    rows = rows_of([3], 1, 1, 4, causal=True)
    qkv = torch.ones(3, 12).to(kernels.dtype)
    qkv[1, 0] = float("nan")  # a query
    mixed, _ = kernels.attention(qkv, rows)
    assert mixed.isnan().any(1).tolist() == [False, True, False]
    both = torch.ones(2, 4).to(kernels.dtype)
    both[1, 0] = float("nan")
    assert kernels.gate(both).isnan().tolist() == [[False, False], [True, False]]
    assert kernels.norm(both, weight=both[0].contiguous(), eps=1e-5)[0].isnan().any(1).tolist() == [False, True]


@pytest.mark.parametrize("compiler", ["/nowhere/cc", "false"])
def test_without_a_compiler_peft_trains(
    compiler: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path))
    monkeypatch.setenv("CC", compiler)
    if compiler != "false":
        monkeypatch.setenv("PATH", str(tmp_path))
    native.kernels.cache_clear()
    model = add_adapter(load_base(tiny_llama, torch.float32), make_task(student={"lora": {"rank": 4}}).student)
    with caplog.at_level(logging.WARNING):
        assert not pack(model)
    native.kernels.cache_clear()
    assert "PEFT's layers, which are slower" in caplog.text
    assert not list(tmp_path.rglob("*.so"))


def test_a_library_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path))
    native.kernels.cache_clear()
    made(torch.float32)
    (library,) = (tmp_path / "kernels").iterdir()
    stamp = library.stat().st_mtime_ns
    native.kernels.cache_clear()
    made(torch.float32)
    assert [p.stat().st_mtime_ns for p in (tmp_path / "kernels").iterdir()] == [stamp]
    assert native.kernels(torch.float16) is None
    native.kernels.cache_clear()
