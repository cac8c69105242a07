"""The adapter around a base: LoRA with its variants, or any other method of PEFT that can be merged."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from student.model import linear_layers
from student.peft_options import check_options
from task.errors import InputError
from task.files import read_json
from task.model_folder import read_config
from task.model_imports import import_peft
from task.settings import Student

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

# PEFT imports bitsandbytes, which warns about missing GPU kernels even where they are not used.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
_MEASURES = ("r", "lora_alpha", "alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern")  # rank and scale
_GROUPS = {"attention": re.compile(r"attn|attention"), "mlp": re.compile(r"mlp|ffn|feed_forward|feedforward")}


def add_adapter(base: PreTrainedModel, settings: Student) -> Any:
    """Wrap a base with a new adapter, or with `settings.init_adapter`, in fp32; the base keeps its dtype.

    Raises:
        InputError: PEFT refuses the configuration, the adapter could not be merged, or `init_adapter` does not match
            the settings.
    """
    import_peft()
    from peft import get_peft_model

    if settings.init_adapter is not None:
        model = load_adapter(base, earlier(Path(settings.init_adapter), settings), trainable=True)
    else:
        torch.manual_seed(settings.seed)
        config = adapter_config(base, settings)
        try:
            model = get_peft_model(base, config)
        except (ValueError, TypeError) as error:
            raise refused(settings, str(error)) from error
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def write_adapter(model: Any, folder: Path) -> None:
    """Save an adapter in PEFT's format; equal adapters give equal files.

    PEFT (0.21.2) writes `target_modules` in the order of a set, which differs from process to process.
    """
    model.save_pretrained(str(folder), safe_serialization=True)
    sort_targets(folder)


def sort_targets(folder: Path) -> None:
    """Sort the target modules in a saved adapter's configuration."""
    path = folder / "adapter_config.json"
    config = read_json(path)
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()
        path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def load_adapter(base: PreTrainedModel, folder: Path, *, trainable: bool = False) -> Any:
    """Wrap a base with a saved adapter."""
    import_peft()
    from peft import PeftModel

    return PeftModel.from_pretrained(base, str(folder), is_trainable=trainable)


def adapted_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """The layers of a PEFT model that have an adapter, by their name in the base."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in model.base_model.model.named_modules():
        if isinstance(module, BaseTunerLayer) and hasattr(module, "get_base_layer"):
            yield name, module


def adapter_config(base: PreTrainedModel, settings: Student) -> PeftConfig:
    """The settings as a PEFT configuration."""
    import_peft()
    from peft import LoraConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import PeftType

    if settings.peft is not None:
        check_options(settings.peft, field="student.peft")
        kinds = {str(t.value): kind for t, kind in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
        options = {k: v for k, v in settings.peft.items() if k != "peft_type"}
        if options.get("inference_mode"):
            raise refused(settings, "with `inference_mode` nothing of it is trained")
        if options.get("task_type") == "CAUSAL_LM":
            del options["task_type"]
        name = settings.peft["peft_type"].upper()
        if isinstance(options.get("target_modules"), str):
            options["target_modules"] = layers_of(base, options["target_modules"])
        try:
            return kinds[name](**options, task_type="CAUSAL_LM")
        except (TypeError, ValueError) as error:
            raise refused(settings, str(error)) from error
    lora = settings.lora
    return LoraConfig(
        peft_type=PeftType.LORA, r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, use_rslora=lora.rslora,
        use_dora=lora.dora, target_modules=layers_of(base, lora.targets), task_type="CAUSAL_LM",
    )


def layers_of(base: Any, targets: str | tuple[str, ...]) -> str | list[str]:
    """The layer names of a group of linear layers, for PEFT; `all-linear` and names of layers are returned as given.

    Raises:
        InputError: The model has no linear layer in a module of that kind.
    """
    if not isinstance(targets, str):
        return list(targets)
    if targets not in _GROUPS:
        return targets
    names = {
        name for path, _, name in (p.rpartition(".") for p in linear_layers(base)) if _GROUPS[targets].search(path)
    }
    if not names:
        raise InputError(
            f"the base has no linear layers in a module named like {targets!r}", field="student.lora.targets",
            found=targets, expected="all-linear, or the names of layers",
        )
    return sorted(names)


def earlier(folder: Path, settings: Student) -> Path:
    """The folder of `init_adapter`, after a check that it matches the settings and can be merged.

    Raises:
        InputError: It does not, or cannot.
    """
    path = folder / "adapter_config.json"
    if not path.exists():
        raise InputError(
            "no adapter to continue from", file=path, field="student.init_adapter", found=str(folder),
            expected="a folder with adapter_config.json, such as RUN/train/adapter",
        )
    found, lora = read_config(path, field="student.init_adapter"), settings.lora
    wanted: dict[str, Any] = {"peft_type": "LORA", "r": lora.rank, "lora_alpha": lora.alpha, "use_dora": lora.dora,
                              "use_rslora": lora.rslora}
    if settings.peft is not None:
        given = {k: settings.peft[k] for k in _MEASURES if k in settings.peft and k in found}
        wanted = {"peft_type": settings.peft["peft_type"].upper(), **given}
    for key, value in wanted.items():
        if found.get(key) != value:
            raise InputError(
                f"the adapter to continue from has another {key}", file=path, field="student.init_adapter",
                found=found.get(key), expected=value, fix="Set student.lora (or student.peft) to the adapter's own",
            )
    check_options(found, field="student.init_adapter", file=path)
    return folder


def refused(settings: Student, why: str) -> InputError:
    """The error for an adapter that PEFT, or the base, refuses."""
    field = "student.lora" if settings.peft is None else "student.peft"
    found = settings.lora.model_dump(mode="json") if settings.peft is None else settings.peft
    return InputError(f"PEFT cannot make this adapter: {why}", field=field, found=found)
