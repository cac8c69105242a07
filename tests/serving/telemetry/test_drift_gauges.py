from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from eval.bootstrap import estimate
from eval.drift import Shift
from eval.drift_verdict import verdict
from serving.telemetry.drift_gauges import verdict_file
from serving.telemetry.metrics import all_processes
from task.files import write_json


def series(tmp_path: Path) -> dict[tuple[str, ...], float]:
    (tmp_path / "metrics").mkdir(exist_ok=True)
    text = all_processes(str(tmp_path / "metrics"), [], state=tmp_path).decode()
    return {
        (s.name, *s.labels.values()): s.value for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def leave(tmp_path: Path, task: str, change: float, p: float) -> None:
    found = verdict({"expected error": Shift(0.05, 0.05 + change, estimate(change, 0.0, 1.0), p, 0.01)})
    found["about"] = {"last": 1_800_000_000.0}
    file = verdict_file(tmp_path, task)
    file.parent.mkdir(exist_ok=True)
    write_json(file, found)


def test_each_task_has_its_last_verdict(tmp_path: Path) -> None:
    assert series(tmp_path) == {}
    leave(tmp_path, "market", 0.15, 0.001)
    leave(tmp_path, "clinic.v2", 0.0, 0.7)
    found = series(tmp_path)
    assert found["limbeck_drifted", "market"] == found["limbeck_drift_round", "market"] == 1
    assert found["limbeck_drifted", "clinic.v2"] == found["limbeck_drift_round", "clinic.v2"] == 0
    assert found["limbeck_drift_change", "expected error", "market"] == pytest.approx(0.15)
    assert found["limbeck_drift_p", "expected error", "clinic.v2"] == pytest.approx(0.7)
    assert found["limbeck_drift_last_capture_timestamp_seconds", "market"] == 1_800_000_000.0
    leave(tmp_path, "market", 0.0, 0.9)
    assert series(tmp_path)["limbeck_drifted", "market"] == 0


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"drifted": true, "round": true, "about": {}, "figures": {}}',
                                  '{"drifted": true, "round": true, "about": {"last": 1}, "figures": {"a": 1}}'])
def test_another_file_there_costs_no_other_series(tmp_path: Path, text: str) -> None:
    leave(tmp_path, "market", 0.15, 0.001)
    before = series(tmp_path)
    verdict_file(tmp_path, "another").write_text(text)
    assert series(tmp_path) == before
