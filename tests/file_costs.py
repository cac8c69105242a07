"""The dearest files of tests, with the processor time that they take on two cores of a server, in seconds.

`tests/conftest.py` starts them first, the dearest before all others: with a process per file, a long file that begins
last would run alone while the other processes have nothing left to do. Only the order of the figures matters.
"""

from __future__ import annotations

from typing import Final

CPU_SECONDS: Final = {
    "tests/limbeck/test_end_to_end.py": 900,
    "tests/limbeck/rounds/test_round.py": 400,
    "tests/student/training/test_launch.py": 200,
    "tests/limbeck/test_unplanned_task.py": 180,
    "tests/limbeck/studies/test_studies.py": 140,
    "tests/teacher/backends/llm/test_local_model.py": 110,
    "tests/limbeck/stages/test_cross_fit.py": 70,
    "tests/engine/test_warm_start.py": 65,
    "tests/teacher/backends/llm/test_ray_workers.py": 60,
    "tests/limbeck/operations/test_documented_service.py": 45,
    "tests/benchmarks/test_h100.py": 45,
    "tests/limbeck/stages/test_train.py": 40,
    "tests/limbeck/stages/test_label.py": 35,
    "tests/teacher/guardrails/test_confidence.py": 35,
    "tests/student/test_inference.py": 35,
    "tests/student/training/test_train.py": 33,
    "tests/task/test_codec.py": 33,
    "tests/serving/supervisor/test_many_tasks.py": 30,
    "tests/limbeck/checks/test_checks.py": 27,
    "tests/student/merging/test_merge.py": 22,
    "tests/engine/test_client.py": 22,
    "tests/limbeck/test_cli.py": 19,
}
