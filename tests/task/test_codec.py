"""`decode(encode(x)) == x` for every form and segmentation; anything decodes to something that the task allows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from task.codec import Codec
from task.errors import InputError
from task.forms.json_text import parse
from task.labels import Example, Label, ordered
from task.spec import Task
from task.tokenizer import FastTokenizer
from task.validation import label_fault
from tests.conftest import make_task, make_tokenizer
from tests.strategies import QUERIES, TAXONOMIES, examples

TASK = make_task()
FAST = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


def codec(tokenizer: FastTokenizer, form: str, segmentation: str = "whitespace") -> Codec:
    student = TASK.student.model_copy(update={"segmentation": segmentation})
    return Codec.compile(TASK.model_copy(update={"student": student}), [], tokenizer, form)


LEARNED = [
    Example("verdant oat milk", (Label("brand", "verdant", 0, 7), Label("product", "oat milk", 8, 16))),
    Example("fresh milk", (Label("product", "milk", 6, 10),)), Example(" "),
]


def keys(labels: tuple[Label, ...] | None) -> list[tuple[str, str, int, int]]:
    assert labels is not None
    return [x.key for x in labels]


def allowed(query: str, labels: tuple[Label, ...], task: Task = TASK) -> None:
    for label in labels:
        assert task.label_problem(query, label.role, label.text) is None
        if label.start is not None:
            assert query[label.start : label.end] == label.text
        assert label.confidence is None or 0.0 <= label.confidence <= 1.0
    names = [x.role for x in labels]
    assert names.count("brand") <= 1
    assert names.count("aisle") <= 1


@pytest.mark.parametrize("segmentation", ["whitespace", "words", "characters"])
@given(data=st.data())
@FAST
def test_read_round_trips(any_tokenizer: FastTokenizer, segmentation: str, data: st.DataObject) -> None:
    c = codec(any_tokenizer, "read", segmentation)
    example = data.draw(examples(segmentation))  # type: ignore[arg-type]
    encoded = c.encode(example, any_tokenizer)
    index = {t: i for i, t in enumerate(c.symbol_ids)}
    scores = np.full((len(encoded.targets), len(c.symbol_ids)), -20.0)
    for row, target in enumerate(encoded.targets):
        scores[row, index[target]] = 0.0
    assert keys(c.decode_scores(example.query, scores)) == keys(example.labels)
    weighted = c.with_transitions(LEARNED, 0.5)
    assert keys(weighted.decode_scores(example.query, scores)) == keys(example.labels)


@given(example=examples())
@FAST
def test_write_round_trips(any_tokenizer: FastTokenizer, example: Example) -> None:
    c = codec(any_tokenizer, "write")
    encoded = c.encode(example, any_tokenizer)
    assert len(encoded.targets) == c.symbol_count(example.query)
    found = c.decode_symbols(example.query, encoded.targets, [-0.01] * len(encoded.targets))
    assert keys(found) == keys(example.labels)


@given(example=examples("characters"))
@FAST
def test_json_round_trips_and_stops(any_tokenizer: FastTokenizer, example: Example) -> None:
    c = codec(any_tokenizer, "json")
    encoded = c.encode(example, any_tokenizer)
    assert encoded.targets[-1] == any_tokenizer.eos_id
    text = any_tokenizer.decode(encoded.targets[:-1])
    assert keys(c.decode(example.query, (text, True), TASK).labels) == keys(example.labels)


@pytest.mark.parametrize("form", ["read", "write", "json"])
@given(example=examples())
@FAST
def test_supervision_starts_after_the_prompt_and_covers_the_answer(
    any_tokenizer: FastTokenizer, form: str, example: Example
) -> None:
    c = codec(any_tokenizer, form)
    prompt, encoded = c.prompt(example.query, any_tokenizer), c.encode(example, any_tokenizer)
    assert encoded.ids[: len(prompt.ids)] == prompt.ids
    assert len(encoded.positions) == len(encoded.targets) > 0
    assert max(encoded.positions) < len(encoded.ids)
    if form != "read":
        assert encoded.positions == list(range(len(prompt.ids) - 1, len(encoded.ids)))
        assert encoded.ids[len(prompt.ids) :] == encoded.targets[:-1]


@given(query=QUERIES, seed=st.integers(0, 1000))
@FAST
def test_any_scores_decode_to_something_the_task_allows(tokenizer: FastTokenizer, query: str, seed: int) -> None:
    c = codec(tokenizer, "read")
    rows = c.symbol_count(query)
    scores = np.random.default_rng(seed).normal(size=(rows, len(c.symbol_ids))) * 5
    for each in (c, c.with_transitions(LEARNED, 1.0)):
        labels, raw_probability = each.decode_scores_with_probability(query, scores)
        allowed(query, labels)
        assert 0.0 <= raw_probability <= 1.0


@given(query=QUERIES, ids=st.lists(st.integers(0, 1999), max_size=30))
@FAST
def test_any_symbols_decode_to_something_the_task_allows(
    tokenizer: FastTokenizer, query: str, ids: list[int]
) -> None:
    c = codec(tokenizer, "write")
    ids = [c.symbol_ids[i % len(c.symbol_ids)] if i % 2 else i for i in ids]
    allowed(query, c.decode_symbols(query, ids, [-0.5] * len(ids)))


LABELS = st.fixed_dictionaries({"role": st.sampled_from(["brand", "product", "aisle", "mark", "x"]),
                                "text": st.sampled_from(["oat", "milk", "dairy", "vegan", ""])})


@given(query=QUERIES, value=st.one_of(st.text(), st.lists(LABELS).map(json.dumps)))
@FAST
def test_any_text_decodes_to_something_the_task_allows(tokenizer: FastTokenizer, query: str, value: str) -> None:
    found = codec(tokenizer, "json").decode(query, (value, True), TASK)
    allowed(query, found.labels)
    rows = parse(query, value, TASK)  # what is left of an LLM's answer
    assert found.fault is None or found.labels == ()
    assert found.fault is not None or keys(found.labels) == keys(rows)
    if rows is not None:
        assert all(label_fault(TASK, query, x) is None for x in rows)


def test_a_repeated_word_comes_back_at_its_own_place(tokenizer: FastTokenizer) -> None:
    example = Example("milk oat milk", (Label("product", "milk", 9, 13),))
    c = codec(tokenizer, "json")
    text = tokenizer.decode(c.encode(example, tokenizer).targets[:-1])
    assert keys(c.decode(example.query, (text, True), TASK).labels) == keys(example.labels)


def test_symbols_and_probes_are_distinct_single_tokens(any_tokenizer: FastTokenizer) -> None:
    c = codec(any_tokenizer, "read")
    ids = [*c.symbol_ids, *(p for r in c.closed for p in r.probes)]
    assert len(set(ids)) == len(ids)
    assert all(any_tokenizer.encode(any_tokenizer.decode([i])) == [i] for i in c.symbol_ids)


@pytest.mark.parametrize("form", ["read", "write", "json"])
def test_what_the_base_expects_before_a_text_stands_there_once(any_tokenizer: FastTokenizer, form: str) -> None:
    c = codec(any_tokenizer, form)
    encoded = c.encode(Example("oat milk", (Label("product", "milk", 4, 8),)), any_tokenizer)
    begin = len(c.prefix)
    assert tuple(encoded.ids[:begin]) == any_tokenizer.prefix
    assert not set(encoded.ids[begin:]) & set(c.prefix)
    assert encoded.ids[begin : begin + 2] == any_tokenizer.encode("oat milk")[:2]


def test_the_families_differ_as_they_should(tmp_path: Path) -> None:
    llama, qwen = make_tokenizer("llama-3", tmp_path / "llama"), make_tokenizer("qwen", tmp_path / "qwen")
    smol = make_tokenizer("smollm2", tmp_path / "smol")
    assert [len(t.prefix) for t in (smol, llama, qwen)] == [0, 1, 0]
    composed, apart = "\u00e9", "e\u0301"
    assert qwen.decode(qwen.encode(apart)) == apart != composed


def test_the_text_of_a_special_token_stays_text(any_tokenizer: FastTokenizer) -> None:
    assert len(any_tokenizer.encode("<|im_end|>")) > 1


def test_it_is_stored_and_read_back(any_tokenizer: FastTokenizer) -> None:
    c = codec(any_tokenizer, "read")
    for each in (c, c.with_transitions(LEARNED, 0.5)):
        assert Codec.from_json(json.loads(json.dumps(each.to_json()))) == each
    before = {k: v for k, v in c.to_json().items() if k != "transitions"}
    assert Codec.from_json(before) == c


def test_transitions_are_counted_where_the_task_weighs_them_and_what_is_read_decides(tokenizer: FastTokenizer) -> None:
    student = TASK.student.model_copy(update={"transitions": 1.0})
    task = TASK.model_copy(update={"student": student})
    learned = [LEARNED[0]] * 30
    c = Codec.compile(task, learned, tokenizer, "read")
    assert c == Codec.compile(TASK, learned, tokenizer, "read").with_transitions(learned, 1.0)
    assert Codec.compile(task, learned, tokenizer, "write").transitions == ()
    scores = np.zeros((c.symbol_count("a b"), len(c.symbol_ids)))
    scores[0, 3] = scores[1, 3] = 5.0  # two products of a word each ...
    scores[1, 4] = 4.8  # ... or, nearly as likely, one of two, which is all that was ever seen
    assert len([x for x in codec(tokenizer, "read").decode_scores("a b", scores) if x.role == "product"]) == 2
    assert [x.text for x in c.decode_scores("a b", scores) if x.role == "product"] == ["a b"]


@pytest.mark.parametrize(("query", "labels", "expected"), [
    ("oat milk", [("product", 0, 8)], "whitespace"),
    ("milk,eggs", [("product", 0, 4), ("product", 5, 9)], "words"),
    ("燕麦牛奶", [("brand", 0, 2), ("product", 2, 4)], "characters"),
])
def test_the_segmentation_is_the_coarsest_that_covers_the_labels(
    tokenizer: FastTokenizer, query: str, labels: list[tuple[str, int, int]], expected: str
) -> None:
    example = Example(query, ordered(Label(r, query[s:e], s, e) for r, s, e in labels))
    assert Codec.compile(TASK, [example], tokenizer, "read").segmentation == expected


def test_what_a_form_cannot_say_is_known_and_refused(tokenizer: FastTokenizer) -> None:
    nested = Example("oat milk", (Label("product", "oat milk", 0, 8), Label("product", "milk", 4, 8)))
    c = codec(tokenizer, "read")
    assert not c.representable(nested)
    with pytest.raises(ValueError, match="cannot be represented"):
        c.encode(nested, tokenizer)
    assert codec(tokenizer, "json").representable(nested)


# -- roles whose values are a tree ------------------------------------------------------------------------------------


def with_tree(values: list[str], separator: str | None = " > ", **more: object) -> Task:
    tree = {"name": "category", "kind": "closed", "multiple": False, "values": values, **more}
    roles = [r.model_dump() for r in TASK.roles]
    return make_task(roles=[*roles[:2], tree | ({"separator": separator} if separator else {}), *roles[2:]])


@given(values=TAXONOMIES, form=st.sampled_from(["read", "write"]), data=st.data())
@FAST
def test_a_labelling_with_a_category_round_trips(
    tokenizer: FastTokenizer, values: list[str], form: str, data: st.DataObject
) -> None:
    task = with_tree(values)
    c = Codec.compile(task, [], tokenizer, form)
    category = data.draw(st.sampled_from([None, *sorted(task.role("category").allowed)]))
    example = data.draw(examples())
    labels = [*example.labels, *([Label("category", category)] if category else [])]
    example = Example(example.query, ordered(labels))
    encoded = c.encode(example, tokenizer)
    assert len(encoded.targets) == c.symbol_count(example.query)
    places = c.allowed_symbols(example.query)
    assert all(target in place for target, place in zip(encoded.targets, places, strict=True))
    if form == "write":
        output: object = (encoded.targets, [-0.01] * len(encoded.targets))
    else:
        index = {t: i for i, t in enumerate(c.symbol_ids)}
        output = np.full((len(encoded.targets), len(c.symbol_ids)), -20.0)
        for row, target in enumerate(encoded.targets):
            output[row, index[target]] = 0.0  # type: ignore[index]
    found = c.decode(example.query, output, task)
    assert keys(found.labels) == keys(example.labels)
    assert Codec.from_json(json.loads(json.dumps(c.to_json()))) == c


@given(values=TAXONOMIES, seed=st.integers(0, 1000), least=st.sampled_from([0.0, 0.4, 0.9]))
@FAST
def test_a_category_is_read_from_its_own_probes_and_obeys_the_task(
    tokenizer: FastTokenizer, values: list[str], seed: int, least: float
) -> None:
    task = with_tree(values, min_confidence=least)
    c = Codec.compile(task, [], tokenizer, "read")
    scores = np.random.default_rng(seed).normal(size=(c.symbol_count("oat milk"), len(c.symbol_ids))) * 3
    found = c.decode("oat milk", scores, task)
    assert all(label_fault(task, "oat milk", x) is None for x in found.labels)
    (tree,) = c.trees
    rows = scores[-len(tree.probes) :, list(tree.symbols)]
    answer = tree.decode(rows, least)
    assert [x.text for x in found.labels if x.role == "category"] == ([answer.value] if answer.value else [])
    assert c.ranked(scores, "category", 3) == tree.ranked(rows, 3)
    without = Codec.compile(TASK, [], tokenizer, "read")
    width = len(without.symbol_ids)
    others = without.decode("oat milk", scores[: len(scores) - len(tree.probes), :width], TASK)
    assert keys(tuple(x for x in found.labels if x.role != "category")) == keys(others.labels)


def test_a_task_without_a_tree_has_the_codec_of_before(tokenizer: FastTokenizer) -> None:
    c = codec(tokenizer, "read")
    assert list(c.to_json()) == [
        "form", "segmentation", "roles", "single", "closed", "symbol_ids", "separator", "eos_id", "prefix",
        "transitions",
    ]
    mixed = Codec.compile(with_tree(["a > b", "c"]), [], tokenizer, "read")
    assert mixed.closed == c.closed
    assert mixed.symbol_ids[: len(c.symbol_ids)] == c.symbol_ids


def test_thousands_of_values_need_a_few_hundred_symbols(any_tokenizer: FastTokenizer) -> None:
    c = Codec.compile(with_tree([f"value {i}" for i in range(10_000)], None), [], any_tokenizer, "read")
    assert (len(c.trees[0].symbols), len(c.trees[0].probes)) == (128, 2)
    example = Example("oat milk", (Label("category", "value 4711"),))
    assert len(c.encode(example, any_tokenizer).targets) == c.symbol_count("oat milk")


def test_several_of_thousands_of_values_are_refused(tokenizer: FastTokenizer) -> None:
    task = with_tree([str(i) for i in range(1001)], None, multiple=True)
    with pytest.raises(InputError, match=r"roles\.category\.multiple: .* several are not supported yet"):
        Codec.compile(task, [], tokenizer, "read")
