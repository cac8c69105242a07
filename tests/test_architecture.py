"""The house's rules about who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "task": set(),
    "eval": {"task"},
    "samples": {"task"},
    "teacher": {"task", "eval"},
    "student": {"task", "eval"},
    "serving": {"task", "eval"},
    "limbeck": {"task", "eval", "samples", "teacher", "student", "serving"},
}
HEAVY = {"torch", "vllm", "ray", "transformers", "peft"}
# What Ray Serve imports is the only module that may name Ray: nobody else imports it.
BESIDE = {"ray_app.py": {"ray"}}


def imports(path: Path, *, top_level_only: bool) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


# The one door between rooms: the teacher may run a local model in serving's engine.
DOORS = {("teacher", "local.py"): {"serving"}}


def files(floor: str) -> list[Path]:
    return sorted((ROOT / floor).rglob("*.py"))


@pytest.mark.parametrize("floor", ALLOWED)
def test_a_floor_imports_only_floors_below_it(floor: str) -> None:
    for path in files(floor):
        ours = imports(path, top_level_only=False) & ALLOWED.keys() - {floor}
        allowed = ALLOWED[floor] | DOORS.get((floor, path.name), set())
        assert ours <= allowed, f"{path.relative_to(ROOT)} imports {ours - allowed}"


def test_eval_never_imports_torch_vllm_or_ray() -> None:
    for path in files("eval"):
        assert not imports(path, top_level_only=False) & HEAVY, path


def test_the_gateway_process_imports_neither_torch_nor_vllm() -> None:
    for path in files("serving"):
        assert not imports(path, top_level_only=False) & HEAVY - BESIDE.get(path.name, set()), path
        assert path.name in BESIDE or "ray_app" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("floor", ["task", "limbeck", "teacher", "serving", "eval"])
def test_heavy_imports_are_lazy(floor: str) -> None:
    for path in files(floor):
        assert not imports(path, top_level_only=True) & HEAVY - BESIDE.get(path.name, set()), path


def test_nothing_names_this_machine_or_a_registry_host() -> None:
    marks = ["/" + "root/", "/" + "work/", "py" + "pi.org", "python" + "hosted"]
    for path in ROOT.rglob("*"):
        kept = path.suffix in {".py", ".md", ".yaml", ".txt", ".toml", ".json"} and path.is_file()
        if kept and not any(p.startswith(".") or p in {"runs", "build"} for p in path.relative_to(ROOT).parts):
            text = path.read_text(encoding="utf-8")
            assert not [m for m in marks if m in text], path
