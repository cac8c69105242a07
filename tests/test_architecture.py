"""The house's rules about who may import whom (the plan is in `tools/house.py`), and how large a file may be."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tools import house

ROOT = house.ROOT
HEAVY = {"torch", "vllm", "ray", "transformers", "peft"}
# What Ray Serve imports is the only module that may name Ray: nobody else imports it.
BESIDE = {"ray_app.py": {"ray"}}
MOST_LINES = 350


def imports(path: Path, *, top_level_only: bool) -> set[str]:
    """Top-level packages that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def files(floor: str) -> list[Path]:
    return sorted((ROOT / floor).rglob("*.py"))


def test_no_room_imports_a_room_above_it() -> None:
    assert not house.upward()


def test_no_modules_import_one_another_in_a_circle() -> None:
    """Imports inside functions and for type checking count: a circle ties files together wherever it is closed."""
    assert not house.circles()


def test_every_room_holds_something_and_every_floor_is_packaged() -> None:
    rooms = {house.room_of(module) for module in house.modules()}
    assert rooms == set(house.ROOMS)
    packaged = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f'"{floor}*"' in packaged for floor in house.FLOORS)


def test_the_plan_sees_an_arrow_that_runs_up_and_a_circle(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a house made up for it: a rule that nothing can break is none."""
    plan = {
        "task": frozenset({"limbeck.cli"}), "limbeck.cli": frozenset({"task"}), "teacher.label": frozenset({"student"}),
        "student": frozenset[str](),
    }
    monkeypatch.setattr(house, "modules", lambda: dict.fromkeys(plan, Path()))
    monkeypatch.setattr(house, "imports", plan.__getitem__)
    assert house.upward() == [("task", "limbeck.cli"), ("teacher.label", "student")]
    assert house.circles() == [["limbeck.cli", "task"]]


def test_the_picture_is_of_this_house() -> None:
    page = house.PAGE.read_text(encoding="utf-8")
    found = page.partition(house.BEGIN)[2].partition(house.END)[0].strip()
    assert found == house.drawn(), "run `python -m tools.house --draw`"


def test_eval_never_imports_torch_vllm_or_ray() -> None:
    for path in files("eval"):
        assert not imports(path, top_level_only=False) & HEAVY, path


@pytest.mark.parametrize("floor", ["serving", "engine", "llm_client"])
def test_processes_that_serve_import_neither_torch_nor_vllm(floor: str) -> None:
    for path in files(floor):
        assert not imports(path, top_level_only=False) & HEAVY - BESIDE.get(path.name, set()), path
        assert path.name in BESIDE or "ray_app" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("floor", ["task", "limbeck", "teacher", "serving", "engine", "llm_client", "eval"])
def test_heavy_imports_are_lazy(floor: str) -> None:
    for path in files(floor):
        assert not imports(path, top_level_only=True) & HEAVY - BESIDE.get(path.name, set()), path


def test_no_file_outgrows_its_idea() -> None:
    for floor in (*house.FLOORS, "tests", "tools", "benchmarks"):
        for path in files(floor):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            assert lines <= MOST_LINES, f"{path.relative_to(ROOT)} has {lines} lines: split it by idea"


def test_nothing_names_this_machine_or_a_registry_host() -> None:
    marks = ["/" + "root/", "/" + "work/", "py" + "pi.org", "python" + "hosted"]
    for path in ROOT.rglob("*"):
        kept = path.suffix in {".py", ".md", ".yaml", ".txt", ".toml", ".json"} and path.is_file()
        if kept and not any(p.startswith(".") or p in {"runs", "build"} for p in path.relative_to(ROOT).parts):
            text = path.read_text(encoding="utf-8")
            assert not [m for m in marks if m in text], path
