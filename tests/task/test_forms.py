"""The answer forms: the settings offer all of them, and their methods agree with the codec."""

from __future__ import annotations

import json
from typing import get_args

import numpy as np
import pytest

from task.codec import Codec
from task.forms import FORMS, is_token_classifier
from task.labels import Example, Label
from task.settings import Student
from task.tokenizer import FastTokenizer
from task.validation import Fault
from tests.conftest import make_task

TASK = make_task()
ROW = Example("verdant oat milk", (Label("brand", "verdant", 0, 7), Label("product", "oat milk", 8, 16)))


def test_the_settings_offer_the_forms_that_there_are() -> None:
    assert get_args(Student.model_fields["form"].annotation) == tuple(FORMS)


@pytest.mark.parametrize("form", FORMS)
def test_the_right_answer_takes_no_more_tokens_than_may_be_generated(tokenizer: FastTokenizer, form: str) -> None:
    codec = Codec.compile(TASK, [], tokenizer, form)
    generated = codec.answer_form.generated(codec, ROW, tokenizer)
    assert generated <= codec.answer_form.most_generated(codec, ROW.query)
    assert generated == (0 if codec.answer_form.output == "scores" else len(codec.encode(ROW, tokenizer).targets))


def test_only_what_generates_nothing_is_a_token_classifier() -> None:
    assert [name for name, form in FORMS.items() if form.token_classifier] == ["read"]
    assert is_token_classifier("read")
    assert not is_token_classifier("prompt_logprobs")
    assert not is_token_classifier("json")


def test_only_read_can_restrict_the_loss_to_symbols(tokenizer: FastTokenizer) -> None:
    for name, form in FORMS.items():
        codec = Codec.compile(TASK, [], tokenizer, name)
        assert form.loss_alphabet(codec, "symbols") == (codec.symbol_ids if name == "read" else None)
        assert form.loss_alphabet(codec, "vocabulary") is None


def test_each_output_decodes_to_the_same_labels(tokenizer: FastTokenizer) -> None:
    read, write, text = (Codec.compile(TASK, [], tokenizer, form) for form in ("read", "write", "json"))
    targets = read.encode(ROW, tokenizer).targets
    scores = np.where(np.asarray(targets)[:, None] == np.asarray(read.symbol_ids), 0.0, -20.0)
    answers = [
        read.decode(ROW.query, scores, TASK), write.decode(ROW.query, (targets, [-0.01] * len(targets)), TASK),
        text.decode(ROW.query, (json.dumps([x.to_json() for x in ROW.labels]), True), TASK),
    ]
    assert [[x.key for x in a.labels] for a in answers] == [[x.key for x in ROW.labels]] * 3
    assert [a.raw_probability is None for a in answers] == [False, False, True]
    assert text.decode(ROW.query, ("no list", True), TASK) == ((), None, Fault("unreadable", "no JSON list"))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_a_fault_and_an_impossible_symbol_is_none(
    tokenizer: FastTokenizer, bad: float
) -> None:
    read = Codec.compile(TASK, [], tokenizer, "read")
    scores = np.zeros((read.symbol_count(ROW.query), len(read.symbol_ids)))
    scores[:, 3] = -np.inf
    assert read.decode(ROW.query, scores, TASK).fault is None
    scores[1, 2] = bad
    labels, raw_probability, fault = read.decode(ROW.query, scores, TASK)
    assert (labels, raw_probability, fault and fault.kind) == ((), 0.0, "unreadable")
    scores[1] = -np.inf
    assert read.decode(ROW.query, scores, TASK).fault is not None
    open_only = make_task(roles=[{"name": "product"}])
    empty = Codec.compile(open_only, [], tokenizer, "read").decode("", np.zeros((0, 3)), open_only)
    assert empty == ((), 1.0, None)


def test_the_stored_codec_begins_with_the_form(tokenizer: FastTokenizer) -> None:
    assert list(Codec.compile(TASK, [], tokenizer).to_json()) == [
        "form", "segmentation", "roles", "single", "closed", "symbol_ids", "separator", "eos_id", "prefix",
        "transitions",
    ]
