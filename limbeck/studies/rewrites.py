"""`limbeck rewrites`: what the rewrites of queries are worth, by what was bought."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from eval.quality_schema import Estimate, RoleQuality
from eval.rewrites import DEPTHS, Search, found_items
from limbeck.run import Run
from task.errors import InputError
from task.files import read_json, write_json
from task.labels import Example

SearchKind = Literal["bm25", "hybrid"]


def rewrites(run: Run, predictions: Path | None, kind: str) -> Path:
    """Measure rewrites against gold and against purchases; writes `rewrites/rewrites.json` in the run folder.

    Args:
        predictions: Rows with rewrites, as `limbeck predict` writes them; None takes the teacher's labels of the run.
        kind: How items are searched: by `bm25` alone, or by the task's hybrid search.

    Raises:
        InputError: The task has no text role, no catalogue or no purchases; or there is no such search.
    """
    task = run.task
    if not task.text_roles:
        raise InputError("the task has no role of `kind: text`", field="roles", fix="Add one for a type of rewrite")
    if kind not in get_args(SearchKind):
        raise InputError("no such search", field="--search", found=kind, expected=" or ".join(get_args(SearchKind)))
    sources = run.inputs.teacher
    bought: defaultdict[str, set[str]] = defaultdict(set)
    for row in sources.conversions:
        bought[row.query].add(row.item_id)
    rows = _rows(run, predictions)
    if not any(x.query in bought for x in rows):
        raise InputError(
            "nothing was bought after any of the queries", field="data.conversions",
            expected="purchases after some of the queries, and the catalogue that they are from",
        )
    run.progress.stage("rewrites", 1, 1)
    found = found_items(rows, bought, search_of(run, kind), task)
    path = run.files.rewrites
    write_json(path, {
        "task": task.name, "of": str(predictions or "teacher"), "search": kind, "level": task.eval.confidence,
        "gold": _against_gold(run, rows), **found,
    })
    return path


def _rows(run: Run, predictions: Path | None) -> list[Example]:
    """Queries with their labels; an invalid answer has none."""
    if predictions is not None:
        from eval.prediction_files import read_predictions

        return [p.row for p in read_predictions(predictions, run.task)]
    from teacher.ledger.ledger import Ledger

    run.finished("label")
    with Ledger(run.files.ledger) as ledger:
        found = ledger.rows(q.query for q in run.inputs.teacher.log)
    return [Example(r.query, r.labels, r.count) for r in found.values()]


def _against_gold(run: Run, rows: Sequence[Example]) -> dict[str, RoleQuality]:
    """Precision, recall and F1 of the text roles, on the gold test rows that have an answer; empty without any."""
    from eval.quality import quality

    answered = {x.query: x for x in rows}
    gold = [g for g in run.inputs.test if g.query in answered]
    if not gold:
        return {}
    of_role = quality(gold, [answered[g.query] for g in gold], run.task)["value"]["roles"]
    return {r.name: of_role[r.name] for r in run.task.text_roles}


def search_of(run: Run, kind: str) -> Search:
    """A search in the run's index, which is built if it is missing."""
    from task.model_store import fetch
    from teacher.retrieval.embedding_store import EmbeddingStore
    from teacher.retrieval.hybrid_search import HybridIndex
    from teacher.retrieval.index import Index, build_index

    settings, sources = run.task.teacher.retrieval, run.inputs.teacher
    model = fetch(settings.embedder)
    folder = build_index(
        sources.catalogue, sources.conversions, model=model, folder=run.files.index, progress=run.progress
    )
    index, most = Index(folder), max(DEPTHS)
    wide = settings.model_copy(update={"items": most, "depth": max(settings.depth, most)})
    hybrid = HybridIndex(folder / "items", wide)

    def search(texts: Sequence[str]) -> list[list[str]]:
        if kind == "bm25":
            found = hybrid.lexical(texts, most)
        else:
            vectors = EmbeddingStore(run.files.index, model=model, progress=run.progress).vectors(texts, "rewrites")
            found = [[hit.row for hit in hits] for hits in hybrid.search(texts, vectors)]
        ids = {row: index.items[row].id for row in {r for rows in found for r in rows}}
        return [[ids[row] for row in rows] for rows in found]

    return search


def render(path: Path) -> str:
    """The file as Markdown tables."""
    from eval.formatting import percent

    def shown(figure: Estimate | None) -> str:
        return "–" if figure is None else percent(figure)

    r = read_json(path)
    lines = [
        f"{r['queries']:,} queries with purchases of {r['bought']:,} items; search: {r['search']}", "",
        "| type | coverage | precision | k | bought items found at k, alone | with rewrites | gain | of those missed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, of_type in r["types"].items():
        precision = shown(r["gold"][name]["precision"] if name in r["gold"] else None)
        for depth, x in of_type["at"].items():
            cells = " | ".join(shown(x[key]) for key in ("alone", "rewritten", "gain", "missed"))
            lines.append(f"| {name} | {shown(of_type['coverage'])} | {precision} | {depth} | {cells} |")
    return "\n".join(lines)
