"""Whether a base and an adapter can be trained and merged exactly, decided before any process is started.

Only shapes and names are read: the model is created without weights (on the device `meta`), and of the weights' files
the headers. What is refused here would fail in a worker, or after the whole training at the merge.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from student.adapter_files import WEIGHTS, adapter_shapes, by_module
from student.adapters import adapted_layers, adapter_config, earlier, refused
from student.model import empty_model, linear_layers
from student.target_layers import check_targets
from task.errors import InputError, warn
from task.forms import FORMS
from task.model_folder import read_config, tensor_shapes, weight_files
from task.model_imports import import_peft
from task.settings import Student
from task.tokenizer import load_tokenizer

Shapes = Mapping[str, tuple[int, ...]]
_FIELD = "student.base"


def check(base: Path, settings: Student) -> None:
    """Check a base's files, its architecture and the adapter around it.

    Raises:
        InputError: One of them could not be trained, merged or served; it names folder and file.
    """
    shapes = check_files(base, settings)
    model = _empty(base)
    _check_weights(base, model, shapes)
    _check_vocabulary(base, model)
    _check_architecture(base, model, shapes, settings)
    _check_adapter(base, model, shapes, settings)


def check_files(base: Path, settings: Student) -> Shapes:
    """The part of `check` that needs no model: configuration, tokenizer and weights of the base are complete.

    Returns:
        Name → shape of the base's tensors.

    Raises:
        InputError: They are not, or the base is of a kind that cannot be trained here.
    """
    config = read_config(base / "config.json")
    if config.get("quantization_config"):
        raise InputError(
            "the base is quantised already, and an adapter cannot be merged into it exactly", file=base / "config.json",
            field=_FIELD, found=config["quantization_config"].get("quant_method"),
            expected="weights in 16 or 32 bits", fix="Take the unquantised model; student.quantization: nf4 is QLoRA",
        )
    _check_kind(base, config, settings)
    load_tokenizer(base)
    return tensor_shapes(base)


def _check_kind(base: Path, config: Mapping[str, Any], settings: Student) -> None:
    """Encoders and other models that do not predict the next token are refused by the name of their class."""
    name = (config.get("architectures") or [None])[0]
    if name is not None and name.endswith("ForCausalLM"):
        return
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    names = {n for x in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() for n in ((x,) if isinstance(x, str) else x)}
    if FORMS[settings.form].token_classifier or name not in names:
        raise InputError(
            "the base is not a causal language model that can be made a token classifier", field=_FIELD,
            file=base / "config.json", found=name, expected="architectures: […ForCausalLM]",
            fix="Choose a decoder such as Llama, Qwen or Mistral",
        )


def _empty(base: Path) -> Any:
    try:
        return empty_model(base)
    except (ValueError, KeyError, OSError, AttributeError) as error:
        raise InputError(
            f"transformers cannot make a causal language model of this base: {error}", file=base / "config.json",
            field=_FIELD, expected="a decoder that the installed transformers knows",
        ) from error


def _check_weights(base: Path, model: Any, shapes: Shapes) -> None:
    """Tensors of a name must have the shape that the configuration gives."""
    for name, parameter in model.named_parameters():
        if name in shapes and shapes[name] != tuple(parameter.shape):
            raise InputError(
                "a tensor of the base has another shape than its configuration says", file=base, field=_FIELD,
                found=f"{name} {shapes[name]}", expected=f"{tuple(parameter.shape)}, from config.json",
                fix="Take config.json and weights from one source",
            )
    _check_one_head(base, model, shapes)
    _tell_unused(base, model, shapes)


def _check_one_head(base: Path, model: Any, shapes: Shapes) -> None:
    """A head that `config.json` ties to the embedding must be that embedding where the files hold it as well.

    Where they differ transformers (5) uses the head of the file and vLLM (0.32) the embedding.
    """
    names = ("lm_head.weight", "model.embed_tokens.weight")
    if not getattr(model.config, "tie_word_embeddings", False) or not set(names) <= shapes.keys():
        return
    head, embedding = (_tensor(base, name) for name in names)
    if not torch.equal(head, embedding):
        raise InputError(
            "the LM head of the files is not the embedding, to which config.json ties it: engines would take one, "
            "transformers the other", file=base / "config.json", field=f"{_FIELD}: tie_word_embeddings", found=True,
            expected="false, or files without lm_head.weight", fix="Take config.json and weights from one source",
        )


def _tensor(base: Path, name: str) -> torch.Tensor:
    from safetensors import safe_open

    for path in weight_files(base):
        with safe_open(str(path), "pt") as file:
            if name in file.keys():  # noqa: SIM118
                found: torch.Tensor = file.get_tensor(name)
                return found
    raise KeyError(name)


def _tell_unused(base: Path, model: Any, shapes: Shapes) -> None:
    """Warn of tensors that the model does not have: transformers passes them over, vLLM refuses the merged model."""
    known = model.state_dict().keys()
    if not {name for name, _ in model.named_parameters()} <= shapes.keys():
        return  # stored under other names, so which of them are used is not known
    passed_over = [*(model._keys_to_ignore_on_load_unexpected or ()), r"rotary_emb\.inv_freq$"]
    unused = sorted(n for n in shapes.keys() - known if not any(re.search(p, n) for p in passed_over))
    if unused:
        warn(
            f"the files hold {len(unused):,} tensors that {type(model).__name__} with this configuration does not "
            "have; they are copied into the merged model, which engines may refuse", file=base, field=_FIELD,
            found=unused[:3], fix="Load the model with transformers and write it with save_pretrained(folder)",
        )


def _check_vocabulary(base: Path, model: Any) -> None:
    tokenizer, rows = load_tokenizer(base), model.get_input_embeddings().num_embeddings
    if tokenizer.largest_id() >= rows:
        raise InputError(
            "the tokenizer has more tokens than the model", file=base / "tokenizer.json", field=_FIELD,
            found=f"token id {tokenizer.largest_id()}", expected=f"ids below {rows}, the rows of the embedding",
            fix="Take tokenizer and weights from one source, or resize the model with resize_token_embeddings",
        )


def _check_architecture(base: Path, model: Any, shapes: Shapes, settings: Student) -> None:
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    if decoder is None or decoder is model or model.get_output_embeddings() is None:
        raise _unfit(base, model, "it has no decoder with an LM head of its own")
    if settings.sharding == "full" and not hasattr(decoder, "layers"):
        raise _unfit(base, model, "student.sharding `full` shards the decoder's `layers`, which it does not have")
    if FORMS[settings.form].token_classifier and not _has_known_head(model, shapes):
        raise _unfit(
            base, model, "form `read` cuts lm_head.weight (tied: model.embed_tokens.weight) down to a classifier, and "
            "its LM head has another name", fix="Set student.form to write or json, or take another base",
        )
    if settings.quantization == "nf4":
        for name in linear_layers(model):
            if f"{name}.weight" not in shapes:
                raise _unfit(base, model, f"its files do not hold {name}.weight, which nf4 rounds, under that name")


def _has_known_head(model: Any, shapes: Shapes) -> bool:
    if "lm_head.weight" in shapes:
        return getattr(model, "lm_head", None) is model.get_output_embeddings()
    return "model.embed_tokens.weight" in shapes and bool(getattr(model.config, "tie_word_embeddings", False))


def _check_adapter(base: Path, model: Any, shapes: Shapes, settings: Student) -> None:
    """Create the adapter around the empty base; every layer that it adapts must be one that the merge can change."""
    import_peft()
    from peft import PeftConfig, get_peft_model

    folder = None if settings.init_adapter is None else earlier(Path(settings.init_adapter), settings)
    if folder is None:
        modules = [name for name, _ in model.named_modules()]
        check_targets(settings, modules, linear=linear_layers(model), base=base)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    try:
        with torch.device("meta"):
            config = adapter_config(model, settings) if folder is None else PeftConfig.from_pretrained(str(folder))
            config.inference_mode = False
            wrapped = get_peft_model(model, config)
    except (ValueError, TypeError, AttributeError, NotImplementedError, RuntimeError, re.error) as error:
        raise refused(settings, str(error)) from error
    if folder is None:
        _check_patterns([name for name, _ in adapted_layers(wrapped)], settings)
    lora = config.peft_type.value == "LORA"
    for name, layer in adapted_layers(wrapped):
        inner = layer.get_base_layer()
        if lora and type(inner) is not torch.nn.Linear:
            raise refused(settings, f"{name} is of the kind {type(inner).__name__}, and only linear layers are merged")
        if inner is head or (inner is embedding and (lora or tied)):
            raise refused(settings, f"{name} is the LM head or an embedding tied to it, which the loss reads directly")
        if f"{name}.weight" not in shapes:
            raise _unfit(base, model, f"its files do not hold {name}.weight under that name, so it cannot be merged")
    if folder is not None:
        _check_tensors(folder, wrapped, lora=lora)


def _check_patterns(layers: Collection[str], settings: Student) -> None:
    """Each key of `rank_pattern` and `alpha_pattern` must match a layer; PEFT passes over those that match none."""
    for option in ("rank_pattern", "alpha_pattern"):
        for key in (settings.peft or {}).get(option) or {}:
            if not any(re.match(rf"(.*\.)?({key})$", name) for name in layers):
                raise refused(settings, f"`{option}` has {key!r}, which matches none of the adapted layers")


def _check_tensors(folder: Path, wrapped: Any, *, lora: bool) -> None:
    """The adapter's file must hold exactly the tensors that its configuration makes; PEFT would ignore the rest."""
    from peft import get_peft_model_state_dict

    found = adapter_shapes(folder, field="student.init_adapter")
    if lora:
        by_module(found, file=folder / WEIGHTS)
    made = {
        name: tuple(t.shape) for name, t in get_peft_model_state_dict(wrapped, save_embedding_layers=False).items()
    }
    for name in sorted(found.keys() | made.keys()) if lora else ():
        if found.get(name) != made.get(name):
            raise InputError(
                "the adapter does not fit its configuration on this base", file=folder / WEIGHTS,
                field="student.init_adapter", found=f"{name} {found.get(name, 'missing')}",
                expected=f"{made.get(name, 'no such tensor')}", fix="Take the adapter's own base and configuration",
            )


def _unfit(base: Path, model: Any, why: str, fix: str = "Take another base or adapt other layers") -> InputError:
    return InputError(
        f"{type(model).__name__} cannot be used: {why}", file=base / "config.json", field=_FIELD,
        found=getattr(model.config, "model_type", None), fix=fix,
    )
