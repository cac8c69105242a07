"""What could not be trained, merged or served is refused before any process is started: one error, with its file."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from student.adapters import add_adapter, write_adapter
from student.model import load_base
from student.preflight import check
from task.errors import InputError, InputWarning
from task.settings import Lora, Student
from tests.conftest import make_tiny_bert

LORA: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
CHANGES = "changes the weights of the base"
DATA = "needs a pass over data"


@pytest.fixture
def base(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Llama that a test may spoil."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "base"))


def edit(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def add_tokens(base: Path, *, special: bool) -> None:
    """Give the tokenizer more tokens than the embedding's 2,048 rows."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    names = [f"<extra {i}>" for i in range(2050 - tokenizer.get_vocab_size())]
    assert (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(names) == len(names)
    tokenizer.save(str(base / "tokenizer.json"))


def holding(base: Path, *names: str, rows: int = 2) -> None:
    """Give the weights further tensors, as a value head of RL or a stale buffer is saved."""
    more = {n: torch.zeros(rows, 128, dtype=torch.bfloat16) for n in names}
    save_file(load_file(base / "model.safetensors") | more, base / "model.safetensors", metadata={"format": "pt"})


def sharded(base: Path, *, missing: str = "") -> None:
    """Write the weights as two shards with an index, without the file or tensor `missing`."""
    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"one.safetensors": names[:9], "two.safetensors": names[9:]}
    for file, held in parts.items():
        if file != missing:
            save_file({n: tensors[n] for n in held if n != missing}, base / file, metadata={"format": "pt"})
    weight_map = {n: file for file, held in parts.items() for n in held}
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def as_pickle(base: Path) -> None:
    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def no_eos(base: Path) -> None:
    edit(base / "config.json", eos_token_id=None)
    edit(base / "generation_config.json", eos_token_id=[])
    edit(base / "tokenizer_config.json", eos_token=None)


def unknown_eos(base: Path) -> None:
    no_eos(base)
    edit(base / "tokenizer_config.json", eos_token={"content": "</s>"})


def narrower(base: Path) -> None:
    edit(base / "config.json", intermediate_size=128)


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no tokenizer.json": (
        lambda b: (b / "tokenizer.json").rename(b / "vocab.txt"),
        r"base/tokenizer\.json: the model folder has no tokenizer\.json; found 'tokenizer_config\.json, vocab\.txt'.*"
        r"save_pretrained",
    ),
    "damaged tokenizer.json": (lambda b: (b / "tokenizer.json").write_text("{"), r"base/tokenizer\.json: .* cannot be"),
    "no eos": (no_eos, r"base/tokenizer_config\.json: eos_token: the model has no end-of-sequence token"),
    "eos unknown": (unknown_eos, r"base/tokenizer_config\.json: eos_token: .*does not have .*found '</s>'"),
    "no tokenizer_config.json": (
        lambda b: (no_eos(b), (b / "tokenizer_config.json").unlink()),
        r"base/tokenizer_config\.json: eos_token: the model has no end-of-sequence token",
    ),
    "larger tokenizer": (
        lambda b: add_tokens(b, special=False),
        r"base/tokenizer\.json: student\.base: the tokenizer has more tokens .*found 'token id 2049'.*below 2048",
    ),
    "pickle only": (
        as_pickle, r"base: student\.base: .*no weights in safetensors; found 'pytorch_model\.bin'.*save_pretrained"
    ),
    "no weights": (lambda b: (b / "model.safetensors").unlink(), "base: student.base: .*found 'no weights'"),
    "no config": (lambda b: (b / "config.json").unlink(), r"base/config\.json: student\.base: a file .* is missing"),
    "config is a list": (lambda b: (b / "config.json").write_text("[]"), r"config\.json.*found 'list'; expected a JSO"),
    "a shard is missing": (
        lambda b: sharded(b, missing="two.safetensors"), r"base/two\.safetensors: student\.base: a file .* is missing"
    ),
    "a tensor is missing": (
        lambda b: sharded(b, missing="model.norm.weight"),
        r"base/model\.safetensors\.index\.json: .*does not hold; found 'model\.norm\.weight'",
    ),
    "truncated": (
        lambda b: cut(b / "model.safetensors"),
        r"base/model\.safetensors: student\.base: the safetensors file cannot be read: .*found '[\d,]+ bytes'",
    ),
    "a truncated shard": (
        lambda b: (sharded(b), cut(b / "one.safetensors")), r"base/one\.safetensors: .* cannot be read"
    ),
    "other shapes": (narrower, r"base: student\.base: a tensor of the base has another shape .*mlp.*\(128"),
    "another head than the embedding, to which it is tied": (
        lambda b: holding(b, "lm_head.weight", rows=2048), r"base/config\.json: .*tie_word_embeddings: the LM head of"
    ),
    "quantised already": (
        lambda b: edit(b / "config.json", quantization_config={"quant_method": "gptq"}),
        r"base/config\.json: student\.base: the base is quantised already.*found 'gptq'",
    ),
    "a classifier": (
        lambda b: edit(b / "config.json", architectures=["LlamaForSequenceClassification"]),
        r"base/config\.json: student\.base: .* not a causal language model .*found 'LlamaForSequenceClassification'",
    ),
}


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_base_that_cannot_be_trained_is_refused_with_its_file(base: Path, spoil: str) -> None:
    change, message = SPOILED[spoil]
    change(base)
    with pytest.raises(InputError, match=message):
        check(base, Student())


