"""Shared fixtures: a small task, a tokenizer and a tiny Llama that are made here and need no network."""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from task.spec import Task
from task.tokenizer import FastTokenizer
from tests.file_costs import CPU_SECONDS

FIXTURES = Path(__file__).parent / "fixtures"

# A busy machine is slow, not wrong; and a failure must be the same one when it is run again.
hypothesis.settings.register_profile("limbeck", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("limbeck")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the dearest files first; within a file, and among the others, the order stays."""
    here = Path(__file__).parent.parent

    def cost(item: pytest.Item) -> int:
        return CPU_SECONDS.get(item.path.relative_to(here).as_posix(), 0) if item.path.is_relative_to(here) else 0

    items.sort(key=lambda item: -cost(item))


def make_task(**changes: Any) -> Task:
    """A task with two open roles (one single-valued) and two closed ones (one with several values)."""
    base: dict[str, Any] = {
        "name": "toy",
        "roles": [
            {"name": "brand", "multiple": False},
            {"name": "product"},
            {"name": "aisle", "kind": "closed", "multiple": False, "values": ["dairy", "drinks"]},
            {"name": "mark", "kind": "closed", "values": ["vegan", "organic", "kosher"]},
        ],
        "data": {"dir": ".", "labels": "labels.jsonl"},
        "teacher": {"backend": "labels"},
    }
    return Task.model_validate(base | changes)


@pytest.fixture
def task() -> Task:
    return make_task()


@pytest.fixture(scope="module")
def shared_ray() -> Iterator[None]:
    """One Ray for all tests of a module: starting it takes longer than training a tiny model."""
    from student.ray_connection import connected

    with connected(make_task(student={"cpus_per_worker": 1}).student, cpus=3):
        yield


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE with what SmolLM2's, Llama 3's and Qwen's have: no unknowns, one token per short word."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    pairs = ["".join(p) for p in itertools.product(string.ascii_lowercase, repeat=2)]
    letters = [*string.ascii_letters, *pairs, *(p.capitalize() for p in pairs)]
    text = [" ".join(["x", *letters])] * 3 + ["verdant machine oat milk 1l fresh cheap organic"] * 20
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=["<|end|>", "<|im_end|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "eos_token": "<|end|>", "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<|end|>",
    }))
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> FastTokenizer:
    return FastTokenizer(tokenizer_folder)


# How the tokenizers of three families cut a text before their merges, from their `tokenizer.json`.
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_QWEN = _LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")


def make_tokenizer(family: str, folder: Path) -> FastTokenizer:
    """A tokenizer with the properties of a family's: how it cuts, normalises, and what it puts before a text."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=family == "smollm2")
    first = (
        pre_tokenizers.Digits(individual_digits=True) if family == "smollm2"
        else pre_tokenizers.Split(Regex(_LLAMA_3 if family == "llama-3" else _QWEN), "isolated")
    )
    special = {
        "smollm2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "llama-3": ["<|eot_id|>", "<|begin_of_text|>"],
        "qwen": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    }[family]
    tokenizer = Tokenizer(models.BPE(ignore_merges=family == "llama-3"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, bytes_of])
    tokenizer.decoder = decoders.ByteLevel()
    if family == "qwen":
        tokenizer.normalizer = normalizers.NFC()
    pairs = ["".join(p) for p in itertools.product(string.ascii_lowercase, repeat=2)]
    words = [*string.ascii_letters, *pairs, *(p.capitalize() for p in pairs)]
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(["x", *words])] * 3 + ["oat milk 1l 250 g"] * 20, trainer)
    if family == "llama-3":
        begin = "<|begin_of_text|>"
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
        )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": special[0]}))
    return FastTokenizer(folder)


@pytest.fixture(scope="session", params=["smollm2", "llama-3", "qwen"])
def any_tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FastTokenizer:
    """One of each family."""
    return make_tokenizer(request.param, tmp_path_factory.mktemp("family") / request.param)


def make_tiny_llama(folder: Path, tokenizer_folder: Path, *, tied: bool, seed: int = 0) -> Path:
    """A Llama of two layers with random weights, saved with its tokenizer."""
    import shutil

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=64, vocab_size=2048, max_position_embeddings=512, tie_word_embeddings=tied, eos_token_id=0,
        bos_token_id=0, pad_token_id=0, initializer_range=0.08,  # a frozen head must be able to be sure
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for path in tokenizer_folder.iterdir():
        shutil.copy2(path, folder / path.name)
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("tiny"), tokenizer_folder, tied=True)


@pytest.fixture(scope="session")
def tiny_llama_untied(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("untied"), tokenizer_folder, tied=False)


def make_tiny_bert(folder: Path, tokenizer_folder: Path, *, seed: int = 0) -> Path:
    """A BERT of one layer with random weights: an embedder that is real and small."""
    import shutil

    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    BertModel(BertConfig(
        vocab_size=2000, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )).save_pretrained(folder)
    shutil.copy(tokenizer_folder / "tokenizer.json", folder)
    return folder


@pytest.fixture(scope="session")
def embedder_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    return make_tiny_bert(tmp_path_factory.mktemp("embedder"), tokenizer_folder)
