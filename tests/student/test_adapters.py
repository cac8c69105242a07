from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from student.adapters import add_adapter, layers_of, load_adapter, write_adapter
from student.estimate import Architecture, adapter_parameters, architecture
from student.model import empty_model, load_base
from student.preflight import check
from student.training.train import train
from task.errors import InputError
from task.settings import Lora, Student
from task.tokenizer import FastTokenizer
from tests.conftest import make_task
from tests.student.training.test_train import job


def trained_parameters(model: Any) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("targets", ["all-linear", "attention", "mlp", ("q_proj", "down_proj")])
def test_target_groups_and_their_size(tiny_llama: Path, targets: Any) -> None:
    student = Student(lora=Lora(rank=4, targets=targets))
    shape = architecture(str(tiny_llama))
    assert isinstance(shape, Architecture)
    model = add_adapter(load_base(tiny_llama, torch.float32), student)
    assert trained_parameters(model) == adapter_parameters(shape, student.lora)
    names = {n.split(".lora_")[0].rsplit(".", 1)[-1] for n, p in model.named_parameters() if p.requires_grad}
    attention = {"q_proj", "k_proj", "v_proj", "o_proj"}
    mlp = {"gate_proj", "up_proj", "down_proj"}
    wanted = {"all-linear": attention | mlp, "attention": attention, "mlp": mlp}
    assert names == (wanted[targets] if isinstance(targets, str) else set(targets))


@pytest.mark.slow
def test_equal_adapters_have_equal_files_whatever_the_order_of_a_set(tiny_llama: Path, tmp_path: Path) -> None:
    """PEFT keeps the target modules in a set, whose order changes with the hash seed: of this process, of another."""
    script = (
        "import sys, torch; from pathlib import Path; from student.adapters import add_adapter, write_adapter; "
        "from student.model import load_base; from task.settings import Student; torch.manual_seed(0); "
        "write_adapter(add_adapter(load_base(Path(sys.argv[1]), torch.float32), Student()), Path(sys.argv[2]))"
    )
    folders = [tmp_path / name for name in ("here", "there")]
    torch.manual_seed(0)
    here = add_adapter(load_base(tiny_llama, torch.float32), Student())
    write_adapter(here, folders[0])
    subprocess.run(
        [sys.executable, "-c", script, str(tiny_llama), str(folders[1])], check=True,
        env={**os.environ, "PYTHONHASHSEED": "12"},
    )
    contents = [{p.name: p.read_bytes() for p in folder.iterdir()} for folder in folders]
    assert contents[0].keys() >= {"adapter_config.json", "adapter_model.safetensors"}
    assert contents[0] == contents[1]
    model = load_adapter(load_base(tiny_llama, torch.float32), folders[0])
    assert trained_parameters(add_adapter(load_base(tiny_llama, torch.float32), Student())) == sum(
        p.numel() for n, p in model.named_parameters() if "lora_" in n
    )


def test_the_groups_are_found_in_other_architectures() -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    with torch.device("meta"):
        model = GPTNeoXForCausalLM(GPTNeoXConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=40
        ))
    assert layers_of(model, "attention") == ["dense", "query_key_value"]
    assert layers_of(model, "mlp") == ["dense_4h_to_h", "dense_h_to_4h"]


def test_a_base_without_such_layers_is_told(tiny_llama: Path) -> None:
    model = empty_model(tiny_llama)
    for layer in model.model.layers:
        del layer.mlp
    with pytest.raises(InputError, match=r"student\.lora\.targets: the base has no linear layers .*'mlp'"):
        layers_of(model, "mlp")


@pytest.mark.parametrize(("peft", "message"), [
    ({"peft_type": "LORRA"}, r"student\.peft\.peft_type: LORRA is no method of PEFT .* expected one of: .*LOHA"),
    ({"peft_type": "LOHA", "rnk": 4}, r"student\.peft: PEFT cannot make this adapter: .*rnk"),
    ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}, "PROMPT_TUNING is no method of PEFT that can be merged"),
    ({"peft_type": "LORA", "inference_mode": True}, "nothing of it is trained"),
])
def test_what_peft_refuses_is_an_error_before_workers_start(
    tiny_llama: Path, peft: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check(tiny_llama, Student(peft=peft))


def test_layers_that_the_base_does_not_have_are_an_error(tiny_llama: Path) -> None:
    with pytest.raises(InputError, match=r"student\.lora\.targets: .*c_attn"):
        check(tiny_llama, Student(lora=Lora(targets=("c_attn",))))


def test_a_run_goes_on_from_an_earlier_adapter(tiny_llama: Path, tmp_path: Path, tokenizer: FastTokenizer) -> None:
    first = job(tiny_llama, tmp_path / "first", tokenizer, max_steps=20)
    train(first)
    second = job(
        tiny_llama, tmp_path / "second", tokenizer, max_steps=3, init_adapter=str(first.folder / "adapter")
    )
    check(tiny_llama, second.task.student)
    train(second)
    import json

    def loss(folder: Path, line: int) -> float:
        return float(json.loads((folder / "history.jsonl").read_text().splitlines()[line])["loss"])

    assert loss(second.folder, 0) < 0.5 * loss(first.folder, 0)


def test_an_earlier_adapter_of_another_kind_is_refused(
    tiny_llama: Path, tmp_path: Path, tokenizer: FastTokenizer
) -> None:
    made = job(tiny_llama, tmp_path, tokenizer, max_steps=1)
    train(made)
    student = make_task(student={"init_adapter": str(tmp_path / "adapter"), "lora": {"rank": 8, "alpha": 8}}).student
    with pytest.raises(InputError, match=r"adapter_config\.json.* has another r; found 4; expected 8"):
        check(tiny_llama, student)
    nowhere = student.model_copy(update={"init_adapter": str(tmp_path / "nothing")})
    with pytest.raises(InputError, match="no adapter to continue from"):
        check(tiny_llama, nowhere)