@pytest.mark.parametrize("change", [
    sharded,
    lambda b: add_tokens(b, special=True),  # a special token is encoded as plain text and never reaches the model
    lambda b: shutil.copy(b / "model.safetensors", b / "consolidated.safetensors"),
    lambda b: edit(b / "generation_config.json", eos_token_id=[0, 1]),
    lambda b: (b / "generation_config.json").unlink(),
    lambda b: edit(b / "config.json", eos_token_id=None),
])
def test_a_base_that_is_only_unusual_is_taken(base: Path, change: Callable[[Path], object]) -> None:
    change(base)
    check(base, Student())


def test_tensors_that_the_model_does_not_have_are_told(base: Path) -> None:
    holding(base, "model.layers.0.self_attn.rotary_emb.inv_freq")  # of old Llamas; engines pass it over
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(base, Student())
    holding(base, "v_head.summary.weight")
    with pytest.warns(InputWarning, match=r"base: student\.base: .* hold 1 tensors .*found \['v_head\.summary\.weight"):
        check(base, Student())


def test_an_encoder_is_refused(tmp_path: Path, tokenizer_folder: Path) -> None:
    folder = make_tiny_bert(tmp_path / "bert", tokenizer_folder)
    for name in ("BertModel", "BertForMaskedLM", "BertForSequenceClassification"):
        edit(folder / "config.json", architectures=[name])
        for form in ("read", "write"):
            with pytest.raises(InputError, match=rf"bert/config\.json: .*not a causal language model.* found '{name}'"):
                check(folder, Student(form=form))  # type: ignore[arg-type]


def saved(folder: Path, model: Any, tokenizer_folder: Path) -> Path:
    model.to(torch.bfloat16).save_pretrained(folder)
    for path in tokenizer_folder.iterdir():
        shutil.copy2(path, folder / path.name)
    edit(folder / "config.json", eos_token_id=0)
    return folder


def test_transposed_weights_are_refused(tmp_path: Path, tokenizer_folder: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=2048, n_embd=64, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0))
    folder = saved(tmp_path / "gpt2", model, tokenizer_folder)
    with pytest.raises(InputError, match=r"gpt2/config\.json.*found 'GPT2LMHeadModel'"):
        check(folder, Student())
    peft = LORA | {"target_modules": ["c_attn", "c_proj"]}
    with pytest.raises(InputError, match="Conv1D, and only linear layers are merged"):
        check(folder, Student(form="write", peft=peft))


