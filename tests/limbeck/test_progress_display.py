from __future__ import annotations

import pytest

from limbeck.progress_display import ProgressDisplay, Rate


def test_a_slow_start_is_forgotten_after_a_minute() -> None:
    rate = Rate(0.0)
    assert rate.at(50.0, 10) == pytest.approx(0.2)
    for second in range(51, 170):
        found = rate.at(float(second), 10 + 5 * (second - 50))
    assert found == pytest.approx(5.0, rel=0.01)


def test_what_was_done_before_is_not_counted() -> None:
    assert Rate(0.0, done=900).at(10.0, 1_000) == pytest.approx(10.0)


def test_without_a_screen_there_are_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay() as progress:
        progress.stage("label", 1, 6)
        progress.begin("asking", 10)
        progress.advance(4)
        progress.finished("10 of 10")
    lines = capsys.readouterr().err.splitlines()
    assert [x.split("] ", 1)[1] for x in lines] == ["1/6 label: …", "1/6 label: asking", "1/6 label: 10 of 10"]


def test_a_command_that_is_no_stage_has_no_empty_name_before_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay() as progress:
        progress.begin("comparing with the ledger", 10)
    assert capsys.readouterr().err.partition("] ")[2] == "comparing with the ledger\n"
