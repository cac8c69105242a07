"""The tokenizer of a model folder, without torch or transformers; training, evaluation and the gateway share it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from task.files import read_json

_CAPITALISED = re.compile(r"[ĠĊ▁]?([A-Z][A-Za-z]{0,2})")
_SMALL = re.compile(r"[ĠĊ▁]?([a-z]{1,3})")
_COMPOSING = ("NFC", "NFD", "NFKC", "NFKD")


class FastTokenizer:
    """A `tokenizer.json`, with the text of special tokens treated as plain text.

    `encode_special_tokens` is essential: without it a query that contains `<|im_end|>` would put the control token
    itself into the prompt. A normaliser that composes characters (Qwen's) is removed, because decoding must give back
    the encoded text exactly.

    Attributes:
        eos_id: The id that ends an answer.
        prefix: Ids that the model expects before any text (Llama 3's `<|begin_of_text|>`), none for most.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as RustTokenizer

        self._tokenizer: Any = RustTokenizer.from_file(str(path / "tokenizer.json"))
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        if type(self._tokenizer.normalizer).__name__ in _COMPOSING:
            self._tokenizer.normalizer = None
        self.eos_id = _eos_id(path, self._tokenizer)
        self.prefix = _prefix(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        """Ids of a text; no BOS, no EOS."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def symbol_candidates(self) -> tuple[list[int], list[int]]:
        """Short words with a leading space that are one token, ordered by length, then alphabetically."""
        found: tuple[dict[str, int], dict[str, int]] = ({}, {})
        for token in self._tokenizer.get_vocab():
            for kind, pattern in enumerate((_CAPITALISED, _SMALL)):
                match = pattern.fullmatch(token)
                if match:
                    ids = self.encode(" " + match[1])
                    if len(ids) == 1:
                        found[kind][match[1]] = ids[0]
        capitals, small = ([f[t] for t in sorted(f, key=lambda t: (len(t), t))] for f in found)
        return capitals, small


def _prefix(tokenizer: Any) -> tuple[int, ...]:
    """The ids that the tokenizer's own template puts before a text."""
    text = list(tokenizer.encode("a", add_special_tokens=False).ids)
    whole = list(tokenizer.encode("a", add_special_tokens=True).ids)
    at = next(i for i in range(len(whole)) if whole[i : i + len(text)] == text)
    return tuple(whole[:at])


def _eos_id(path: Path, tokenizer: Any) -> int:
    for name in ("generation_config.json", "config.json"):
        if (path / name).exists():
            eos = read_json(path / name).get("eos_token_id")
            if eos is not None:
                return int(eos[0] if isinstance(eos, list) else eos)
    token = read_json(path / "tokenizer_config.json")["eos_token"]
    return int(tokenizer.token_to_id(token if isinstance(token, str) else token["content"]))


def load_tokenizer(path: str | Path) -> FastTokenizer:
    """The tokenizer in a model folder."""
    return FastTokenizer(Path(path))
