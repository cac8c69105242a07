from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from student.training.objective import gce_q, supervise, weighted_loss
from task.codec import Codec
from task.labels import Doubt, Example, Label
from task.tokenizer import FastTokenizer
from task.training_row import TrainingRow
from tests.conftest import make_task

ROW = Example("oat milk fresh 1l", (
    Label("brand", "oat", 0, 3, 0.3), Label("product", "milk", 4, 8, 0.9), Label("aisle", "dairy", confidence=0.5),
))


def weights(
    tokenizer: FastTokenizer, form: str, *doubts: Doubt, by_confidence: bool = False, row: float = 0.8
) -> list[float]:
    codec = Codec.compile(make_task(), [ROW], tokenizer, form)
    made = supervise(codec, tokenizer, TrainingRow(ROW, confidence=row, doubts=doubts), by_confidence=by_confidence)
    assert len(made.weights) == len(made.encoded.targets)
    return made.weights


@pytest.mark.parametrize("form", ["read", "write"])
def test_a_unit_weighs_what_its_label_is_sure_of_and_without_one_what_the_row_is(
    tokenizer: FastTokenizer, form: str
) -> None:
    found = weights(tokenizer, form, by_confidence=True)
    assert found[:5] == [0.3, 0.9, 0.8, 0.8, 0.5]
    assert all(w == 0.8 for w in found[5:])
    assert set(weights(tokenizer, form)) == {1.0}


@pytest.mark.parametrize("form", ["read", "write"])
def test_only_what_is_doubted_is_masked(tokenizer: FastTokenizer, form: str) -> None:
    assert weights(tokenizer, form, Doubt("brand", 0, 3))[:5] == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert weights(tokenizer, form, Doubt("", 9, 14), Doubt("aisle"))[:5] == [1.0, 1.0, 0.0, 1.0, 0.0]
    assert weights(tokenizer, form, Doubt("brand", 0, 3), by_confidence=True)[:4] == [0.0, 0.9, 0.8, 0.8]


def test_a_text_counts_as_its_least_sure_part(tokenizer: FastTokenizer) -> None:
    assert set(weights(tokenizer, "json", by_confidence=True)) == {0.3}
    assert set(weights(tokenizer, "json", Doubt("aisle"))) == {0.0}
    assert set(weights(tokenizer, "json")) == {1.0}


def test_every_level_of_a_category_weighs_what_its_label_is_sure_of(tokenizer: FastTokenizer) -> None:
    task = make_task(roles=[{"name": "product"}, {
        "name": "category", "kind": "closed", "multiple": False, "separator": "/", "values": ["a/b/c", "a/d"],
    }])
    example = Example("milk", (Label("category", "a/d", confidence=0.4),))
    codec = Codec.compile(task, [example], tokenizer, "read")
    row = TrainingRow(example, confidence=0.8)
    assert supervise(codec, tokenizer, row, by_confidence=True).weights == [0.8, 0.4, 0.4, 0.4]
    row = TrainingRow(example, doubts=(Doubt("category"),))
    assert supervise(codec, tokenizer, row).weights == [1.0, 0.0, 0.0, 0.0]


def test_a_text_weighs_what_its_label_is_sure_of_and_the_stop_token_what_the_row_is(tokenizer: FastTokenizer) -> None:
    texts = [{"name": "broader", "kind": "text"}, {"name": "synonym", "kind": "text"}]
    task = make_task(roles=[{"name": "product"}, *texts], student={"form": "write"})
    labels = (Label("broader", "milk", confidence=0.4), Label("synonym", "oat drink", confidence=0.9))
    codec = Codec.compile(task, [], tokenizer)
    row = TrainingRow(Example("oat milk", labels), confidence=0.8, doubts=(Doubt("broader"),))
    found = supervise(codec, tokenizer, row, by_confidence=True)
    broader, synonym = (1 + len(tokenizer.encode(x.text)) + len(codec.separator) for x in labels)
    assert found.weights == [0.8] * 2 + [0.0] * broader + [0.9] * synonym + [0.8]
    assert len(found.weights) == len(found.encoded.targets)


@given(st.integers(1, 6), st.floats(0.0, 0.5), st.integers(0, 1000))
def test_the_loss_is_the_weighted_sum_of_each_targets_own(count: int, smoothing: float, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    scores = torch.randn(count, 5, generator=random, dtype=torch.float64)
    targets = torch.randint(0, 5, (count,), generator=random)
    given_weights = torch.rand(count, generator=random, dtype=torch.float64)
    log_p = scores.log_softmax(-1)
    wanted = sum(
        -w * ((1 - smoothing) * log_p[i, t] + smoothing * log_p[i].mean())
        for i, (t, w) in enumerate(zip(targets, given_weights, strict=True))
    )
    assert torch.isclose(weighted_loss(scores, targets, given_weights, smoothing=smoothing), torch.as_tensor(wanted))


@given(st.floats(0.05, 1.0), st.integers(0, 1000))
def test_a_robust_loss_is_pulled_by_each_target_as_far_as_it_is_believed(q: float, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    scores = torch.randn(6, 5, generator=random, dtype=torch.float64) * 3
    targets = torch.randint(0, 5, (6,), generator=random)
    pulls = []
    for robust in (0.0, q):
        mine = scores.clone().requires_grad_()
        weighted_loss(mine, targets, torch.ones(6, dtype=torch.float64), robust=robust).backward()
        assert mine.grad is not None
        pulls.append(mine.grad)
    believed = scores.softmax(-1).gather(1, targets[:, None]) ** q
    assert torch.allclose(pulls[1], pulls[0] * believed)


def test_robustness_comes_with_what_the_student_knows() -> None:
    assert [gce_q(i, wanted=0.7, steps=100) for i in (0, 25, 50, 99)] == [0.0, 0.35, 0.7, 0.7]
    assert gce_q(99, wanted=0.0, steps=100) == 0.0
