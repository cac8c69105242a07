"""Text roles: what the task file may say about them, and what a label of one may be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval.prediction_files import read_predictions
from task.codec import Codec
from task.errors import InputError
from task.forms import json_text
from task.labels import Example, Label
from task.load import load_task
from task.readers import read_labels
from task.spec import Task
from task.tokenizer import FastTokenizer
from task.validation import violation
from tests.conftest import make_task

BRAND: dict[str, Any] = {"name": "brand", "multiple": False, "catalogue": "brand", "grounded": True}
DATA = {"dir": ".", "labels": "labels.jsonl", "catalogue": "items.jsonl"}


def rewriting(student: str = "json", **role: Any) -> Task:
    """A task with an open, a closed and a text role."""
    text = {"name": "synonym", "kind": "text", "most": 2} | role
    aisle = {"name": "aisle", "kind": "closed", "multiple": False, "values": ["dairy", "drinks"]}
    return make_task(roles=[BRAND, {"name": "product"}, aisle, text], data=DATA, student={"form": student})


TASK = rewriting()


@pytest.mark.parametrize(("key", "value", "said"), [
    ("values", ["a"], "`values` is not for `kind: text`"), ("separator", ">", "`separator` is not for `kind: text`"),
    ("catalogue", "brand", "`catalogue` is not for `kind: text`"),
    ("guard", {"repair": 90}, "`guard.repair` is not for"), ("guard", {"units": {"l": [1, 2]}}, "`guard.units` is not"),
    ("guard", {"aliases": {"a": "b"}}, "`guard.aliases` is not for"),
    ("guard", {"relevance": 0.9, "relevance_max": 0.5}, "guard.relevance, 0.9, is above guard.relevance_max, 0.5"),
    ("guard", {"keep": ["aisle"]}, "'aisle', not an open role; open roles: brand, product"),
    ("guard", {"keep": ["product"]}, "'product', whose values cannot be recognised"),
    ("guard", {"must_match": True}, "needs `pattern`"), ("multiple", False, "`most` is 2; leave out one of the two"),
    ("min_confidence", 0.5, "`min_confidence` needs probabilities, which student.form `json` does not give"),
    ("most", 0, "greater than"), ("kind", "open", "`most` is the number of texts of `kind: text`"),
])
def test_keys_that_mean_nothing_for_the_kind_are_refused(key: str, value: object, said: str) -> None:
    with pytest.raises(ValueError, match=r"(?s).") as caught:
        rewriting(**{key: value})
    assert said in str(caught.value)


def test_keys_of_text_roles_are_refused_for_others_and_a_grounded_text_needs_a_catalogue() -> None:
    with pytest.raises(ValueError, match=r"`guard\.keep` is for `kind: text`"):
        make_task(roles=[BRAND, {"name": "product", "guard": {"keep": ["brand"]}}])
    with pytest.raises(ValueError, match=r"'synonym': `grounded: true` needs data\.catalogue"):
        make_task(roles=[{"name": "synonym", "kind": "text", "grounded": True}], student={"form": "json"})


def test_what_reads_the_form_read_is_refused_beside_a_text_role() -> None:
    text = {"name": "synonym", "kind": "text"}
    with pytest.raises(ValueError, match=r"curriculum\.cross_fit trains students of the form `read`"):
        make_task(roles=[text], student={"form": "write"}, curriculum={"cross_fit": {}})


def test_the_number_of_values_has_a_default_and_is_one_without_multiple() -> None:
    roles = [
        {"name": "a", "kind": "text"}, {"name": "b", "kind": "text", "multiple": False},
        {"name": "c", "kind": "text", "most": 9},
    ]
    assert [r.most_texts for r in make_task(roles=roles, student={"form": "json"}).text_roles] == [5, 1, 9]


def test_a_task_with_text_roles_comes_back_from_its_dump_and_others_are_dumped_as_before() -> None:
    task = rewriting(grounded=True, guard={"keep": ["brand"], "relevance": 0.2, "relevance_max": 0.9})
    assert Task.model_validate(task.model_dump(mode="json")) == task
    for role in make_task().model_dump(mode="json")["roles"]:
        assert not {"most"} & role.keys()
        assert not {"keep", "relevance_max"} & role["guard"].keys()


def test_read_is_refused_with_the_forms_that_can_write(tokenizer: FastTokenizer) -> None:
    with pytest.raises(ValueError, match=r"student\.form `read` cannot answer role 'synonym'.*one of: write, json"):
        rewriting("read")
    with pytest.raises(InputError, match=r"roles\.synonym\.kind.*one of the forms: write, json"):
        Codec.compile(TASK, [], tokenizer, "read")


def test_an_error_of_a_text_role_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(
        "name: toy\nroles:\n  - name: synonym\n    kind: text\n    values: [a]\ndata: {dir: ., labels: x}\n"
        "teacher: {backend: labels}\nstudent: {form: json}\n", encoding="utf-8",
    )
    with pytest.raises(InputError, match=r"task\.yaml:3: roles\.0: `values` is not for `kind: text`"):
        load_task(path)


# -- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "said"), [
    ("", "empty value"), ("  ", "empty value"), ("oat drink ", "a blank at its beginning or end"),
    ("oat\ndrink", "a line break"), ("Oat  MILK", "is the query itself"), ("x" * 300, "300 characters; at most 256"),
])
def test_a_wrong_text_in_a_file_is_told_with_its_line_and_field(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "gold.jsonl"
    rows = [{"query": "tea", "labels": []}, {"query": "oat milk", "labels": [{"role": "synonym", "text": text}]}]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_labels(path, TASK)
    assert "gold.jsonl:2: labels.0: " in str(caught.value)
    assert said in str(caught.value)


def test_texts_are_read_without_a_span_also_if_the_query_holds_them_and_gold_may_have_many(tmp_path: Path) -> None:
    path = tmp_path / "gold.jsonl"
    labels = [{"role": "synonym", "text": t} for t in ("milk", "oat drink", "oat beverage")]
    labels.append({"role": "product", "text": "oat milk"})
    path.write_text(json.dumps({"query": "oat milk", "labels": labels}), encoding="utf-8")
    (row,) = read_labels(path, TASK)
    assert row.labels == (
        Label("product", "oat milk", 0, 8), Label("synonym", "milk"), Label("synonym", "oat beverage"),
        Label("synonym", "oat drink"),
    )
    assert Example.from_json(row.to_json()) == row


def test_an_answer_with_more_texts_than_allowed_or_a_span_breaks_a_rule() -> None:
    texts = [Label("synonym", t) for t in ("oat drink", "oat beverage", "oatmilk")]
    assert violation(TASK, "oat milk", texts[:2]) is None
    for labels, said in ((texts, "more than 2 values"), ([Label("synonym", "milk", 4, 8)], "a span for the text role")):
        fault = violation(TASK, "oat milk", labels)
        assert fault is not None
        assert fault.kind == "rule"
        assert said in fault.detail


def test_predictions_of_texts_are_read_and_faults_told(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    rows = [
        {"query": "oat milk", "labels": [{"role": "synonym", "text": "oat drink"}, {"role": "aisle", "text": "dairy"}]},
        {"query": "tea", "labels": [{"role": "synonym", "text": "TEA"}]},
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    good, bad = read_predictions(path, TASK)
    assert good.row.labels == (Label("aisle", "dairy"), Label("synonym", "oat drink"))
    assert (good.fault, bad.fault, bad.row.labels) == (None, "rule", ())


# -- the json form and LLM teachers -----------------------------------------------------------------------------------


def test_json_writes_and_reads_texts_beside_labels_of_other_kinds(tokenizer: FastTokenizer) -> None:
    codec = Codec.compile(TASK, [], tokenizer, "json")
    row = Example("acme milk", (
        Label("brand", "acme", 0, 4), Label("product", "milk", 5, 9), Label("aisle", "dairy"), Label("synonym", "牛奶"),
    ))
    found = codec.decode(row.query, (json_text.render(row), True), TASK)
    assert (found.labels, found.fault) == (row.labels, None)
    assert tokenizer.decode(codec.encode(row, tokenizer).targets[:-1]) == json_text.render(row)
    same = codec.decode("milk", ('[{"role":"synonym","text":"Milk"}]', True), TASK)
    assert (same.labels, same.fault and same.fault.kind) == ((), "rule")


def test_the_schema_of_an_answer_has_the_text_role_without_an_enum() -> None:
    branch = json_text.schema(TASK)["items"]["anyOf"][-1]
    assert branch["properties"] == {"role": {"type": "string", "enum": ["synonym"]}, "text": {"type": "string"}}
