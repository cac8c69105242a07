"""An 8B student behind vLLM on one GPU: one forward pass or a decoded answer, bf16 or FP8, merged or with an adapter.

    python -m benchmarks.h100_serving                      Llama-3-8B's architecture, one H100
    python -m benchmarks.h100_serving --size tiny --seconds 3 --rates 2 --lengths 4 --precisions bf16 --eager

The weights are dummies, which vLLM makes itself (`--load-format dummy`): times are those of real ones, answers are not.
Prompts have the length of the market's, 40 tokens (a query twice and its probes), and are all different. For each
precision and for merged and run-time adapter: the form `read`, and answers of `--lengths` tokens, in an open loop
(Poisson, time from the scheduled departure) at `--rates` a second for `--seconds`. Expected: a forward pass of 40
tokens moves 16 GB of weights, 5 ms at the chip's 3.35 TB/s and half of that in FP8; vLLM's HTTP and scheduling add some
4; a written answer costs a pass a token. Goal: `read` at 20/s with p50 under 20 and p99 under 50 ms, where the
published system needed 300. Writes benchmarks/results/h100_serving.json.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.h100_student import SIZES
from engine.vllm_process import VllmProcess
from eval.arrivals import poisson
from eval.endpoint import Target
from eval.latency import summarise
from eval.load_generator import one_by_one, run
from limbeck.environment import device, git_commit, versions
from student.estimate import Architecture
from task.files import write_json
from task.serving_settings import Adapters, Serving

RESULT = Path(__file__).parent / "results" / "h100_serving.json"
PRECISIONS: dict[str, tuple[str, ...]] = {"bf16": (), "fp8": ("--quantization", "fp8")}
ENGINES = ("read-merged", "read-adapter", "write-merged", "write-adapter")
TOKENS, SYMBOLS, RANK, WARM_UP = 40, 33, 16, 20
ADAPTER = "student@adapter"


def main() -> None:
    """Every engine in turn, every rate on each; what is done is written after each engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="8B")
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of each rate")
    parser.add_argument("--rates", type=float, nargs="+", default=[1, 5, 20, 50])
    parser.add_argument("--lengths", type=int, nargs="+", default=[4, 8, 20, 60], help="tokens of decoded answers")
    parser.add_argument("--precisions", choices=PRECISIONS, nargs="+", default=list(PRECISIONS))
    parser.add_argument("--engines", choices=ENGINES, nargs="+", default=list(ENGINES), help="form and weights")
    parser.add_argument("--eager", action="store_true", help="compile nothing: slower answers, a faster start")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    shape = SIZES[options.size]
    result: dict[str, Any] = {
        "size": options.size, "prompt_tokens": TOKENS, "seconds": options.seconds, "engines": [],
        "versions": versions(), "device": device(), "git": git_commit(),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        adapter = make_adapter(folder / "adapter", shape)
        for form, lengths in (("read", [0]), ("write", options.lengths)):
            model = make_model(folder / form, shape, form)
            for precision in options.precisions:
                for weights in (w for w in ("merged", "adapter") if f"{form}-{w}" in options.engines):
                    print(form, precision, weights, flush=True)
                    rows = list(measured(
                        model, form, PRECISIONS[precision], adapter if weights == "adapter" else None, shape, lengths,
                        options.rates, options.seconds, options.eager, folder / "engine.log",
                    ))
                    result["engines"].append({"form": form, "precision": precision, "weights": weights, "rows": rows})
                    write_json(options.out, result)
    print(options.out)


def make_model(folder: Path, shape: Architecture, form: str) -> Path:
    """A configuration without weights, which vLLM makes, and a tokenizer with a word for each id."""
    from tokenizers import Tokenizer, models

    folder.mkdir()
    words = {f"t{i}": i for i in range(shape.vocabulary)}
    Tokenizer(models.WordLevel(words, "t0")).save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "t1"})
    kind = "ForSequenceClassification" if form == "read" else "ForCausalLM"
    names = [f"s{i}" for i in range(SYMBOLS)]
    write_json(folder / "config.json", {
        "architectures": [f"Llama{kind}"], "model_type": "llama", "torch_dtype": "bfloat16", "hidden_act": "silu",
        "hidden_size": shape.hidden, "intermediate_size": shape.intermediate, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim,
        "vocab_size": shape.vocabulary, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "num_labels": SYMBOLS,
        "id2label": {str(i): n for i, n in enumerate(names)}, "label2id": {n: i for i, n in enumerate(names)},
    })
    return folder


