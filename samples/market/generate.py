"""Generate the market: the same files from the same seed, in seconds.

Writes `catalogue.jsonl`, `queries.jsonl`, `conversions.jsonl` and the gold files `gold_calibration.jsonl` and
`gold_test.jsonl`. Only the gold files hold truth; nothing else reads the generator's mind.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from samples.market.assortment import Department, MarketItem, departments, stock
from samples.market.brands import invent
from samples.market.wording import EMPTY_HANDED, HEAD, TAIL, TORSO, Noise, Part, disturb, mention
from task.files import write_jsonl

BRANDS, UNSEEN_BRANDS = 300, 60
CALIBRATION, TEST = 600, 2_000
WRONG_PURCHASE: Final = 0.13
FILES: Final = {
    "queries": "queries.jsonl", "catalogue": "catalogue.jsonl", "conversions": "conversions.jsonl",
    "calibration": "gold_calibration.jsonl", "test": "gold_test.jsonl",
}


@dataclass(frozen=True, slots=True)
class Ask:
    """A query with its truth: the parts, and the item that the shopper has in mind (None for the empty-handed)."""

    query: str
    parts: tuple[Part, ...]
    item: MarketItem | None
    department: str | None

    def labels(self) -> list[dict[str, Any]]:
        """Gold labels with offsets, and the department of a named product."""
        out: list[dict[str, Any]] = []
        at = 0
        for part in self.parts:
            if part.role:
                out.append({"role": part.role, "text": part.text, "start": at, "end": at + len(part.text)})
            at += len(part.text) + 1
        if self.department and any(p.role == "product" for p in self.parts):
            out.append({"role": "department", "text": self.department})
        return out


class Market:
    """Everything that exists in the made-up market."""

    def __init__(self, seed: int, items: int, brands: int = BRANDS) -> None:
        self.rng = random.Random(f"limbeck-market-{seed}")
        shelves = departments()
        self.shelves = {d.name: d for d in shelves}
        self.brands = invent(self.rng, {d.name: list(d.types) for d in shelves}, brands, UNSEEN_BRANDS)
        self.items = stock(self.rng, shelves, self.brands, items)
        popularity = list(range(len(self.items)))
        self.rng.shuffle(popularity)
        self.weights = list(accumulate(1.0 / (p + 20) for p in popularity))
        self.by_type: dict[str, list[MarketItem]] = {}
        self.by_brand: dict[str, list[MarketItem]] = {}
        for item in self.items:
            self.by_type.setdefault(item.type, []).append(item)
            self.by_brand.setdefault(item.brand, []).append(item)

    def pick(self) -> MarketItem:
        """An item, popular ones more often."""
        return self.items[bisect(self.weights, self.rng.random() * self.weights[-1])]

    def ask(self, noise: Noise, length: float, empty_handed: float) -> Ask:
        """One shopper's query."""
        rng = self.rng
        if rng.random() < empty_handed:
            text = rng.choice(EMPTY_HANDED)
            tail = f" {rng.choice(['please', 'today', 'now', 'online', 'this week'])}" if rng.random() < 0.6 else ""
            return Ask(text + tail, (Part(None, text + tail),), None, None)
        item = self.pick()
        shelf = self.shelves[item.department]
        if rng.random() < noise.brand_alone:
            parts = disturb(rng, [Part("brand", item.brand)], noise, shelf)
        elif rng.random() < noise.unseen_brand:
            parts = self._unseen(item, noise, length, shelf)
        else:
            parts = disturb(rng, mention(rng, item, length), noise, shelf)
            if rng.random() < noise.two_products:
                parts = [*parts, *self._second(item, noise, shelf)]
        return Ask(" ".join(p.text for p in parts), tuple(parts), item, item.department)

    def _unseen(self, item: MarketItem, noise: Noise, length: float, shelf: Department) -> list[Part]:
        brand = self.rng.choice([b for b in self.brands if not b.in_catalogue and b.department == item.department])
        rest = [p for p in mention(self.rng, item, length) if p.role != "brand"]
        return disturb(self.rng, [Part("brand", brand.name), *rest], noise, shelf)

    def _second(self, item: MarketItem, noise: Noise, shelf: Department) -> list[Part]:
        other = self.rng.choice([t for t in shelf.types if t != item.type])
        return [Part(None, "and"), *disturb(self.rng, [Part("product", other)], noise, shelf)]

    def fitting(self, ask: Ask) -> list[MarketItem]:
        """The items that a query can mean: those that carry everything it names, else the one in mind."""
        if ask.item is None:
            return []
        named = {p.role for p in ask.parts}
        fields = {"product": "type", **{r: r for r in ("brand", "flavour", "dietary", "size", "pack", "colour")}}
        wanted = [(f, getattr(ask.item, f)) for role, f in fields.items() if role in named]
        pool = self.by_type[ask.item.type] if "product" in named else self.by_brand[ask.item.brand]
        return [i for i in pool if all(getattr(i, f) == v for f, v in wanted)] or [ask.item]

    def buys(self, fitting: list[MarketItem]) -> str:
        """What one shopper ends up buying: a fitting item, or something else."""
        if not fitting or self.rng.random() < WRONG_PURCHASE:
            return self.pick().id
        return self.rng.choice(fitting).id


