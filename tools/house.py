"""The plan of the house: its rooms from bottom to top, and who imports whom, read from the code.

    python -m tools.house            the rooms, what each imports, and every import that breaks the order
    python -m tools.house --draw     the same as a picture in CONTRIBUTING.md

A room is a package, or a single module where a floor's modules stand at different heights. A room may import itself and
the rooms before it in `ROOMS`; `tests/test_architecture.py` holds the code to that.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- house: written by `python -m tools.house --draw` -->", "<!-- /house -->"
# Bottom to top. A module that is not named itself belongs to the package that holds it.
ROOMS: Final = (
    "task", "task.exchange", "task.forms", "task.codec",
    "eval", "samples",
    "llm_client", "engine",
    "teacher.retrieval", "teacher.ledger", "teacher.guardrails", "teacher.backends", "teacher.curriculum", "teacher",
    "student.kernels", "student", "student.training", "student.merging",
    "serving.release", "serving.telemetry", "serving.routing", "serving.gateway", "serving.supervisor", "serving",
    "limbeck", "limbeck.judging", "limbeck.stages", "limbeck.studies", "limbeck.pipeline", "limbeck.checks",
    "limbeck.rounds", "limbeck.operations", "limbeck.console", "limbeck.commands", "limbeck.cli", "limbeck.__main__",
)
FLOORS: Final = tuple(dict.fromkeys(room.split(".")[0] for room in ROOMS))
# Which floors a floor may import, whatever its rooms' places: teacher, student and serving do not know one another.
BELOW: Final[Mapping[str, frozenset[str]]] = {
    "task": frozenset(),
    "eval": frozenset({"task"}),
    "samples": frozenset({"task"}),
    "llm_client": frozenset({"task"}),
    "engine": frozenset({"task", "eval"}),
    "teacher": frozenset({"task", "eval", "llm_client", "engine"}),
    "student": frozenset({"task", "eval"}),
    "serving": frozenset({"task", "eval", "llm_client", "engine"}),
    "limbeck": frozenset(FLOORS) - {"limbeck"},
}


@functools.cache
def modules() -> Mapping[str, Path]:
    """Dotted name → file of every module of the floors; a package is named by its `__init__.py`."""
    found = {}
    for floor in FLOORS:
        for path in sorted((ROOT / floor).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def imports(module: str) -> frozenset[str]:
    """The house's modules that a module imports, at the top, inside functions, or for type checking only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {_target(node.module, a.name) for a in node.names}
    return frozenset(found & modules().keys()) - {module}


def _target(package: str, name: str) -> str:
    """What `from package import name` imports: a module of the package, or the package itself."""
    inner = f"{package}.{name}"
    return inner if inner in modules() else package


def room_of(module: str) -> str:
    """The room of a module: the longest name in `ROOMS` that it is or stands in."""
    return max((r for r in ROOMS if module == r or module.startswith(f"{r}.")), key=len)


def upward() -> list[tuple[str, str]]:
    """Imports that break the order: of a room above, or of a floor that may not be known."""
    rank = {room: i for i, room in enumerate(ROOMS)}
    return sorted(
        (module, other) for module in modules() for other in imports(module)
        if rank[room_of(other)] > rank[room_of(module)] or not _may_know(module.split(".")[0], other.split(".")[0])
    )


def _may_know(floor: str, other: str) -> bool:
    return floor == other or other in BELOW[floor]


def circles() -> list[list[str]]:
    """Modules that import one another in a loop (strongly connected components, Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(imports(module)):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            at = stack.index(module)
            component, stack[at:] = stack[at:], []
            if len(component) > 1:
                found.append(sorted(component))

    for module in modules():
        if module not in index:
            visit(module)
    return found


def between_rooms() -> Counter[tuple[str, str]]:
    """How many imports run from one room to another."""
    return Counter(
        (room_of(module), room_of(other)) for module in modules() for other in imports(module)
        if room_of(module) != room_of(other)
    )


def drawn() -> str:
    """The plan as a Mermaid flowchart: floors as boxes, rooms in them, an arrow for what a room imports.

    `task` and `eval` are imported nearly everywhere; their arrows would hide the others and are left out.
    """
    found = between_rooms()
    lines = ["```mermaid", "flowchart TB"]
    for floor in reversed(FLOORS):
        rooms = [r for r in ROOMS if r.split(".")[0] == floor]
        lines.append(f"    subgraph {floor}_floor[{floor}/]")
        lines += [f'        {_node(r)}["{r.partition(".")[2] or f"modules of {r}/"}"]' for r in reversed(rooms)]
        lines.append("    end")
    lines += [
        f"    {_node(a)} --> {_node(b)}" for a, b in sorted(found)
        if not b.startswith(("task", "eval")) and not _carried(a, b, found)
    ]
    return "\n".join([*lines, "```"])


def _carried(room: str, other: str, found: Iterable[tuple[str, str]]) -> bool:
    """Whether a longer way leads from one room to another as well: its arrows say enough."""
    arrows: dict[str, set[str]] = {}
    for a, b in found:
        arrows.setdefault(a, set()).add(b)
    waiting, seen = [x for x in arrows.get(room, ()) if x != other], set()
    while waiting:
        at = waiting.pop()
        if at == other:
            return True
        if at not in seen:
            seen.add(at)
            waiting += arrows.get(at, ())
    return False


def _size(room: str) -> str:
    held = [m for m in modules() if room_of(m) == room]
    lines = sum(len(modules()[m].read_text(encoding="utf-8").splitlines()) for m in held)
    return f"{len(held)} files, {round(lines, -2):,} lines"


def _node(room: str) -> str:
    return room.replace(".", "_")


def main() -> int:
    """Print the plan, or draw it; 1 where an import breaks the order."""
    if "--draw" in sys.argv[1:]:
        text = PAGE.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        PAGE.write_text(f"{before}{BEGIN}\n\n{drawn()}\n\n{END}{after}", encoding="utf-8")
        return 0
    found = between_rooms()
    for room in reversed(ROOMS):
        below = ", ".join(sorted(b for a, b in found if a == room)) or "nothing"
        print(f"{room:22} {_size(room):>22}   imports {below}")
    for module, other in upward():
        print(f"breaks the order: {module} imports {other}")
    for loop in circles():
        print(f"a circle: {', '.join(loop)}")
    return 1 if upward() or circles() else 0


if __name__ == "__main__":
    sys.exit(main())
