from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from student.adapters import load_adapter
from student.inference import predict
from student.merging.compose import METHODS, compose
from student.model import load_base
from student.training.train import train
from task.errors import InputError
from task.tokenizer import FastTokenizer
from tests.student.training.test_train import job, rows


@pytest.fixture(scope="module")
def pair(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory, tokenizer: FastTokenizer) -> dict[str, Path]:
    """Adapters of one task trained with two seeds, which can be merged."""
    folder, out = tmp_path_factory.mktemp("pair"), {}
    for seed in (0, 1):
        made = job(tiny_llama, folder / str(seed), tokenizer, max_steps=40, seed=seed)
        train(made)
        out[f"seed {seed}"] = made.folder / "adapter"
    return out


def delta(adapter: Path) -> dict[str, torch.Tensor]:
    """What an adapter adds to each matrix, for alpha = 2 · rank or as its config says."""
    from task.files import read_json

    config, held = read_json(adapter / "adapter_config.json"), load_file(adapter / "adapter_model.safetensors")
    scale = config["lora_alpha"] / config["r"]
    return {
        k.removesuffix(".lora_A.weight"): scale * held[k.replace("lora_A", "lora_B")] @ held[k]
        for k in held if "lora_A" in k
    }


@pytest.mark.parametrize("method", METHODS)
def test_every_method_writes_an_adapter_that_loads(
    pair: dict[str, Path], tiny_llama: Path, tmp_path: Path, tokenizer: FastTokenizer, method: str
) -> None:
    given = {"base": tiny_llama, "adapters": pair, "method": method, "weights": [0.5, 0.5]}
    out = compose(**given, out=tmp_path / method, density=0.8)
    made = job(tiny_llama, tmp_path / "job", tokenizer)
    found = predict(
        load_adapter(load_base(tiny_llama, torch.float32), out), made.codec, tokenizer, made.task, rows()
    )
    assert len(found) == len(rows())
    again = compose(**given, out=tmp_path / "again", density=0.8)
    one, other = (load_file(p / "adapter_model.safetensors") for p in (out, again))
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_cat_is_the_weighted_sum(pair: dict[str, Path], tiny_llama: Path, tmp_path: Path) -> None:
    out = delta(compose(base=tiny_llama, adapters=pair, method="cat", weights=[0.7, 0.3], out=tmp_path / "cat"))
    first, second = (delta(p) for p in pair.values())
    assert set(out) == set(first)
    assert all(torch.allclose(out[k], 0.7 * first[k] + 0.3 * second[k], atol=1e-5) for k in out)


def test_an_adapter_with_all_the_weight_is_itself(pair: dict[str, Path], tiny_llama: Path, tmp_path: Path) -> None:
    out = delta(compose(base=tiny_llama, adapters=pair, method="linear", weights=[1.0, 0.0], out=tmp_path / "linear"))
    first = delta(pair["seed 0"])
    assert all(torch.allclose(out[k], first[k], atol=1e-5) for k in out)


@pytest.mark.parametrize(("changes", "message"), [
    ({"lora": {"rank": 2, "alpha": 4}}, "r: the adapters of 'one' and 'other' cannot be merged; found 2; expected 4"),
    ({"lora": {"rank": 4, "alpha": 8, "dora": True}}, "use_dora: the adapters"),
])
def test_what_does_not_fit_together_is_told(
    pair: dict[str, Path], tiny_llama: Path, tmp_path: Path, tokenizer: FastTokenizer, changes: dict[str, Any],
    message: str,
) -> None:
    made = job(tiny_llama, tmp_path / "job", tokenizer, max_steps=1, **changes)
    train(made)
    adapters = {"one": pair["seed 0"], "other": made.folder / "adapter"}
    with pytest.raises(InputError, match=message):
        compose(base=tiny_llama, adapters=adapters, method="linear", weights=[0.5, 0.5], out=tmp_path / "out")
    if "dora" not in changes["lora"]:
        out = tmp_path / "cat"
        assert compose(base=tiny_llama, adapters=adapters, method="cat", weights=[0.5, 0.5], out=out).exists()