def make_adapter(folder: Path, shape: Architecture) -> Path:
    """A LoRA adapter of all linear layers with small random weights."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    torch.manual_seed(0)
    head = shape.head_dim or shape.hidden // shape.heads
    queries, keys = shape.heads * head, shape.kv_heads * head
    sizes = {
        "self_attn.q_proj": (shape.hidden, queries), "self_attn.k_proj": (shape.hidden, keys),
        "self_attn.v_proj": (shape.hidden, keys), "self_attn.o_proj": (queries, shape.hidden),
        "mlp.gate_proj": (shape.hidden, shape.intermediate), "mlp.up_proj": (shape.hidden, shape.intermediate),
        "mlp.down_proj": (shape.intermediate, shape.hidden),
    }
    tensors = {}
    for layer in range(shape.layers):
        for name, (inputs, outputs) in sizes.items():
            at = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{at}.lora_A.weight"] = (torch.randn(RANK, inputs) / inputs**0.5).bfloat16()
            tensors[f"{at}.lora_B.weight"] = (0.01 * torch.randn(outputs, RANK)).bfloat16()
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    write_json(folder / "adapter_config.json", {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK, "lora_dropout": 0.0,
        "bias": "none", "target_modules": [n.rpartition(".")[2] for n in sizes], "base_model_name_or_path": "base",
    })
    return folder


def measured(
    model: Path, form: str, extra: tuple[str, ...], adapter: Path | None, shape: Architecture, lengths: Sequence[int],
    rates: Sequence[float], seconds: float, eager: bool, log: Path,
) -> Iterator[dict[str, Any]]:
    """One engine: a row for each length and rate."""
    settings = Serving(
        max_model_len=256, enforce_eager=eager, start_timeout_s=1_200.0, adapters=Adapters(at_once=1, rank=16),
        extra_args=("--load-format", "dummy", *extra),
    )
    adapters = settings.adapters if adapter is not None else None
    with VllmProcess(
        model, name="student", runs_as=form, settings=settings, log=log, adapters=adapters
    ) as engine:
        engine.wait_ready()
        if adapter is not None:
            engine.load_adapter(ADAPTER, adapter)
        name = "student" if adapter is None else ADAPTER
        for length in lengths:
            for rate in rates:
                row = open_loop(engine.url, name, form, length, rate, seconds, shape.vocabulary)
                print(row, flush=True)
                yield row


def open_loop(
    url: str, name: str, form: str, length: int, rate: float, seconds: float, vocabulary: int
) -> dict[str, Any]:
    """Poisson departures of prompts that no prefix cache knows; the first warm up."""
    rng = random.Random(0)
    path, _ = question(name, form, length, [])
    bodies = [
        json.dumps(question(name, form, length, [rng.randrange(2, vocabulary) for _ in range(TOKENS)])[1])
        for _ in range(WARM_UP + int(2 * rate * seconds) + 20)
    ]
    target = Target(url, path=path)
    one_by_one(target, bodies[:WARM_UP], use_cache=True)
    plan = poisson(rate, seconds, bodies[WARM_UP:], 0)
    said = summarise([(plan, run(plan, target, timeout_s=60.0))], kinds=False)
    found = {k: v for k, v in said["blended"].items() if k not in ("hdr", "runs")}
    return {"tokens": length, "rate": rate, "valid": said["valid"], "dispatch_delay_ms": said["dispatch_delay_ms"],
            **found}


def question(name: str, form: str, length: int, prompt: list[int]) -> tuple[str, dict[str, Any]]:
    """Path and body, as `engine.client` sends them."""
    if form == "read":
        return "/pooling", {
            "model": name, "input": [prompt], "task": "token_classify", "add_special_tokens": False,
            "use_activation": False, "encoding_format": "base64", "embed_dtype": "float32",
        }
    return "/v1/completions", {
        "model": name, "prompt": prompt, "temperature": 0.0, "max_tokens": length, "min_tokens": length,
        "ignore_eos": True, "logprobs": 1, "add_special_tokens": False,
    }


if __name__ == "__main__":
    main()
