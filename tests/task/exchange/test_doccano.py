"""Exports of doccano by project type, in its units of offsets, and what cannot be carried over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from task.errors import InputError
from task.exchange.annotated import Annotated, Loss
from task.exchange.doccano import layout_of, read_doccano, write_doccano
from task.labels import Example, Label
from task.spec import Task
from tests.task.exchange.conftest import shop_task


def read(path: Path, task: Task, **options: Any) -> tuple[list[Annotated], list[Loss]]:
    losses: list[Loss] = []
    return list(read_doccano(path, task, losses, **options)), losses


def test_sequence_labelling_counts_utf16_units(fixtures: Path, shop: Task) -> None:
    """The second row is that of issue 2290 of doccano: its offsets are 22 and 32, Python's 19 and 29."""
    found, losses = read(fixtures / "doccano.jsonl", shop, person="ana")
    assert [x.example.labels for x in found] == [
        (Label("brand", "oatly", 0, 5), Label("product type", "oat milk", 6, 14)),
        (Label("product type", "firetrucks", 19, 29),), (),
    ]
    assert [(x.example.id, x.person, x.place.line) for x in found] == [
        ("41", "ana", 1), ("42", "ana", 2), ("43", "ana", 3),
    ]
    assert [(x.reason, x.what, x.place.line) for x in losses] == [("comment", "a toy?", 2), ("column", "shop", 3)]


def test_relations_are_told(fixtures: Path, shop: Task) -> None:
    (found,), losses = read(fixtures / "doccano_relations.jsonl", shop)
    assert found.example.labels == (Label("brand", "oatly", 0, 5), Label("product type", "oat milk", 6, 14))
    assert [(x.reason, x.what) for x in losses] == [("relation", "makes")]


@pytest.mark.parametrize(("name", "labels"), [
    ("intent", (Label("brand", "oatly", 6, 11), Label("aisle", "dairy"), Label("mark", "vegan"))),
    ("classes", (Label("aisle", "dairy"), Label("mark", "vegan"))),
])
def test_categories_are_values_of_closed_roles(
    fixtures: Path, shop: Task, name: str, labels: tuple[Label, ...]
) -> None:
    (found,), losses = read(fixtures / f"doccano_{name}.jsonl", shop)
    assert (found.example.labels, losses) == (labels, [])


def test_texts_of_a_project_of_texts(tmp_path: Path, shop: Task) -> None:
    path = tmp_path / "all.jsonl"
    path.write_text('{"id": 1, "text": "oat milk", "label": ["oat drink", "Hafermilch"]}\n', encoding="utf-8")
    (found,), _ = read(path, shop)
    assert found.example.labels == (Label("synonym", "Hafermilch"), Label("synonym", "oat drink"))


def test_a_project_that_counts_clusters(tmp_path: Path, shop: Task) -> None:
    path = tmp_path / "all.jsonl"
    path.write_text('{"text": "👨🏻‍🚒 firemen", "label": [[2, 9, "brand"]]}\n', encoding="utf-8")
    (found,), _ = read(path, shop, offsets="graphemes")
    assert found.example.labels == (Label("brand", "firemen", 5, 12),)


@pytest.mark.parametrize(("row", "expected"), [
    ('{"label": []}', r":1: text: no query; found \['label'\]"), ('{"text": "a"}', "label: no labels"),
    ('{"text": "a", "label": 3}', "label: not a list; found 3"),
    ('{"text": "a", "label": [[0, 1]]}', r"label\.0: not a label"),
    ('{"text": "a", "label": [[0, 2, "brand"]]}', r"label\.0: no span of the query 'a'; found .0, 2.*--offsets"),
    ('{"text": "a", "label": [[0, 1, 7]]}', "not the name of a role; found 7"),
    ('{"text": "a", "entities": [[0, 1, "x"]]}', "unknown role 'x'"),
    ('{"text": "👶", "label": [[0, 1, "brand"]]}', "no span"),
    ('{"text": "a", "annotations": [{"label": 7, "start_offset": 0}]}', "labels by number"),
    ('{"text": "a", "label": [], "limbeck": 3}', "limbeck: not an object"),
    ('{"text": "a", "label": [], "limbeck": {"confidence": [3]}}', r"confidence\.0: not a confidence"),
    ('{"text": "a", "label": [], "limbeck": {"texts": [{"role": "mark"}]}}', r"texts\.0: not a text; expected a value"),
])
def test_rows_that_are_no_export(tmp_path: Path, shop: Task, row: str, expected: str) -> None:
    path = tmp_path / "all.jsonl"
    path.write_text(row + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=expected):
        read(path, shop)


def test_a_category_of_two_roles_is_an_error_and_is_never_written(tmp_path: Path) -> None:
    values = {"a": ["b=c", "d"], "a=b": ["c", "d"]}
    task = shop_task(roles=[{"name": k, "kind": "closed", "values": v} for k, v in values.items()])
    path = tmp_path / "all.jsonl"
    for name in ("a=b=c", "d"):
        path.write_text(json.dumps({"text": "x", "label": [name]}) + "\n", encoding="utf-8")
        with pytest.raises(InputError, match="a category of two roles"):
            read(path, task)
    losses = write_doccano(path, [Example("x", (Label("a", "b=c"), Label("a", "d")))], task)
    assert [(x.reason, x.what) for x in losses] == [("category", "a=b=c")]
    (found,), _ = read(path, task)
    assert found.example.labels == (Label("a", "d"),)


def test_of_two_equal_labels_one_may_have_no_confidence(tmp_path: Path, shop: Task) -> None:
    example = Example("oat", (Label("brand", "oat", 0, 3), Label("brand", "oat", 0, 3, 0.5)))
    write_doccano(tmp_path / "all.jsonl", [example], shop)
    assert [x.example for x in read(tmp_path / "all.jsonl", shop)[0]] == [example]


def test_the_layout_is_the_one_that_shows_most_roles(shop: Task) -> None:
    assert layout_of(shop) == "intent"
    assert layout_of(shop_task(roles=[{"name": "brand"}])) == "sequence"
    assert layout_of(shop_task(roles=[{"name": "mark", "kind": "closed", "values": ["vegan"]}])) == "classes"


def test_a_label_that_was_edited_has_no_confidence(tmp_path: Path, shop: Task) -> None:
    path = tmp_path / "all.jsonl"
    labels = (Label("brand", "oat", 0, 3, 0.9), Label("product type", "milk", 4, 8, 0.8))
    write_doccano(path, [Example("oat milk", labels)], shop)
    path.write_text(path.read_text(encoding="utf-8").replace('[0, 3, "brand"]', '[0, 8, "brand"]'), encoding="utf-8")
    (found,), _ = read(path, shop)
    assert found.example.labels == (Label("brand", "oat milk", 0, 8), Label("product type", "milk", 4, 8, 0.8))
