"""What rewrites find, counted by hand on a catalogue of sixty items."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from eval.rewrites import ALL, coverage, found_items
from task.labels import Example, Label
from task.spec import Task
from tests.conftest import make_task

TASK = make_task(
    roles=[{"name": "product"}, {"name": "synonym", "kind": "text"}, {"name": "broader", "kind": "text"}],
    student={"form": "json"}, eval={"resamples": 400},
)
# The items, called by numbers, that each text finds.
LISTS = {"tea": range(60), "chai": range(50, 60), "drink": range(55, 60), "milk": range(5), "bread": range(0)}


def search(texts: Sequence[str]) -> list[list[str]]:
    assert len(set(texts)) == len(texts)  # a text is searched once
    return [[str(i) for i in LISTS[t]][:50] for t in texts]


ROWS = [
    Example("tea", (Label("synonym", "chai"), Label("broader", "drink"))),
    Example("milk", (Label("product", "milk", 0, 4),)), Example("bread", (Label("broader", "drink"),)),
]


def shares(task: Task = TASK, rows: Sequence[Example] = ROWS) -> dict[str, float | None]:
    return {k: v["value"] for k, v in coverage(rows, task).items()}


def test_coverage_is_the_share_of_queries_with_a_rewrite_by_type_and_of_any() -> None:
    assert shares() == {"synonym": pytest.approx(1 / 3, abs=1e-6), "broader": pytest.approx(2 / 3, abs=1e-6),
                        ALL: pytest.approx(2 / 3, abs=1e-6)}
    assert shares(rows=[]) == {"synonym": None, "broader": None, ALL: None}
    assert shares(make_task()) == {ALL: 0.0}


def test_bought_items_by_hand() -> None:
    bought = {"tea": {"0", "20", "52", "55"}, "milk": {"1", "9"}, "other": {"1"}}
    found = found_items(ROWS, bought, search, TASK)
    assert (found["queries"], found["bought"]) == (2, 6)  # nothing was bought after bread

    def at(name: str, depth: int) -> list[float | None]:
        figures = found["types"][name]["at"][str(depth)]
        return [figures[k]["value"] for k in ("alone", "rewritten", "gain", "missed")]  # type: ignore[literal-required]

    # Alone at 10: 0 and 1. With chai, the ranks 1 to 5 of both lists are the first ten: 52 too.
    assert at("synonym", 10) == pytest.approx([2 / 6, 3 / 6, 1 / 6, 1 / 4], abs=1e-6)
    # Alone at 50: 20 too. With chai, all ten of its items and the first 40 of tea.
    assert at("synonym", 50) == pytest.approx([3 / 6, 5 / 6, 2 / 6, 2 / 3], abs=1e-6)
    assert at("broader", 10) == pytest.approx([2 / 6, 3 / 6, 1 / 6, 1 / 4], abs=1e-6)  # 55 is first for `drink`
    # 55 to 59 are in two lists and come first; then 0, 50, 1, 51 and 2, so that 52 has no place.
    assert at(ALL, 10) == pytest.approx([2 / 6, 3 / 6, 1 / 6, 1 / 4], abs=1e-6)
    assert found["types"]["synonym"]["coverage"]["value"] == 0.5  # of the queries with purchases


def test_a_gain_has_a_paired_interval_and_no_rewrite_changes_nothing() -> None:
    rows = [Example(q, ()) for q in ("tea", "milk")]
    at = found_items(rows, {"tea": {"55"}, "milk": {"1"}}, search, TASK)["types"][ALL]["at"]["10"]
    assert at["gain"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert at["alone"]["low"] == 0.0 < 1.0 == at["alone"]["high"]


def test_the_more_probable_rewrite_is_searched_for_once_and_an_empty_search_is_no_error() -> None:
    row = Example("bread", (Label("broader", "drink", confidence=0.1), Label("synonym", "drink", confidence=0.9)))
    found = found_items([row], {"bread": {"55", "59"}}, search, TASK)
    assert found["types"][ALL]["at"]["10"]["rewritten"]["value"] == 1.0
    nothing = found_items([row], {}, search, TASK)
    assert (nothing["queries"], nothing["types"][ALL]["at"]["10"]["gain"]["value"]) == (0, None)
