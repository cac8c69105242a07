"""Rewrites on the synthetic market: are they right, how many queries have one, and what do they find?

    python -m benchmarks.rewrites data
    limbeck bundle runs/rewrites/task.yaml --runs runs/rewrites/runs
    limbeck predict runs/rewrites/runs/rewrites/bundle/bundle --in runs/rewrites/queries.jsonl \\
        --out runs/rewrites/student.jsonl
    python -m benchmarks.rewrites judge

`data` writes the market's catalogue and purchases, labels to learn from, and gold. The teacher knows what
`benchmarks.rewrites_truth` knows, but leaves out one text in eight and gets one in ten of the others wrong; these
labels go through the guardrails (grounded, relevance, and brand and size kept), and what these stop is counted, right
and wrong ones. A student, SmolLM2-135M in the form `write`, learns the rest. Test queries are none of those that it has
learned from, nor near-duplicates of them; a tenth of the brands is in test queries alone.

`judge` compares the student, whose server leaves out what finds no item, with the same student without that
(`unconstrained.jsonl`, of a bundle made with `--set roles.N.grounded=false`), with the same student with a minimum
probability for each type (`min_confidence`, chosen on other queries), and with the teacher: the share of queries with a
rewrite, precision by type against all true rewrites, and recall of bought items by BM25 with rewrites and without,
paired, for all queries and by traffic; and it says what is wrong with the wrong ones.

Expected: coverage of the tail about 96 % (3 % of it names nothing that is sold); precision of `broader` the highest
(fewest words to copy), of `synonym` the lowest (all words, typos mended), all above 90 % if the words that no item has
are dropped; recall at 50 rises by ten points or more, because a third of the queries name a product by a word that the
catalogue does not have. Writes benchmarks/results/rewrites.json, a part a command.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.rewrites_truth import MOST, TYPES, Asked, Log, Truth, gold
from eval.quality import quality
from eval.rewrites import ALL, Search, coverage, found_items
from limbeck.environment import device, git_commit, versions
from task.files import read_json, write_json, write_jsonl
from task.labels import Example, Label
from task.model_store import fetch
from task.normalize import normalize_v1
from task.readers import Item, read_labels
from task.spec import Task
from teacher.guardrails.label_checks import Guardrails
from teacher.retrieval.embedding_store import EmbeddingStore

RESULT: Final = Path(__file__).parent / "results" / "rewrites.json"
SEED: Final = 0
QUERIES, ITEMS = 12_000, 4_000
TESTED: Final = {"head": 300, "torso": 300, "tail": 900}
CALIBRATED: Final = 600  # queries on which the least probability of an answer is chosen
COVERED: Final = 0.95  # share of the queries that are to have a rewrite
WANTED: Final = tuple(n / 100 for n in range(98, 89, -1))  # shares of right ones that are tried, the goal last
RELEVANCE: Final = {"synonym": 0.3, "broader": 0.1, "substitute": 0.15}
DESCRIPTIONS: Final = {
    "synonym": "the same thing in other words", "broader": "a larger set of items that has it in it",
    "substitute": "another product that answers the same need",
}


def roles(*, guarded: bool) -> list[dict[str, Any]]:
    """The text roles: grounded, and with the teacher's other guardrails if wanted."""
    return [
        {
            "name": t, "kind": "text", "description": DESCRIPTIONS[t], "most": MOST[t], "grounded": True,
            **({"guard": {"relevance": RELEVANCE[t], "keep": ["brand", "size"]}} if guarded else {}),
        } for t in TYPES
    ]


def settings(epochs: float) -> dict[str, Any]:
    """The task file of the student: text roles alone, so that it writes nothing else; its labels have been checked."""
    return {
        "name": "rewrites", "roles": roles(guarded=False),
        "data": {
            "dir": ".", "labels": "labels.jsonl", "catalogue": "catalogue.jsonl", "conversions": "conversions.jsonl",
            "gold": {"test": "gold.jsonl"},
        },
        "teacher": {"backend": "labels"}, "curriculum": {"order": "shuffled", "max_dev": 64},
        "student": {
            "form": "write", "lora": {"rank": 32, "alpha": 64}, "learning_rate": 1e-3, "batch_size": 16,
            "epochs": epochs, "eval_every": 1_000_000, "keep_best": False, "save_every": 20, "cpus_per_worker": 2,
        },
        "serving": {"head_queries": 0}, "eval": {"head": 600, "torso": 3_600, "resamples": 2_000},
    }


def guarded_task() -> Task:
    """The teacher's task: brand and size are roles here, because `guard.keep` names open roles."""
    return Task.model_validate({
        "name": "guarded", "data": {"dir": ".", "labels": "labels.jsonl", "catalogue": "catalogue.jsonl"},
        "teacher": {"backend": "labels"}, "student": {"form": "write"},
        "roles": [
            {"name": "brand", "catalogue": "brand"},
            {"name": "size", "pattern": r"\d+([.,]\d+)?\s?(ml|l|litre|g|kg)"}, *roles(guarded=True),
        ],
    })


