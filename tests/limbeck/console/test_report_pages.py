"""The pages of a run, as they were written, in a sandbox."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from eval.report import write_labels
from limbeck.artefacts import RunFolder
from limbeck.console.report_pages import known_pages, policy
from tests.eval import test_report
from tests.limbeck.console.consoles import console
from tests.limbeck.console.finished_run import add_report, make_finished

content = test_report.content  # the fixture
LABELS: Any = {
    "task": "before", "backend": "openai", "rows": 1, "statuses": {"accepted": 1}, "uncalibrated": "too few",
    "spent": {"attempts": 1, "prompt_tokens": 1, "completion_tokens": 1, "cost": 0.0}, "confidence": None,
    "verdicts": [], "sample": [], "level": 0.95, "finished": "2026-11-28T10:00:00+00:00",
}


@pytest.fixture
def files(tmp_path: Path) -> RunFolder:
    (tmp_path / "runs").mkdir()
    return make_finished(tmp_path / "runs")


def test_a_page_is_served_word_for_word_without_an_origin(
    files: RunFolder, content: tuple[dict[str, Any], Any]
) -> None:
    add_report(files, content)
    with console(files.folder.parent) as browser:
        page = browser.get("/runs/before/pages/evaluate/report.html")
    assert page.content == (files.evaluate.folder / "report.html").read_bytes()
    said = page.headers["content-security-policy"]
    assert said.startswith("sandbox allow-scripts; default-src 'none';")
    for absent in ("allow-same-origin", "'self'", "script-src 'unsafe-inline'", "connect-src", "http"):
        assert absent not in said
    assert page.headers["x-content-type-options"] == "nosniff"


def test_the_scripts_of_our_pages_may_run_and_no_others(files: RunFolder, content: tuple[dict[str, Any], Any]) -> None:
    add_report(files, content)
    write_labels(files.label.folder, LABELS)
    for page in ("evaluate/report.html", "label/report.html"):
        scripts = re.findall(r"<script>(.*?)</script>", (files.folder / page).read_text(), re.DOTALL)
        assert scripts
        for script in scripts:
            digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy()
    assert "unsafe-inline" not in policy().partition("script-src")[2]


@pytest.mark.parametrize("path", [
    "task.json", "ledger.sqlite", "label/manifest.json", "evaluate/../task.json", "../before/task.json",
    "..%2f..%2fsecret.html", "%2e%2e/%2e%2e/secret.html", "/etc/passwd", "evaluate/report.json", "",
    "evaluate/report.html%00.css", "rounds/%2e%2e/label/report.html", "label//report.html",
])
def test_nothing_else_of_the_folder_is_served(files: RunFolder, path: str) -> None:
    (files.folder.parent.parent / "secret.html").write_text("secret")
    write_labels(files.label.folder, LABELS)
    with console(files.folder.parent) as browser:
        found = browser.get(f"/runs/before/pages/{path}")
    assert found.status_code == 404
    assert "secret" not in found.text


def test_a_link_that_leads_out_of_the_folder_is_no_page(files: RunFolder) -> None:
    outside = files.folder.parent.parent / "outside"
    outside.mkdir()
    (outside / "report.html").write_text("secret")
    (files.folder / "evaluate" / "report.html").symlink_to(outside / "report.html")
    (files.folder / "sweep").symlink_to(outside)
    (outside / "sweep.html").write_text("secret")
    (files.folder / "elsewhere").symlink_to(outside)
    (outside / "comparison.html").write_text("secret")
    (files.folder / "inside").mkdir()
    (files.folder / "inside" / "comparison.html").write_text("fine")
    assert known_pages(files.folder) == {"inside/comparison.html": "Comparison in inside"}
    with console(files.folder.parent) as browser:
        for path in ("evaluate/report.html", "sweep/sweep.html", "elsewhere/comparison.html"):
            assert browser.get(f"/runs/before/pages/{path}").status_code == 404
        assert browser.get("/runs/before/pages/inside/comparison.html").text == "fine"
