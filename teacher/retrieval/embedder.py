"""Sentence embeddings (Reimers and Gurevych 2019) from a small BERT, on the GPU if there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from task.model_imports import import_transformers
from task.processor import computed_in

Vectors = npt.NDArray[np.float32]


class Embedder:
    """Mean-pooled, L2-normalised embeddings of a model folder."""

    def __init__(self, path: Path, max_tokens: int = 64) -> None:
        import torch
        from tokenizers import Tokenizer

        import_transformers()
        from transformers import AutoModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = getattr(torch, computed_in("bfloat16", gpu=self._device == "cuda"))
        self._model = AutoModel.from_pretrained(str(path), dtype=dtype).to(self._device).eval()
        self._tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self.dimensions = int(self._model.config.hidden_size)

    def encode(
        self, texts: Sequence[str], batch_size: int = 256, progress: Callable[[int], None] = lambda _: None
    ) -> Vectors:
        """Embed texts, shape (texts, dimensions).

        Batches hold texts of similar length. A vector does not depend on the other texts of its batch, so the order of
        the input does not matter.

        Args:
            progress: Called with the number of texts of each finished batch.
        """
        torch = self._torch
        ids = [e.ids for e in self._tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
        out = np.zeros((len(ids), self.dimensions), dtype=np.float32)
        for at in range(0, len(order), batch_size):
            rows = order[at : at + batch_size]
            width = max(len(ids[r]) for r in rows)
            tokens = torch.tensor([ids[r] + [0] * (width - len(ids[r])) for r in rows], device=self._device)
            mask = torch.tensor([[1] * len(ids[r]) + [0] * (width - len(ids[r])) for r in rows], device=self._device)
            with torch.inference_mode():
                hidden = self._model(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
            summed = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            out[rows] = torch.nn.functional.normalize(summed, dim=1).cpu().numpy()
            progress(len(rows))
        return out
