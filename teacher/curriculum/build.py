"""The curriculum: accepted labellings, deduplicated, split without leakage, scored and ordered.

Near-duplicates (`task.near`) form a cluster; a cluster goes to one split as a whole, and a cluster that holds a gold
query goes to none. Traffic counts are added up, not lost.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from task.labels import Doubt, Example, place
from task.near_duplicates import clusters
from task.normalize import normaliser
from task.segmentation import units
from task.spec import Task
from teacher.ledger.records import LedgerRow

_FIRST_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class CurriculumRow:
    """One labelling to learn from.

    Attributes:
        cluster: Name of its near-duplicates.
        difficulty: In [0, 1]: long queries, many labels and rare words are hard.
        noise: In [0, 1]: one minus the teacher's confidence in the whole labelling.
        stratum: `head`, `torso` or `tail` by traffic rank in the log.
        doubts: Parts of the labelling that are not to be learned from.
    """

    example: Example
    cluster: str
    difficulty: float
    noise: float
    stratum: str = "tail"
    doubts: tuple[Doubt, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A row of the dataset."""
        return {
            **self.example.to_json(), "cluster": self.cluster, "difficulty": round(self.difficulty, 4),
            "noise": round(self.noise, 4), "stratum": self.stratum, "doubts": [d.to_json() for d in self.doubts],
        }


@dataclass(frozen=True, slots=True)
class Curriculum:
    """Train rows in training order, dev rows, and how many rows were left out and why."""

    train: list[CurriculumRow]
    dev: list[CurriculumRow]
    left_out: dict[str, int]


def build(
    task: Task, rows: Sequence[LedgerRow], gold: Sequence[Example] = (), threshold: float = 0.0
) -> Curriculum:
    """Choose, deduplicate, split, score and order.

    Args:
        threshold: Labels of less confidence are doubtful (`curriculum.doubtful`).
    """
    normalise = normaliser(task.normaliser)
    settings = task.curriculum
    texts = [r.query for r in rows] + [g.query for g in gold]
    cluster_of = dict(zip(texts, clusters(texts, normalise), strict=True))
    held_out = {cluster_of[g.query] for g in gold}
    masks = settings.doubtful == "mask"
    usable = {"accepted", "uncertain"} if masks else {"accepted"}
    left_out: Counter[str] = Counter()
    strata = _strata(rows, task)
    kept: dict[str, CurriculumRow] = {}
    for row in rows:
        if row.status not in usable:
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
            kept[text] = CurriculumRow(
                example, cluster_of[row.query], 0.0, 1 - row.confidence, strata[row.query], doubts if masks else ()
            )
    capped = _capped(list(kept.values()), task, normalise)
    if len(capped) < len(kept):
        left_out["over max_per_pattern"] = len(kept) - len(capped)
    scored = _with_difficulty(capped, normalise)
    dev, train = _split(scored, settings.dev_fraction, settings.max_dev, settings.seed)
    if settings.max_rows and len(train) > settings.max_rows:
        left_out["over max_rows"] = len(train) - settings.max_rows
        train = sorted(train, key=lambda r: _draw(r.example.query, settings.seed + 1))[: settings.max_rows]
    return Curriculum(ordered(train, settings.order, settings.seed), dev, dict(left_out))


def _strata(rows: Sequence[LedgerRow], task: Task) -> dict[str, str]:
    """Query → its stratum; the ranks are the evaluation's."""
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
    rows: Sequence[CurriculumRow], task: Task, normalise: Callable[[str], str]
) -> list[CurriculumRow]:
    """At most `max_per_pattern` rows of each pattern, those with the most traffic; the order stays."""
    most = task.curriculum.max_per_pattern
    if most is None:
        return list(rows)
    roles = frozenset(task.curriculum.pattern_roles)
    patterns: defaultdict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        patterns[pattern_of(row.example, roles, normalise)].append(i)
    stay = {
        i for held in patterns.values() for i in sorted(held, key=lambda i: (-rows[i].example.count, i))[:most]
    }
    return [r for i, r in enumerate(rows) if i in stay]


