"""The catalog teacher labels queries that it is compared on, and learns nothing from them."""

from __future__ import annotations

import json
from pathlib import Path

from task.labels import Example
from task.readers import Conversion, Item
from teacher.backends.job import Sources
from teacher.label import label_queries
from teacher.ledger.ledger import Ledger
from teacher.ledger.records import LedgerRow
from tests.conftest import make_task

ROLES = [{"name": "brand", "catalogue": "brand", "grounded": True}, {"name": "product", "catalogue": "category.leaf"}]
ITEMS = [
    Item(str(i), f"{brand} {kind}", brand, f"Food > {kind}")
    for i, (brand, kind) in enumerate((b, k) for b in ("verdant", "acme") for k in ("oat milk", "rye bread", "cheddar"))
]
LOG = [Example(f"{word} {kind}") for word in ("verdant", "acme", "cheap") for kind in ("oat milk", "rye bread")]
BOUGHT = [Conversion("verdant oat milk", "0", 3), Conversion("cheap rye bread", "4", 2)]
# "cheap" would be a known filler of two more queries, and "vrd" an alias of the brand that is bought after it.
GOLD = [Example("cheap cheddar"), Example("vrd oat milk"), Example("acme oat milk")]
GOLD_BOUGHT = [Conversion("vrd oat milk", "0", 9)]


def label(folder: Path, model: Path, gold: list[Example]) -> tuple[list[LedgerRow], list[LedgerRow]]:
    task = make_task(
        roles=ROLES, data={"dir": ".", "queries": "q.jsonl", "catalogue": "c.jsonl"}, teacher={"backend": "catalog"}
    )
    sources = Sources(LOG, ITEMS, [*BOUGHT, *GOLD_BOUGHT], test_queries=gold, fingerprint="same")
    with Ledger(folder / "ledger.sqlite") as ledger:
        done = label_queries(task, sources, ledger, folder, lambda _name: model)
        return list(done.rows), list(done.compared)


def test_labels_of_the_log_are_the_same_with_and_without_gold(tmp_path: Path, embedder_folder: Path) -> None:
    alone, none = label(tmp_path / "alone", embedder_folder, [])
    rows, compared = label(tmp_path / "with", embedder_folder, GOLD)
    assert json.dumps([r.to_json() for r in rows]) == json.dumps([r.to_json() for r in alone])
    assert none == []
    assert [r.query for r in compared] == ["cheap cheddar", "vrd oat milk"]  # the log has the third
    assert {(x.role, x.text) for x in compared[0].labels} == {("product", "cheddar")}


def test_gold_can_be_added_to_a_ledger_of_before(tmp_path: Path, embedder_folder: Path) -> None:
    alone, _ = label(tmp_path, embedder_folder, [])
    rows, compared = label(tmp_path, embedder_folder, GOLD)
    assert [r.to_json() for r in rows] == [r.to_json() for r in alone]
    assert {r.status for r in compared} <= {"accepted", "partial"}