def guarded(
    checks: Guardrails, rows: Sequence[Asked], said: Sequence[Sequence[Label]], truth: Sequence[Example]
) -> tuple[list[Example], Counter[tuple[str, str, bool]]]:
    """The labels that pass the guardrails; and (type, reason or "passed", whether it was right) → how often."""
    out, counts = [], Counter[tuple[str, str, bool]]()
    for row, labels, true in zip(rows, said, truth, strict=True):
        kept, verdicts = checks.check(row.query, labels)
        right = {(x.role, normalize_v1(x.text)) for x in true.labels}
        for v in verdicts:
            reason = v.reason if v.verdict == "rejected" else "passed"
            counts[v.role, reason, (v.role, normalize_v1(v.text)) in right] += 1
        out.append(Example(row.query, tuple(k.label for k in kept), row.count))
    return out, counts


def items_of(log: Log) -> list[Item]:
    """The market's catalogue."""
    rows = (item.row() for item in log.market.items)
    return [Item(r["id"], r["title"], r["brand"], r["category"], r["attributes"]) for r in rows]


def data(work: Path, epochs: float) -> dict[str, Any]:
    """Write the task with its data; what the guardrails did."""
    log = Log(SEED, queries=QUERIES, items=ITEMS)
    rest, tested = log.split(TESTED, SEED)
    calibrated, learned = rest[:CALIBRATED], rest[CALIBRATED:]
    rng = random.Random(SEED)
    said = [log.truth.taught(row, rng) for row in (*learned, *tested)]
    rows = [*learned, *tested]
    task = guarded_task()
    store = EmbeddingStore(work / "embeddings", model=fetch(task.teacher.retrieval.embedder))
    store.vectors([t for row, labels in zip(rows, said, strict=True) for t in (row.query, *(x.text for x in labels))])

    def relevance(query: str, text: str) -> float:
        a, b = store.vectors([query, text])
        return float(a @ b)

    truth = [gold(row, log.truth) for row in rows]
    kept, counts = guarded(Guardrails(task, items_of(log), relevance), rows, said, truth)
    cut = len(learned)
    write_jsonl(work / "catalogue.jsonl", (item.row() for item in log.market.items))
    write_jsonl(work / "conversions.jsonl", (
        {"query": q, "item_id": i, "count": n} for (q, i), n in log.bought().items()
    ))
    write_jsonl(work / "labels.jsonl", (x.to_json() for x in kept[:cut]))
    write_jsonl(work / "teacher.jsonl", (x.to_json() for x in kept[cut:]))
    write_jsonl(work / "gold.jsonl", (x.to_json() for x in truth[cut:]))
    write_jsonl(work / "calibration.jsonl", (gold(row, log.truth).to_json() for row in calibrated))
    write_jsonl(work / "queries.jsonl", ({"query": r.query, "count": r.count} for r in (*tested, *calibrated)))
    slices = {band: [r.query for r in tested if r.band == band] for band in TESTED}
    slices["unseen brands"] = [r.query for r in tested if log.is_unseen(r)]
    write_json(work / "slices.json", slices)
    (work / "task.yaml").write_text(yaml.safe_dump(settings(epochs), sort_keys=False), encoding="utf-8")
    return {"queries": len(rows), "learned": cut, "tested": len(tested), "guardrails": [
        {"type": t, "reason": why, "right": counts[t, why, True], "wrong": counts[t, why, False]}
        for t, why in sorted({(t, why) for t, why, _ in counts}, key=lambda k: (TYPES.index(k[0]), k[1]))
    ]}


# -- what rewrites are worth ----------------------------------------------------------------------------------------


def judge(work: Path) -> dict[str, Any]:
    """Teacher and student on the test queries."""
    from limbeck.progress_display import ProgressDisplay
    from limbeck.run import Run
    from limbeck.studies.rewrites import search_of
    from task.load import load_task

    with ProgressDisplay() as progress:
        run = Run.of(load_task(work / "task.yaml").task, work / "runs", progress)
        search = search_of(run, "bm25")
        bought: defaultdict[str, set[str]] = defaultdict(set)
        for row in run.inputs.teacher.conversions:
            bought[row.query].add(row.item_id)
        truth = {x.query: x for x in run.inputs.test}
    slices = {"all": [x.query for x in run.inputs.test], **read_json(work / "slices.json")}
    systems = {
        name: {x.query: x for x in _answers(work / f"{name}.jsonl", run.task)}
        for name in ("teacher", "unconstrained", "student") if (work / f"{name}.jsonl").exists()
    }
    log = Log(SEED, queries=QUERIES, items=ITEMS)
    asked = {row.query: row for row in log.rows if row.query in truth}
    known = read_labels(work / "calibration.jsonl", run.task)
    least = chosen(known, [systems["student"][x.query] for x in known])
    systems["sure"] = {q: _probable(row, least) for q, row in systems["student"].items()}
    return {
        "least_probability": least, "calibrated": len(known),
        "systems": {name: {part: figures(
            [truth[q] for q in queries], [found[q] for q in queries], bought, search, run.task,
        ) for part, queries in slices.items()} for name, found in systems.items()},
        "wrong": {
            name: wrong_ones(log.truth, asked, truth, systems[name]) for name in ("teacher", "student", "sure")
        },
        "training": _training(run.files.train.folder),
    }


