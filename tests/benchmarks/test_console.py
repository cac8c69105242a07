from __future__ import annotations

import itertools
import random
from pathlib import Path
from urllib.parse import parse_qsl

from benchmarks.console import LIMIT, drawn, made_task, timed, unselective
from benchmarks.console_ledger import Words, made_rows, write_ledger
from limbeck.artefacts import RunFolder
from limbeck.console.label_filter import LabelFilter
from limbeck.console.label_index import LabelIndex
from task.validation import violation
from teacher.ledger.ledger import Ledger


def test_a_made_up_ledger_is_the_same_each_time_and_has_as_many_queries_as_it_should(tmp_path: Path) -> None:
    found = list(made_rows(500))
    assert found == list(made_rows(500))
    assert len({r.query for r in found}) == 500
    assert {r.status for r in found} == {"accepted", "partial", "uncertain", "failed", "skipped"}
    assert [max(r.count for r in found), min(r.count for r in found)] == [500, 0]
    write_ledger(tmp_path / "ledger.sqlite", 500)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert [r.to_json() for r in ledger.all_rows()] == [r.to_json() for r in sorted(found, key=lambda r: r.query)]


def test_its_labels_are_of_the_task(tmp_path: Path) -> None:
    task = made_task()
    assert [violation(task, r.query, r.labels) for r in made_rows(300)] == [None] * 300


def test_drawn_filters_are_those_of_addresses() -> None:
    rng, words = random.Random(1), Words(1)
    for wanted in [*(drawn(rng, words) for _ in range(300)), unselective(rng)]:
        assert LabelFilter.from_query(parse_qsl(wanted.to_query())) == wanted


def test_pages_are_asked_for_forwards_and_back(tmp_path: Path) -> None:
    write_ledger(tmp_path / "ledger.sqlite", 400)
    index = LabelIndex(RunFolder(tmp_path))
    index.update()
    asked: list[tuple[LabelFilter, dict[str, str]]] = []

    def ask(wanted: LabelFilter, cursor: dict[str, str]) -> dict[str, str | None]:
        asked.append((wanted, cursor))
        page = index.page(wanted, **cursor, limit=LIMIT)
        return {"after": page.next, "before": page.previous}

    found = timed(ask, 30)
    assert found["all"]["count"] == len(asked)
    assert found["text"]["count"] + found["no text"]["count"] == len(asked)
    ways = [[next(iter(c), "first") for _, c in pages] for _, pages in itertools.groupby(asked, key=lambda x: x[0])]
    assert ["first", "after", "after", "before"] in ways
