"""Predictions of a student in transformers: the reference that the engine's answers are compared with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from student.model import TargetLogits, collate
from task.codec import Codec, Tokenizer
from task.labels import Example, Labelling
from task.spec import Task

JSON_TOKENS = 256


def predict(
    model: Any, codec: Codec, tokenizer: Tokenizer, task: Task, examples: Sequence[Example], *, device: str = "cpu",
    batch_size: int = 32, progress: Callable[[int], None] = lambda _: None,
) -> list[Example]:
    """Label queries (their own labels are not looked at) in the codec's form; order kept."""
    model.eval()
    answers: dict[int, Labelling] = {}
    with torch.inference_mode(), _autocast(model, device):
        for rows in _grouped(codec, tokenizer, examples, batch_size):
            part = [examples[i].query for i in rows]
            if codec.form == "read":
                found = _read(model, codec, tokenizer, part, device)
            elif codec.form == "write":
                found = _write(model, codec, tokenizer, part, device)
            else:
                found = _json(model, codec, tokenizer, task, part, device)
            answers.update(zip(rows, found, strict=True))
            progress(len(rows))
    return [Example(x.query, answers[i], x.count, x.id) for i, x in enumerate(examples)]


def read_scores(model: Any, codec: Codec, tokenizer: Tokenizer, queries: Sequence[str], device: str = "cpu") -> list[
    npt.NDArray[np.float32]
]:
    """Symbol logits at each query's read positions, shape (units + probes, symbols) each."""
    prompts = [codec.prompt(q, tokenizer) for q in queries]
    logits = TargetLogits(model, codec.symbol_ids)
    ids, rows, columns, _ = collate(prompts, device)
    scores = logits(ids, rows, columns).cpu().numpy()
    cuts = np.cumsum([len(p.positions) for p in prompts])[:-1]
    return list(np.split(scores, cuts))


def all_scores(
    model: Any, codec: Codec, tokenizer: Tokenizer, queries: Sequence[str], *, device: str = "cpu",
    batch_size: int = 32, progress: Callable[[int], None] = lambda _: None,
) -> list[npt.NDArray[np.float32]]:
    """`read_scores` of many queries, order kept; those of like length share a batch."""
    model.eval()
    out: dict[int, npt.NDArray[np.float32]] = {}
    with torch.inference_mode(), _autocast(model, device):
        for rows in _grouped(codec, tokenizer, [Example(q) for q in queries], batch_size):
            found = read_scores(model, codec, tokenizer, [queries[i] for i in rows], device)
            out.update(zip(rows, found, strict=True))
            progress(len(rows))
    return [out[i] for i in range(len(queries))]


def _read(model: Any, codec: Codec, tokenizer: Tokenizer, queries: Sequence[str], device: str) -> list[Labelling]:
    scores = read_scores(model, codec, tokenizer, queries, device)
    return [codec.decode_scores(q, s) for q, s in zip(queries, scores, strict=True)]


def _write(model: Any, codec: Codec, tokenizer: Tokenizer, queries: Sequence[str], device: str) -> list[Labelling]:
    """Greedy over the symbols only, one token a unit; prompts of one call have equal length."""
    ids = torch.tensor([codec.prompt(q, tokenizer).ids for q in queries], device=device)
    alphabet = torch.tensor(codec.symbol_ids, device=device)
    steps = max(codec.answer_length(q) for q in queries)
    cache: Any = None
    chosen, log_probabilities = [], []
    for _ in range(steps):
        out = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        scores = out.logits[:, -1, alphabet].float().log_softmax(-1)
        best = scores.argmax(-1)
        log_probabilities.append(scores.gather(1, best[:, None])[:, 0])
        ids = alphabet[best][:, None]
        chosen.append(ids[:, 0])
    tokens, values = torch.stack(chosen, 1).tolist(), torch.stack(log_probabilities, 1).tolist()
    return [codec.decode_symbols(q, t, v) for q, t, v in zip(queries, tokens, values, strict=True)]


def _json(
    model: Any, codec: Codec, tokenizer: Tokenizer, task: Task, queries: Sequence[str], device: str
) -> list[Labelling]:
    """Greedy until the stop token; a text that is no list of labels is an empty answer."""
    ids = torch.tensor([codec.prompt(q, tokenizer).ids for q in queries], device=device)
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=JSON_TOKENS, do_sample=False,
        eos_token_id=codec.eos_id, pad_token_id=codec.eos_id, use_cache=True,
    )
    texts = [tokenizer.decode([t for t in row if t != codec.eos_id]) for row in out[:, ids.shape[1] :].tolist()]
    return [codec.decode_text(q, t, task) or () for q, t in zip(queries, texts, strict=True)]


def _grouped(
    codec: Codec, tokenizer: Tokenizer, examples: Sequence[Example], batch_size: int
) -> Iterable[list[int]]:
    """Batches of rows: of similar length to read, of equal length to write, so that nothing is padded on the left."""
    lengths = [len(codec.prompt(x.query, tokenizer).ids) for x in examples]
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for row in sorted(range(len(examples)), key=lambda i: (lengths[i], i)):
        groups[0 if codec.form == "read" else lengths[row]].append(row)
    for rows in groups.values():
        for at in range(0, len(rows), batch_size):
            yield rows[at : at + batch_size]


def _autocast(model: Any, device: str) -> Any:
    """bf16 arithmetic for a bf16 base whose adapter is kept in fp32."""
    kinds = {p.dtype for p in model.parameters()}
    mixed = torch.bfloat16 in kinds and len(kinds) > 1
    return torch.autocast(device.split(":")[0], dtype=torch.bfloat16) if mixed else nullcontext()
