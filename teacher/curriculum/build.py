"""The curriculum: accepted labellings, deduplicated, split without leakage, scored and ordered.

Near-duplicates (`task.near_duplicates`) form a cluster. All rows of a cluster go to the same split; a cluster with a
gold query goes to none. Traffic counts of duplicates are added up. Queries of other domains (`data.outliers`) are rows
without labels: a student that has only seen queries with labels gives every query one (outlier exposure, Hendrycks et
al. 2019).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from task.labels import Doubt, Example, place
from task.near_duplicates import clusters
from task.normalize import normaliser
from task.segmentation import units
from task.spec import Task
from task.training_row import TrainingRow
from teacher.curriculum.decided import NOTHING_DECIDED, apply_verdicts
from teacher.curriculum.row_order import ordered
from teacher.curriculum.rows import Curriculum
from teacher.curriculum.splits import draw, split
from teacher.ledger.records import LedgerRow
from teacher.ledger.reviews import Verdict


def build(
    task: Task, rows: Sequence[LedgerRow], gold: Sequence[Example] = (), threshold: float = 0.0,
    outliers: Sequence[Example] = (), verdicts: Mapping[str, Verdict] = NOTHING_DECIDED,
) -> Curriculum:
    """Select, deduplicate, split, score and order rows.

    Args:
        gold: Queries whose clusters are left out.
        threshold: Labels with less confidence are doubtful (`curriculum.doubtful`).
        outliers: Queries of other domains.
        verdicts: What people decided, by query. Their labels replace the teacher's, weigh 1 and are never left out for
            a limit on the number of rows; of duplicates they stay.
    """
    normalise = normaliser(task.normaliser)
    settings = task.curriculum
    strata = _strata(rows, task)
    rows, left_out = apply_verdicts(rows, verdicts)
    labelled = [r.query for r in rows] + [g.query for g in gold]
    texts = labelled + [x.query for x in outliers]
    cluster_of = dict(zip(texts, clusters(texts, normalise), strict=True))
    held_out = {cluster_of[g.query] for g in gold}
    masks = settings.doubtful == "mask"
    statuses = {"accepted", "uncertain"} if masks else {"accepted"}
    kept: dict[str, TrainingRow] = {}
    for row in rows:
        if row.status not in statuses:
            left_out[row.status] += 1
        elif row.confidence < settings.min_confidence:
            left_out["low confidence"] += 1
        elif cluster_of[row.query] in held_out:
            left_out["near-duplicate of a gold query"] += 1
        elif (text := normalise(row.query)) in kept:
            first = kept[text]
            merged = replace(first.example, count=first.example.count + row.count)
            kept[text] = replace(first, example=merged)
            left_out["duplicate"] += 1
        else:
            example = Example(row.query, row.labels, row.count)
            doubts = tuple(Doubt.of(x) for x in row.labels if x.confidence is not None and x.confidence < threshold)
            kept[text] = TrainingRow(
                example, confidence=row.confidence, cluster=cluster_of[row.query],
                stratum=strata.get(row.query, "tail"), doubts=doubts if masks else (),
            )
    known = {cluster_of[query] for query in labelled}
    for outlier in outliers:
        if cluster_of[outlier.query] in known:
            left_out["outlier that is a query of the log or of gold"] += 1
        else:
            kept.setdefault(normalise(outlier.query), TrainingRow(
                Example(outlier.query, (), outlier.count), cluster=cluster_of[outlier.query]
            ))
    decided = {normalise(q) for q, v in verdicts.items() if v.outcome == "labels"}
    capped = _capped(list(kept.values()), task, normalise, decided)
    if len(capped) < len(kept):
        left_out["over max_per_pattern"] = len(kept) - len(capped)
    scored = _with_difficulty(capped, normalise)
    dev, train = split(scored, fraction=settings.dev_fraction, most=settings.max_dev, seed=settings.seed)
    if settings.max_rows and len(train) > settings.max_rows:
        left_out["over max_rows"] = len(train) - settings.max_rows
        train = sorted(train, key=lambda r: (
            normalise(r.example.query) not in decided, draw(r.example.query, settings.seed + 1)
        ))[: settings.max_rows]
    return Curriculum(ordered(train, settings.order, settings.seed), dev, dict(left_out))


def _strata(rows: Sequence[LedgerRow], task: Task) -> dict[str, str]:
    """Query → its stratum, by the ranks that the evaluation uses."""
    ranked = sorted(rows, key=lambda r: (-r.count, r.query))
    bounds = task.eval
    return {
        r.query: "head" if i < bounds.head else "torso" if i < bounds.torso else "tail" for i, r in enumerate(ranked)
    }


def pattern_of(example: Example, roles: frozenset[str], normalise: Callable[[str], str]) -> str:
    """A query with the values of some roles replaced by the roles' names."""
    out, at = [], 0
    for x in sorted(example.labels, key=place):
        if x.start is not None and x.role in roles:
            out += [normalise(example.query[at : x.start]), f"{{{x.role}}}"]
            at = x.end or at
    return " ".join(part for part in [*out, normalise(example.query[at:])] if part)


def _capped(
    rows: Sequence[TrainingRow], task: Task, normalise: Callable[[str], str], decided: Set[str]
) -> list[TrainingRow]:
    """At most `max_per_pattern` rows of each pattern, those with the most traffic, in unchanged order.

    Args:
        decided: Normalised queries whose labels people gave: they come first.
    """
    most = task.curriculum.max_per_pattern
    if most is None:
        return list(rows)
    roles = frozenset(task.curriculum.pattern_roles)
    patterns: defaultdict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        patterns[pattern_of(row.example, roles, normalise)].append(i)
    stay = {
        i for held in patterns.values() for i in sorted(held, key=lambda i: (
            normalise(rows[i].example.query) not in decided, -rows[i].example.count, i
        ))[:most]
    }
    return [r for i, r in enumerate(rows) if i in stay]


def _with_difficulty(rows: Sequence[TrainingRow], normalise: Any) -> list[TrainingRow]:
    frequency: Counter[str] = Counter(w for r in rows for w in set(normalise(r.example.query).split(" ")))
    out = []
    for row in rows:
        words = [normalise(row.example.query[s:e]) for s, e in units(row.example.query, "whitespace")]
        rare = sum(frequency[w] < 5 for w in words) / max(1, len(words))
        length, labels = min(1.0, len(words) / 10), min(1.0, len(row.example.labels) / 6)
        out.append(replace(row, difficulty=(length + labels + rare) / 3))
    return out
