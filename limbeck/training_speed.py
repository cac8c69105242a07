"""How fast a machine trains: measured by the training in the run folder, else assumed of the kind of processor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from limbeck.environment import device
from limbeck.run import Run
from student import estimate
from student.training.history import read_history
from task.files import read_json
from task.processor import computed_in
from task.settings import Student
from task.spec import Task

# What two cores sustain: measured with bf16 products (benchmarks/training.py), and in fp32 on two cores with AVX2 (218
# steps of SmolLM2-135M in 486 s). On the GPU it is assumed.
CPU_FLOPS: Final = 180e9
FP32_FLOPS: Final = 33e9
GPU_FLOPS: Final = 989e12 * 0.40
GPU_NAME: Final = "H100 SXM, 40 % of its 989 TFLOP/s dense bf16"
CPU_NAME: Final = "2 cores with AVX-512 bf16, 180 GFLOP/s sustained"
FP32_NAME: Final = "2 cores in fp32 with AVX2, 33 GFLOP/s sustained"
# Settings that two trainings must share for one to say how fast the other is.
_SAME: Final = ("use_gpu", "workers", "dtype", "quantization", "sharding", "gradient_checkpointing", "peft")


@dataclass(frozen=True, slots=True)
class Speed:
    """Floating-point operations a second of all workers together.

    Attributes:
        basis: Whence that is known.
        row_tokens: Tokens of a training row, where they were counted; None where they must be estimated.
    """

    flops: float
    basis: str
    row_tokens: float | None = None


def assumed(s: Student) -> Speed:
    """What is assumed of the processors that the student is trained on.

    A student that this machine has no 16-bit products for is computed in fp32 (`task.processor`), several times slower.
    """
    if s.use_gpu:
        return Speed(GPU_FLOPS * s.workers, f"assumed: {s.workers} × {GPU_NAME}")
    # What a cluster's processors multiply is not known here.
    dtype = s.dtype if s.ray_address is not None else computed_in(s.dtype, gpu=False)
    slow = dtype == "float32"
    return Speed(FP32_FLOPS, f"assumed: {FP32_NAME}") if slow else Speed(CPU_FLOPS, f"assumed: {CPU_NAME}")


def measured(task: Task, run: Run | None) -> Speed | None:
    """What the training in the run folder reached; None where there is none, or one that was computed differently.

    A run folder may come from another machine: on CPUs the processor must be of the same name.
    """
    if run is None:
        return None
    files = run.files.train
    if not all(p.exists() for p in (files.folder / "manifest.json", files.measured, files.curve)):
        return None
    found: dict[str, Any] = read_json(files.folder / "manifest.json")
    config, took = found["config"], read_json(files.measured)
    then, now = config["student"], task.student.model_dump(mode="json")
    shape = estimate.architecture(str(then.get("base")))
    if shape is None or took["seconds"] <= 0 or any(then.get(k, now.get(k)) != now.get(k) for k in _SAME):
        return None
    cpu, here = found.get("device", {}).get("cpu"), task.student.ray_address is None and not task.student.use_gpu
    if here and cpu != device()["cpu"]:
        return None
    rows = sum(int(line["rows"]) for line in read_history(files.curve))
    same_rows = then.get("form") == now["form"] and [r["name"] for r in config["roles"]] == [r.name for r in task.roles]
    flops = estimate.training_flops(shape, took["tokens"]) / took["seconds"]
    return Speed(
        flops,
        f"measured: {took['steps']:,} steps took {took['seconds']:,.0f} s in {files.folder}, "
        f"{flops / 1e9:,.0f} GFLOP/s",
        took["tokens"] / rows if rows and same_rows else None,
    )
