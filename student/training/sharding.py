"""The frozen base sharded over the workers, for models that do not fit on one (FSDP, Zhao et al. 2023).

Only the decoder layers' frozen weights are sharded; a layer is gathered for its computation and freed again. The
adapter is small and replicated on every worker, so gradients are summed as without sharding, and checkpoints are the
same. Embedding and LM head are replicated as well, because their rows are indexed directly.
"""

from __future__ import annotations

from typing import Any


def shard(model: Any, world: int, device: str) -> None:
    """Shard a PEFT model's base over all ranks of the process group."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.split(":")[0], (world,))
    trainable = {p for p in model.parameters() if p.requires_grad}
    for layer in model.get_base_model().get_decoder().layers:
        fully_shard(layer, mesh=mesh, ignored_params=trainable)


def most_micro_batches(rows_of_rank: list[int], accumulation: int) -> int:
    """Micro-batches that every rank must run, because all ranks gather a layer together.

    Args:
        rows_of_rank: How many rows of the step each rank has.
    """
    return max(micro_batches(n, accumulation=accumulation) for n in rows_of_rank)


def micro_batches(rows: int, *, accumulation: int) -> int:
    """Micro-batches of a rank's share of a step."""
    return -(-rows // micro_batch_size(rows, accumulation=accumulation)) if rows else 0


def micro_batch_size(rows: int, *, accumulation: int) -> int:
    """Rows of a micro-batch; the last one may have fewer."""
    return max(1, -(-rows // accumulation))
