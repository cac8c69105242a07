"""Prediction files: everything comes back, what is no labelling as an empty and invalid answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval.prediction_files import read_predictions
from eval.score import score_files
from task.errors import InputError
from tests.conftest import make_task


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def labels(*pairs: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": r, "text": t} for r, t in pairs]


@pytest.mark.parametrize(("said", "invalid", "kept"), [
    (labels(("product", "oat milk")), False, 1),
    (labels(("product", "rye bread")), False, 1),  # not in the query: wrong, a hallucination, but a labelling
    (labels(("aisle", "dairy")), False, 1),
    (labels(("aisle", "moon")), True, 0),
    (labels(("colour", "oat")), True, 0),
    (labels(("product", "oat milk"), ("colour", "oat")), True, 0),
    ([{"role": "product", "text": "oat", "start": 1, "end": 4}], True, 0),
    # The offsets of a span: slices would forgive each of these.
    ([{"role": "product", "text": "milk", "start": 4, "end": 99}], True, 0),
    ([{"role": "product", "text": "oat", "start": -8, "end": -5}], True, 0),
    ([{"role": "product", "text": "at milk", "start": True, "end": 8}], True, 0),
    ([{"role": "product", "text": "o", "start": 0, "end": True}], True, 0),
    ([{"role": "product", "text": "milk", "start": 4}], True, 0),
    ([{"role": "product", "text": "milk", "end": 8}], True, 0),
    ([{"role": "product", "text": "milk", "start": 4, "end": 8}], False, 1),
    ("I cannot help with that", True, 0),
    (None, True, 0),
    ([], False, 0),
    (labels(("product", 3)), True, 0),
    (labels(("product", "\ud83e")), True, 0),
])
def test_what_an_answer_is_taken_for(said: Any, invalid: bool, kept: int, tmp_path: Path) -> None:
    source = write(tmp_path / "p.jsonl", [{"query": "oat milk", "labels": said}])
    [(row, bad)] = read_predictions(source, make_task())
    assert (bad, len(row.labels)) == (invalid, kept)


def test_spans_are_found_for_what_is_in_the_query_as_often_as_it_is(tmp_path: Path) -> None:
    source = write(tmp_path / "p.jsonl", [{"query": "oat oat", "labels": labels(*[("product", "oat")] * 3)}])
    [(row, _)] = read_predictions(source, make_task())
    assert sorted((x.start is None, x.start) for x in row.labels) == [(False, 0), (False, 4), (True, None)]


def test_two_rows_for_a_query_and_a_row_without_one_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "p.jsonl", [{"query": "a", "labels": []}] * 2)
    with pytest.raises(InputError, match=r"p\.jsonl:2.*second prediction"):
        read_predictions(source, make_task())
    with pytest.raises(InputError, match="query"):
        read_predictions(write(tmp_path / "q.jsonl", [{"labels": []}]), make_task())


def test_an_invalid_answer_costs_recall_and_is_counted(tmp_path: Path) -> None:
    gold = write(tmp_path / "g.jsonl", [
        {"query": q, "labels": labels(("product", q)), "shop": s} for q, s in (("oat milk", "a"), ("rye", "b"))
    ])
    said = write(tmp_path / "p.jsonl", [{"query": "oat milk", "labels": labels(("product", "oat milk"))},
                                        {"query": "rye", "labels": "sorry"}])
    found = score_files(gold, said, resamples=50, by=["shop"])
    assert (found["value"]["precision"]["value"], found["value"]["recall"]["value"]) == (1.0, 0.5)
    assert found["invalid"]["value"] == 0.5
    assert found["slices"]["shop"]["a"]["f1"]["value"] == 1.0
    with pytest.raises(InputError, match="no row has this column"):
        score_files(gold, said, resamples=50, by=["town"])
