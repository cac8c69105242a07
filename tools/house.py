"""The plan of the house: its rooms, bottom to top, and the imports between them, read from the code.

    python -m tools.house            prints the plan and every import that runs upwards
    python -m tools.house --draw     draws it into CONTRIBUTING.md

A room is a package or one module of a floor; a room may import itself and every room before it in `ROOMS`.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Bottom to top. Rooms of one floor stand together; `tests/test_architecture.py` holds the code to this order.
ROOMS = (
    "task.forms", "task",
    "eval", "samples",
    "llm_client", "engine",
    "teacher.retrieval", "teacher.ledger", "teacher.guardrails", "teacher.backends", "teacher.curriculum",
    "teacher.label",
    "student", "student.kernels", "student.training", "student.merging",
    "serving.release", "serving.telemetry", "serving.routing", "serving.gateway", "serving.supervisor", "serving",
    "limbeck", "limbeck.judging", "limbeck.stages", "limbeck.studies", "limbeck.pipeline", "limbeck.operations",
    "limbeck.commands", "limbeck.cli",
)
