"""Predictions of a student in transformers: the reference for the engine's answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from student.model import TargetLogits, collate
from task.codec import Codec, Encoded, Tokenizer
from task.forms import Output
from task.labels import Example, Labelling
from task.spec import Task
from task.written_texts import WrittenTexts, most_tokens

Scores = npt.NDArray[np.float32]
"""Logits of the symbols, shape (positions, symbols)."""

_PACKED_ROWS: Final = 128  # 2,000 to 3,000 tokens: with more, a layer's activations leave the processor's caches


def predict(
    model: Any, codec: Codec, tokenizer: Tokenizer, task: Task, examples: Sequence[Example], *, device: str = "cpu",
    batch_size: int = 32, progress: Callable[[int], None] = lambda _: None,
) -> list[Example]:
    """Label queries in the codec's answer form; order kept. Labels that the examples have are not used.

    Args:
        progress: Called with the number of rows of each finished batch.
    """
    if codec.answer_form.output == "scores":
        scores = all_scores(
            model, codec, tokenizer, [x.query for x in examples], device=device, batch_size=batch_size,
            progress=progress,
        )
        return [
            Example(x.query, codec.decode(x.query, s, task).labels, x.count, x.id)
            for x, s in zip(examples, scores, strict=True)
        ]
    model.eval()
    answers: dict[int, Labelling] = {}
    outputs = _OUTPUTS[codec.answer_form.output]
    with torch.inference_mode(), _autocast(model, device):
        for rows in _grouped(codec, tokenizer, examples, batch_size):
            queries = [examples[i].query for i in rows]
            found = outputs(model, codec, tokenizer, queries, device)
            for row, query, output in zip(rows, queries, found, strict=True):
                answers[row] = codec.decode(query, output, task).labels
            progress(len(rows))
    return [Example(x.query, answers[i], x.count, x.id) for i, x in enumerate(examples)]


def read_scores(
    model: Any, codec: Codec, tokenizer: Tokenizer, queries: Sequence[str], device: str = "cpu"
) -> list[Scores]:
    """Symbol logits at each query's read positions, shape (units + probes, symbols) each."""
    return _scores(TargetLogits(model, codec.symbol_ids), [codec.prompt(q, tokenizer) for q in queries], device)


def all_scores(
    model: Any, codec: Codec, tokenizer: Tokenizer, queries: Sequence[str], *, device: str = "cpu",
    batch_size: int = 32, progress: Callable[[int], None] = lambda _: None, packed: bool = True,
) -> list[Scores]:
    """`read_scores` of many queries, order kept; batches hold queries of similar length.

    Args:
        batch_size: Rows of a padded batch; one without padding has as many rows as the processor's caches hold best.
        packed: Whether a model that `student.kernels` packed is run so; False takes transformers' own modules.
    """
    model.eval()
    logits = TargetLogits(model, codec.symbol_ids, packed=packed)
    prompts = [codec.prompt(q, tokenizer) for q in queries]
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i].ids), i))
    size = _PACKED_ROWS if logits.is_packed else batch_size
    out: dict[int, Scores] = {}
    with torch.inference_mode(), _autocast(model, device):
        for at in range(0, len(order), size):
            rows = order[at : at + size]
            out.update(zip(rows, _scores(logits, [prompts[i] for i in rows], device), strict=True))
            progress(len(rows))
    return [out[i] for i in range(len(queries))]


def _scores(logits: TargetLogits, prompts: Sequence[Encoded], device: str) -> list[Scores]:
    ids, rows, columns, _ = collate(prompts, device)
    scores = logits(ids, rows=rows, columns=columns).cpu().numpy()
    cuts = np.cumsum([len(p.positions) for p in prompts])[:-1]
    return list(np.split(scores, cuts))


def _generate_symbols(
    model: Any, codec: Codec, tokenizer: Tokenizer, queries: Sequence[str], device: str
) -> list[tuple[Any, ...]]:
    """Greedy over the symbols that can stand in each place, one token for each unit and probe.

    Prompts of one call have equal length. With text roles the texts that follow are generated too (`_generate_texts`).
    """
    ids = torch.tensor([codec.prompt(q, tokenizer).ids for q in queries], device=device)
    alphabet = torch.tensor(codec.symbol_ids, device=device)
    steps = max(codec.symbol_count(q) for q in queries)
    if not steps:  # only texts
        written = _generate_texts(model, codec, tokenizer, queries, [[] for _ in queries], device)
        return [([], [], texts) for texts in written]
    barred = _barred(codec, queries, steps).to(device)
    cache: Any = None
    chosen, log_probabilities = [], []
    for step in range(steps):
        out = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        scores = out.logits[:, -1, alphabet].float().log_softmax(-1)
        best = scores.masked_fill(barred[:, step], -torch.inf).argmax(-1)
        log_probabilities.append(scores.gather(1, best[:, None])[:, 0])
        ids = alphabet[best][:, None]
        chosen.append(ids[:, 0])
    tokens, values = torch.stack(chosen, 1).tolist(), torch.stack(log_probabilities, 1).tolist()
    found = list(zip(tokens, values, strict=True))
    if not codec.texts:
        return list(found)
    texts = _generate_texts(model, codec, tokenizer, queries, [tokens for tokens, _ in found], device)
    return [(*symbols, written) for symbols, written in zip(found, texts, strict=True)]