def _split(
    rows: Sequence[CurriculumRow], fraction: float, most: int, seed: int
) -> tuple[list[CurriculumRow], list[CurriculumRow]]:
    """Whole clusters to dev, drawn by a hash of their name: a row added later moves none that it does not join."""
    members: defaultdict[str, list[CurriculumRow]] = defaultdict(list)
    for row in rows:
        members[row.cluster].append(row)
    dev: list[CurriculumRow] = []
    train: list[CurriculumRow] = []
    wanted = min(most, round(fraction * len(rows)))
    for name in sorted(members, key=lambda n: _draw(n, seed)):
        (dev if len(dev) < wanted else train).extend(members[name])
    return dev, train


def _draw(text: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()


def _with_difficulty(rows: Sequence[CurriculumRow], normalise: Any) -> list[CurriculumRow]:
    frequency: Counter[str] = Counter(w for r in rows for w in set(normalise(r.example.query).split(" ")))
    out = []
    for row in rows:
        words = [normalise(row.example.query[s:e]) for s, e in units(row.example.query, "whitespace")]
        rare = sum(frequency[w] < 5 for w in words) / max(1, len(words))
        length, labels = min(1.0, len(words) / 10), min(1.0, len(row.example.labels) / 6)
        out.append(replace(row, difficulty=(length + labels + rare) / 3))
    return out


def ordered(rows: Sequence[CurriculumRow], order: str, seed: int) -> list[CurriculumRow]:
    """Rows in one of the orders of `curriculum.order`."""
    shuffled = sorted(rows, key=lambda r: r.example.query)
    random.Random(seed).shuffle(shuffled)
    if order == "easy-to-hard":
        return sorted(shuffled, key=lambda r: r.difficulty)
    if order == "hard-to-easy":
        return sorted(shuffled, key=lambda r: -r.difficulty)
    if order == "growing":
        return _growing(sorted(shuffled, key=lambda r: r.difficulty), seed)
    return shuffled


def _growing(rows: Sequence[CurriculumRow], seed: int) -> list[CurriculumRow]:
    """Drawn at random from an ever larger share of the easiest: c(t) = sqrt(t (1 − c0²) + c0²), c0 = 0.1.

    The square-root competence of Platanios et al. 2019; every row is drawn once.
    """
    rng = random.Random(seed)
    out: list[CurriculumRow] = []
    pool: list[CurriculumRow] = []
    unlocked = 0
    for step in range(len(rows)):
        competence = (step / len(rows) * (1 - _FIRST_SHARE**2) + _FIRST_SHARE**2) ** 0.5
        reach = max(step + 1, round(competence * len(rows)))
        pool += rows[unlocked:reach]
        unlocked = max(unlocked, reach)
        at = rng.randrange(len(pool))
        pool[at], pool[-1] = pool[-1], pool[at]
        out.append(pool.pop())
    return out


def write(curriculum: Curriculum, task: Task, folder: Path) -> None:
    """A folder that `datasets.load_dataset` opens: `data/*.parquet` and a card."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    label = pa.struct([
        ("role", pa.string()), ("text", pa.string()), ("start", pa.int32()), ("end", pa.int32()),
        ("confidence", pa.float32()),
    ])
    fields = [
        ("query", pa.string()), ("count", pa.int64()), ("labels", pa.list_(label)), ("cluster", pa.string()),
        ("difficulty", pa.float32()), ("noise", pa.float32()), ("stratum", pa.string()),
        ("doubts", pa.list_(pa.struct([("role", pa.string()), ("start", pa.int32()), ("end", pa.int32())]))),
    ]
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", curriculum.train), ("dev", curriculum.dev)):
        pq.write_table(pa.Table.from_pylist([r.to_json() for r in rows], pa.schema(fields)),
                       folder / "data" / f"{name}.parquet")
    from teacher.curriculum.card import write_card

    write_card(folder, task, curriculum.train, curriculum.dev, curriculum.left_out)


def read(folder: Path, split: str) -> list[CurriculumRow]:
    """The rows of a written curriculum, in order."""
    import pyarrow.parquet as pq

    from task.labels import Label

    return [
        CurriculumRow(
            Example(r["query"], tuple(Label.from_json(x) for x in r["labels"]), r["count"]), r["cluster"],
            r["difficulty"], r["noise"], r["stratum"], tuple(Doubt(**d) for d in r["doubts"]),
        )
        for r in pq.read_table(folder / "data" / f"{split}.parquet").to_pylist()
    ]
