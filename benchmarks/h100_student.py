"""An 8B student on one GPU: LoRA in bf16 and, where bitsandbytes has kernels, QLoRA; speed, memory, merge.

    python -m benchmarks.h100_student                     Llama-3-8B's architecture, one H100
    python -m benchmarks.h100_student --size tiny --steps 4 --device cpu

The weights are random: nothing is downloaded, and time and memory equal those of real weights. The rows are those of
the synthetic market. For each kind of adapter, through the product's own training loop: tokens a second over the steps
after the first tenth, peak memory and the estimate of `limbeck plan`, the share of the chip's matmul rate (measured in
the same run) that the model's own multiplications reach, and the merge. Expected on an H100: a rate of 600 to 700
TFLOP/s in large bf16 products, and half of that in training on rows of 30 tokens, batch 128. Writes
benchmarks/results/h100_student.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from limbeck.environment import device as machine
from limbeck.environment import git_commit, versions
from samples.market.generate import TAIL, Market
from student.estimate import GIB, KNOWN, Architecture, training_flops, training_memory
from student.merging.merge import merge
from student.training.job import TrainingJob
from student.training.objective import supervise
from student.training.order import plan_batches
from student.training.train import train
from task.codec import Codec
from task.files import write_json
from task.labels import Example, Label, ordered
from task.load import load_task
from task.spec import Task
from task.tokenizer import load_tokenizer
from task.training_row import TrainingRow

RESULT = Path(__file__).parent / "results" / "h100_student.json"
SIZES = {
    "8B": KNOWN["Meta-Llama-3-8B"],
    "tiny": Architecture(
        layers=2, hidden=128, intermediate=256, heads=2, kv_heads=1, vocabulary=2_048, tied=False, head_dim=64,
    ),
}
SEED = 0


def main() -> None:
    """Make base and rows, train and merge each kind, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="8B")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--kinds", nargs="+", choices=["lora", "qlora"], default=["lora", "qlora"])
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        rows = market_rows(max(2_000, 2 * options.batch))
        base = make_base(folder / "base", SIZES[options.size], [r.query for r in rows], options.device)
        found = {
            kind: measure(kind, base, SIZES[options.size], rows, folder, options.steps, options.batch, options.device)
            for kind in options.kinds
        }
        result = {
            "size": options.size, "steps": options.steps, "batch": options.batch,
            "matmul_tflops": round(matmul_rate(options.device) / 1e12, 4), "kinds": found, "versions": versions(),
            "device": machine(), "git": git_commit(),
        }
    for value in found.values():
        value["share_of_matmul_rate"] = round(value["tflops"] / result["matmul_tflops"], 3)
    write_json(options.out, result)
    print(json.dumps(result, indent=1))


def market_rows(count: int) -> list[Example]:
    """Queries of the synthetic market with the generator's own labels."""
    market = Market(SEED, 500, brands=50)
    asked = (market.ask(TAIL, 0.65, 0.0) for _ in range(count))
    return [Example(a.query, ordered(Label.from_json(x) for x in a.labels())) for a in asked]


def make_base(folder: Path, shape: Architecture, texts: list[str], device: str) -> Path:
    """A Llama of some shape with random bf16 weights, and a tokenizer trained on the texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        hidden_size=shape.hidden, intermediate_size=shape.intermediate, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim,
        vocab_size=shape.vocabulary, tie_word_embeddings=shape.tied, max_position_embeddings=512, bos_token_id=0,
        eos_token_id=0, pad_token_id=0,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(before)
    model.save_pretrained(folder)
    del model
    if device == "cuda":
        torch.cuda.empty_cache()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    letters = [c for a in range(26) for c in (f" {chr(65 + a)}", f" {chr(97 + a)}")]
    tokenizer.train_from_iterator([*texts, *letters * 50], trainers.BpeTrainer(
        vocab_size=min(2_000, shape.vocabulary), special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    ))
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {
        "eos_token": "<|end|>", "pad_token": "<|end|>", "tokenizer_class": "PreTrainedTokenizerFast",
    })
    return folder


def measure(
    kind: str, base: Path, shape: Architecture, rows: list[Example], folder: Path, steps: int, batch: int, device: str
) -> dict[str, Any]:
    """Train and merge one kind of adapter; time and memory of both."""
    gpu = device == "cuda"
    task = task_of(kind, base, steps, batch, gpu=gpu)
    tokenizer = load_tokenizer(base)
    codec = Codec.compile(task, rows, tokenizer)
    learned = [TrainingRow(x) for x in rows if codec.representable(x)]
    job = TrainingJob(task, base, codec, learned, [], folder / kind, reshuffle=True)
    job.folder.mkdir()
    lengths = [len(supervise(codec, tokenizer, r).encoded.ids) for r in job.train]
    s = task.student
    batches = plan_batches(lengths, batch_size=batch, steps=steps, reshuffle=True, window=s.length_window, seed=s.seed)
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    train(job, device=device)
    peak = torch.cuda.max_memory_allocated() / GIB if gpu else None
    history = [json.loads(x) for x in (job.folder / "history.jsonl").read_text().splitlines()]
    warm = max(1, steps // 10)
    tokens = [sum(lengths[i] for i in b) for b in batches]
    padded = [len(b) * max(lengths[i] for i in b) for b in batches]
    rates = [n / h["seconds"] for n, h in zip(tokens, history, strict=True)][warm:]
    flops = [training_flops(shape, n) / h["seconds"] for n, h in zip(tokens, history, strict=True)][warm:]
    if gpu:
        torch.cuda.empty_cache()
    started = time.monotonic()
    matrices = merge(base=base, adapter=job.folder / "adapter", out=job.folder / "merged", settings=s)
    return {
        "tokens_per_s": round(statistics.median(rates)), "spread": [round(min(rates)), round(max(rates))],
        "tflops": round(statistics.median(flops) / 1e12, 3), "peak_gib": None if peak is None else round(peak, 2),
        "planned_gib": {k: round(v, 2) for k, v in training_memory(shape, s, max(padded)).items()},
        "merge_s": round(time.monotonic() - started, 1), "matrices": matrices, "loss": history[-1]["loss"],
    }


def task_of(kind: str, base: Path, steps: int, batch: int, *, gpu: bool) -> Task:
    """The market's task with a student of this kind."""
    settings = {
        "student.base": str(base), "student.max_steps": str(steps), "student.batch_size": str(batch),
        "student.use_gpu": str(gpu).lower(), "student.epochs": "1000", "student.eval_every": str(10 * steps),
        "student.save_every": str(10 * steps), "student.learning_rate": "1.0e-4", "student.keep_best": "false",
        "student.quantization": "nf4" if kind == "qlora" else "none",
    }
    return load_task(Path("configs/market.yaml"), [f"{k}={v}" for k, v in settings.items()]).task


def matmul_rate(device: str) -> float:
    """FLOP/s of a large product, the best within a second, since a shared machine is not always as fast.

    In bf16 or fp32, whichever is faster: a processor with AVX2 only emulates bf16, at 0.9 GFLOP/s a core against 66.
    """
    size = 8_192 if device == "cuda" else 1_024
    best = float("inf")
    for dtype in (torch.bfloat16, torch.float32):
        a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
        until = time.perf_counter() + 1.0
        while time.perf_counter() < until:
            _wait(device)
            started = time.perf_counter()
            torch.matmul(a, b)
            _wait(device)
            best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
