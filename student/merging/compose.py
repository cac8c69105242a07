"""Merge several adapters of one base into one: linear, TIES (Yadav et al. 2023), DARE (Yu et al. 2024), with PEFT."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch

from student.adapters import load_adapter, sort_targets
from student.model import load_base
from task.errors import InputError
from task.files import read_json

METHODS: Final = ("linear", "ties", "dare_linear", "dare_ties", "cat")
_SAME: Final = ("peft_type", "r", "use_dora", "use_rslora", "bias")


def compose(
    *, base: Path, adapters: Mapping[str, Path], method: str, weights: Sequence[float], out: Path,
    density: float = 0.5, seed: int = 0,
) -> Path:
    """Write one adapter made of several into the folder `out`, and return that.

    Args:
        adapters: Name → folder, in the order of `weights`.
        method: One of `METHODS`; `cat` concatenates them, so that their ranks add up.
        density: Share of each adapter's parameters that TIES and DARE keep.
        seed: Of the random choice of the parameters that DARE drops.

    Raises:
        InputError: The adapters are of different kinds or, except for `cat`, ranks.
    """
    _check(adapters, method)
    names = list(adapters)
    model = load_adapter(load_base(base, torch.float32), adapters[names[0]])
    for number, name in enumerate(names[1:], 1):
        model.load_adapter(str(adapters[name]), adapter_name=f"a{number}")
    loaded = ["default", *(f"a{n}" for n in range(1, len(names)))]
    torch.manual_seed(seed)
    pruned = {"density": density} if method not in {"linear", "cat"} else {}
    model.add_weighted_adapter(loaded, list(weights), "composed", combination_type=method, **pruned)
    staged = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(staged, ignore_errors=True)
    model.save_pretrained(str(staged), selected_adapters=["composed"])
    sort_targets(staged / "composed")
    shutil.rmtree(out, ignore_errors=True)
    (staged / "composed").rename(out)
    shutil.rmtree(staged)
    return out


def _check(adapters: Mapping[str, Path], method: str) -> None:
    """Check that all adapters are of one kind, and of one rank where parameters are combined element by element."""
    found = {name: read_json(folder / "adapter_config.json") for name, folder in adapters.items()}
    first, *others = found
    for name in others:
        for key in _SAME:
            if key == "r" and method == "cat":
                continue
            here, there = found[first].get(key), found[name].get(key)
            if here != there:
                raise InputError(
                    f"the adapters of {first!r} and {name!r} cannot be merged", file=adapters[name], field=key,
                    found=there, expected=str(here),
                    fix="Train both alike; adapters of different ranks can be merged with `cat`",
                )
    for name, config in found.items():
        if config.get("peft_type") != "LORA" or config.get("use_dora"):
            raise InputError(
                "only plain LoRA adapters can be merged into one", file=adapters[name], field="peft_type",
                found="DoRA" if config.get("use_dora") else config.get("peft_type"), expected="LORA",
            )
