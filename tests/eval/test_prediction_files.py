"""Prediction files: everything comes back, what is no labelling as an empty and invalid answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval.prediction_files import read_predictions
from eval.score import score_files
from task.errors import InputError
from task.labels import Example
from tests.conftest import make_task


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def labels(*pairs: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": r, "text": t} for r, t in pairs]


@pytest.mark.parametrize(("said", "invalid", "kept"), [
    (labels(("product", "oat milk")), None, 1),
    (labels(("product", "rye bread")), "rule", 1),  # not in the query: a hallucination, but it can be compared by value
    (labels(("product", "rye bread"), ("aisle", "moon")), "unknown_value", 0),
    (labels(("aisle", "dairy")), None, 1),
    (labels(("aisle", "moon")), "unknown_value", 0),
    (labels(("colour", "oat")), "unknown_value", 0),
    (labels(("product", "oat milk"), ("colour", "oat")), "unknown_value", 0),
    (labels(("brand", "oat"), ("brand", "milk")), "rule", 0),
    ([{"role": "product", "text": "oat", "start": 1, "end": 4}], "rule", 0),
    ([{"role": "product", "text": "milk", "start": 4, "end": 99}], "rule", 0),  # a slice would forgive it
    ([{"role": "product", "text": "milk", "start": -4, "end": 8}], "rule", 0),
    ([{"role": "product", "text": "at", "start": True, "end": 3}], "unreadable", 0),
    ("I cannot help with that", "unreadable", 0),
    (None, "unreadable", 0),
    ([], None, 0),
    (labels(("product", 3)), "unreadable", 0),
    ([{"role": "product", "text": "o", "start": 0, "end": True}], "unreadable", 0),
    ([{"role": "product", "text": "milk", "start": 4}], "unreadable", 0),
    ([{"role": "product", "text": "milk", "end": 8}], "unreadable", 0),
    ([{"role": "product", "text": "milk", "start": 4, "end": 8}], None, 1),
    (labels(("product", "\ud83e")), "unreadable", 0),
])
def test_what_an_answer_is_taken_for(said: Any, invalid: str | None, kept: int, tmp_path: Path) -> None:
    source = write(tmp_path / "p.jsonl", [{"query": "oat milk", "labels": said}])
    [(row, fault)] = read_predictions(source, make_task())
    assert (fault, len(row.labels)) == (invalid, kept)


@pytest.mark.parametrize(("mark", "fault"), [
    ({"fault": "truncated"}, "truncated"), ({}, "rule"), ({"fault": 7}, "rule"), ({"fault": ["rule"]}, "rule"),
])
def test_an_answer_that_is_marked_as_invalid_is_invalid(mark: dict[str, Any], fault: str, tmp_path: Path) -> None:
    source = write(tmp_path / "p.jsonl", [{"query": "oat milk", "labels": [], "status": "invalid", **mark}])
    assert read_predictions(source, make_task()) == [(Example("oat milk"), fault)]


def test_spans_are_found_for_what_is_in_the_query_as_often_as_it_is(tmp_path: Path) -> None:
    source = write(tmp_path / "p.jsonl", [{"query": "oat oat", "labels": labels(*[("product", "oat")] * 3)}])
    [(row, _)] = read_predictions(source, make_task())
    assert sorted((x.start is None, x.start) for x in row.labels) == [(False, 0), (False, 4), (True, None)]


def test_a_text_that_does_not_occur_costs_the_labels_after_it_no_span(tmp_path: Path) -> None:
    said = labels(("product", "rye"), ("product", "milk"), ("brand", "oat"))
    source = write(tmp_path / "p.jsonl", [{"query": "oat milk", "labels": said}])
    [(row, _)] = read_predictions(source, make_task())
    assert [(x.text, x.start) for x in row.labels] == [("oat", 0), ("milk", 4), ("rye", None)]


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
    assert (found["invalid"]["value"], found["invalid_kinds"]) == (0.5, {"unreadable": 1})
    assert found["slices"]["shop"]["a"]["f1"]["value"] == 1.0
    stray = write(tmp_path / "s.jsonl", [{"query": "oat mlik", "labels": []}])
    with pytest.raises(InputError, match="a prediction for a query that gold does not have"):
        score_files(gold, stray, resamples=50)
    with pytest.raises(InputError, match="no row has this column"):
        score_files(gold, said, resamples=50, by=["town"])


@pytest.mark.parametrize(("said", "read"), [(0.25, 0.25), (1, 1.0), (None, None), ("high", None), (7.0, None)])
def test_a_rewrite_keeps_its_probability_which_ranks_it(said: Any, read: float | None, tmp_path: Path) -> None:
    task = make_task(roles=[{"name": "synonym", "kind": "text"}], student={"form": "write"})
    label = {"role": "synonym", "text": "oat drink", "confidence": said}
    (tmp_path / "p.jsonl").write_text(json.dumps({"query": "oat milk", "labels": [label]}) + "\n")
    ((row, fault),) = read_predictions(tmp_path / "p.jsonl", task)
    assert fault is None
    assert [x.confidence for x in row.labels] == [read]
