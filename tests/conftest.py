"""Shared fixtures: a small task, a tokenizer and a tiny Llama that are made here and need no network."""

from __future__ import annotations

import itertools
import json
import string
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from task.spec import Task
from task.tokens import FastTokenizer

FIXTURES = Path(__file__).parent / "fixtures"

# A busy machine is slow, not wrong; and a failure must be the same one when it is run again.
hypothesis.settings.register_profile("limbeck", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("limbeck")


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
