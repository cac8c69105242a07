"""Money: known numbers in, known numbers out, and every assumption on the table."""

from __future__ import annotations

import dataclasses

import pytest

from eval.cost import Measured, cost
from task.settings import Cost

PRICES = Cost(label_hour=1.0, train_hour=2.0, serve_hour=3.6, log_days=10, cache_rate=1_000, cache_gib_month=0.0)
RUN = Measured(
    queries=1_000, teacher_money=9.0, hours={"label": 1.0, "train": 2.0}, student_rate=10.0,
    traffic=[500, 300, 100, 50, 50], cache_bytes=400.0,
)


def test_a_worked_example() -> None:
    found = cost(RUN, PRICES, {"cores": 2}, cached=1)
    assert found["per_thousand"]["teacher"] == pytest.approx(10.0)  # (9 + 1 hour) / 1,000 queries
    assert found["per_million"]["student"] == pytest.approx(100.0)  # 3.6 / 3,600 s / 10 a second
    assert found["per_million"]["cache"] == pytest.approx(1.0)
    assert found["cached_share"] == pytest.approx(0.5)
    assert found["per_million"]["served"] == pytest.approx(50.5)
    assert found["one_off_total"] == pytest.approx(9 + 1 + 4)
    assert found["break_even"]["queries"] == pytest.approx(14 / (0.01 - 50.5e-6), abs=1)
    assert found["break_even"]["days"] == pytest.approx(found["break_even"]["queries"] / 100, abs=0.01)


def test_a_query_costs_what_asking_it_once_costs_and_the_one_off_cost_has_every_trial() -> None:
    tried = dataclasses.replace(RUN, teacher_money=25.0, teacher_each=0.009)
    found = cost(tried, PRICES, {"cores": 2}, cached=1)
    assert found["per_thousand"]["teacher"] == pytest.approx(10.0)
    assert found["one_off"]["teacher, every query once"] == 9.0
    assert found["one_off"]["teacher, trials, failures, audits and gold"] == 16.0
    assert found["one_off_total"] == pytest.approx(25 + 1 + 4)
    named = {a["name"]: a["value"] for a in found["assumptions"]}
    assert named["a query by the teacher, asked once"] == 0.009
    assert named["all calls to the teacher"] == 25.0


def test_the_best_cache_weighs_memory_against_the_student() -> None:
    assert cost(RUN, PRICES, {"cores": 2}, cached=1)["best_cache"] == 5  # memory for nothing: all of it
    dear = PRICES.model_copy(update={"cache_gib_month": 1e9})
    assert cost(RUN, dear, {"cores": 2}, cached=1)["best_cache"] == 0


def test_a_teacher_that_costs_nothing_is_never_earned_back() -> None:
    free = Measured(1_000, 0.0, {"label": 0.0, "train": 1.0}, 10.0, [1, 1], 400.0)
    assert cost(free, PRICES, {"cores": 2}, cached=0)["break_even"] is None


def test_the_price_of_imported_labels_is_unknown_unless_the_task_says_it() -> None:
    imported = dataclasses.replace(RUN, teacher_money=0.0, teacher_each=0.0, imported=True)
    found = cost(imported, PRICES, {"cores": 2}, cached=1)
    assert (found["imported"], found["break_even"]) == (True, None)
    told = cost(imported, PRICES.model_copy(update={"teacher_per_query": 0.009}), {"cores": 2}, cached=1)
    assert "imported" not in told
    assert told["break_even"] == cost(RUN, PRICES, {"cores": 2}, cached=1)["break_even"]


def test_what_the_task_file_does_not_say_comes_from_the_dated_list_and_is_said() -> None:
    found = cost(RUN, Cost(), {"cores": 2, "gpus": ["NVIDIA H100 80GB HBM3"]}, cached=1)
    hour = next(a for a in found["assumptions"] if "serves" in a["name"])
    assert hour["value"] == 3.0
    assert "prices.yaml" in hour["source"]
    assert "H100" in hour["source"]
    cores = cost(RUN, Cost(), {"cores": 4}, cached=1)
    assert next(a for a in cores["assumptions"] if "serves" in a["name"])["value"] == pytest.approx(0.18)
    named = cost(RUN, Cost(teacher_per_query=0.5), {"cores": 2}, cached=1)
    assert named["per_thousand"]["teacher"] > 500


def test_no_traffic_and_no_rate_are_no_crash() -> None:
    found = cost(Measured(0, 0.0, {}, 0.0, [], 0.0), PRICES, {}, cached=0)
    assert found["cache_sizes"] == []
    assert found["best_cache"] is None
