"""Scores of many queries from a packed forward pass, checked against transformers' own in each run.

`student.kernels.packed_llama` computes the decoder with kernels of this project, over rows without padding. What it
computes is a reference that other systems are judged by, so a sample of the rows is computed by the model's own modules
as well, and a difference that rounding does not explain is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch

from eval.quality import label_agreement
from eval.report_schema import PackedCheck
from student.inference import Scores, all_scores, predict
from student.kernels.packed_llama import pack_forward
from task.codec import Codec, Tokenizer
from task.errors import ComponentError
from task.labels import Example
from task.spec import Task

_SAMPLE: Final = 32
# The error of the logits that rounding explains. Trained students in bf16 had 0.03 to 0.04; two implementations in
# transformers (eager and SDPA attention) differ as much. A row that sees its neighbour's tokens has about 1.
_ALLOWED: Final = {torch.float32: 1e-3, torch.bfloat16: 0.15}


def packed_predict(
    model: Any, codec: Codec, tokenizer: Tokenizer, task: Task, examples: Sequence[Example], *, device: str = "cpu",
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[list[Example], PackedCheck | None]:
    """`predict`, packed where that is possible, with the check; None where it is not, as in forms that generate.

    Raises:
        ComponentError: The packed scores of a sample differ from transformers' by more than rounding explains.
    """
    if codec.answer_form.output != "scores":
        return predict(model, codec, tokenizer, task, examples, device=device, progress=progress), None
    scores, check = packed_scores(
        model, codec, tokenizer, [x.query for x in examples], device=device, progress=progress
    )
    return [
        Example(x.query, codec.decode(x.query, s, task).labels, x.count, x.id)
        for x, s in zip(examples, scores, strict=True)
    ], check


def packed_scores(
    model: Any, codec: Codec, tokenizer: Tokenizer, queries: Sequence[str], *, device: str = "cpu",
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[list[Scores], PackedCheck | None]:
    """`all_scores`, packed where that is possible, with the check.

    Raises:
        ComponentError: As `packed_predict`.
    """
    packed = pack_forward(model)
    scores = all_scores(model, codec, tokenizer, queries, device=device, progress=progress)
    return scores, checked(model, codec, tokenizer, queries, scores, device=device) if packed else None


def checked(
    model: Any, codec: Codec, tokenizer: Tokenizer, queries: Sequence[str], scores: Sequence[Scores], *,
    device: str = "cpu",
) -> PackedCheck | None:
    """Compare packed scores with those that transformers computes for a sample; None if no row has a position.

    The sample is evenly spaced over the rows in the order of their size, so that short and long rows are in it.

    Raises:
        ComponentError: They differ by more than rounding explains.
    """
    sizes = sorted((len(s), i) for i, s in enumerate(scores) if s.size)
    count = min(_SAMPLE, len(sizes))
    if not count:
        return None
    sample = [sizes[k * len(sizes) // count][1] for k in range(count)]
    asked = [queries[i] for i in sample]
    stock = all_scores(model, codec, tokenizer, asked, device=device, packed=False)
    errors = np.array([[np.square(scores[i] - s).sum(), _spread(s)] for i, s in zip(sample, stock, strict=True)])
    error = float(np.sqrt(errors[:, 0].sum() / errors[:, 1].sum()))
    labelled = [
        [Example(q, codec.decode_scores(q, s)) for q, s in zip(asked, side, strict=True)]
        for side in ([scores[i] for i in sample], stock)
    ]
    allowed = _ALLOWED[next(model.parameters()).dtype]
    if not error <= allowed:  # not a number is an error as well
        raise ComponentError(
            f"the packed forward pass is wrong: its logits of {count} queries differ from transformers' by "
            f"{error:.2g} of their size, rounding explains {allowed:g}. This is a bug: please report processor, torch "
            "and compiler"
        )
    return {
        "rows": count, "logit_error": round(error, 7),
        "worst_row": round(float(np.sqrt(errors[:, 0] / errors[:, 1]).max()), 7),
        "label_agreement": round(label_agreement(*labelled), 6),
    }


def _spread(scores: Scores) -> float:
    """Squared norm of the logits less their mean at each position, which a softmax does not see."""
    return float(np.square(scores - scores.mean(-1, keepdims=True)).sum()) or 1.0
