"""Catastrophic forgetting: perplexity of general text and answers to plain questions, base against merged model.

A student serves one task only, so this is not a gate. It shows how much of the base's ability fine-tuning has cost, and
whether the merged model can be the base of another student.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch

from student.model import dtype_on, load_base
from task.codec import Tokenizer
from task.processor import Dtype

TEXT: Final = Path(__file__).with_name("general.txt")
QUESTIONS: Final[Sequence[tuple[str, tuple[str, ...]]]] = (
    ("What is the capital of France?", ("paris",)),
    ("How many days are in a week?", ("seven", "7")),
    ("What is the opposite of hot?", ("cold",)),
    ("Which animal says meow?", ("cat",)),
    ("What do bees make?", ("honey",)),
    ("What language is spoken in Spain?", ("spanish",)),
    ("What is 2 + 3?", ("5", "five")),
    ("What colour is the sky on a clear day?", ("blue",)),
)
_WINDOW, _ANSWER_TOKENS = 256, 32


def forgetting(
    *, base: Path, merged: Path, tokenizer: Tokenizer, dtype: Dtype = "float32", device: str = "cpu"
) -> dict[str, Any]:
    """Base and merged model on the same text and questions.

    Returns:
        `perplexity`: of each and their `ratio`; `chat`: how many questions each answers correctly, of how many, and
        the answers; None for a base without a chat template.
    """
    found = {}
    for name, folder in (("base", base), ("merged", merged)):
        model = load_base(folder, dtype_on(device, dtype)).to(device).eval()
        text = TEXT.read_text(encoding="utf-8")
        found[name] = (perplexity(model, tokenizer, text, device), answers(model, base, device))
        del model
    one, other = found["base"], found["merged"]
    chat = None
    if one[1] is not None and other[1] is not None:
        rows: list[dict[str, Any]] = [
            {"question": q, "base": a, "merged": b, "base_right": right(a, wanted), "merged_right": right(b, wanted)}
            for (q, wanted), a, b in zip(QUESTIONS, one[1], other[1], strict=True)
        ]
        chat = {
            "of": len(rows), "base": sum(r["base_right"] for r in rows),
            "merged": sum(r["merged_right"] for r in rows), "rows": rows,
        }
    return {
        "perplexity": {
            "base": round(one[0], 3), "merged": round(other[0], 3), "ratio": round(other[0] / one[0], 4),
            "tokens": len(tokenizer.encode(TEXT.read_text(encoding="utf-8"))),
        },
        "chat": chat,
    }


def perplexity(model: Any, tokenizer: Tokenizer, text: str, device: str = "cpu") -> float:
    """Exp of the mean negative log-likelihood of a text's tokens, in windows without shared context."""
    ids = [*tokenizer.prefix, *tokenizer.encode(text)]
    total, count = 0.0, 0
    with torch.inference_mode():
        for at in range(0, len(ids) - 1, _WINDOW):
            window = torch.tensor([ids[at : at + _WINDOW + 1]], device=device)
            logits = model(input_ids=window[:, :-1]).logits.float()
            loss = torch.nn.functional.cross_entropy(logits[0], window[0, 1:], reduction="sum")
            total, count = total + float(loss), count + window.shape[1] - 1
    return math.exp(total / count)


def answers(model: Any, folder: Path, device: str = "cpu") -> list[str] | None:
    """Greedy answers to the questions, in the chat format of a base; None where it has none."""
    from transformers import AutoTokenizer

    # Left padding, so that every answer follows its question directly.
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, padding_side="left")
    if not tokenizer.chat_template:
        return None
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    prompts = tokenizer.apply_chat_template(
        [[{"role": "user", "content": question}] for question, _ in QUESTIONS], add_generation_prompt=True,
        padding=True, return_tensors="pt", return_dict=True,
    ).to(device)
    with torch.inference_mode():
        made = model.generate(
            **prompts, max_new_tokens=_ANSWER_TOKENS, do_sample=False, use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
        )
    texts = tokenizer.batch_decode(made[:, prompts["input_ids"].shape[1] :], skip_special_tokens=True)
    return [t.strip() for t in texts]


def right(answer: str, wanted: Sequence[str]) -> bool:
    """Whether an answer contains one of the words."""
    words = "".join(c if c.isalnum() else " " for c in answer.casefold()).split()
    return any(w in words for w in wanted)
