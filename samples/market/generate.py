"""Generate the market: the same files from the same seed, in seconds.

Writes `catalogue.jsonl`, `queries.jsonl`, `conversions.jsonl` and the gold files `gold_calibration.jsonl` and
`gold_test.jsonl`. Only the gold files hold truth; nothing else reads the generator's mind.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Sequence
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
HEAD_END, TORSO_END = 0.05, 0.30  # places of the query log
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
        sold = stock(self.rng, shelves, self.brands, items)
        ranks = list(range(len(sold)))
        self.rng.shuffle(ranks)
        self.sell(sold, [popularity(r) for r in ranks])

    def sell(self, items: list[MarketItem], popularities: Sequence[float]) -> None:
        """Sell these items from now on, each in proportion to its popularity."""
        self.items, self.popularities = items, popularities
        self.weights = list(accumulate(popularities))
        self.sold = {item.id for item in items}
        self.by_type: dict[str, list[MarketItem]] = {}
        self.by_brand: dict[str, list[MarketItem]] = {}
        for item in items:
            self.by_type.setdefault(item.type, []).append(item)
            self.by_brand.setdefault(item.brand, []).append(item)

    def pick(self) -> MarketItem:
        """An item, popular ones more often."""
        return self.items[bisect(self.weights, self.rng.random() * self.weights[-1])]

    def ask(self, noise: Noise, length: float, empty_handed: float, item: MarketItem | None = None) -> Ask:
        """One shopper's query, for this item or one that the shopper picks."""
        rng = self.rng
        if item is None and rng.random() < empty_handed:
            text = rng.choice(EMPTY_HANDED)
            tail = f" {rng.choice(['please', 'today', 'now', 'online', 'this week'])}" if rng.random() < 0.6 else ""
            return Ask(text + tail, (Part(None, text + tail),), None, None)
        item = item or self.pick()
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
        """The items that a query can mean: those that carry everything it names, else the one in mind if it is sold."""
        if ask.item is None:
            return []
        named = {p.role for p in ask.parts}
        fields = {"product": "type", **{r: r for r in ("brand", "flavour", "dietary", "size", "pack", "colour")}}
        wanted = [(f, getattr(ask.item, f)) for role, f in fields.items() if role in named]
        pool = self.by_type.get(ask.item.type, []) if "product" in named else self.by_brand.get(ask.item.brand, [])
        found = [i for i in pool if all(getattr(i, f) == v for f, v in wanted)]
        return found or ([ask.item] if ask.item.id in self.sold else [])

    def buys(self, fitting: list[MarketItem]) -> str:
        """What one shopper ends up buying: a fitting item, or something else."""
        if not fitting or self.rng.random() < WRONG_PURCHASE:
            return self.pick().id
        return self.rng.choice(fitting).id


def generate(folder: Path, *, seed: int, queries: int, items: int) -> dict[str, int]:
    """Write the market's files into `folder`; returns the number of rows of each."""
    return write(folder, *opening(seed, queries=queries, items=items))


def opening(seed: int, *, queries: int, items: int) -> tuple[Market, list[Ask], list[int]]:
    """The market, its query log, most frequent first, and how often each query is asked."""
    market = Market(seed, items)
    return market, _query_log(market, queries), zipf(queries)


def write(
    folder: Path, market: Market, log: Sequence[Ask], counts: Sequence[int],
    recorded: Callable[[str], bool] = lambda _item: True,
) -> dict[str, int]:
    """Draw what is bought and what gold holds, and write the files; returns the number of rows of each.

    Args:
        counts: How often each query of the log is asked.
        recorded: Whether a purchase of the item with this id gets into the conversions.
    """
    conversions: Counter[tuple[str, str]] = Counter()
    for ask, count in zip(log, counts, strict=True):
        fitting = market.fitting(ask)
        for _ in range(min(40, int(count * 0.3 + market.rng.random()))):
            item = market.buys(fitting)
            if recorded(item):
                conversions[ask.query, item] += 1
    calibration, test = _gold(market.rng, log, counts)
    rows: dict[str, list[dict[str, Any]]] = {
        "catalogue": [i.row() for i in market.items],
        "queries": [{"query": a.query, "count": c} for a, c in zip(log, counts, strict=True)],
        "conversions": [{"query": q, "item_id": i, "count": n} for (q, i), n in conversions.items()],
        "calibration": calibration,
        "test": test,
    }
    return {name: write_jsonl(folder / FILES[name], part) for name, part in rows.items()}


def popularity(rank: int) -> float:
    """How popular the item of a rank is, from 0."""
    return 1.0 / (rank + 20)


def _query_log(market: Market, count: int) -> list[Ask]:
    """Distinct queries, most frequent first: short and clean at the head, long and noisy in the tail."""
    log: dict[str, Ask] = {}
    while len(log) < count:
        ask = asked(market, len(log) / count)
        log.setdefault(ask.query, ask)
    return list(log.values())


def asked(market: Market, place: float, item: MarketItem | None = None) -> Ask:
    """A query, for this item or any, as it is asked at a place of the log, from 0 (the most frequent one) to 1."""
    if place < HEAD_END:
        return market.ask(HEAD, 0.25, 0.01, item)
    if place < TORSO_END:
        return market.ask(TORSO, 0.45, 0.01, item)
    return market.ask(TAIL, 0.65, 0.03, item)


def zipf(count: int) -> list[int]:
    """Traffic by rank, exponent 1: 20 requests a query on average."""
    scale = count * 20 / sum(1.0 / r for r in range(1, count + 1))
    return [max(1, round(scale / r)) for r in range(1, count + 1)]


def _gold(
    rng: random.Random, log: Sequence[Ask], counts: Sequence[int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Calibration and test rows: a quarter head, 30 % torso, the rest tail."""
    size = len(log)
    wanted = min(CALIBRATION + TEST, size // 2)
    bands = [(0.0, HEAD_END, 0.25), (HEAD_END, TORSO_END, 0.30), (TORSO_END, 1.0, 0.45)]
    chosen: list[int] = []
    for low, high, share in bands:
        pool = range(int(low * size), int(high * size))
        chosen += rng.sample(pool, min(len(pool), round(share * wanted)))
    rng.shuffle(chosen)
    rows = [{"query": log[i].query, "count": counts[i], "labels": log[i].labels()} for i in chosen]
    cut = round(len(rows) * CALIBRATION / (CALIBRATION + TEST))
    return rows[:cut], rows[cut:]