def test_fused_experts_are_refused_and_attention_beside_them_is_not(tmp_path: Path, tokenizer_folder: Path) -> None:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(
        vocab_size=2048, hidden_size=64, intermediate_size=96, moe_intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=32, num_experts=4, num_experts_per_tok=2, eos_token_id=0,
    ))
    folder = saved(tmp_path / "moe", model, tokenizer_folder)
    check(folder, Student(lora=Lora(targets="attention")))
    with pytest.raises(InputError, match=r"student\.lora: .*experts.*only linear layers are merged"):
        check(folder, Student(lora=Lora(targets=("q_proj", "gate_proj", "up_proj", "down_proj"))))


def test_a_head_of_another_name_is_refused_where_it_is_cut_down(tmp_path: Path, tokenizer_folder: Path) -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    model = GPTNeoXForCausalLM(GPTNeoXConfig(
        vocab_size=2048, hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=96
    ))
    folder = saved(tmp_path / "neox", model, tokenizer_folder)
    with pytest.raises(InputError, match=r"form `read` cuts lm_head\.weight .*its LM head has another name"):
        check(folder, Student())
    check(folder, Student(form="write"))


@pytest.mark.parametrize(("option", "message"), [
    ({"init_lora_weights": "pissa"}, rf"student\.peft\.init_lora_weights.* {CHANGES}.*found 'pissa'.*docs/student\.md"),
    ({"init_lora_weights": "pissa_niter_4"}, CHANGES), ({"init_lora_weights": "olora"}, CHANGES),
    ({"init_lora_weights": "corda"}, CHANGES), ({"init_lora_weights": "loftq"}, "LoftQ quantises the base itself"),
    ({"init_lora_weights": "eva"}, DATA), ({"init_lora_weights": "lora_ga"}, DATA),
    ({"init_lora_weights": "of 2027"}, "initialisation is not known"),
    ({"bias": "all"}, r"student\.peft\.bias: .*biases of the base"), ({"bias": "lora_only"}, "biases of the base"),
    ({"lora_bias": True}, "the adapter has biases"), ({"modules_to_save": ["lm_head"]}, "whole modules"),
    ({"trainable_token_indices": [5]}, "rows of the embed"), ({"layer_replication": [[0, 2], [1, 2]]}, "other layers"),
    ({"target_parameters": ["experts.up_proj"]}, "fused experts"), ({"use_qalora": True}, "QA-LoRA"),
    ({"alora_invocation_tokens": [1, 2]}, "activated LoRA"), ({"kasa_config": {}}, "KaSA"),
    ({"velora_config": {}}, "VeLoRA"), ({"monteclora_config": {}}, "MonteCLoRA"), ({"use_bdlora": {}}, "block-diag"),
    ({"runtime_config": {"ephemeral_gpu_offload": False}}, "object of Python"), ({"of_2027": 1}, "not known"),
    ({"target_modules": ["q_proj", "lm_head"]}, "lm_head is of the kind|lm_head is the LM head"),
    ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens is of the kind Embedding"),
    ({"peft_type": "ADALORA", "total_step": 5, "modules_to_save": ["norm"]}, "whole modules"),
    ({"rank_pattern": {"k_proj": 8}}, r"`rank_pattern` has 'k_proj', which matches none of the adapted layers"),
    ({"alpha_pattern": {"q_prj": 8}}, r"`alpha_pattern` has 'q_prj', which matches none"),
    ({"alpha_pattern": {"q_proj": 0}}, "with an alpha of 0"), ({"rank_pattern": {"(": 8}}, "unterminated subpattern"),
    ({"peft_type": "LILY"}, "LILY is no method"), ({"peft_type": "SHADOW"}, "SHADOW is no method"),
])
@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_that_cannot_be_merged_is_refused(
    tiny_llama: Path, tiny_llama_untied: Path, option: dict[str, Any], message: str, tied: bool
) -> None:
    with pytest.raises(InputError, match=message):
        check(tiny_llama if tied else tiny_llama_untied, Student(peft=LORA | option))


def test_every_option_of_peft_is_decided() -> None:
    import dataclasses

    from peft import LoraConfig

    from student.peft_options import FREE, OFF

    fields = {f.name for f in dataclasses.fields(LoraConfig)}
    assert fields - FREE - OFF.keys() == {"init_lora_weights"}
    assert not FREE & OFF.keys()


