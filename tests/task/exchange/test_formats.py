"""One annotation a query, a file for each person, and rows that our own reader takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from task.errors import InputError
from task.exchange.annotated import Annotated, Loss, Place, by_reason
from task.exchange.formats import FORMATS, Format, Options, by_person, one_each, read_annotations, row_of, write_labels
from task.labels import Example, Label
from task.readers import read_labels
from task.spec import Task


def by(person: str | None, query: str = "milk", state: str = "labelled", id_: str | None = "1") -> Annotated:
    return Annotated(Example(query, id=id_), Place("f", item=f"task {query}"), person, "2026", state)  # type: ignore[arg-type]


def test_a_label_precedes_a_skip_and_a_skip_a_prediction() -> None:
    losses: list[Loss] = []
    given = [by("ana"), by("ben", state="skipped"), by("m", state="machine"), by("eve", "oat", id_=None)]
    found = one_each(given, losses)
    assert [x.person for x in found] == ["ana", "eve"]
    assert [(x.reason, x.what) for x in losses] == [("other annotation", "ben: milk"), ("other annotation", "m: milk")]
    assert {k: len(v) for k, v in by_reason(losses).items()} == {"other annotation": 2}


def test_of_two_labels_the_last_is_taken() -> None:
    losses: list[Loss] = []
    assert [x.person for x in one_each([by("ana"), by("ben")], losses)] == ["ben"]
    assert [x.what for x in losses] == ["ana: milk"]


def test_people_have_files_and_predictions_have_none() -> None:
    found = by_person([by("ana/1"), by("ben"), by(None), by("m", state="machine")])
    assert {k: [x.person for x in v] for k, v in found.items()} == {"ana_1": ["ana/1"], "ben": ["ben"]}
    with pytest.raises(InputError, match="two people of the same name; found 'ana 1'"):
        by_person([by("ana/1"), by("ana 1")])


@pytest.mark.parametrize("format_", FORMATS)
def test_rows_are_read_by_our_own_reader(tmp_path: Path, shop: Task, format_: Format) -> None:
    examples = [
        Example("oat milk", (Label("product type", "milk", 4, 8), Label("mark", "vegan")), 3, "a"),
        Example("👶 oat", id="b"),
    ]
    path, rows = tmp_path / "out", tmp_path / "rows.jsonl"
    assert write_labels(format_, path, examples, shop, Options(offsets=None)) == []
    found = read_annotations(format_, [path], shop, [])
    rows.write_text("".join(json.dumps(row_of(x)) + "\n" for x in found), encoding="utf-8")
    assert read_labels(rows, shop) == examples


def test_a_skipped_query_is_left_out_by_our_own_reader(tmp_path: Path, shop: Task) -> None:
    rows = tmp_path / "rows.jsonl"
    label = Annotated(Example("oat", (Label("brand", "oat", 0, 3),)), Place("f"))
    given = (label, by("ana", state="skipped"))
    rows.write_text("".join(json.dumps(row_of(x)) + "\n" for x in given), encoding="utf-8")
    with pytest.warns(match="1 of 2 rows have no labels"):
        assert [x.query for x in read_labels(rows, shop)] == ["oat"]


def test_of_several_files_each_is_one_persons(fixtures: Path, shop: Task) -> None:
    names = ("doccano", "doccano_relations")
    found = list(read_annotations("doccano", [fixtures / f"{n}.jsonl" for n in names], shop, []))
    assert [x.person for x in found] == ["doccano"] * 3 + ["doccano_relations"]