def _barred(codec: Codec, queries: Sequence[str], steps: int) -> torch.Tensor:
    """Which symbols cannot stand in a place, shape (queries, steps, symbols); beyond a query's last place all can."""
    out = torch.zeros(len(queries), steps, len(codec.symbol_ids), dtype=torch.bool)
    masks: dict[frozenset[int], torch.Tensor] = {}  # of the states and of each closed role: a few for all places
    for row, query in enumerate(queries):
        for step, allowed in enumerate(codec.allowed_symbols(query)):
            if allowed not in masks:
                masks[allowed] = torch.tensor([i not in allowed for i in codec.symbol_ids])
            out[row, step] = masks[allowed]
    return out


def _generate_texts(
    model: Any, codec: Codec, tokenizer: Tokenizer, queries: Sequence[str], symbols: Sequence[Sequence[int]],
    device: str,
) -> list[WrittenTexts]:
    """Greedy after the symbols of each query until the stop token, over the whole vocabulary.

    Args:
        symbols: The generated symbols of each query; those beyond its own number are not used.
    """
    starts = [
        [*codec.prompt(q, tokenizer).ids, *s[: codec.symbol_count(q)]] for q, s in zip(queries, symbols, strict=True)
    ]
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for row, start in enumerate(starts):
        groups[len(start)].append(row)  # rows of equal length need no padding
    out: dict[int, WrittenTexts] = {}
    for length, rows in groups.items():
        ids = torch.tensor([starts[r] for r in rows], device=device)
        made = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=most_tokens(codec.texts),
            do_sample=False, eos_token_id=codec.eos_id, pad_token_id=codec.eos_id, use_cache=True,
            output_logits=True, return_dict_in_generate=True,
        )
        new = made.sequences[:, length:]
        shares = torch.stack(made.logits, 1).float().log_softmax(-1).gather(2, new[:, :, None])[:, :, 0]
        for row, tokens, values in zip(rows, new.tolist(), shares.tolist(), strict=True):
            out[row] = codec.written_texts(tokens, values, tokenizer)
    return [out[r] for r in range(len(queries))]


def _generate_text(
    model: Any, codec: Codec, tokenizer: Tokenizer, queries: Sequence[str], device: str
) -> list[tuple[str, bool]]:
    """Greedy until the stop token, and whether it came; prompts of one call have equal length."""
    ids = torch.tensor([codec.prompt(q, tokenizer).ids for q in queries], device=device)
    most = max(codec.answer_form.most_generated(codec, q) for q in queries)
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False,
        eos_token_id=codec.eos_id, pad_token_id=codec.eos_id, use_cache=True,
    )
    return [
        (tokenizer.decode([t for t in row if t != codec.eos_id]), codec.eos_id in row)
        for row in out[:, ids.shape[1] :].tolist()
    ]


# How a batch of queries of equal length is generated, by the output that the answer form decodes.
_OUTPUTS: Final[Mapping[Output, Callable[..., Sequence[Any]]]] = {
    "symbols": _generate_symbols, "text": _generate_text,
}


def _grouped(
    codec: Codec, tokenizer: Tokenizer, examples: Sequence[Example], batch_size: int
) -> Iterable[list[int]]:
    """Batches of rows of equal length, which need no left padding to generate."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for row, example in enumerate(examples):
        groups[len(codec.prompt(example.query, tokenizer).ids)].append(row)
    for _, rows in sorted(groups.items()):
        for at in range(0, len(rows), batch_size):
            yield rows[at : at + batch_size]


def _autocast(model: Any, device: str) -> Any:
    """Autocast to bf16 for a bf16 base with an adapter in fp32; nothing for a model of one dtype."""
    kinds = {p.dtype for p in model.parameters()}
    mixed = torch.bfloat16 in kinds and len(kinds) > 1
    return torch.autocast(device.split(":")[0], dtype=torch.bfloat16) if mixed else nullcontext()
