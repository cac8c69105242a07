"""Estimates of a training run's and its serving's memory and compute, from shapes alone: no GPU, no download.

Sources: LoRA's parameter count r · (d_in + d_out) per matrix (Hu et al. 2021); 2 · N · T floating-point operations
for a forward pass and the same again for the backward pass through frozen weights; memory as weights + adapter with
gradient and two Adam moments in fp32 + activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from task.files import read_json
from task.processor import computed_in
from task.settings import Lora, Student


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Shapes of a Llama-like model; `tied` shares the weights of embedding and LM head."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    head_dim: int

    @property
    def linear(self) -> Mapping[str, tuple[int, int]]:
        """(inputs, outputs) of the linear layers in one block."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, q), "k_proj": (self.hidden, kv), "v_proj": (self.hidden, kv),
            "o_proj": (q, self.hidden), "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate), "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def groups(self) -> Mapping[str, Sequence[str]]:
        """Linear layers by the group that `student.lora.targets` names."""
        names = list(self.linear)
        return {"attention": names[:4], "mlp": names[4:], "all-linear": names}

    @property
    def paths(self) -> list[str]:
        """Paths of the linear layers in all blocks, as transformers names them."""
        part = {name: "self_attn" if name in self.groups["attention"] else "mlp" for name in self.linear}
        return [f"model.layers.{n}.{part[name]}.{name}" for n in range(self.layers) for name in self.linear]

    @property
    def parameters(self) -> int:
        """All weights; a tied LM head counts once."""
        block = sum(i * o for i, o in self.linear.values()) + 2 * self.hidden
        return self.layers * block + self.hidden + self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def body(self) -> int:
        """Weights of the linear layers: without embedding, LM head and norms."""
        return self.layers * sum(i * o for i, o in self.linear.values())


_LLAMA_8B: Final = Architecture(
    layers=32, hidden=4096, intermediate=14_336, heads=32, kv_heads=8, vocabulary=128_256, tied=False, head_dim=128,
)
KNOWN: Final[Mapping[str, Architecture]] = {
    "SmolLM2-135M-Instruct": Architecture(
        layers=30, hidden=576, intermediate=1536, heads=9, kv_heads=3, vocabulary=49_152, tied=True, head_dim=64,
    ),
    "SmolLM2-360M-Instruct": Architecture(
        layers=32, hidden=960, intermediate=2560, heads=15, kv_heads=5, vocabulary=49_152, tied=True, head_dim=64,
    ),
    "Meta-Llama-3-8B": _LLAMA_8B, "Meta-Llama-3-8B-Instruct": _LLAMA_8B, "Llama-3.1-8B-Instruct": _LLAMA_8B,
}
GIB: Final = 1024**3
# Python, OpenVINO, a tokenizer and what passes need: SmolLM2-135M in fp32 took 2.59 in all, 2.55 are planned.
_PROCESS_GIB: Final = 0.3
# Keys of a Llama-like config.json; GPT-2 has `n_embd` and others, a multimodal model nests them.
_SHAPES: Final = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")


def architecture(base: str) -> Architecture | None:
    """The shapes of a known base or of a local folder; None for a hub model and for architectures with other keys."""
    known = KNOWN.get(base.rsplit("/", 1)[-1])
    path = Path(base) / "config.json"
    if known or not path.exists():
        return known
    c = read_json(path)
    if not all(isinstance(c.get(key), int) for key in _SHAPES):
        return None
    heads = c["num_attention_heads"]
    return Architecture(
        layers=c["num_hidden_layers"], hidden=c["hidden_size"], intermediate=c["intermediate_size"], heads=heads,
        kv_heads=c.get("num_key_value_heads", heads), vocabulary=c["vocab_size"],
        tied=bool(c.get("tie_word_embeddings")), head_dim=c.get("head_dim") or c["hidden_size"] // heads,
    )


def adapter_parameters(shape: Architecture, lora: Lora) -> int:
    """Number of trainable parameters of the adapter."""
    names = shape.groups[lora.targets] if isinstance(lora.targets, str) else lora.targets
    sizes = (shape.linear[n] for n in names if n in shape.linear)
    return shape.layers * sum(lora.rank * (i + o) + lora.dora * o for i, o in sizes)


