"""Fold the adapter into the base, shard by shard, and prove that nothing changed.

W' = cast(fp32(W) + s · B·A), one cast; s is alpha / rank, or alpha / sqrt(rank) with rsLoRA. We do it on the
safetensors files themselves rather than through PEFT: it needs memory for one shard, adds in fp32 whatever the base
is stored in, and leaves every other tensor as it was.
"""

from __future__ import annotations

import math
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from eval.quality import label_agreement
from student.infer import read_scores
from student.model import TargetLogits, collate, load_adapter, load_base
from task.codec import Codec, Tokenizer
from task.files import read_json, write_json
from task.labels import Example

_KEPT = ("*.json", "*.jinja", "tokenizer.model")
_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


def merge(base: Path, adapter: Path, out: Path) -> int:
    """Write the merged model into `out`; returns the number of matrices that the adapter changed.

    Raises:
        ValueError: The adapter changes a matrix that the base does not have, or is not plain LoRA.
    """
    config = read_json(adapter / "adapter_config.json")
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("bias", "none") != "none":
        raise ValueError(f"only plain LoRA can be merged here, found {config.get('peft_type')}")
    pairs = _pairs(load_file(str(adapter / "adapter_model.safetensors")))
    root = math.sqrt(config["r"]) if config.get("use_rslora") else config["r"]
    scale = config["lora_alpha"] / root
    out.mkdir(parents=True, exist_ok=True)
    for pattern in _KEPT:
        for path in base.glob(pattern):
            if path.name != "store.json":
                shutil.copy2(path, out / path.name)
    left = set(pairs)
    for shard in sorted(base.glob("*.safetensors")):
        tensors = load_file(str(shard))
        for name in list(tensors):
            module = name.removesuffix(".weight")
            if module in pairs:
                tensors[name] = fold(tensors[name], pairs[module]["A"], pairs[module]["B"], scale)
                left.discard(module)
        save_file(tensors, str(out / shard.name), metadata={"format": "pt"})
    if left:
        raise ValueError(f"the base has no {sorted(left)[0]} to merge into ({len(left)} such)")
    return len(pairs)


def fold(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """W + s · B·A in fp32, cast once to W's type. W (out, in), A (rank, in), B (out, rank)."""
    return (weight.float() + scale * (b.float() @ a.float())).to(weight.dtype)


def _pairs(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    out: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        match = _KEY.fullmatch(key)
        if not match:
            raise ValueError(f"the adapter holds {key}, which is not a LoRA matrix")
        out.setdefault(match[1], {})[match[2]] = value
    return out


def parity(
    base: Path, adapter: Path, merged: Path, codec: Codec, tokenizer: Tokenizer, examples: Sequence[Example]
) -> dict[str, Any]:
    """Adapter against merged model on the same queries, both computed in fp32.

    Returns:
        `max_logit_delta` and `mean_logit_delta` over the logits that decide, `mean_kl` (nats, adapter ‖ merged),
        `label_agreement` (|A ∩ B| / |A ∪ B|, for the forms that read or write symbols), `rows`.
    """
    deltas, kl, same = [], [], []
    labelled: tuple[list[Example], list[Example]] = ([], [])
    with tempfile.TemporaryDirectory(dir=merged.parent, prefix=".parity-") as name:
        kept = Path(name)  # one model in memory at a time, and of its scores one batch: a whole vocabulary is wide
        one = load_adapter(load_base(base, torch.float32), adapter)
        for number, (_, scores) in enumerate(_scores(one, codec, tokenizer, examples)):
            np.savez(kept / f"{number}.npz", *scores)
        del one
        other = load_base(merged, torch.float32)
        for number, (part, right) in enumerate(_scores(other, codec, tokenizer, examples)):
            with np.load(kept / f"{number}.npz") as file:
                left = [file[key] for key in file.files]
            flat_left, flat_right = np.concatenate(left), np.concatenate(right)
            delta = np.abs(flat_left - flat_right)
            deltas.append((float(delta.max()), float(delta.sum(dtype=np.float64)), delta.size))
            log_p, log_q = (torch.from_numpy(x).double().log_softmax(-1) for x in (flat_left, flat_right))
            kl += (log_p.exp() * (log_p - log_q)).sum(-1).tolist()
            same += (flat_left.argmax(-1) == flat_right.argmax(-1)).tolist()
            if codec.form == "read":
                for side, found in zip(labelled, (left, right), strict=True):
                    pairs = zip(part, found, strict=True)
                    side += [Example(x.query, codec.decode_scores(x.query, s)) for x, s in pairs]
    agreement = label_agreement(*labelled) if codec.form == "read" else sum(same) / len(same)
    return {
        "rows": len(examples),
        "max_logit_delta": round(max(d[0] for d in deltas), 6),
        "mean_logit_delta": round(sum(d[1] for d in deltas) / sum(d[2] for d in deltas), 6),
        "mean_kl": sum(kl) / len(kl),
        "label_agreement": round(agreement, 6),
    }


def _scores(
    model: Any, codec: Codec, tokenizer: Tokenizer, examples: Sequence[Example]
) -> Iterator[tuple[Sequence[Example], list[Any]]]:
    """Batches with the logits that decide: at the read positions of each row, or at the answer tokens of all rows."""
    model.eval()
    size = 8 if codec.form == "json" else 32
    with torch.inference_mode():
        for at in range(0, len(examples), size):
            part = examples[at : at + size]
            if codec.form == "read":
                yield part, list(read_scores(model, codec, tokenizer, [x.query for x in part]))
            else:
                ids, rows, columns, _ = collate([codec.encode(x, tokenizer) for x in part])
                alphabet = codec.symbol_ids if codec.form == "write" else None
                yield part, [TargetLogits(model, alphabet)(ids, rows, columns).numpy()]


def export_classifier(merged: Path, codec: Codec, out: Path) -> None:
    """The merged model as a token classifier: the LM head cut down to the symbols' rows, nothing else changed.

    The checkpoint is a plain `…ForSequenceClassification`; vLLM serves it with the pooling task `token_classify`.
    """
    config = read_json(merged / "config.json")
    architecture = config["architectures"][0]
    if not architecture.endswith("ForCausalLM"):
        raise ValueError(f"cannot cut a classifier from {architecture}")
    out.mkdir(parents=True, exist_ok=True)
    for pattern in _KEPT:
        for path in merged.glob(pattern):
            if path.name not in {"config.json", "model.safetensors.index.json"}:
                shutil.copy2(path, out / path.name)
    names = [f"s{i}" for i in range(len(codec.symbol_ids))]
    config |= {
        "architectures": [architecture.replace("ForCausalLM", "ForSequenceClassification")],
        "num_labels": len(names), "id2label": {str(i): n for i, n in enumerate(names)},
        "label2id": {n: i for i, n in enumerate(names)}, "tie_word_embeddings": False,
    }
    write_json(out / "config.json", config)
    head = "lm_head.weight"
    weight_map: dict[str, str] = {}
    shards = sorted(merged.glob("*.safetensors"))
    tied = not any(head in _names(s) for s in shards)
    source = "model.embed_tokens.weight" if tied else head
    for shard in shards:
        tensors = load_file(str(shard))
        if source in tensors:
            tensors["score.weight"] = tensors[source][list(codec.symbol_ids)].clone()
        tensors.pop(head, None)
        save_file(tensors, str(out / shard.name), metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, shard.name)
    if len(shards) > 1:
        size = sum(p.stat().st_size for p in out.glob("*.safetensors"))
        write_json(out / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map})


def _names(shard: Path) -> set[str]:
    with safe_open(str(shard), "pt") as file:
        return set(file.keys())


