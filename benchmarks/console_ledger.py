"""A made-up ledger of any size for `benchmarks.console`: the same rows each time.

Queries are of four kinds: words of a grocery market in Latin script, the same with typing errors or capitals, Cyrillic,
and Chinese without blanks. Traffic follows Zipf's law; statuses, reasons and confidences are drawn such that each
status and reason is as frequent as in the ledgers of the market.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from task.labels import Label
from teacher.ledger.ledger import Ledger
from teacher.ledger.records import LedgerRow, Status

SEED: Final = 7
_BATCH: Final = 10_000
_STATUSES: Final[dict[Status, float]] = {
    "accepted": 0.76, "partial": 0.09, "uncertain": 0.1, "failed": 0.03, "skipped": 0.02
}
_REJECTED: Final = (
    "span: not words of the query", "closed set: not an allowed value", "grounding: the catalogue does not know it",
    "length: too many words", "pattern: does not match", "relevance: too far from the query",
)
_FAILED: Final = ("no usable reply", "no usable reply: HTTP 429", "the reply was cut")
_COLOURS: Final = ("red", "blue", "green", "black", "white", "grey", "pink", "brown")
_UNITS: Final = ("g", "kg", "ml", "l", "pack", "cl")
_MARKS: Final = ("vegan", "organic", "kosher", "halal", "gluten free")
_CHINESE: Final = "牛奶茶酒米面油盐糖鱼肉鸡蛋果菜水红白绿黑大小新鲜有机低脂无糖"
_RUSSIAN: Final = ("молоко", "хлеб", "сыр", "чай", "масло", "рис", "сахар", "свежий", "белый", "черный")


class Words:
    """What queries are made of."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        syllables = ["".join(x) for x in itertools.product("bcdfglmnprstv", "aeiou")]
        self.brands = sorted({"".join(rng.choices(syllables, k=rng.choice((2, 3, 3)))) for _ in range(20_000)})
        self.products = sorted({"".join(rng.choices(syllables, k=rng.choice((2, 3)))) + "s" for _ in range(5_000)})
        self.aisles = [f"{a} > {b}" for a in self.products[:20] for b in self.products[20:32]]


def write_ledger(path: Path, rows: int, seed: int = SEED) -> None:
    """Write a ledger with this many rows; an unfinished one is written again."""
    partial = path.with_name(f"partial-{path.name}")
    for old in path.parent.glob(f"{partial.name}*"):
        old.unlink()
    found = made_rows(rows, seed)
    with Ledger(partial) as ledger:
        while part := list(itertools.islice(found, _BATCH)):
            ledger.write_rows(part)
    partial.rename(path)


def made_rows(rows: int, seed: int = SEED) -> Iterator[LedgerRow]:
    """Rows with distinct queries."""
    rng = random.Random(seed)
    words = Words(seed)
    ranks = list(range(1, rows + 1))
    rng.shuffle(ranks)
    seen: set[str] = set()
    while len(seen) < rows:
        query, labels = _query(rng, words)
        if query in seen:
            continue
        rank = ranks[len(seen)]
        seen.add(query)
        count = 0 if rank % 200 == 0 else max(1, int(rows / rank**1.05))  # gold that the log lacks has no traffic
        yield _row(rng, query, count, labels)


def _query(rng: random.Random, words: Words) -> tuple[str, list[Label]]:
    kind = rng.random()
    if kind < 0.04:
        text = "".join(rng.choices(_CHINESE, k=rng.randint(2, 9)))
        cut = rng.randint(1, len(text))
        return text, [Label("product", text[:cut], 0, cut)]
    parts: list[tuple[str | None, str]] = []
    if rng.random() < 0.6:
        parts.append(("brand", words.brands[int(len(words.brands) * rng.random() ** 3)]))
    if kind < 0.1:
        parts += [(None, rng.choice(_RUSSIAN)), ("product", rng.choice(_RUSSIAN))]
    else:
        parts.append(("product", words.products[int(len(words.products) * rng.random() ** 2)]))
    if rng.random() < 0.4:
        parts.append(("size", f"{rng.choice((1, 2, 5, 10, 25, 100, 250, 500, 750))}{rng.choice(_UNITS)}"))
    if rng.random() < 0.3:
        parts.append(("colour", rng.choice(_COLOURS)))
    if rng.random() < 0.5:
        parts.append((None, rng.choice(words.products)))
    rng.shuffle(parts)
    if kind > 0.9:
        parts = [(role, text.title()) for role, text in parts]
    query, labels = "", []
    for role, text in parts:
        query += " " if query else ""
        if role:
            labels.append(Label(role, text, len(query), len(query) + len(text)))
        query += text
    if rng.random() < 0.8:
        labels.append(Label("aisle", rng.choice(words.aisles)))
    if rng.random() < 0.2:
        labels.append(Label("mark", rng.choice(_MARKS)))
    return query, labels


def _row(rng: random.Random, query: str, count: int, labels: list[Label]) -> LedgerRow:
    status = rng.choices(list(_STATUSES), list(_STATUSES.values()))[0]
    request = f"{rng.getrandbits(256):064x}"
    if status in ("failed", "skipped"):
        reason = rng.choice(_FAILED) if status == "failed" else "nothing in the catalogue is like it"
        return LedgerRow(query, count, request, status, (), 0.0, reason=reason, rules=request)
    verdicts: list[dict[str, Any]] = []
    reason = ""
    if status == "partial":
        reason = rng.choice(_REJECTED)
        verdicts.append({"role": "brand", "text": query[:12], "verdict": "rejected", "reason": reason})
    elif rng.random() < 0.1:
        verdicts.append({"role": "product", "text": query[:12], "verdict": "repaired", "reason": "span: moved"})
    if status == "uncertain":
        reason = f"confidence: {rng.choice(('brand', 'product', 'aisle'))} is below the threshold"
    confidence = round(rng.betavariate(2, 3) if status == "uncertain" else rng.betavariate(9, 1), 6)
    sure = tuple(Label(x.role, x.text, x.start, x.end, confidence) for x in labels)
    signals = [{"guardrails": 1.0, "agreement": 1.0} for _ in labels]
    return LedgerRow(
        query, count, request, status, sure, confidence, reason=reason, verdicts=verdicts, label_signals=signals,
        row_signals={"kept": 1.0}, rules=request,
    )