def training_memory(shape: Architecture, student: Student, tokens: int) -> dict[str, float]:
    """Memory of one worker in GiB, by part.

    Args:
        tokens: Tokens of one micro-batch on one worker, padding included.
    """
    dtype = computed_in(student.dtype, gpu=student.use_gpu)
    width = 4.0 if dtype == "float32" else 2.0
    if student.quantization == "nf4":
        embeddings = shape.parameters - shape.body
        weights = shape.body * 0.516 + embeddings * width  # 4 bits + double-quantised scales (Dettmers et al. 2023)
    elif student.sharding == "full":  # a shard of every layer, and one layer gathered
        weights = (shape.parameters - shape.body + shape.body / student.workers + shape.body / shape.layers) * width
    else:
        weights = shape.parameters * width
        if _packed(student) and dtype == "bfloat16":
            weights += 2 * shape.body * width  # two reordered copies, see `student.kernels.frozen_linear`
    trained = adapter_parameters(shape, student.lora)
    if _packed(student):  # what `DecoderLayer.forward` saves beside its input; x Aᵀ is fp32
        qkv = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
        per_token = 4 * shape.hidden + qkv + 3 * shape.intermediate + 2 * student.lora.rank * 7
    else:
        per_token = 10 * shape.hidden + 4 * shape.intermediate + 3 * student.lora.rank * 7
    kept_layers = shape.layers if not student.gradient_checkpointing else 1
    activations = tokens * width * (per_token * kept_layers + shape.hidden * shape.layers)
    return {
        "weights": weights / GIB, "adapter, gradient and moments": trained * 16 / GIB, "activations": activations / GIB
    }


def _packed(student: Student) -> bool:
    """Whether a Llama is trained with packed rows (`student.kernels.packed_llama.pack`)."""
    lora = student.lora
    by_peft = student.peft or lora.dora or lora.dropout or student.gradient_checkpointing
    plain_weights = student.quantization == "none" and student.sharding == "none"
    return not student.use_gpu and plain_weights and not by_peft


def training_flops(shape: Architecture, tokens: float) -> float:
    """Floating-point operations of a forward and backward pass over `tokens` through frozen weights."""
    return 4.0 * shape.body * tokens


def serving_memory(shape: Architecture, dtype: str, kv_tokens: int) -> dict[str, float]:
    """Memory in GiB of weights and of a KV cache for `kv_tokens` tokens."""
    width = 4.0 if dtype == "float32" else 2.0
    kv = 2 * shape.layers * shape.kv_heads * shape.head_dim * width * kv_tokens
    return {"weights": shape.parameters * width / GIB, "KV cache": kv / GIB}


def openvino_memory(shape: Architecture, dtype: str, *, int8: bool) -> dict[str, float]:
    """Memory in GiB of OpenVINO's process: the weights again for each length that the model is compiled for.

    That is `task.openvino_runtime.TokenClassifier`: one model of dynamic shapes, and up to 1 GiB of weights one for
    each of `LENGTHS`. The file of the weights stays mapped.

    Args:
        int8: Whether the weights of the layers are in 8 bits for certain; 16 bits are more and safe to plan with.
    """
    from task.openvino_runtime import LARGEST_FIXED, LENGTHS

    body, others = shape.body, shape.vocabulary * shape.hidden  # no LM head: a classifier
    width = 4 if dtype == "float32" else 2
    file = body * (1 if int8 else 2) + others * 2  # in fp16 whatever it is computed in
    copy = body * (1 if int8 else width) + others * width
    fixed = len(LENGTHS) if file <= LARGEST_FIXED else 0
    lengths = ", ".join(map(str, LENGTHS))
    again = {f"again for prompts of {lengths} tokens": fixed * copy / GIB} if fixed else {}
    return {"weights": copy / GIB, **again, "their file": file / GIB, "process": _PROCESS_GIB}


def summary(shape: Architecture, student: Student) -> dict[str, Any]:
    """Numbers of parameters and the size of the adapter, for `limbeck plan`."""
    trained = adapter_parameters(shape, student.lora)
    return {
        "parameters": shape.parameters, "trained": trained, "trained_share": trained / shape.parameters,
        "adapter_bytes": trained * 4,
    }
