"""Errors of a task file name file, line, key, value and the valid set."""

from __future__ import annotations

from pathlib import Path

import pytest

from task.errors import InputError
from task.load import load_task
from task.spec import Task

GOOD = """\
name: toy
roles:
  - name: brand
  - name: aisle
    kind: closed
    values: [dairy, drinks]
data:
  dir: data
  labels: labels.jsonl
teacher:
  backend: labels
"""


def load(tmp_path: Path, text: str, *overrides: str) -> object:
    path = tmp_path / "task.yaml"
    path.write_text(text, encoding="utf-8")
    return load_task(path, overrides)


def problem(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load(tmp_path, text, *overrides)
    return str(caught.value)


def test_a_good_file_loads_and_paths_are_relative_to_it(tmp_path: Path) -> None:
    load(tmp_path, GOOD)
    assert load_task(tmp_path / "task.yaml").task.data.dir == tmp_path / "data"
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "sub" / "deep")
    (tmp_path / "sub" / "deep").mkdir()
    for folder, found in (("sub", "data"), ("link", "link/../data")):  # a link's parent is that of where it leads
        text = (tmp_path / "task.yaml").read_text().replace("dir: data", "dir: ../data")
        (tmp_path / folder / "task.yaml").write_text(text)
        assert str(load_task(tmp_path / folder / "task.yaml").task.data.dir) == str(tmp_path / found)


def test_an_unknown_key_names_file_line_and_what_was_meant(tmp_path: Path) -> None:
    text = problem(tmp_path, GOOD + "studnet:\n  form: read\n")
    assert "task.yaml:12: studnet: unknown key" in text
    assert "Did you mean `student`?" in text


def test_a_wrong_value_names_the_valid_set(tmp_path: Path) -> None:
    text = problem(tmp_path, GOOD.replace("kind: closed", "kind: opne"))
    assert "task.yaml:5: roles.1.kind: not a valid value; found 'opne'; " in text
    assert "expected one of: 'open', 'closed' or 'text'" in text


@pytest.mark.parametrize(("old", "new", "expected"), [
    ("    values: [dairy, drinks]\n", "", "a closed role needs `values`"),
    ("name: aisle", "name: brand", "two roles are called 'brand'"),
    ("backend: labels", "backend: catalog", "needs data.catalogue"),
    ("  dir: data\n", "", "name a source"),
    ("  - name: brand\n", "  - name: brand\n    pattern: '['\n", "not a regular expression"),
    ("  - name: brand\n", "  - name: brand\n    grounded: true\n", "needs `catalogue`"),
    ("teacher:", "examples:\n  - {query: oat milk, labels: [{role: brand, text: oatly}]}\nteacher:", "does not occur"),
    ("teacher:", "examples:\n  - {query: oat, labels: [{role: bran, text: oat}]}\nteacher:", "unknown role 'bran'"),
    ("name: toy", "name: Toy!", "name"),
    ("teacher:", "normaliser: v9\nteacher:", "expected one of: v1"),
])
def test_cross_field_checks(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert expected in problem(tmp_path, GOOD.replace(old, new))


def test_a_section_that_is_no_mapping_names_its_keys() -> None:
    with pytest.raises(InputError, match=r"data\.gold: not a mapping; expected keys, some of: calibration, test, ann"):
        load_task(Path("tests/fixtures/tiny-market.yaml"), ["data.gold=null"])


def test_a_missing_file_lists_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "market.yaml").write_text("")
    with pytest.raises(InputError, match=r"no such task file.*market\.yaml"):
        load_task(tmp_path / "markt.yaml")


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    assert "task.yaml:3: not YAML" in problem(tmp_path, "name: x\nroles: [\n  - a: b\n")


@pytest.mark.parametrize("key", ["x", "²", "7", "9" * 5000])
def test_an_entry_that_a_list_does_not_have(tmp_path: Path, key: str) -> None:
    """`"²".isdigit()` is true, and `int` refuses it; `int` refuses thousands of digits too."""
    said = problem(tmp_path, GOOD, f"roles.{key}.kind=open")
    assert f"--set: roles.{key}: no such list entry; found " in said


def test_overrides_are_yaml_and_win(tmp_path: Path) -> None:
    load(tmp_path, GOOD, "student.lora.rank=4", "roles.0.multiple=false")
    loaded = load_task(tmp_path / "task.yaml", ["student.lora.rank=4"]).task
    assert loaded.student.lora.rank == 4
    assert "--set student.lora.rnk=4: student.lora.rnk: unknown key" in problem(tmp_path, GOOD, "student.lora.rnk=4")
    assert "expected a.b=value" in problem(tmp_path, GOOD, "student")


def test_extends_merges_mappings_and_keeps_places(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(GOOD, encoding="utf-8")
    child = tmp_path / "child.yaml"
    child.write_text("extends: base.yaml\nname: child\nstudent: {batch_size: 4}\n", encoding="utf-8")
    task = load_task(child).task
    assert (task.name, task.student.batch_size, task.data.dir) == ("child", 4, tmp_path / "data")
    child.write_text("extends: child.yaml\n", encoding="utf-8")
    with pytest.raises(InputError, match="circular"):
        load_task(child)


@pytest.mark.parametrize("name", ["market", "market-h100", "queryner"])
def test_the_shipped_task_files_load(name: str) -> None:
    assert load_task(Path("configs") / f"{name}.yaml").task.name == name


@pytest.mark.parametrize("where", ["beside the file", "in the working directory"])
def test_paths_of_the_student_are_the_same_in_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    (tmp_path / "configs").mkdir()
    home = tmp_path / "configs" if where == "beside the file" else tmp_path
    (home / "runs" / "a" / "adapter").mkdir(parents=True)
    student = "student: {init_adapter: runs/a/adapter, base: ./models/b}\n"
    (tmp_path / "configs" / "TASK.yaml").write_text(GOOD + student)
    monkeypatch.chdir(tmp_path)
    task = load_task("configs/TASK.yaml").task
    assert task.student.init_adapter == str(home / "runs" / "a" / "adapter")
    assert task.student.base == str(tmp_path / "configs" / "models" / "b")
    other = load_task("configs/TASK.yaml", ["student.init_adapter=x/../y", "student.base=./c"]).task
    assert (other.student.init_adapter, other.student.base) == (str(tmp_path / "y"), str(tmp_path / "c"))


def test_absolute_paths_and_names_of_models_stay_as_they_are_written(tmp_path: Path) -> None:
    for base in ("SmolLM2-135M-Instruct", "meta-llama/Llama-3.2-1B", "/models//b"):
        task = load_task_of(tmp_path, f"student: {{init_adapter: /a//b, base: {base}}}\n")
        assert (task.student.base, task.student.init_adapter) == (base, "/a//b")


def load_task_of(tmp_path: Path, more: str) -> Task:
    path = tmp_path / "task.yaml"
    path.write_text(GOOD + more)
    return load_task(path).task
