"""Exports of Label Studio: JSON and JSON-MIN, people and models, and what cannot be carried over."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from task.errors import InputError
from task.exchange.annotated import Annotated, Loss
from task.exchange.label_studio import read_label_studio
from task.exchange.label_studio_write import labelling_config, write_label_studio
from task.labels import Example, Label
from task.spec import Task
from tests.task.exchange.conftest import shop_task

ANA, BEN = "ana@example.com", "ben@example.com"
SPANS = (Label("brand", "oatly", 5, 10), Label("product type", "oat milk", 11, 19))
VALUES = (Label("aisle", "drinks"), Label("category", "Food > Dairy"), Label("mark", "organic"), Label("mark", "vegan"),
          Label("synonym", "Hafermilch"), Label("synonym", "oat drink"))


def read(path: Path, task: Task, **options: Any) -> tuple[list[Annotated], list[Loss]]:
    losses: list[Loss] = []
    return list(read_label_studio(path, task, losses, **options)), losses


def written(folder: Path, *results: object, text: object = "oat milk", **task: object) -> Path:
    path = folder / "export.json"
    row = {"id": 1, "data": {"text": text}, "annotations": [{"id": 2, "result": list(results)}], **task}
    path.write_text(json.dumps([row]), encoding="utf-8")
    return path


def span(**value: object) -> dict[str, object]:
    return {"type": "labels", "from_name": "label", "value": {"start": 0, "end": 3, "labels": ["brand"], **value}}


def test_annotators_times_and_skips_of_an_export(fixtures: Path, shop: Task) -> None:
    found, losses = read(fixtures / "label_studio.json", shop)
    assert [(x.place.item, x.person, x.state, x.example.id, x.example.count) for x in found] == [
        ("task 41", ANA, "labelled", "q1", 12), ("task 41", BEN, "labelled", "q1", 12),
        ("task 42", ANA, "skipped", "q2", 1),
        ("task 43", ANA, "labelled", "q3", 3), ("task 43", BEN, "labelled", "q3", 3),
    ]
    assert found[0].at == "2026-03-02T09:30:00.000000Z"
    assert found[0].example.labels == (*SPANS, *VALUES)
    assert found[2].example.labels == ()
    assert [(x.reason, x.what, x.place.item) for x in losses] == [
        ("relation", "relation", "task 41"), ("note", "['one product?']", "task 41"),
        ("per region", "mark: ['vegan']", "task 43"), ("unsupported result", "rating difficulty", "task 43"),
        ("unlabelled region", "card", "task 43"), ("only predicted", "milk", "task 44"), ("draft", "bread", "task 45"),
        ("not annotated", "bread", "task 45"),
    ]


def test_predictions_are_read_only_where_they_are_asked_for(fixtures: Path, shop: Task) -> None:
    found, losses = read(fixtures / "label_studio.json", shop, predictions=True)
    (machine,) = [x for x in found if x.state == "machine"]
    assert machine.example.labels == (Label("product type", "milk", 0, 4, 0.71),)
    assert machine.person == "shop"
    assert "only predicted" not in {x.reason for x in losses}


def test_json_min_as_the_converter_makes_it_has_the_same_annotations(fixtures: Path, shop: Task) -> None:
    """It has no skips and no ground truth, and a choice about a span looks like one about the query."""
    whole, _ = read(fixtures / "label_studio.json", shop)
    found, losses = read(fixtures / "label_studio_min.json", shop)
    first, second, other, truth = (x for x in whole if x.state == "labelled")
    in_time = [first, second, truth, other]
    assert [(x.person, x.at, x.place.item) for x in found] == [(x.person, x.at, x.place.item) for x in in_time]
    assert [x.example.labels for x in found] == [
        first.example.labels, second.example.labels, (*truth.example.labels, Label("mark", "vegan")), (),
    ]
    assert [(x.reason, x.what) for x in losses] == [
        ("unlabelled region", "card"), ("not annotated", "milk"), ("not annotated", "bread"),
    ]


def test_offsets_of_2021_count_utf16_units_and_the_text_tells(fixtures: Path, shop: Task) -> None:
    """Text and offsets of issue 1347 of Label Studio."""
    (found,), _ = read(fixtures / "label_studio_2021.json", shop)
    assert found.example.labels == (Label("brand", "annotation", 12, 22),)


def test_offsets_without_a_text_count_as_they_are_said_to(tmp_path: Path, shop: Task) -> None:
    path = written(tmp_path, span(start=2, end=5), text="💩oat")
    (found,), _ = read(path, shop, offsets="utf16")
    assert found.example.labels == (Label("brand", "oat", 1, 4),)
    with pytest.raises(InputError, match="--offsets"):
        read(path, shop)


def test_line_breaks_in_a_text_may_be_escaped(tmp_path: Path, shop: Task) -> None:
    (found,), _ = read(written(tmp_path, span(end=8, text="oat\\nmilk"), text="oat\nmilk"), shop)
    assert found.example.labels[0].text == "oat\nmilk"


def test_controls_of_other_names_are_those_of_the_role_that_has_the_value(tmp_path: Path, shop: Task) -> None:
    path = written(tmp_path, {"type": "choices", "from_name": "intent", "value": {"choices": ["kosher"]}},
                   {"type": "textarea", "from_name": "notes", "value": {"text": ["Hafer"]}})
    (found,), _ = read(path, shop)
    assert found.example.labels == (Label("mark", "kosher"), Label("synonym", "Hafer"))


@pytest.mark.parametrize(("text", "expected"), [
    ("{", r"export\.json:1: not JSON"), ("3", "not a list"), ("[3]", "0: not an object; found 3"),
    ('[{"data": {"query": "a"}}]', r"item 1: data\.text: no query; found \['query'\].*--text"),
    ('[{"id": 7, "data": {"text": 3}}]', r"task 7: data\.text: not a text; found 3"),
    ('[{"data": {"text": "a\\ud83e"}}]', "half a character"),
    ('[{"data": {"text": "a", "query_count": -1}}]', "query_count: not a count"),
    ('[{"data": {"text": "a"}, "annotations": [12]}]', "annotations: not a list of objects; found .12.*Export"),
])
def test_files_that_are_no_export(tmp_path: Path, shop: Task, text: str, expected: str) -> None:
    path = tmp_path / "export.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=expected):
        read(path, shop)


@pytest.mark.parametrize(("result", "expected"), [
    (span(labels=["colour"]), r"task 1: annotations\.0\.result\.0\.value: unknown role 'colour'.*add a role"),
    (span(labels=["mark"]), "'oat' is not a value of 'mark'"),
    (span(end=9), "no span of the query 'oat milk'; found .0, 9"), (span(end=True), "no span"),
    (span(start=3), "no span"),
    (span(text="milk"), "it is not 'milk'"), ({**span(), "score": 2}, "score: not a probability; found 2"),
    ({"type": "choices", "from_name": "mark", "value": {"choices": ["brown"]}}, "'brown' is not a value of 'mark'"),
    ({"type": "choices", "from_name": "x", "value": {"choices": ["brown"]}}, "from_name: not the name of a role"),
    ({"type": "choices", "from_name": "mark", "value": {"choices": [3]}}, "not a value; found 3"),
    ({"type": "textarea", "from_name": "synonym", "value": {"text": ["oat milk"]}}, "is the query itself"),
])
def test_labels_that_the_task_does_not_allow(tmp_path: Path, shop: Task, result: object, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        read(written(tmp_path, result), shop)


def test_the_configuration_is_the_one_that_the_sdk_has_accepted(fixtures: Path, shop: Task) -> None:
    assert labelling_config(shop) == (fixtures / "label_studio.xml").read_text(encoding="utf-8")


def test_names_are_escaped_and_controls_have_different_ones() -> None:
    roles = [{"name": 'a"<&\n'}, {"name": "spans", "kind": "closed", "values": ["<"]}]
    tree = ET.fromstring(labelling_config(shop_task(roles=roles)))
    labels, choices = tree.find("Labels"), tree.find("Choices")
    assert labels is not None
    assert choices is not None
    assert [x.get("value") for x in (*labels, *choices)] == ['a"<&\n', "<"]
    assert (labels.get("name"), choices.get("name")) == ("spans_", "spans")


@pytest.mark.parametrize(("role", "expected"), [
    ({"name": "a\x01"}, "a control character"), ({"name": "text", "kind": "text"}, "called as the text itself"),
])
def test_names_that_label_studio_cannot_have(role: dict[str, str], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        labelling_config(shop_task(roles=[role]))


def test_what_a_file_does_not_hold_is_told(tmp_path: Path, shop: Task) -> None:
    twice = (Label("mark", "vegan", confidence=0.5), Label("mark", "vegan", confidence=0.6))
    examples = [Example("milk", twice, doubt="uncertain", reason="close")]
    losses = write_label_studio(tmp_path / "out.json", examples, shop)
    assert [(x.reason, x.place.item) for x in losses] == [("status", "item 1"), ("repeated value", "item 1")]
    (found,), _ = read(tmp_path / "out.json", shop)
    assert found.example == Example("milk", twice[:1])
