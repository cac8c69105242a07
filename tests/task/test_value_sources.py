"""Values of a closed role that stand in a file or in the catalogue; what is wrong there is told with file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from task.errors import InputError
from task.load import load_task
from task.readers import read_labels
from task.spec import Role

TASK = """\
name: toy
roles:
  - name: category
    kind: closed
    multiple: false
    separator: " > "
    values_from: {file: taxonomy.txt}
data: {dir: data, labels: labels.jsonl, catalogue: items.jsonl}
teacher: {backend: labels}
"""
PATHS = "# a comment\nfood > milk > oat\n\nfood > bread\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "task.yaml").write_text(TASK)
    (tmp_path / "taxonomy.txt").write_text(PATHS)
    items = [{"id": "1", "title": "a", "category": "food > tea"}, {"id": "2", "title": "b", "category": "food > tea"}]
    (tmp_path / "data" / "items.jsonl").write_text("".join(json.dumps(x) + "\n" for x in items))
    return tmp_path


def role(folder: Path, *overrides: str) -> Role:
    return load_task(folder / "task.yaml", overrides).task.role("category")


def problem(folder: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        role(folder, *overrides)
    return str(caught.value)


def test_the_values_are_those_of_the_file_beside_the_task_in_one_order(folder: Path) -> None:
    found = role(folder)
    assert found.values == ("food > bread", "food > milk > oat")
    assert found.allowed == {"food", "food > milk", "food > milk > oat", "food > bread"}
    assert Role.model_validate(found.model_dump(mode="json")) == found


def test_a_column_of_a_table_and_a_field_of_the_catalogue_hold_values_too(folder: Path) -> None:
    (folder / "paths.csv").write_text("path,n\nfood > tea,1\nfood,2\n")
    table = ("roles.0.values_from.file=" + str(folder / "paths.csv"), "roles.0.values_from.column=path")
    assert role(folder, *table).values == ("food", "food > tea")
    assert role(folder, "roles.0.values_from={field: category}").values == ("food > tea",)
    assert role(folder, "roles.0.values_from={field: category.root}").values == ("food",)


@pytest.mark.parametrize(("text", "expected"), [
    (PATHS + "food > bread\n", "taxonomy.txt:5: a value that stands in two places; found 'food > bread'; expected each "
                               "value once (first in line 4 of"),
    ("food > bread\nfood >  > tea\n", "taxonomy.txt:2: 'food >  > tea' has an empty part"),
    ("food >  tea\n", "taxonomy.txt:1: 'food >  tea' has a part that begins or ends with a blank"),
    ("# nothing\n\n", "taxonomy.txt: no values; expected a value a line"),
])
def test_a_wrong_taxonomy_is_told_with_its_line(folder: Path, text: str, expected: str) -> None:
    (folder / "taxonomy.txt").write_text(text)
    assert expected in problem(folder)


@pytest.mark.parametrize(("override", "expected"), [
    ("roles.0.values=[food]", "task.yaml:7: roles.0.values_from: both `values` and `values_from`"),
    ("roles.0.values_from={file: a.txt, field: brand}", "name either `file`"),
    ("roles.0.values_from={files: a.txt}", "roles.0.values_from.files: unknown key"),
    ("roles.0.values_from={field: color}", "expected one of: brand, category"),
    ("roles.0.values_from={field: brand}", "no item of the catalogue has this field"),
    ("data.catalogue=null", ""),
    ("roles.0.multiple=true", "several values of a taxonomy are not supported yet; set `multiple: false`"),
    ("roles.0.kind=open", "an open role takes words of the query"),
    ("roles.0.separator=null", ""),
    ("roles.0.values_from={file: none.txt}", "no such file"),
])
def test_wrong_settings_are_told(folder: Path, override: str, expected: str) -> None:
    if expected:
        assert expected in problem(folder, override)
    else:
        assert role(folder, override).values


def test_a_field_needs_a_catalogue_that_is_there(folder: Path) -> None:
    text = problem(folder, "roles.0.values_from={field: category}", "data.catalogue=null")
    assert "expected data.catalogue" in text
    assert "`min_confidence` needs `separator`" in problem(
        folder, "roles.0.separator=null", "roles.0.min_confidence=0.5"
    )


def test_an_unknown_category_in_gold_names_line_and_the_nearest(folder: Path) -> None:
    (folder / "taxonomy.txt").write_text("".join(f"food > kind {i}\n" for i in range(3000)))
    task = load_task(folder / "task.yaml").task
    gold = folder / "gold.jsonl"
    rows = [
        {"query": "x", "labels": [{"role": "category", "text": "food"}]},
        {"query": "y", "labels": [{"role": "category", "text": "food > kind 3x00"}]},
    ]
    gold.write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(InputError) as caught:
        read_labels(gold, task)
    assert "gold.jsonl:2: labels.0: 'food > kind 3x00' is not a value of 'category'" in str(caught.value)
    assert "expected one of 3,001 values, such as 'food > kind 300" in str(caught.value)
    gold.write_text(json.dumps(rows[0]) + "\n")
    assert read_labels(gold, task)[0].labels[0].text == "food"


def test_a_copy_of_a_role_with_other_values_allows_those(folder: Path) -> None:
    found = role(folder)
    assert "food" in found.allowed
    assert found.model_copy(update={"values": ("pets",)}).allowed == {"pets"}
