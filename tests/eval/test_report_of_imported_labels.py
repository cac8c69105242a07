"""The report of a run whose labels were imported."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from eval.report import write
from eval.report_schema import Report
from task.files import read_json
from tests.eval import test_report
from tests.eval.schema import mismatches

content = test_report.content  # the fixture


def test_the_price_of_imported_labels_is_not_made_up(
    content: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    report, raw = copy.deepcopy(content)
    report["cost"] |= {"imported": True, "break_even": None}
    write(tmp_path, report, raw)
    page, text = ((tmp_path / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert page.count("labels were imported") == 3  # beside the price, beside the break-even, and below the table
    assert "the teacher costs no more" not in page
    assert "teacher unknown | unknown: imported labels |" in text
    assert not mismatches(read_json(tmp_path / "report.json"), Report)
