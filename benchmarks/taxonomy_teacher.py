"""The `catalog` teacher on categories: which evidence they come from, and what each kind of it is worth.

    python -m benchmarks.taxonomy_teacher [--queries 3000] [--work runs/taxonomy-teacher]

The synthetic market's catalogue, a query log and purchases after the more frequent half of it; the only role is the
category, 166 paths of two levels. The teacher labels the log with all evidence, without each kind and without any; its
labels are compared with the truth of the generator, which it does not see. How votes are weighed was chosen on a market
of another seed. Expected: precision and recall around 94 % where there are purchases and around 80 % where there are
none; purchases matter most in the first half, search in the other; no label without evidence. Writes the part `teacher`
of benchmarks/results/taxonomy.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.taxonomy import RESULT, SEED
from benchmarks.taxonomy_queries import ROLE, SEPARATOR, market_log, market_paths
from eval.quality import paired_difference
from eval.taxonomy import taxonomy_quality
from limbeck.environment import device, git_commit, versions
from limbeck.studies.context_audit import ALL, variants
from task.files import read_json, write_json
from task.labels import Example
from task.model_store import fetch
from task.readers import Conversion, Item
from task.spec import Task
from teacher.backends.job import Sources
from teacher.label import label_queries
from teacher.ledger.ledger import Ledger


def category_task() -> Task:
    """The task: a category, from the catalogue."""
    return Task.model_validate({
        "name": "categories", "data": {"dir": ".", "queries": "q.jsonl", "catalogue": "c.jsonl"},
        "roles": [{
            "name": ROLE, "kind": "closed", "multiple": False, "catalogue": "category", "separator": SEPARATOR,
            "values": market_paths(),
        }],
        "teacher": {"backend": "catalog"}, "eval": {"resamples": 2_000},
    })


def labelled(
    task: Task, items: Sequence[Item], log: Sequence[Example], bought: Sequence[Conversion], folder: Path
) -> list[Example]:
    """The teacher's labels of the log, whose own labels it does not get."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = [Example(x.query) for x in log]
    with Ledger(Path(":memory:")) as ledger:
        done = label_queries(task, Sources(asked, items, bought, fingerprint="market"), ledger, folder, fetch)
        labels = {r.query: r.labels for r in done.rows}
    return [Example(x.query, labels.get(x.query, ())) for x in log]


def main() -> None:
    """Label with each set of evidence, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=3_000)
    parser.add_argument("--work", type=Path, default=Path("runs/taxonomy-teacher"))
    options = parser.parse_args()
    task = category_task()
    items, log, bought = market_log(options.queries, SEED)
    found = {name: labelled(v, items, log, bought, options.work) for name, v in variants(task).items()}
    with_purchases = {c.query for c in bought}
    parts = {
        "all": list(range(len(log))),
        "with purchases": [i for i, x in enumerate(log) if x.query in with_purchases],
        "without purchases": [i for i, x in enumerate(log) if x.query not in with_purchases],
    }
    content = read_json(RESULT) if RESULT.exists() else {}
    content["teacher"] = {
        "parts": {name: {
            "rows": len(rows), "variants": [_judged(task, log, found, variant, rows) for variant in found],
        } for name, rows in parts.items()},
        "versions": versions(), "device": device(), "git": git_commit(),
    }
    write_json(RESULT, content)
    print(RESULT)


def _judged(
    task: Task, log: Sequence[Example], found: dict[str, list[Example]], variant: str, rows: Sequence[int]
) -> dict[str, Any]:
    gold, whole, part = ([of[i] for i in rows] for of in (log, found[ALL], found[variant]))
    quality = taxonomy_quality(gold, part, task, ROLE)
    return {
        "name": variant, "leaf": quality["leaf"], "root": quality["levels"][0] if quality["levels"] else None,
        "worth": None if variant == ALL else paired_difference(gold, whole, part, task),
    }


if __name__ == "__main__":
    main()
