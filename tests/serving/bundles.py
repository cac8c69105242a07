"""A small bundle for tests of a whole service."""

from __future__ import annotations

from pathlib import Path

from serving.release.bundle import Bundle, build
from student.merging.openvino_export import export
from student.merging.token_classifier import export_classifier
from task.codec import Codec
from task.labels import Example, Label
from task.tokenizer import FastTokenizer
from tests.conftest import make_task

HITS = [f"oat milk {i}" for i in range(50)]
MISSES = [f"rice milk {i}" for i in range(50)]
TASK = make_task(serving={
    "hang_s": 5.0, "request_timeout_s": 5.0, "max_model_len": 256, "workers": 2,
    "dtype": "float32",  # in bf16 close calls depend on what shares a batch
})


def made(folder: Path, base: Path, tokenizer: FastTokenizer, product: str, *, openvino: bool) -> Bundle:
    """A bundle whose cache says `product`, so that its hits are told from the other's.

    Args:
        openvino: Whether OpenVINO serves it, which starts in a third of vLLM's time, or vLLM.
    """
    codec = Codec.compile(TASK, [], tokenizer)
    export_classifier(base, codec.symbol_ids, folder / "classifier")
    if openvino:
        export(folder / "classifier", folder / "openvino")
    words = {"oat": (0, 3), "milk": (4, 8)}
    head = [Example(q, (Label("product", product, *words[product]),)) for q in HITS]
    return build(
        folder / "bundle", TASK, codec, folder / "classifier", head, {},
        openvino=folder / "openvino" if openvino else None,
    )
