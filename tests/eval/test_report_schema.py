"""A report that is given in place of what a command takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.report_schema import SCHEMA, refuse_report
from task.errors import InputError
from task.files import read_json
from tests.eval import test_report
from tests.limbeck.test_cli import in_process

content, written = test_report.content, test_report.written  # the fixtures


def test_a_report_in_place_of_other_input_is_told_with_the_version_that_wrote_it(written: Path, tmp_path: Path) -> None:
    def said(path: Path) -> str:
        with pytest.raises(InputError) as caught:
            refuse_report(path, field="SYSTEM", expected="a file of predictions")
        return str(caught.value)

    for name in ("report.json", "report.html"):
        assert f"SYSTEM: a report (schema {SCHEMA}, of this version), not what it reports on" in said(written / name)
    old = tmp_path / "report.json"
    old.write_text(json.dumps(read_json(written / "report.json") | {"schema": 3}))
    assert f"(schema 3, written by an older version; this one writes schema {SCHEMA})" in said(old)
    assert "`limbeck evaluate TASK` writes the report again" in said(old)
    page = tmp_path / "report.html"
    page.write_text((written / "report.html").read_text().replace(f"report schema {SCHEMA}", ""))  # as before
    assert "a report (written by an older version; " in said(page)
    assert "a report (written by an older version; " in said(written / "report.md")
    done = in_process("compare", old, "--gold", tmp_path / "gold.jsonl")
    assert (done.returncode, "SYSTEM: a report (schema 3" in done.stderr) == (2, True)
    (tmp_path / "live.json").write_text('{"current": {}}')
    for other in ("none.json", "live.json"):
        refuse_report(tmp_path / other, field="SYSTEM", expected="anything")