def generate(folder: Path, *, seed: int, queries: int, items: int) -> dict[str, int]:
    """Write the market's files into `folder`; returns the number of rows of each."""
    market = Market(seed, items)
    log = _query_log(market, queries)
    counts = _zipf(queries, total=queries * 20)
    conversions: Counter[tuple[str, str]] = Counter()
    for ask, count in zip(log, counts, strict=True):
        fitting = market.fitting(ask)
        for _ in range(min(40, int(count * 0.3 + market.rng.random()))):
            conversions[ask.query, market.buys(fitting)] += 1
    calibration, test = _gold(market.rng, log, counts)
    rows: dict[str, list[dict[str, Any]]] = {
        "catalogue": [i.row() for i in market.items],
        "queries": [{"query": a.query, "count": c} for a, c in zip(log, counts, strict=True)],
        "conversions": [{"query": q, "item_id": i, "count": n} for (q, i), n in conversions.items()],
        "calibration": calibration,
        "test": test,
    }
    return {name: write_jsonl(folder / FILES[name], part) for name, part in rows.items()}


def _query_log(market: Market, count: int) -> list[Ask]:
    """Distinct queries, most frequent first: short and clean at the head, long and noisy in the tail."""
    log: dict[str, Ask] = {}
    while len(log) < count:
        share = len(log) / count
        if share < 0.05:
            ask = market.ask(HEAD, 0.25, 0.01)
        elif share < 0.30:
            ask = market.ask(TORSO, 0.45, 0.01)
        else:
            ask = market.ask(TAIL, 0.65, 0.03)
        log.setdefault(ask.query, ask)
    return list(log.values())


def _zipf(count: int, total: int) -> list[int]:
    """Traffic by rank, exponent 1."""
    scale = total / sum(1.0 / r for r in range(1, count + 1))
    return [max(1, round(scale / r)) for r in range(1, count + 1)]


def _gold(rng: random.Random, log: list[Ask], counts: list[int]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Calibration and test rows: a quarter head, 30 % torso, the rest tail."""
    size = len(log)
    wanted = min(CALIBRATION + TEST, size // 2)
    bands = [(0.0, 0.05, 0.25), (0.05, 0.30, 0.30), (0.30, 1.0, 0.45)]
    chosen: list[int] = []
    for low, high, share in bands:
        pool = range(int(low * size), int(high * size))
        chosen += rng.sample(pool, min(len(pool), round(share * wanted)))
    rng.shuffle(chosen)
    rows = [{"query": log[i].query, "count": counts[i], "labels": log[i].labels()} for i in chosen]
    cut = round(len(rows) * CALIBRATION / (CALIBRATION + TEST))
    return rows[:cut], rows[cut:]

