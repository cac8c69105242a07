from __future__ import annotations

import json
from pathlib import Path

from limbeck.inputs import Inputs
from tests.conftest import make_task


def test_no_calibration_row_near_a_test_row_can_become_an_example(tmp_path: Path) -> None:
    """Another order, a plural, a slip of the finger, and a slip of a slip; not another product."""
    tables = {
        "queries": ["oat milk"],
        "calibration": ["milks oat", "vegan cheese", "vegan chese", "vegan cheses x", "soy milk"],
        "test": ["oat milk", "vegan cheeze"],
    }
    for name, queries in tables.items():
        rows = (json.dumps({"query": q, "labels": []}) for q in queries)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    gold = {"calibration": "calibration.jsonl", "test": "test.jsonl"}
    data = {"dir": tmp_path, "queries": "queries.jsonl", "gold": gold}
    inputs = Inputs(make_task(data=data, teacher={"backend": "openai", "openai": {"prompt": "x"}}), tmp_path / "run")
    assert inputs.teacher.held_out == {"milks oat", "vegan cheese", "vegan chese"}
