"""Export of the merged model as a token classifier, which serves the answer form `read`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from task.codec import Tokenizer
from task.files import read_json, write_json
from task.model_folder import INDEX, copied_files, weight_files


def shared_symbols(tokenizer: Tokenizer, count: int) -> tuple[int, ...]:
    """Token ids for the output layer of a base that several tasks share, in the order in which codecs choose symbols.

    Args:
        count: How many; three quarters are lower-case, one quarter capitalised candidates.
    """
    capitals, small = tokenizer.symbol_candidates()
    return (*small[: count - count // 4], *capitals[: count // 4])


def export_classifier(merged: Path, symbols: Sequence[int], out: Path, *, shared: bool = False) -> None:
    """Write the merged model as a token classifier: the LM head is cut down to the symbols' rows, the rest is the same.

    The checkpoint is a plain `…ForSequenceClassification`; vLLM serves it with the pooling task `token_classify`.

    Args:
        symbols: Token ids, one for each row of the output layer.
        shared: Write them to `head.json` as well, because they are not the symbols of one codec.

    Raises:
        ValueError: The model is no `…ForCausalLM`.
    """
    config = read_json(merged / "config.json")
    architecture = config["architectures"][0]
    if not architecture.endswith("ForCausalLM"):
        raise ValueError(f"cannot make a token classifier of {architecture}; expected a …ForCausalLM")
    out.mkdir(parents=True, exist_ok=True)
    for path in copied_files(merged):
        if path.name not in {"config.json", INDEX}:
            shutil.copy2(path, out / path.name)
    names = [f"s{i}" for i in range(len(symbols))]
    config |= {
        "architectures": [architecture.replace("ForCausalLM", "ForSequenceClassification")],
        "num_labels": len(names), "id2label": {str(i): n for i, n in enumerate(names)},
        "label2id": {n: i for i, n in enumerate(names)}, "tie_word_embeddings": False,
    }
    write_json(out / "config.json", config)
    if shared:
        write_json(out / "head.json", {"symbol_ids": list(symbols)})
    lm_head = "lm_head.weight"
    weight_map: dict[str, str] = {}
    shards = weight_files(merged)
    tied = not any(lm_head in _names(s) for s in shards)
    source = "model.embed_tokens.weight" if tied else lm_head
    if not any(source in _names(s) for s in shards):
        raise ValueError(f"cannot make a token classifier of {architecture}: it has no {lm_head} and no {source}")
    for shard in shards:
        tensors = load_file(str(shard))
        if source in tensors:
            tensors["score.weight"] = tensors[source][list(symbols)].clone()
        tensors.pop(lm_head, None)
        save_file(tensors, str(out / shard.name), metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, shard.name)
    if len(shards) > 1:
        size = sum(p.stat().st_size for p in out.glob("*.safetensors"))
        write_json(out / INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})


def _names(shard: Path) -> set[str]:
    with safe_open(str(shard), "pt") as file:
        return set(file.keys())
