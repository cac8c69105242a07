"""A run folder with labels, as a labelling job leaves it, made without one: a shop of thirty queries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.artefacts import RunFolder
from limbeck.judging.served import SERVED
from llm_client.attempt import Attempt
from task.files import write_json, write_jsonl
from task.labels import Label, Labelling
from task.spec import Task
from teacher.ledger.ledger import Ledger
from teacher.ledger.records import LedgerRow
from tests.conftest import make_task

PRODUCTS = ("oat milk", "rye bread", "green tea", "soy yoghurt", "apple juice")
BRANDS = ("verdant", "hollow oak", "brenesen")


def spans(query: str, **texts: str) -> Labelling:
    """Labels of open roles where their texts stand, of closed ones without a span."""
    closed = {"aisle", "mark"}
    return tuple(
        Label(role, text) if role in closed
        else Label(role, text, query.index(text), query.index(text) + len(text), 0.7)
        for role, text in texts.items()
    )


def rows() -> list[LedgerRow]:
    """Thirty rows: of each ten one is partial, three are uncertain."""
    out = []
    for i in range(30):
        product, brand = PRODUCTS[i % 5], BRANDS[i % 3]
        query = f"{brand} {product} {i}"
        status: Any = "partial" if i % 10 == 0 else "uncertain" if i % 10 < 4 else "accepted"
        verdicts = [{"role": "brand", "text": "x", "verdict": "rejected", "reason": "not in the query"}]
        out.append(LedgerRow(
            query, 100 - i, f"r{i}", status, spans(query, brand=brand, product=product), 0.5 + i / 100,
            reason="a label was rejected" if status == "partial" else "", verdicts=verdicts if i % 10 == 0 else (),
        ))
    return out


def make_run(runs: Path, found: Sequence[LedgerRow] | None = None, *, name: str = "shop", **task: Any) -> Task:
    """The run folder `runs/NAME` with its task, its ledger and its gold; returns the task."""
    folder = runs / name
    folder.mkdir(parents=True)
    write_jsonl(folder / "queries.jsonl", ({"query": r.query, "count": r.count} for r in rows()))
    gold = [{"query": f"gold {p}", "count": 3, "labels": [{"role": "product", "text": p}]} for p in PRODUCTS[:3]]
    write_jsonl(folder / "gold.jsonl", gold)
    write_jsonl(folder / "items.jsonl", ({"id": f"i{n}", "title": f"Best {p}"} for n, p in enumerate(PRODUCTS)))
    made = make_task(**({"name": name, "teacher": {"backend": "openai", "openai": {"prompt": "x"}}, "data": {
        "dir": str(folder), "queries": "queries.jsonl", "catalogue": "items.jsonl", "gold": {"test": "gold.jsonl"},
    }} | task))
    write_json(folder / "task.json", made.model_dump(mode="json"))
    kept = rows() if found is None else list(found)
    with Ledger(folder / "ledger.sqlite") as ledger:
        ledger.record([
            Attempt(
                request=r.request, query=r.query, backend="openai", model="m-1", cost=0.001, prompt_tokens=120,
                completion_tokens=20, reply=json.dumps([x.to_json() for x in r.labels]),
                evidence={"items": ["i0", "i1"], "neighbours": ["oat drink"]},
            ) for r in kept
        ], kept)
    write_jsonl(RunFolder(folder).evaluate.predictions(SERVED), (
        {"query": g["query"], "count": 3, "labels": []} for g in gold[:2]
    ))
    return made
