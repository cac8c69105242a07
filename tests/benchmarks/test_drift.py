from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import drift
from benchmarks.drift import REQUESTS, Weeks, rate, summary
from limbeck.progress_display import ProgressDisplay
from samples.market.months import month_of


@pytest.fixture(scope="module")
def weeks() -> Weeks:
    month = month_of(3, queries=800, items=400, number=1)
    return Weeks.of(month, frozenset(a.query for a in month.log[:50]))


def test_a_week_is_drawn_by_its_name_whatever_was_drawn_before(weeks: Weeks) -> None:
    one = weeks.draw(np.random.default_rng(1), name="one")
    other = weeks.draw(np.random.default_rng(2), name="other")
    assert weeks.draw(np.random.default_rng(1), name="one") == one
    assert {c.query for c in one} != {c.query for c in other}


def test_a_week_has_the_requests_of_the_month_and_queries_of_its_own(weeks: Weeks) -> None:
    week = weeks.draw(np.random.default_rng(1), name="one")
    assert sum(c.count for c in week) == REQUESTS
    assert len({c.query for c in week}) == len(week)
    log = {a.query for a in weeks.log}
    own = [c for c in week if c.query not in log]
    assert 0.05 * len(week) < len(own) < 0.2 * len(week)
    assert {c.source for c in week if c.query in weeks.cached} == {"cache"}
    assert all(c.source == "student" for c in own)


def test_a_share_has_its_exact_interval() -> None:
    none = rate(0, 60)
    assert (none["value"], none["low"]) == (0.0, 0.0)
    assert none["high"] == pytest.approx(1 - 0.025 ** (1 / 60))


def test_the_figures_are_those_of_the_comparisons_of_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*moved: str, calls: bool = False) -> dict[str, object]:
        return {"drifted": bool(moved), "round": calls, "moved": list(moved), "change": {"cache": len(moved) / 10}}

    monkeypatch.setattr(drift, "CHANGES", {1: "new brands"})
    monkeypatch.setattr(drift, "WEEKS", 2)
    said = summary({
        "same 0 0": found(), "same 0 1": found("cache"), "same 1 0": found(), "same 1 1": found(),
        "change 1 0 0 1": found("cache", "queries", calls=True), "change 1 0 0 2": found("cache"),
        "change 1 0 1 1": found(), "change 1 0 1 2": found("cache"),
    })
    assert (said["same"]["alarms"]["count"], said["same"]["alarms"]["of"], said["same"]["by"]) == (1, 4, {"cache": 1})
    first, second = said["changes"][0]["weeks"]
    assert (first["noticed"]["value"], first["round"]["value"], second["noticed"]["value"]) == (0.5, 0.5, 1.0)
    assert first["by"] == {"cache": 1, "queries": 1}
    assert first["change"] == {"cache": 0.1}


def test_a_run_reads_the_files_of_its_month(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "QUERIES", 400)
    monkeypatch.setattr(drift, "ITEMS", 300)
    with ProgressDisplay() as progress:
        run = drift.run_of(tmp_path, 0, 1, progress)
    assert len(run.inputs.queries) == 400
    assert run.inputs.catalogue
    assert run.files.index == tmp_path / "market-0" / "index"
