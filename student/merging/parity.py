"""Whether a merged model gives the same answers as base and adapter."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.quality import label_agreement
from student.adapters import load_adapter
from student.inference import all_scores
from student.merging.matrix_check import compare_tensors
from student.model import TargetLogits, collate, load_base
from task.codec import Codec, Tokenizer
from task.labels import Example
from task.settings import Student


def parity(
    *, base: Path, adapter: Path, merged: Path, codec: Codec, tokenizer: Tokenizer, examples: Sequence[Example],
    settings: Student | None = None,
) -> dict[str, Any]:
    """Compare base and adapter with the merged model on the same queries, both computed in fp32.

    Args:
        settings: How the adapter was trained, so that the adapter is loaded on the base that it was trained against.

    Returns:
        `max_logit_delta` and `mean_logit_delta` over the logits at the targets, `mean_kl` (nats, adapter ‖ merged),
        `label_agreement` (|A ∩ B| / |A ∪ B| of the labels for `read`; share of targets with equal argmax for the forms
        that generate), `rows`, and what `compare_tensors` returns.
    """
    decoded = codec.answer_form.output == "scores"
    deltas, kl, same = [], [], []
    labelled: tuple[list[Example], list[Example]] = ([], [])
    with tempfile.TemporaryDirectory(dir=merged.parent, prefix=".parity-") as name:
        kept = Path(name)  # on disk, so that one model and one batch of scores are in memory at a time
        one = load_adapter(load_base(base, torch.float32, settings), adapter)
        for number, (_, scores) in enumerate(_scores(one, codec, tokenizer, examples)):
            np.savez(kept / f"{number}.npz", *scores)
        tensors = compare_tensors(one, base=base, merged=merged, settings=settings)
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
            if decoded:
                for side, found in zip(labelled, (left, right), strict=True):
                    pairs = zip(part, found, strict=True)
                    side += [Example(x.query, codec.decode_scores(x.query, s)) for x, s in pairs]
    agreement = label_agreement(*labelled) if decoded else sum(same) / len(same)
    return {
        "rows": len(examples),
        "max_logit_delta": round(max(d[0] for d in deltas), 6),
        "mean_logit_delta": round(sum(d[1] for d in deltas) / sum(d[2] for d in deltas), 6),
        "mean_kl": sum(kl) / len(kl),
        "label_agreement": round(agreement, 6),
        **tensors,
    }


def _scores(
    model: Any, codec: Codec, tokenizer: Tokenizer, examples: Sequence[Example]
) -> Iterator[tuple[Sequence[Example], list[Any]]]:
    """Batches with their logits: those at the read positions of each row, or those at the answer tokens of all rows.

    Transformers' own modules compute them. In fp32 they reach most of the processor's rate once rows of similar length
    are together, so that packed rows would gain less than their own check costs.
    """
    output = codec.answer_form.output
    if output == "scores":
        yield examples, all_scores(model, codec, tokenizer, [x.query for x in examples], packed=False)
        return
    model.eval()
    free = output == "text" or bool(codec.texts)  # the whole vocabulary competes at the tokens of a text
    size = 8 if free else 32
    with torch.inference_mode():
        for at in range(0, len(examples), size):
            part = examples[at : at + size]
            ids, rows, columns, _ = collate([codec.encode(x, tokenizer) for x in part])
            alphabet = None if free else codec.symbol_ids
            yield part, [TargetLogits(model, alphabet)(ids, rows=rows, columns=columns).numpy()]
