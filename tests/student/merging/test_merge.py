"""Merged models of every kind of adapter give the adapter's answers, also those trained on an NF4 base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from student.adapters import add_adapter, load_adapter
from student.merging.merge import add_lora, merge, nf4_round_trip
from student.merging.parity import parity
from student.model import linear_layers, load_base
from student.training.job import TrainingJob
from student.training.train import train
from task.errors import InputError
from task.tokenizer import FastTokenizer
from tests.student.training.test_train import job, rows

KINDS: dict[str, dict[str, Any]] = {
    "rslora": {"lora": {"rank": 4, "alpha": 8, "rslora": True}},
    "dora": {"lora": {"rank": 4, "alpha": 8, "dora": True}},
    "attention": {"lora": {"rank": 4, "alpha": 8, "targets": "attention"}},
    "patterns": {"peft": {
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": "all-linear",
        "rank_pattern": {"q_proj": 16, "layers.0.mlp.up_proj": 2}, "alpha_pattern": {"v_proj": 32, "o_proj": 1},
    }},
    "patterns with rslora": {"peft": {
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": "all-linear", "use_rslora": True,
        "rank_pattern": {"q_proj": 16}, "alpha_pattern": {"q_proj": 2}, "task_type": "CAUSAL_LM",
    }},
    "patterns with dora": {"peft": {
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": "all-linear", "use_dora": True,
        "rank_pattern": {"down_proj": 8}, "alpha_pattern": {r"layers\.1\..*k_proj": 40},
    }},
    "orthogonal": {"peft": {
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": "orthogonal",
    }},
    "mica": {"peft": {
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": "mica",
    }},
    "loha": {"peft": {"peft_type": "LOHA", "r": 4, "alpha": 8, "target_modules": "mlp"}},
    "ia3": {"peft": {
        "peft_type": "IA3", "target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"],
    }},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_trains_and_merges(
    tiny_llama: Path, tmp_path: Path, tokenizer: FastTokenizer, kind: str
) -> None:
    made = job(tiny_llama, tmp_path, tokenizer, max_steps=30, learning_rate=0.02, **KINDS[kind])
    train(made)
    matrices = merge(
        base=tiny_llama, adapter=tmp_path / "adapter", out=tmp_path / "merged", settings=made.task.student
    )
    assert matrices == {"attention": 8, "loha": 6, "ia3": 6}.get(kind, 14)
    given = {
        "base": tiny_llama, "adapter": tmp_path / "adapter", "codec": made.codec, "tokenizer": tokenizer,
        "examples": rows(),
    }
    report = parity(**given, merged=tmp_path / "merged")
    assert report["matrix_error"] <= 1.0
    assert report["checked_tensors"] == 20
    assert report["max_logit_delta"] < 0.25
    assert report["mean_kl"] < 2e-3
    base, merged = load_file(tiny_llama / "model.safetensors"), load_file(tmp_path / "merged" / "model.safetensors")
    changed = [k for k in base if not torch.equal(base[k], merged[k])]
    assert len(changed) == matrices
    assert all(merged[k].dtype == base[k].dtype for k in base)
    untrained = parity(**given, merged=tiny_llama)
    assert untrained["matrix_error"] > 1.0
    assert untrained["max_logit_delta"] > 3 * report["max_logit_delta"]  # what was merged is what was trained


def test_doras_magnitudes_are_those_of_its_rows() -> None:
    w, a, b, m = torch.randn(8, 6), torch.randn(2, 6), torch.randn(8, 2), torch.rand(8) + 0.5
    assert torch.allclose(add_lora(w, a=a, b=b, scale=0.5, magnitude=m).norm(dim=1), m, atol=1e-6)


def qlora(base: Path, folder: Path, tokenizer: FastTokenizer, **more: Any) -> TrainingJob:
    return job(base, folder, tokenizer, max_steps=40, quantization="nf4", dtype="bfloat16", **more)


@pytest.fixture(scope="module")
def quantised(
    tiny_llama_untied: Path, tmp_path_factory: pytest.TempPathFactory, tokenizer: FastTokenizer
) -> TrainingJob:
    """An adapter trained against a base in NF4."""
    made = qlora(tiny_llama_untied, tmp_path_factory.mktemp("nf4"), tokenizer)
    train(made)
    return made


def test_the_round_trip_is_what_the_quantised_base_computes_with(quantised: TrainingJob) -> None:
    from bitsandbytes.functional import dequantize_4bit

    loaded = load_base(quantised.base, torch.bfloat16, quantised.task.student)
    plain = load_file(quantised.base / "model.safetensors")
    held = dict(loaded.named_modules())
    layers = [n for n, m in held.items() if type(m).__name__ == "Linear4bit"]
    assert len(layers) == 14
    assert layers == linear_layers(load_base(quantised.base, torch.bfloat16))
    for name in layers:
        weight = held[name].weight
        computed = dequantize_4bit(weight.data, weight.quant_state)
        assert torch.equal(nf4_round_trip(plain[f"{name}.weight"]), computed)
        assert not torch.equal(plain[f"{name}.weight"], computed)


def test_a_qlora_adapter_is_merged_into_the_base_that_it_was_trained_against(
    quantised: TrainingJob, tokenizer: FastTokenizer
) -> None:
    folder, student = quantised.folder, quantised.task.student
    reports = {}
    for name in ("trained-against", "plain"):
        settings = student.model_copy(update={"merge_base": name})
        assert merge(base=quantised.base, adapter=folder / "adapter", out=folder / name, settings=settings) == 14
        reports[name] = parity(
            base=quantised.base, adapter=folder / "adapter", merged=folder / name, codec=quantised.codec,
            tokenizer=tokenizer, examples=rows(), settings=settings,
        )
    assert all(r["matrix_error"] <= 1.0 for r in reports.values()), reports
    assert reports["trained-against"]["label_agreement"] == 1.0
    assert reports["trained-against"]["mean_logit_delta"] < 0.2 * reports["plain"]["mean_logit_delta"]
    assert "quantization_config" not in (folder / "trained-against" / "config.json").read_text()


@pytest.mark.filterwarnings("ignore:Merge lora module to 4-bit")
def test_pefts_merge_into_four_bits_loses_more(quantised: TrainingJob, tokenizer: FastTokenizer) -> None:
    folder, student = quantised.folder, quantised.task.student
    theirs = load_adapter(load_base(quantised.base, torch.bfloat16, student), folder / "adapter").merge_and_unload()
    merge(base=quantised.base, adapter=folder / "adapter", out=folder / "ours", settings=student)
    trained = load_adapter(load_base(quantised.base, torch.bfloat16, student), folder / "adapter")
    prompt = torch.tensor([quantised.codec.prompt("verdant oat milk", tokenizer).ids])
    with torch.no_grad():
        wanted = trained(prompt).logits.float()
        ours = load_base(folder / "ours", torch.bfloat16)(prompt).logits.float()
        found = theirs(prompt).logits.float()
    assert (ours - wanted).abs().mean() < 0.5 * (found - wanted).abs().mean()


def test_what_cannot_be_merged_is_refused(tiny_llama: Path, tmp_path: Path, tokenizer: FastTokenizer) -> None:
    made = job(tiny_llama, tmp_path, tokenizer, max_steps=1)
    model = add_adapter(load_base(tiny_llama, torch.float32), made.task.student)
    model.save_pretrained(str(tmp_path / "adapter"))
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace('"bias": "none"', '"bias": "all"'))
    with pytest.raises(InputError, match=r"adapter_config\.json: adapter\.bias: .* biases .* found 'all'"):
        merge(base=tiny_llama, adapter=tmp_path / "adapter", out=tmp_path / "merged")
