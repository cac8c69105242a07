"""The market as it moves: the same customers and mostly the same items, month after month.

Month 0 is what `generate` writes, byte for byte. Each later month follows from the one before and the line of `plan`
for it, so a month is a function of the seed and its number alone. From month to month some queries are no longer asked
and others are, more of them in the tail; the order of the others moves a little; some items are sold no longer and
others instead. Purchases of new items reach the conversions late. Gold holds the truth of its own month, and no file
but gold tells of any of this.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Final

from samples.market.assortment import MarketItem, stock
from samples.market.brands import Brand
from samples.market.generate import (
    BRANDS,
    HEAD_END,
    TORSO_END,
    Ask,
    Market,
    asked,
    opening,
    popularity,
    write,
    zipf,
)
from samples.market.plan import IN_FASHION, NEW_TRAILER, PLAN, SEASON_FACTOR, Change, in_season
from samples.market.wording import Part

DELISTED: Final = 0.015  # of the items a month
CHURN: Final = {"head": 0.02, "torso": 0.15, "tail": 0.70}  # of the queries a month
DRIFT: Final = 0.1  # standard deviation of a query's log rank a month
FORGOTTEN: Final = 0.5  # of the queries for an item that is no longer sold
LAUNCH: Final = 0.08  # of the queries below the first are about what the month's plan has launched
FIRST: Final = 20  # queries that stay: the first one alone is a tenth of the traffic
RECORDED: Final = (0.4, 0.8)  # of the purchases of an item, in the month of its launch and the next
_ITEMS_A_BRAND: Final = 3  # that `stock` gives to each at least


@dataclass(frozen=True, slots=True)
class Month:
    """The market in one month.

    Attributes:
        ranking: The query log without the season, most frequent first.
        launched: Id of an item → the month since which it is sold; of those of month 0 there is none.
        words: Product type → the word for it that has come into fashion.
        trailers: Trailers that have come into fashion.
    """

    number: int
    market: Market
    ranking: tuple[Ask, ...]
    launched: Mapping[str, int]
    words: Mapping[str, str]
    trailers: tuple[str, ...]

    @property
    def log(self) -> list[Ask]:
        """The query log, most frequent first."""
        types = in_season(self.number)
        gain = math.log(SEASON_FACTOR)
        keys = [
            math.log(rank) - (gain if ask.item is not None and ask.item.type in types else 0.0)
            for rank, ask in enumerate(self.ranking, 1)
        ]
        return [self.ranking[i] for i in sorted(range(len(keys)), key=keys.__getitem__)]

    @property
    def counts(self) -> list[int]:
        """How often each query of the log is asked."""
        return zipf(len(self.ranking))

    def fresh(self, place: float, item: MarketItem | None = None) -> Ask:
        """A query, for this item or any, as it is asked in this month at a place of the log (`generate.asked`)."""
        return self.in_fashion(asked(self.market, place, item), place)

    def in_fashion(self, ask: Ask, place: float) -> Ask:
        """The query in the words of the month."""
        rng, item, parts = self.market.rng, ask.item, list(ask.parts)
        if item is None:
            return ask
        if item.type in self.words and rng.random() < IN_FASHION:
            # Of two products the first is the item's.
            at = next((i for i, part in enumerate(parts) if part.role == "product"), None)
            if at is not None:
                parts[at] = Part("product", self.words[item.type])
        if self.trailers and place >= HEAD_END and rng.random() < NEW_TRAILER:
            parts.append(Part(None, rng.choice(self.trailers)))
        return replace(ask, query=" ".join(p.text for p in parts), parts=tuple(parts))

    def recorder(self) -> Callable[[str], bool]:
        """Says of a purchase, by the id of its item, whether it is in the conversions at the end of the month."""
        departments = PLAN.get(self.number, Change()).unrecorded
        lost = {item.id for item in self.market.items if item.department in departments}
        share = {
            item: RECORDED[age] for item, since in self.launched.items() if (age := self.number - since) < len(RECORDED)
        }
        return lambda item: item not in lost and (item not in share or self.market.rng.random() < share[item])


def write_month(folder: Path, *, seed: int, queries: int, items: int, month: int) -> dict[str, int]:
    """Write the files of a month into `folder`; returns the number of rows of each.

    Args:
        queries: Distinct queries of a month.
        items: Items of month 0.
        month: From 0.
    """
    found = month_of(seed, queries=queries, items=items, number=month)
    return write(folder, found.market, found.log, found.counts, found.recorder())


def month_of(seed: int, *, queries: int, items: int, number: int) -> Month:
    """The market in the month of this number.

    Raises:
        ValueError: The number is negative.
    """
    if number < 0:
        raise ValueError(f"month {number}: expected 0 or more")
    market, log, _ = opening(seed, queries=queries, items=items)
    month = Month(0, market, tuple(log), {}, {}, ())
    for _ in range(number):
        month = following(month, seed)
    return month


def following(before: Month, seed: int) -> Month:
    """The month after one; the one before stays as it is."""
    number = before.number + 1
    change = PLAN.get(number, Change())
    market = copy.copy(before.market)  # everything that changes is replaced below
    market.rng = random.Random(f"limbeck-market-{seed}-month-{number}")
    _rename(market, change.renamed)
    launches, others = _assortment(market, change, before)
    month = Month(
        number, market, (), {**before.launched, **{i.id: number for i in (*launches, *others)}},
        {**before.words, **change.words}, (*before.trailers, *change.trailers),
    )
    return replace(month, ranking=_ranking(month, before.ranking, change, launches))


def _rename(market: Market, names: Mapping[str, str]) -> None:
    market.shelves = {
        names.get(n, n): replace(shelf, name=names.get(n, n)) for n, shelf in market.shelves.items()
    }
    market.brands = [replace(b, department=names.get(b.department, b.department)) for b in market.brands]
    items = [_moved(i, names) for i in market.items]
    market.sell(items, market.popularities)


def _moved(item: MarketItem, names: Mapping[str, str]) -> MarketItem:
    return replace(item, department=names[item.department]) if item.department in names else item


def _assortment(market: Market, change: Change, before: Month) -> tuple[list[MarketItem], list[MarketItem]]:
    """Take items out of the catalogue and new ones into it: those that the plan launches, and all others."""
    rng = market.rng
    kept = [
        (item, popular) for item, popular in zip(market.items, market.popularities, strict=True)
        if rng.random() >= DELISTED
    ]
    gone = len(market.items) - len(kept)
    sold = [b for b in market.brands if b.in_catalogue]
    rng.shuffle(sold)
    ids = count(max(int(i[1:]) for i in (*(x.id for x in before.market.items), *before.launched)) + 1)
    known = {_values(item) for item, _ in kept}
    launches = [replace(i, id=f"i{next(ids):05d}") for i in _launches(market, change, sold) if _values(i) not in known]
    others = [
        replace(i, id=f"i{next(ids):05d}") for i in _stock(market, sold, gone) if _values(i) not in known
    ]
    new = [*launches, *others]
    market.sell(
        [*(item for item, _ in kept), *new],
        [*(popular for _, popular in kept), *(popularity(rng.randrange(len(kept))) for _ in new)],
    )
    return launches, others


def _launches(market: Market, change: Change, sold: Sequence[Brand]) -> list[MarketItem]:
    """The items of the plan's new brands and types; as many of each as of others in a market of this size."""
    rng, size = market.rng, len(market.items)
    added = {n: {own: (other,)} for n, (own, other) in change.types.items()}
    market.shelves = {n: replace(s, types={**s.types, **added.get(n, {})}) for n, s in market.shelves.items()}
    order = list(market.shelves)
    brands = []
    for number, name in enumerate(change.brands):
        department = order[number % len(order)]
        types = rng.sample(list(market.shelves[department].types), rng.randint(3, 6))
        brands.append(Brand(name, department, tuple(types)))
    makers = [
        replace(b, types=(own,)) for n, (own, _) in change.types.items()
        for b in [b for b in sold if b.department == n][: max(1, round(size / 1_000))]
    ]
    made = {b.name: b.types for b in makers}
    market.brands = [*(replace(b, types=b.types + made.get(b.name, ())) for b in market.brands), *brands]
    a_brand = max(_ITEMS_A_BRAND, round(size / BRANDS))
    return [*_stock(market, brands, a_brand * len(brands)), *_stock(market, makers, _ITEMS_A_BRAND * len(makers))]


