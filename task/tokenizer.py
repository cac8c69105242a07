"""The tokenizer of a model folder, without torch or transformers; training, evaluation and the gateway share it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from task.errors import InputError
from task.model_folder import read_config

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

    Raises:
        InputError: The folder has no `tokenizer.json`, a damaged one, or no file that names an end-of-sequence token.
    """

    def __init__(self, path: Path) -> None:
        self._tokenizer: Any = _read(path / "tokenizer.json")
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

    def largest_id(self) -> int:
        """The largest id that can occur in a prompt or an answer; special tokens are encoded as plain text."""
        added = self._tokenizer.get_added_tokens_decoder()
        special = {i for i, token in added.items() if token.special} - {self.eos_id, *self.prefix}
        ids: set[int] = set(self._tokenizer.get_vocab(with_added_tokens=True).values()) - special
        return max(*ids, self.eos_id, *self.prefix)

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


def _read(path: Path) -> Any:
    from tokenizers import Tokenizer as RustTokenizer

    fix = (
        "Load the tokenizer with transformers' AutoTokenizer and write it with save_pretrained(folder), "
        "which writes tokenizer.json"
    )
    if not path.exists():
        others = sorted(p.name for p in path.parent.glob("*") if "token" in p.name or p.name.startswith("vocab"))
        raise InputError(
            "the model folder has no tokenizer.json", file=path, found=", ".join(others) or "no file of a tokenizer",
            expected="a tokenizer of the library `tokenizers`", fix=fix,
        )
    try:
        return RustTokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower type
        raise InputError(f"the tokenizer cannot be read: {error}", file=path, fix=fix) from error


def _eos_id(path: Path, tokenizer: Any) -> int:
    """The first end-of-sequence token that the model's files name.

    Raises:
        InputError: None of them names one, or one that the tokenizer does not have.
    """
    for name in ("generation_config.json", "config.json"):
        if (path / name).exists():
            eos = read_config(path / name).get("eos_token_id")
            eos = (eos[0] if eos else None) if isinstance(eos, list) else eos
            if eos is not None:
                return int(eos)
    config = path / "tokenizer_config.json"
    token = read_config(config).get("eos_token") if config.exists() else None
    text = token.get("content") if isinstance(token, dict) else token
    found = None if text is None else tokenizer.token_to_id(text)
    if found is None:
        raise InputError(
            "the model has no end-of-sequence token, which ends an answer" if text is None else
            "the tokenizer does not have the end-of-sequence token that its configuration names",
            file=config, field="eos_token", found=text,
            expected="eos_token here, or eos_token_id in config.json or generation_config.json",
            fix="Set it to the token that ends a text in this model",
        )
    return int(found)


def load_tokenizer(path: str | Path) -> FastTokenizer:
    """The tokenizer in a model folder."""
    return FastTokenizer(Path(path))
