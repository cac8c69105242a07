"""The dearest files of tests, with the processor time that they take on two cores of a server, in seconds.

`tests/conftest.py` starts them first, the dearest before all others: with a process per file, a long file that begins
last would run alone while the other processes have nothing left to do. Only the order of the figures matters.
"""

from __future__ import annotations

from typing import Final

CPU_SECONDS: Final = {
    "limbeck/test_end_to_end.py": 900,
    "limbeck/rounds/test_round.py": 400,
    "student/training/test_launch.py": 200,
    "limbeck/test_unplanned_task.py": 180,
    "limbeck/studies/test_studies.py": 140,
    "teacher/backends/llm/test_local_model.py": 110,
    "limbeck/stages/test_cross_fit.py": 70,
    "engine/test_warm_start.py": 65,
    "teacher/backends/llm/test_ray_workers.py": 60,
    "limbeck/operations/test_documented_service.py": 45,
    "benchmarks/test_h100.py": 45,
    "limbeck/stages/test_train.py": 40,
    "limbeck/stages/test_label.py": 35,
    "teacher/guardrails/test_confidence.py": 35,
    "student/test_inference.py": 35,
    "student/training/test_train.py": 33,
    "task/test_codec.py": 33,
    "serving/supervisor/test_many_tasks.py": 30,
    "limbeck/checks/test_checks.py": 27,
    "student/merging/test_merge.py": 22,
    "engine/test_client.py": 22,
    "limbeck/test_cli.py": 19,
}