def _stock(market: Market, brands: Sequence[Brand], number: int) -> list[MarketItem]:
    return stock(market.rng, list(market.shelves.values()), list(brands), number) if number else []


def _values(item: MarketItem) -> MarketItem:
    return replace(item, id="")


def _ranking(
    month: Month, before: Iterable[Ask], change: Change, launches: Sequence[MarketItem]
) -> tuple[Ask, ...]:
    """The query log after one month: some are asked no longer, some are new, the others move a little."""
    rng, earlier = month.market.rng, list(before)
    turned = bool(change.words or change.trailers)
    found: dict[str, Ask] = {}
    for at, old in enumerate(earlier):
        place = at / len(earlier)
        stays = at < FIRST
        if launches and not stays and rng.random() < LAUNCH:
            ask = month.fresh(place, rng.choice(launches))
        elif not stays and rng.random() < _churn(month, old, place):
            ask = month.fresh(place)
        else:
            kept = _renamed(old, change.renamed)
            ask = month.in_fashion(kept, place) if turned else kept
            if ask.query in found:  # as others are in the new words
                ask = kept
        while ask.query in found:
            ask = month.fresh(place)
        found[ask.query] = ask
    keys = [math.log(rank) + rng.gauss(0.0, DRIFT) for rank in range(1, len(found) + 1)]
    asks = list(found.values())
    return tuple(asks[i] for i in sorted(range(len(asks)), key=keys.__getitem__))


def _churn(month: Month, ask: Ask, place: float) -> float:
    """The chance that a query is asked no longer."""
    if ask.item is not None and ask.item.id not in month.market.sold:
        return max(FORGOTTEN, CHURN["tail"] if place >= TORSO_END else 0.0)
    return CHURN["head" if place < HEAD_END else "torso" if place < TORSO_END else "tail"]


def _renamed(ask: Ask, names: Mapping[str, str]) -> Ask:
    if ask.department is None or ask.department not in names:
        return ask
    item = None if ask.item is None else _moved(ask.item, names)
    return replace(ask, item=item, department=names[ask.department])
