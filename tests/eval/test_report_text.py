"""What a report says of invalid latency runs, and of the figures of its stages."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from eval.load_samples import Samples
from eval.report import write
from eval.report_changes import changes
from limbeck.operations.tables import print_summary
from tests.eval import test_report

content = test_report.content  # the fixture


def test_a_latency_run_that_is_not_valid_is_marked_wherever_its_figures_are(
    content: tuple[dict[str, Any], dict[str, list[Samples]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, raw = copy.deepcopy(content)
    write(tmp_path / "valid", found, raw)
    print_summary(tmp_path / "valid")
    assert "not valid" not in capsys.readouterr().out + (tmp_path / "valid" / "report.md").read_text()
    found["latency"] |= {"valid": False, "problem": "93 % of the requests left on time"}
    write(tmp_path, found, raw)
    why = "atency run is not valid: 93 % of the requests left on time"
    text = (tmp_path / "report.md").read_text()
    assert why in text
    marked = [line for line in text.splitlines() if "p99" in line and "milliseconds" not in line and "miss" not in line]
    assert [line.count("(not valid)") for line in marked] == [2]
    assert "/s, not valid | requests |" in text
    print_summary(tmp_path)
    said = capsys.readouterr().out
    assert why in said
    assert [line.count("(not valid)") for line in said.splitlines() if "/s" in line] == [1, 1]
    page = (tmp_path / "report.html").read_text()
    top = page[page.index("<h1>") : page.index('<p class="contents">')]
    assert top.count("the run is not valid") == 2  # of a miss, of a cache hit
    valid = content[0]
    assert "miss: p99" in [r["what"] for r in changes(valid, valid)["rows"]]
    for before, now in ((valid, found), (found, valid)):
        assert "miss: p99" not in [r["what"] for r in changes(before, now)["rows"]]


def test_figures_of_stages_are_words_and_numbers(
    content: tuple[dict[str, Any], dict[str, list[Samples]]], tmp_path: Path
) -> None:
    found, raw = copy.deepcopy(content)
    found["stages"] = [{"name": "label", "wall_s": 1.0, "figures": {
        "left_out": {}, "threshold": None, "spent": {"attempts": 5_000, "prompt_tokens": 12, "cost": 0.125},
        "base": "my_model", "packed": True, "parts": [1, 2.5],
    }}]
    write(tmp_path, found, raw)
    page = (tmp_path / "report.html").read_text()
    assert (
        "left out: none · threshold: – · spent: attempts 5,000, prompt tokens 12, cost 0.125 · base: my_model · "
        "packed: yes · parts: 1, 2.5"
    ) in page
