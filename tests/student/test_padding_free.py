"""Concatenated rows through transformers' modules: on a CPU a block-diagonal mask stands in for the GPU's kernel."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from student import padding_free
from student.adapters import add_adapter
from student.model import TargetLogits, alphabet_of, collate, load_base
from student.training.objective import supervise
from task.codec import Codec, Encoded
from task.labels import Example
from task.tokenizer import FastTokenizer
from task.training_row import TrainingRow
from tests.conftest import make_task

LENGTHS = (5, 1, 9, 9, 2)


def llama(**changes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**SIZES | changes))


def qwen(**changes: Any) -> Any:
    """Biases, and a norm of queries and keys."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**SIZES | {"attention_bias": True} | changes))


SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 2_048, "initializer_range": 0.08,
}


def adapted(make: Callable[..., Any], **changes: Any) -> Any:
    torch.manual_seed(0)
    base = make(**changes)
    base.config.use_cache = False
    model = add_adapter(base, make_task(student={"lora": {"rank": 4, "alpha": 8}}).student)
    torch.manual_seed(1)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data = torch.randn_like(p) * 0.1
    return model


def encoded(lengths: tuple[int, ...] = LENGTHS) -> list[Encoded]:
    torch.manual_seed(2)
    rows = [torch.randint(1, 1_500, (n,)).tolist() for n in lengths]
    return [Encoded(ids, list(range(len(ids) // 2, len(ids))), ids[len(ids) // 2 :]) for ids in rows]


def loss_of(model: Any, rows: list[Encoded]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    ids, row_of, columns, _ = collate(rows)
    out = TargetLogits(model, range(3, 40))(ids, rows=row_of, columns=columns)
    out.square().sum().backward()
    return out.detach(), [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]


def equal(a: tuple[torch.Tensor, list[torch.Tensor]], b: tuple[torch.Tensor, list[torch.Tensor]]) -> bool:
    return torch.allclose(a[0], b[0], atol=1e-4) and len(a[1]) == len(b[1]) > 0 and all(
        torch.allclose(x, y, rtol=1e-3, atol=1e-4 * float(x.abs().max())) for x, y in zip(a[1], b[1], strict=True)
    )


@pytest.mark.parametrize("make", [llama, qwen])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_logits_and_gradients_are_those_of_padded_rows(make: Callable[..., Any], checkpointing: bool) -> None:
    padded, concatenated = adapted(make), adapted(make)
    for model in (padded, concatenated):
        if checkpointing:
            model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
            model.get_base_model().enable_input_require_grads()
        model.train()
    assert padding_free.enable(concatenated, encoded(), range(3, 40), device="cpu")
    assert TargetLogits(concatenated, None).is_packed
    assert concatenated.training
    assert equal(loss_of(padded, encoded()), loss_of(concatenated, encoded()))


def test_attention_in_both_directions_stays_within_a_row() -> None:
    padded, concatenated = adapted(llama), adapted(llama)
    for model in (padded, concatenated):
        model.get_base_model().get_decoder().config.is_causal = False
    assert padding_free.enable(concatenated, encoded(), None, device="cpu")
    wanted = loss_of(padded, encoded())
    assert equal(wanted, loss_of(concatenated, encoded()))
    assert not equal(loss_of(adapted(llama), encoded()), wanted)


def test_a_row_does_not_see_the_one_before_it() -> None:
    model = adapted(llama)
    assert padding_free.enable(model, encoded(), None, device="cpu")
    alone = [loss_of(model, [row])[0] for row in encoded()]
    assert torch.allclose(torch.cat(alone), loss_of(model, encoded())[0], atol=1e-4)


def test_rows_without_a_target_take_no_place() -> None:
    padded, concatenated = adapted(llama), adapted(llama)
    assert padding_free.enable(concatenated, encoded(), None, device="cpu")
    rows = encoded()
    rows[1] = Encoded(rows[1].ids, [], [])
    assert equal(loss_of(padded, rows), loss_of(concatenated, rows))


def test_generation_is_as_before() -> None:
    """The dev evaluation of the forms that generate calls the model with padding-free attention set."""
    padded, concatenated = adapted(llama), adapted(llama)
    assert padding_free.enable(concatenated, encoded(), None, device="cpu")
    ids = torch.randint(1, 1_500, (3, 7))
    found = [
        m.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False, pad_token_id=0
        )
        for m in (padded, concatenated)
    ]
    assert torch.equal(*found)


def test_a_training_has_the_losses_of_padded_rows(tiny_llama: Path, tokenizer: FastTokenizer) -> None:
    task = make_task(student={"lora": {"rank": 4, "alpha": 8}})
    examples = [Example(q) for q in ("oat milk", "verdant machine oat milk 1l", "milk", "fresh cheap organic oat milk")]
    codec = Codec.compile(task, examples, tokenizer)
    rows = [supervise(codec, tokenizer, TrainingRow(x)).encoded for x in examples]
    histories = []
    for how in ("padded", "concatenated"):
        model = add_adapter(load_base(tiny_llama, torch.float32), task.student)
        if how == "concatenated":
            assert padding_free.enable(model, rows, alphabet_of(codec, task.student), device="cpu")
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
        logits, losses = TargetLogits(model, codec.symbol_ids), []
        for _ in range(8):
            ids, row_of, columns, targets = collate(rows)
            wanted = torch.tensor([codec.symbol_ids.index(int(t)) for t in targets])
            loss = torch.nn.functional.cross_entropy(logits(ids, rows=row_of, columns=columns), wanted)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        histories.append(losses)
    assert histories[0] == pytest.approx(histories[1], rel=1e-4)
    assert histories[0][-1] < 0.5 * histories[0][0]


def test_a_model_whose_attention_is_another_is_padded(caplog: pytest.LogCaptureFixture) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8))
    before = loss_free(model)
    with caplog.at_level(logging.WARNING):
        assert not padding_free.enable(model, encoded(), None, device="cpu")
    assert "rows are padded in training: some layers attend to a window" in caplog.text
    assert torch.equal(loss_free(model), before)


def test_a_difference_that_rounding_does_not_explain_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """Attention that forgets which row a token is in: what a wrong kernel would do."""
    model = adapted(llama)

    def forget(_: Any, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = given.get("attention_mask")
        return args, given if mask is None else given | {"attention_mask": torch.ones_like(mask).tril()}

    model.get_base_model().get_decoder().register_forward_pre_hook(forget, with_kwargs=True)
    with caplog.at_level(logging.WARNING):
        assert not padding_free.enable(model, encoded(), None, device="cpu")
    assert "without padding logits differ by" in caplog.text
    assert not TargetLogits(model, None).is_packed
    assert equal(loss_of(model, encoded()), loss_of(adapted(llama), encoded()))


def loss_free(model: Any) -> torch.Tensor:
    ids, row_of, columns, _ = collate(encoded())
    with torch.no_grad():
        found: torch.Tensor = TargetLogits(model, None)(ids, rows=row_of, columns=columns)
    return found
