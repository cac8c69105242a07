from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_client.reply import rows_of, verdicts_of

LABELS = st.lists(st.fixed_dictionaries({"role": st.text(max_size=5), "text": st.text(max_size=12)}), max_size=4)
PROSE = st.text(st.characters(exclude_characters="{}[]<>", codec="utf-8"), max_size=30)


@pytest.mark.parametrize(("reply", "verdicts"), [
    ('{"right": [true, false]}', [True, False]),
    ('{"right": [true, false, 1]}', None),
    ('{"right": ["false", "no"]}', None),
    ('{"right": [true]}. On second thought: {"right": ["no"]}', None),
    ('{"right": [true]} {"right": []}', [True]),
    ('```json\n{"right": []}\n``` as asked', []),
    ('<think>{"right": [false]}? No.</think>{"right": [true]}', [True]),
    ('Labels were {"labels": []}. {"right": [false]}', [False]),
    ('{"right": true}', None),
    ('{"right": [tr', None),
    ("all of them", None),
])
def test_verdicts_are_read_the_same_way(reply: str, verdicts: list[bool] | None) -> None:
    assert verdicts_of(reply) == verdicts


@pytest.mark.parametrize(("reply", "rows"), [
    ('{"labels": [{"role": "a"}]}', 1),
    ('```json\n{"labels": []}\n``` there', 0),
    ('[{"role": "a"}, 3]', 1),
    ('<think>maybe {"labels": [{"role": "a"}, {"role": "b"}]}</think>{"labels": [{"role": "c"}]}', 1),
    ('First I thought {"labels": []}, but: {"labels": [{"role": "a"}]}', 1),
    ("I think it is milk", None),
    ('{"labels": "none"}', None),
    ('{"labels": [', None),
    ("[1, 2]", None),
    ("{" * 5_000, None),
    ('{"labels": [{"role": "a"}]}\nRejected candidates: []', 1),
    ('{"labels": [{"role": "a"}]} [{"role": "b"}, {"role": "c"}]', 1),
    ('{"labels": []} [{"role": "b"}, {"role": "c"}]', 0),
    ('{"labels": [{"role": "a"}]} {"labels": []}', 1),
    ("[]", 0),
    ("```json\n[]\n```", 0),
    ("None fits: []", None),
    ('<think>draft {"labels": []}', None),
    ('{"labels": [{"role": "a"}]}<think>draft {"labels": []}', 1),
    ('draft {"labels": []}</think>{"labels": [{"role": "a"}]}', 1),
    ('{"labels": [{"role": "a", "text": "<think>"}]}', 1),
    ('{"labels": [{"role": "a", "text": "</think>"}]}', 1),
    ('{"labels": {"role": "a"}}', None),
    ('{"type": "object", "properties": {"labels": {"type": "array"}}}', None),
    ('the note says [enricher], see [1]: {"labels": [{"role": "a"}]}', 1),
    ('{"labels": [{"role": "a"}]}}}\n</action_output>\n</action_output>', 1),
])
def test_replies_are_read_tolerantly_and_never_guessed(reply: str, rows: int | None) -> None:
    found = rows_of(reply)
    assert (None if found is None else len(found)) == rows


@given(labels=LABELS, before=PROSE, after=PROSE, fenced=st.booleans())
def test_labels_survive_any_wrapping(labels: list[dict[str, str]], before: str, after: str, fenced: bool) -> None:
    text = json.dumps({"labels": labels})
    assert rows_of(before + (f"```json\n{text}\n```" if fenced else text) + after) == labels