@pytest.fixture
def adapter(tiny_llama: Path, tmp_path: Path) -> Path:
    """An adapter made elsewhere, with patterns."""
    peft = LORA | {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"v_proj": 2}}
    model = add_adapter(load_base(tiny_llama, torch.float32), Student(peft=peft))
    write_adapter(model, tmp_path / "adapter")
    return tmp_path / "adapter"


def going_on(adapter: Path) -> Student:
    return Student(init_adapter=str(adapter), peft={"peft_type": "LORA"})


def test_an_adapter_made_elsewhere_is_taken_if_it_can_be_merged(tiny_llama: Path, adapter: Path) -> None:
    check(tiny_llama, going_on(adapter))
    edit(adapter / "adapter_config.json", of_2027=False)
    check(tiny_llama, going_on(adapter))


@pytest.mark.parametrize(("key", "value"), [
    ("init_lora_weights", "pissa"), ("modules_to_save", ["lm_head"]), ("bias", "all"), ("lora_bias", True),
    ("layer_replication", [[0, 2]]), ("of_2027", {}), ("lora_alpha", 0), ("trainable_token_indices", [3]),
])
def test_the_configuration_of_an_adapter_made_elsewhere_is_read(
    tiny_llama: Path, adapter: Path, key: str, value: Any
) -> None:
    edit(adapter / "adapter_config.json", **{key: value})
    with pytest.raises(InputError, match=rf"adapter/adapter_config\.json: student\.init_adapter\.{key}: "):
        check(tiny_llama, going_on(adapter))


@pytest.mark.parametrize("option", [{"r": 8}, {"lora_alpha": 16}, {"use_rslora": True}, {"rank_pattern": {}}])
def test_an_adapter_of_another_rank_or_scale_than_the_file_sets_is_refused(
    tiny_llama: Path, adapter: Path, option: dict[str, Any]
) -> None:
    settings = Student(init_adapter=str(adapter), peft={"peft_type": "LORA", "r": 4} | option)
    with pytest.raises(InputError, match=f"the adapter to continue from has another {next(iter(option))}"):
        check(tiny_llama, settings)


def with_tensor(name: str, shape: tuple[int, ...]) -> Callable[[Path], object]:
    def change(adapter: Path) -> None:
        path = adapter / "adapter_model.safetensors"
        save_file(load_file(path) | {f"base_model.model.{name}": torch.zeros(shape)}, path)

    return change


@pytest.mark.parametrize(("change", "message"), [
    (with_tensor("lm_head.base_layer.weight", (4, 4)), r"not a LoRA matrix .*found 'base_model\.model\.lm_head"),
    (with_tensor("model.layers.0.self_attn.q_proj.lora_B.bias", (4,)), "not a LoRA matrix"),
    (with_tensor("model.layers.0.mlp.up_proj.lora_A.weight", (4, 128)), "does not fit .*up_proj.*no such tensor"),
    (with_tensor("model.layers.0.self_attn.q_proj.lora_A.weight", (4, 128)), r"q_proj.*\(4, 128\).*expected \(8, 12"),
    (lambda a: edit(a / "adapter_config.json", rank_pattern={}), r"does not fit its config.*q_proj.*\(4, 128\)"),
    (lambda a: edit(a / "adapter_config.json", target_modules=["q_proj", "k_proj", "v_proj"]), "k_proj.*missing"),
    (lambda a: cut(a / "adapter_model.safetensors"), r"adapter_model\.safetensors: student\.init_adapter: .*cannot be"),
    (lambda a: (a / "adapter_model.safetensors").rename(a / "adapter_model.bin"), r"found 'adapter_model\.bin'"),
    (lambda a: (a / "adapter_config.json").write_text("{"), r"adapter_config\.json: student\.init_adapter: .*no JSON"),
])
def test_the_tensors_of_an_adapter_made_elsewhere_are_read(
    tiny_llama: Path, adapter: Path, change: Callable[[Path], object], message: str
) -> None:
    change(adapter)
    with pytest.raises(InputError, match=message):
        check(tiny_llama, going_on(adapter))
