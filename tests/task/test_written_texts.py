"""Free text in the form `write`: labellings with rewrites come back from their tokens, and nothing else is answered."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from task.codec import VERSION, Codec, version
from task.labels import Example, Label, ordered
from task.normalize import normalize_v1
from task.symbols import Tokenizer
from task.tokenizer import FastTokenizer
from task.validation import violation
from task.written_texts import WrittenText, WrittenTexts, most_tokens
from tests.conftest import make_task
from tests.strategies import QUERIES, examples

TASK = make_task(
    roles=[
        *(r.model_dump() for r in make_task().roles), {"name": "synonym", "kind": "text", "most": 3},
        {"name": "broader", "kind": "text", "multiple": False},
    ],
    student={"form": "write"},
)
TEXTS_ONLY = make_task(roles=[r.model_dump() for r in TASK.text_roles], student={"form": "write"})
FAST = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


@st.composite
def rewritten(draw: st.DrawFn) -> Example:
    """A labelled query with rewrites of different probability, none of them the query."""
    example = draw(examples())
    texts = QUERIES.filter(
        lambda t: normalize_v1(t) != normalize_v1(example.query) and t == t.strip() and len(t.splitlines()) == 1
    )
    synonyms = draw(st.lists(texts, max_size=3, unique_by=normalize_v1))
    broader = draw(st.lists(texts, max_size=1))
    labels = [Label("synonym", t, confidence=0.9 - 0.1 * n) for n, t in enumerate(synonyms)]
    labels += [Label("broader", t, confidence=0.5) for t in broader]
    return replace(example, labels=ordered([*example.labels, *labels]))


def answered(codec: Codec, example: Example, tokenizer: Tokenizer, share: float = -0.01) -> tuple[object, ...]:
    """The output of a student that gives the right answer with this log-probability for each token."""
    targets = codec.encode(example, tokenizer).targets
    at = codec.symbol_count(example.query)
    shares = [share] * len(targets)
    return targets[:at], shares[:at], codec.written_texts(targets[at:], shares[at:], tokenizer)


@given(example=rewritten())
@FAST
def test_labels_and_rewrites_come_back(any_tokenizer: FastTokenizer, example: Example) -> None:
    codec = Codec.compile(TASK, [], any_tokenizer)
    found = codec.decode(example.query, answered(codec, example, any_tokenizer), TASK)
    assert found.fault is None
    assert sorted(x.key for x in found.labels) == sorted(x.key for x in example.labels)
    assert violation(TASK, example.query, found.labels) is None


@given(example=rewritten())
@FAST
def test_the_more_probable_rewrite_is_written_first(tokenizer: FastTokenizer, example: Example) -> None:
    codec = Codec.compile(TASK, [], tokenizer)
    _, _, written = answered(codec, example, tokenizer)
    assert isinstance(written, WrittenTexts)
    assert written.ended
    expected = sorted((x for x in example.labels if x.role == "synonym"), key=lambda x: -(x.confidence or 0.0))
    assert [w.text for w in written.lines if w.role == "synonym"] == [x.text for x in expected]


def test_a_text_has_the_probability_of_its_line_and_the_answer_that_of_all_tokens(tokenizer: FastTokenizer) -> None:
    codec = Codec.compile(TASK, [], tokenizer)
    example = Example("oat milk", (Label("synonym", "oat drink"),))
    ids, shares, written = answered(codec, example, tokenizer, -0.1)
    found = codec.decode(example.query, (ids, shares, written), TASK)
    (label,) = found.labels
    line = 1 + len(tokenizer.encode("oat drink")) + len(codec.separator)
    assert label.confidence == pytest.approx(math.exp(-0.1 * line))
    symbols = codec.decode(example.query, (ids, shares), TASK)
    assert found.raw_probability == pytest.approx((symbols.raw_probability or 0.0) * math.exp(-0.1 * (line + 1)))


@given(query=QUERIES, ids=st.lists(st.integers(0, 1999), max_size=40), data=st.data())
@FAST
def test_any_tokens_decode_to_something_the_task_allows(
    tokenizer: FastTokenizer, query: str, ids: list[int], data: st.DataObject
) -> None:
    codec = Codec.compile(TASK, [], tokenizer)
    begins = [t.symbol for t in codec.texts]
    often = st.sampled_from([*begins, *codec.separator, codec.eos_id, *tokenizer.encode(query)])
    ids = [data.draw(often) if data.draw(st.booleans()) else i for i in ids]
    symbols = [min(place) for place in codec.allowed_symbols(query)]
    written = codec.written_texts(ids, [-0.5] * len(ids), tokenizer)
    found = codec.decode(query, (symbols, [-0.1] * len(symbols), written), TASK)
    assert found.fault is None
    assert violation(TASK, query, found.labels) is None
    assert 0.0 <= (found.raw_probability or 0.0) <= 1.0


def test_what_the_task_does_not_allow_and_what_was_cut_off_are_left_out(tokenizer: FastTokenizer) -> None:
    codec = Codec.compile(TASK, [], tokenizer)
    synonym, broader = (t.symbol for t in codec.texts)

    def line(symbol: int, text: str) -> list[int]:
        return [symbol, *tokenizer.encode(text), *codec.separator]

    def texts(ids: list[int]) -> list[tuple[str, str]]:
        written = codec.written_texts(ids, [-0.01 * n for n, _ in enumerate(ids)], tokenizer)
        symbols = [min(place) for place in codec.allowed_symbols("oat milk")]
        found = codec.decode("oat milk", (symbols, [-0.1] * len(symbols), written), TASK)
        return [(x.role, x.text) for x in found.labels if x.role in {"synonym", "broader"}]

    stop = [codec.eos_id]
    assert texts(line(synonym, "Oat Milk") + line(synonym, "oat drink") + stop) == [("synonym", "oat drink")]
    assert texts(line(synonym, "a") + line(synonym, "A") + stop) == [("synonym", "a")]  # the more probable spelling
    assert texts(line(broader, "a") + line(broader, "b") + stop) == [("broader", "a")]
    assert [t for _, t in texts([i for t in "abcd" for i in line(synonym, t)] + stop)] == ["a", "b", "c"]
    assert texts(tokenizer.encode("no symbol") + list(codec.separator) + line(broader, "milk") + stop) == [
        ("broader", "milk"),
    ]
    assert texts(line(synonym, "oat drink") + line(broader, "milk")[:-1]) == [("synonym", "oat drink")]
    assert texts(stop + line(synonym, "oat drink")) == []


@pytest.mark.parametrize(("least", "expected"), [(0.0, {"oat drink", "oats"}), (0.5, {"oat drink"}), (1.0, set())])
def test_a_text_below_the_least_probability_is_left_out(
    tokenizer: FastTokenizer, least: float, expected: set[str]
) -> None:
    roles = [{"name": "synonym", "kind": "text", "min_confidence": least}]
    task = make_task(roles=roles, student={"form": "write"})
    codec = Codec.compile(task, [], tokenizer)
    lines = (WrittenText("synonym", "oat drink", 0.9), WrittenText("synonym", "oats", 0.4))
    found = codec.decode("oat milk", ([], [], WrittenTexts(lines, 0.3, ended=True)), task)
    assert {x.text for x in found.labels} == expected
    assert found.raw_probability == pytest.approx(0.3)


def test_the_answer_ends_with_the_stop_token_and_fits(tokenizer: FastTokenizer) -> None:
    codec = Codec.compile(TASK, [], tokenizer)
    example = Example("oat milk", (Label("synonym", "oat drink"),))
    targets = codec.encode(example, tokenizer).targets
    assert targets[-1] == codec.eos_id
    form = codec.answer_form
    assert form.generated(codec, example, tokenizer) == len(targets) <= form.most_generated(codec, example.query)
    assert most_tokens(codec.texts) == 4 * 32 + 1
    assert not codec.representable(Example("a", tuple(Label("synonym", t) for t in "bcde")))


def test_a_codec_with_texts_is_stored_and_its_other_symbols_are_those_of_the_task_without(
    tokenizer: FastTokenizer,
) -> None:
    codec = Codec.compile(TASK, [], tokenizer)
    assert Codec.from_json(json.loads(json.dumps(codec.to_json()))) == codec
    without = Codec.compile(make_task(), [], tokenizer, "write")
    assert "texts" not in without.to_json()
    assert (codec.symbol_ids, codec.probes) == (without.symbol_ids, without.probes)
    assert not {t.symbol for t in codec.texts} & {*codec.symbol_ids, *codec.probes}


@given(example=rewritten())
@FAST
def test_without_open_roles_no_unit_has_a_symbol(any_tokenizer: FastTokenizer, example: Example) -> None:
    codec = Codec.compile(TEXTS_ONLY, [], any_tokenizer)
    example = replace(example, labels=tuple(x for x in example.labels if x.role in {"synonym", "broader"}))
    written = sum(1 + len(any_tokenizer.encode(x.text)) + len(codec.separator) for x in example.labels)
    assert len(codec.encode(example, any_tokenizer).targets) == written + 1  # the stop token
    found = codec.decode(example.query, answered(codec, example, any_tokenizer), TEXTS_ONLY)
    assert found.fault is None
    assert sorted(x.key for x in found.labels) == sorted(x.key for x in example.labels)


def test_closed_roles_keep_their_probes_without_open_ones(tokenizer: FastTokenizer) -> None:
    task = make_task(
        roles=[{"name": "sort", "kind": "closed", "values": ["a", "b"], "multiple": False}], student={"form": "write"}
    )
    codec = Codec.compile(task, [], tokenizer)
    example = Example("oat milk", (Label("sort", "b"),))
    (target,) = codec.encode(example, tokenizer).targets
    found = codec.decode(example.query, ([target], [-0.1]), task)
    assert [x.key for x in found.labels] == [x.key for x in example.labels]
    assert codec.answer_form.most_generated(codec, example.query) == 1
    assert Codec.compile(task, [], tokenizer, "read").tagged


def test_a_codec_of_before_has_a_symbol_for_each_unit(tokenizer: FastTokenizer) -> None:
    """Its students write them, so it encodes and decodes them; only tasks that lost them are trained again."""
    stored = Codec.compile(TEXTS_ONLY, [], tokenizer).to_json()
    assert stored.pop("tagged") is False
    codec = Codec.from_json(json.loads(json.dumps(stored)))
    example = Example("oat milk", (Label("synonym", "oat drink"),))
    targets = codec.encode(example, tokenizer).targets
    assert targets[:2] == [codec.symbol_ids[0]] * codec.symbol_count(example.query)
    found = codec.decode(example.query, answered(codec, example, tokenizer), TEXTS_ONLY)
    assert [x.key for x in found.labels] == [x.key for x in example.labels]
    assert codec.to_json() == stored
    assert (version(TASK), version(make_task()), version(TEXTS_ONLY)) == (VERSION, VERSION, VERSION + 1)
