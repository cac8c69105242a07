"""The frozen base in slices, one on each worker: for models that do not fit on one (FSDP, Zhao et al. 2023).

Only the decoder layers' frozen weights are sliced; a layer is put together when it is its turn and taken apart again.
What is learned is small and stays whole on every worker, so gradients are summed as they are without slicing, and
checkpoints are the same. Embedding and head stay whole as well: positions are looked up in them directly.
"""

from __future__ import annotations

from typing import Any


def shard(model: Any, world: int, device: str) -> None:
    """Slice a PEFT model's base over all ranks of the process group."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.split(":")[0], (world,))
    learned = {p for p in model.parameters() if p.requires_grad}
    for layer in model.get_base_model().get_decoder().layers:
        fully_shard(layer, mesh=mesh, ignored_params=learned)


def turns(rows_of_rank: list[int], accumulation: int) -> int:
    """Micro-batches that every rank must run, because a layer is put together by all of them or by none.

    Args:
        rows_of_rank: How many rows of the step each rank has.
    """
    return max(micro_batches(n, accumulation) for n in rows_of_rank)


def micro_batches(rows: int, accumulation: int) -> int:
    """Micro-batches of a rank's share of a step."""
    return -(-rows // micro_size(rows, accumulation)) if rows else 0


def micro_size(rows: int, accumulation: int) -> int:
    """Rows of a micro-batch; the last one may have fewer."""
    return max(1, -(-rows // accumulation))
