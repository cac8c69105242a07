"""The optimiser, and its state as tensors, so that checkpoints need no pickle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from task.settings import Student


def make_optimizer(parameters: Sequence[Tensor], settings: Student) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) in fp32, or with its two moments in 8 bits (bitsandbytes)."""
    options: Any = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.optimizer == "paged_adamw_8bit":
        from bitsandbytes.optim import PagedAdamW8bit

        return PagedAdamW8bit(parameters, **options)  # type: ignore[no-any-return]
    return torch.optim.AdamW(parameters, **options, fused=True)


def state_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of every parameter under `NUMBER.NAME`; scalars become tensors without dimensions."""
    return {
        f"{number}.{name}": torch.as_tensor(value).detach().cpu().clone()
        for number, _, state in _states(optimizer) for name, value in state.items()
    }


def restore(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load the result of `state_tensors` into an optimiser of the same kind over the same parameters."""
    # bitsandbytes allocates its buffers itself (`init_state`); they are filled in place.
    paged = getattr(optimizer, "init_state", None)
    for number, parameter, state in _states(optimizer):
        saved = {k.split(".", 1)[1]: v for k, v in tensors.items() if k.startswith(f"{number}.")}
        if not saved:
            continue
        if paged is None:
            # AdamW's fused kernel expects `step` on the parameter's device
            optimizer.state[parameter] = {k: v.to(parameter.device) for k, v in saved.items()}
            continue
        paged(optimizer.param_groups[0], parameter, 0, number)
        for name, value in saved.items():
            if isinstance(state[name], Tensor):
                state[name].copy_(value)
            else:
                state[name] = type(state[name])(value.item())


def _states(optimizer: torch.optim.Optimizer) -> Iterator[tuple[int, Tensor, dict[str, Any]]]:
    for number, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        yield number, parameter, optimizer.state[parameter]