def _answers(path: Path, task: Task) -> list[Example]:
    from eval.prediction_files import read_predictions

    return [p.row for p in read_predictions(path, task)]


def _training(folder: Path) -> dict[str, Any]:
    """Steps, rows, tokens and seconds of the training."""
    from student.training.history import read_history

    measured, figures = read_json(folder / "measured.json"), read_json(folder / "manifest.json")["figures"]
    return {
        "rows": figures["rows"], "steps": figures["steps"], "loss": figures["loss"],
        "tokens_a_row": round(measured["tokens"] / sum(h["rows"] for h in read_history(folder / "history.jsonl")), 1),
        "minutes": round(measured["seconds"] / 60, 1),
    }


def figures(
    gold_rows: Sequence[Example], found: Sequence[Example], bought: Mapping[str, Collection[str]], search: Search,
    task: Task,
) -> dict[str, Any]:
    """Coverage, precision and what is found, of some queries.

    Args:
        gold_rows: The queries with all their true rewrites.
        found: The same queries with their rewrites.
    """
    pairs = list(zip(gold_rows, found, strict=True))
    by_role = quality(gold_rows, found, task)["value"]["roles"]
    names = [*(r.name for r in task.text_roles), ALL]
    possible = {  # queries that have a true rewrite of the type
        n: [f for g, f in pairs if any(n in (x.role, ALL) for x in g.labels)] for n in names
    }
    return {
        "rows": len(found), "coverage": coverage(found, task),
        "coverage_of_possible": {n: coverage(rows, task)[n] for n, rows in possible.items()},
        "possible": {n: len(rows) for n, rows in possible.items()},
        "precision": {n: by_role[n]["precision"] for n in names if n != ALL},
        "texts": {n: sum(x.role == n for f in found for x in f.labels) for n in names if n != ALL},
        "found": found_items(found, bought, search, task),
    }


def _is_right(true: Example, label: Label) -> bool:
    return any((x.role, normalize_v1(x.text)) == (label.role, normalize_v1(label.text)) for x in true.labels)


def chosen(gold_rows: Sequence[Example], found: Sequence[Example]) -> dict[str, float]:
    """The least probabilities with the largest share of right rewrites that leave enough queries one, on these queries.

    Those of the goal where none does.
    """
    for wanted in WANTED:
        least = least_probabilities(gold_rows, found, wanted)
        if sum(bool(_probable(row, least).labels) for row in found) >= COVERED * len(found):
            break
    return least


def least_probabilities(
    gold_rows: Sequence[Example], found: Sequence[Example], wanted: float
) -> dict[str, float]:
    """By type, the least probability from which on the wanted share of the rewrites of these queries is right.

    In steps of a hundredth; 1 where no probability is enough.
    """
    out = {}
    for type_ in TYPES:
        judged = [
            (x.confidence or 0.0, _is_right(g, x)) for g, f in zip(gold_rows, found, strict=True) for x in f.labels
            if x.role == type_
        ]
        out[type_] = 1.0
        for least in (n / 100 for n in range(100)):
            kept = [right for probability, right in judged if probability >= least]
            if kept and sum(kept) >= wanted * len(kept):
                out[type_] = least
                break
    return out


def _probable(row: Example, least: Mapping[str, float]) -> Example:
    """What a server answers whose task has these minima as `min_confidence`."""
    return replace(row, labels=tuple(x for x in row.labels if (x.confidence or 0.0) >= least[x.role]))


def wrong_ones(
    truth: Truth, asked: Mapping[str, Asked], gold_rows: Mapping[str, Example], found: Mapping[str, Example]
) -> dict[str, dict[str, int]]:
    """By type: what is wrong with the rewrites that are not true, and how often."""
    counts: dict[str, Counter[str]] = {t: Counter() for t in TYPES}
    for query, true in gold_rows.items():
        for x in found[query].labels:
            if not _is_right(true, x):
                counts[x.role][truth.fault(asked[query], x.role, x.text)] += 1
    return {t: dict(c.most_common()) for t, c in counts.items()}


def main() -> None:
    """Do one part and write it beside the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["data", "judge"])
    parser.add_argument("--work", type=Path, default=Path("runs/rewrites"))
    parser.add_argument("--epochs", type=float, default=1.0)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    content = read_json(RESULT) if RESULT.exists() else {}
    content[options.part] = data(options.work, options.epochs) if options.part == "data" else judge(options.work)
    content[options.part] |= {"versions": versions(), "device": device(), "git": git_commit()}
    write_json(RESULT, content)
    print(RESULT)


if __name__ == "__main__":
    main()
