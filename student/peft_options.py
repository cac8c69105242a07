"""Which options of PEFT an adapter may have, so that it is merged exactly or refused before training.

Every option of `LoraConfig` in PEFT 0.21.2 is decided here. An option that a later PEFT adds is refused unless it is
off, because an option that the merge does not know would be left out of the merged model without an error. The same
table is applied to the settings of a task and to the `adapter_config.json` of an adapter that was made elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from task.errors import InputError

# Options that may have any value: the merge reads them, or what they change is in the weights or ends with training.
FREE: Final = frozenset({
    # read by the merge
    "peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "use_dora",
    # which layers are adapted; those that the adapter changes are named in its weights
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    # of training only
    "lora_dropout", "inference_mode",
    # notes
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    # without effect on a linear layer, and other layers are refused
    "fan_in_fan_out", "ensure_weight_tying",
    # read only if an option that is refused is on
    "megatron_core", "qalora_group_size", "loftq_config",
})

_BASE_CHANGED: Final = "this initialisation changes the weights of the base, and the merge starts from the others"
_NEEDS_DATA: Final = "this initialisation needs a pass over data before training, without which PEFT makes plain LoRA"

# Initialisations of A and B that leave the base as it is, and why others are refused.
INITIALISATIONS: Final = (True, False, "gaussian", "orthogonal", "mica")
_OTHER_INITIALISATIONS: Final[Mapping[str, str]] = {
    "pissa": _BASE_CHANGED, "olora": _BASE_CHANGED, "corda": _BASE_CHANGED,
    "loftq": "LoftQ quantises the base itself and changes its weights; student.quantization: nf4 is QLoRA",
    "eva": _NEEDS_DATA, "lora_ga": _NEEDS_DATA,
}

# Options that must be off, and why. PEFT's other methods share the first ones.
OFF: Final[Mapping[str, str]] = {
    "bias": "biases of the base are trained, which are not merged",
    "modules_to_save": "whole modules of the base are trained, which are not merged",
    "trainable_token_indices": "rows of the embedding are trained, which are not merged",
    "layer_replication": "the adapter is trained on a model with other layers than the base",
    "target_parameters": "parameters that are not linear layers, such as fused experts, are adapted",
    "lora_bias": "the adapter has biases, which are not merged",
    "alora_invocation_tokens": "an activated LoRA changes some tokens only, which a merged model cannot do",
    "use_qalora": "QA-LoRA pools the inputs of A, so that B·A has another shape than the base's weight",
    "use_bdlora": "block-diagonal factors are stored in another form",
    "arrow_config": "Arrow routes between several adapters",
    "kasa_config": "KaSA changes the weights of the base",
    "monteclora_config": "MonteCLoRA samples its weights",
    "velora_config": "VeLoRA's gradients are approximate, and it was not tested here",
    "megatron_config": "layers of Megatron are not those of the base",
    "eva_config": _NEEDS_DATA, "corda_config": _BASE_CHANGED, "lora_ga_config": _NEEDS_DATA,
    "runtime_config": "it is an object of Python, which a file cannot hold",
}

# Other methods of PEFT whose own merge was compared with the adapter (tests/student/merging/test_methods.py).
METHODS: Final = frozenset({
    "ADALORA", "C3A", "DEFT", "DELORA", "FOURIERFT", "GLORA", "GRALORA", "HIRA", "HRA", "IA3", "LN_TUNING", "LOHA",
    "LOKR", "MISS", "OFT", "OSF", "PEANUT", "PSOFT", "PVERA", "RANDLORA", "ROAD", "SUPERTUNING", "TINYLORA",
    "TRAINABLE_TOKENS", "VBLORA", "VERA", "WAVEFT",
})


def check_options(config: Mapping[str, Any], *, field: str, file: Path | None = None) -> None:
    """Refuse an adapter's configuration that could not be merged exactly.

    Args:
        config: As PEFT takes it, or as it stands in `adapter_config.json`.
        field: Where the user set it; with `file`, where it was read.

    Raises:
        InputError: An option is not merged, or unknown; or the method cannot be merged.
    """
    method = str(config.get("peft_type", "LORA")).upper()
    if method != "LORA" and method not in METHODS:
        raise InputError(
            f"{method} is no method of PEFT that can be merged into the base, and only merged students are served",
            file=file, field=f"{field}.peft_type", found=method, expected="one of: LORA, " + ", ".join(sorted(METHODS)),
        )
    for key, value in config.items():
        why = _objection(key, value, method)
        if why is not None:
            raise InputError(
                f"the adapter could not be merged into the base: {why}", file=file, field=f"{field}.{key}",
                found=value, expected=_EXPECTED.get(key, "the option to be off or left out"),
                fix="The options that are merged are in docs/student.md",
            )


_EXPECTED: Final[Mapping[str, str]] = {
    "bias": "none", "lora_alpha": "a positive number", "alpha_pattern": "positive numbers",
    "init_lora_weights": "one of: " + ", ".join(str(x).lower() for x in INITIALISATIONS),
}


def _objection(key: str, value: Any, method: str) -> str | None:
    """Why an option's value cannot be merged; None if it can. Other methods' own options are left to PEFT."""
    if key == "init_lora_weights":
        if any(value is x or (isinstance(x, str) and value == x) for x in INITIALISATIONS):
            return None
        return _OTHER_INITIALISATIONS.get(str(value).lower().split("_niter_")[0], "this initialisation is not known")
    if key == "lora_alpha" and not value and method == "LORA":
        return "with an alpha of 0 the adapter has no effect and learns nothing"
    if key == "alpha_pattern" and method == "LORA" and not _all_positive(value):
        return "with an alpha of 0 a module learns nothing"
    if _is_off(key, value) or key in FREE:
        return None
    if key in OFF:
        return OFF[key]
    return "this option is not known, so it would be left out of the merged model" if method == "LORA" else None


def _all_positive(pattern: Any) -> bool:
    """Whether every alpha of a pattern is a positive number; an absent pattern has none."""
    return all(isinstance(x, int | float) and x > 0 for x in (pattern or {}).values())


def _is_off(key: str, value: Any) -> bool:
    """Whether an option is off; an empty mapping turns some on (KaSA, VeLoRA) with their defaults."""
    return value is None or value is False or value == [] or (key == "bias" and value == "none")
