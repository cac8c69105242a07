"""Queries of the synthetic market with all their true rewrites, and a teacher who knows most of them.

What a query names is what the generator knows: the parts of the item that the shopper has in mind. A *phrase* is some
of these parts in the catalogue's words and order: brand, dietary mark, colour, flavour, product, size, pack. Words that
name nothing ("cheap", "for kids") are in no phrase. A brand of several words may also stand under the short name that
shoppers have for it, its first word. Of a brand that the market does not sell only the shopper's spelling is known,
which is in no phrase. The query itself is never a rewrite. Then the true rewrites are:

- `synonym`: the same thing in other words. The phrase of all parts that the query names, with the product under the
  catalogue's name or any that shoppers have for it. None where the query names an unsold brand, which the phrase lacks.
- `broader`: a larger set of items that has in it everything the query means. The phrase of some of the parts, the
  product or the brand among them; the product's family, which is the last word of its name where another product of the
  department has it too (milk, juice, bread); the department. Of a query with an unsold brand, the phrase of all others.
- `substitute`: another product that answers the same need (`NEEDS`), with all, some or none of the query's dietary
  mark, colour, flavour, size and pack, and of its brand. None where no other product does, or none is named.

A query that names no part at all ("opening times") has no true rewrite.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any, Final, Literal, get_args

from samples.market.assortment import MarketItem
from samples.market.generate import Ask, Market
from samples.market.wording import HEAD, TAIL, TORSO, Part
from task.labels import Example, Label
from task.normalize import normalize_v1

Type = Literal["synonym", "broader", "substitute"]
TYPES: Final[tuple[Type, ...]] = get_args(Type)
MOST: Final[Mapping[Type, int]] = {"synonym": 2, "broader": 3, "substitute": 3}

# Products of one department that answer the same need; those that are not here have no substitute.
NEEDS: Final = (
    ("oat milk", "almond milk", "whole milk", "skimmed milk"), ("greek yogurt", "drinking yogurt", "kefir"),
    ("cheddar", "mozzarella", "cream cheese", "cottage cheese"), ("whipping cream", "custard"),
    ("sourdough bread", "sandwich bread", "pita bread", "naan", "tortilla wraps", "bagels"),
    ("hamburger buns", "brioche rolls"), ("croissants", "muffins", "crumpets", "cinnamon rolls", "banana bread"),
    ("apples", "bananas", "seedless grapes", "blueberries"), ("baby spinach", "romaine lettuce"),
    ("cherry tomatoes", "bell peppers", "carrots", "zucchini", "broccoli florets"),
    ("chicken breast", "lamb chops"), ("ground beef", "meatballs"), ("pork sausages", "streaky bacon"),
    ("sliced ham", "turkey slices"), ("salmon fillets", "tuna steaks", "cod fillets"),
    ("ice cream", "frozen yogurt", "ice lollies"), ("french fries", "hash browns", "onion rings"),
    ("spring rolls", "frozen dumplings"), ("smoothie", "orange juice", "apple juice"),
    ("sparkling water", "still water", "tonic water", "coconut water"),
    ("lemonade", "soft drink", "ginger beer", "squash"), ("iced tea", "kombucha"),
    ("ground coffee", "coffee beans", "instant coffee", "coffee pods"),
    ("green tea", "black tea", "herbal tea", "earl grey", "rooibos tea"),
    ("hot chocolate", "chai latte mix", "matcha powder"), ("spaghetti", "penne pasta"),
    ("olive oil", "sunflower oil"), ("tomato ketchup", "mayonnaise"), ("pasta sauce", "chopped tomatoes"),
    ("peanut butter", "strawberry jam"), ("baked beans", "chickpeas"), ("brown sugar", "maple syrup"),
    ("potato chips", "tortilla chips", "popcorn", "pretzels"), ("protein bar", "granola bar"),
    ("trail mix", "salted peanuts"), ("milk chocolate", "dark chocolate"),
    ("corn flakes", "bran flakes", "puffed rice"), ("granola", "muesli"), ("porridge oats", "instant porridge"),
    ("dishwasher tablets", "dish soap"), ("all purpose cleaner", "glass cleaner"),
    ("aluminium foil", "cling film"), ("air freshener", "scented candle"), ("body wash", "hand soap"),
)
ORDER: Final = ("brand", "dietary", "colour", "flavour", "product", "size", "pack")
UNSEEN: Final = 0.1  # share of the brands of which nothing is learned
OMITTED, SPOILT = 0.12, 0.10  # shares of the texts that a teacher leaves out, and gets wrong
_BANDS: Final = {"head": (HEAD, 0.25), "torso": (TORSO, 0.45), "tail": (TAIL, 0.65)}  # noise, chance of each part
WRONGS: Final = ("another brand", "another size", "words that nothing has", "another need", "the query itself")


@dataclass(frozen=True, slots=True)
class Asked:
    """A query of the log with what it names.

    Attributes:
        parts: Role → the catalogue's word for it; no brand if it is one that the market does not sell.
        unsold: Whether it names a brand that the market does not sell.
        band: head, torso or tail.
    """

    query: str
    count: int
    band: str
    parts: Mapping[str, str]
    item: MarketItem | None
    unsold: bool
    ask: Ask

    def phrase(self, roles: Iterable[str], product: str | None = None) -> str:
        """The words of some of the parts, the product under another name if given."""
        return self.phrases(roles, product)[0]

    def phrases(self, roles: Iterable[str], product: str | None = None) -> list[str]:
        """The same under each name of the brand, its own first."""
        wanted, brand = set(roles), self.parts.get("brand", "")
        short = next((w for w in brand.split() if w not in {"the", "&"}), brand)
        out = []
        for name in dict.fromkeys((brand, short)):
            named = {**self.parts, "brand": name, **({} if product is None else {"product": product})}
            out.append(" ".join(named[r] for r in ORDER if r in wanted and r in self.parts))
        return out


class _KnownMarket(Market):
    """The market, which also says whether the last shopper asked for a brand that is not sold."""

    unsold = False

    def _unseen(self, *args: Any, **options: Any) -> list[Part]:
        self.unsold = True
        return super()._unseen(*args, **options)


class Log:
    """The query log of a market, distinct queries, most frequent first; traffic by rank with exponent 1.

    Queries that name two products are left out: what their synonym would be is not defined.
    """

    def __init__(self, seed: int, *, queries: int, items: int) -> None:
        self.market = _KnownMarket(seed, items)
        self.truth = Truth(self.market)
        found: dict[str, tuple[str, Ask, bool]] = {}
        while len(found) < queries:
            share = len(found) / queries
            band = "head" if share < 0.05 else "torso" if share < 0.3 else "tail"
            noise, length = _BANDS[band]
            self.market.unsold = False
            ask = self.market.ask(noise, length, 0.03 if band == "tail" else 0.01)
            if sum(p.role == "product" for p in ask.parts) <= 1:
                found.setdefault(ask.query, (band, ask, self.market.unsold))
        scale = 20 * queries / sum(1 / r for r in range(1, queries + 1))
        self.rows = [
            Asked(query, max(1, round(scale / rank)), band, _parts(ask, unsold), ask.item, unsold, ask)
            for rank, (query, (band, ask, unsold)) in enumerate(found.items(), 1)
        ]
        brands = sorted({i.brand for i in self.market.items})
        self.unseen_brands = frozenset(random.Random(seed).sample(brands, round(UNSEEN * len(brands))))

    def bought(self) -> Counter[tuple[str, str]]:
        """(query, item) → how often it was bought: some 30 % of the traffic, at most 40 times."""
        out: Counter[tuple[str, str]] = Counter()
        for row in self.rows:
            fitting = self.market.fitting(row.ask)
            for _ in range(min(40, int(row.count * 0.3 + self.market.rng.random()))):
                out[row.query, self.market.buys(fitting)] += 1
        return out

    def split(self, tested: Mapping[str, int], seed: int) -> tuple[list[Asked], list[Asked]]:
        """(learned, tested): so many test queries of each band; no learned query means an item of an unseen brand."""
        rng = random.Random(f"split-{seed}")
        by_band: defaultdict[str, list[Asked]] = defaultdict(list)
        for row in self.rows:
            by_band[row.band].append(row)
        test = [row for band, count in tested.items() for row in rng.sample(by_band[band], count)]
        taken = {row.query for row in test}
        rest = [r for r in self.rows if r.query not in taken and not self.is_unseen(r)]
        rng.shuffle(rest)
        return rest, test

    def is_unseen(self, row: Asked) -> bool:
        """Whether the shopper has an item of an unseen brand in mind."""
        return row.item is not None and row.item.brand in self.unseen_brands


def _parts(ask: Ask, unsold: bool) -> dict[str, str]:
    if ask.item is None:
        return {}
    named = {p.role for p in ask.parts}
    of_item = {r: getattr(ask.item, "type" if r == "product" else r) for r in ORDER}
    return {r: v for r, v in of_item.items() if r in named and v is not None and not (r == "brand" and unsold)}


class Truth:
    """The true rewrites of queries, and what a teacher says."""

    def __init__(self, market: Market) -> None:
        self._department = {t: d for d in market.shelves.values() for t in d.types}
        self._names = {t: (t, *others) for d in market.shelves.values() for t, others in d.types.items()}
        self._needs = {t: tuple(o for o in group if o != t) for group in NEEDS for t in group}
        self._brands = sorted(market.by_brand)
        self._sizes = sorted({i.size for i in market.items if i.size})

    def of(self, row: Asked) -> dict[Type, list[str]]:
        """All true rewrites of a query by type, in a fixed order."""
        if not row.parts or row.item is None:
            return {t: [] for t in TYPES}
        named = tuple(row.parts)
        product = row.parts.get("product")
        names: Sequence[str | None] = self._names[product] if product else (None,)
        others = tuple(r for r in named if r != "product")
        found: dict[Type, Iterable[str]] = {
            "synonym": [] if row.unsold else (x for n in names for x in row.phrases(named, n)),
            "broader": self._broader(row, others, product),
            "substitute": (
                x for other in self._needs.get(product or "", ()) for some in _subsets(others)
                for x in row.phrases((*some, "product"), other)
            ),
        }
        own = normalize_v1(row.query)
        return {t: [x for x in dict.fromkeys(texts) if normalize_v1(x) != own] for t, texts in found.items()}

    def _broader(self, row: Asked, others: Sequence[str], product: str | None) -> Iterator[str]:
        whole = len(row.parts)
        core = () if product is None else ("product",)
        for some in _subsets(others):
            roles = (*some, *core)
            if roles and (core or "brand" in some) and (len(roles) < whole or row.unsold):
                yield from row.phrases(roles)
        if product is not None and "brand" in others:
            for some in _subsets([r for r in others if r != "brand"]):
                yield from row.phrases((*some, "brand"))
        if (family := self.family(product)) is not None:
            yield family
        assert row.item is not None
        yield row.item.department.casefold()

    def family(self, product: str | None) -> str | None:
        """The last word of a product's name, where another product of its department has it too."""
        if product is None or " " not in product:
            return None
        last = product.split()[-1]
        return last if sum(t.split()[-1] == last for t in self._department[product].types) > 1 else None

    def taught(self, row: Asked, rng: random.Random) -> list[Label]:
        """What a teacher says: the best of the true rewrites, some left out, some wrong; confidence by rank."""
        out: list[Label] = []
        true = self.of(row)
        for type_ in TYPES:
            texts = [t for t in self._best(row, type_) if t in true[type_]]
            said = [self._wrong(row, rng) if rng.random() < SPOILT else t for t in texts if rng.random() >= OMITTED]
            ranked = list(dict.fromkeys(said))[: MOST[type_]]
            out += [Label(type_, t, confidence=round(0.9 - 0.1 * n, 1)) for n, t in enumerate(ranked)]
        return out

    def _best(self, row: Asked, type_: Type) -> list[str]:
        """The rewrites that come to mind first."""
        product = row.parts.get("product")
        kept = [r for r in row.parts if r in {"dietary", "colour", "flavour"}]
        if not row.parts or row.item is None:
            return []
        if type_ == "synonym":
            return [row.phrase(row.parts, n) for n in (self._names[product] if product else (None,))]
        if type_ == "broader":
            least = self.family(product) or row.item.department.casefold()
            with_brand = [row.phrase(("brand", "product"))] if product else []
            return [*with_brand, row.phrase((*kept, "product")), row.phrase(("product",)), least]
        others = self._needs.get(product or "", ())
        first = [row.phrase((*kept, "product"), o) for o in others[:1]]
        return [*first, *others[:2]]

    def _wrong(self, row: Asked, rng: random.Random) -> str:
        """A text that looks like a rewrite and is none."""
        match rng.choice(WRONGS):
            case "another brand":
                return f"{rng.choice(self._brands)} {row.phrase(('dietary', 'flavour', 'product'))}".strip()
            case "another size":
                return f"{row.phrase(('dietary', 'flavour', 'product'))} {rng.choice(self._sizes)}".strip()
            case "words that nothing has":
                return f"{rng.choice(('premium', 'artisan', 'everyday', 'gourmet'))} {row.phrase(('product',))}".strip()
            case "another need":
                return rng.choice(list(self._department))
            case _:
                return row.query

    def fault(self, row: Asked, type_: str, text: str) -> str:
        """What is wrong with a text that is no true rewrite of this type: the first that applies, in this order."""
        words = normalize_v1(text)
        others = [t for t in self.of(row) if t != type_ and words in {normalize_v1(x) for x in self.of(row)[t]}]
        product = row.parts.get("product")
        if not row.parts:
            return "the query names nothing that is sold"
        if others:
            return f"right as {others[0]}"
        if any(f" {b} " in f" {words} " and b != row.parts.get("brand") for b in self._brands):
            return "another brand"
        if type_ == "substitute":
            products = self._needs.get(product or "", ())
        else:
            products = self._names[product] if product else ()
        if not any(f" {name} " in f" {words} " for name in products):
            return "another product" if product else "a product that the query does not name"
        return "another word beside the product"


def _subsets(roles: Sequence[str]) -> Iterable[tuple[str, ...]]:
    """All subsets, the largest first."""
    return chain.from_iterable(combinations(roles, n) for n in range(len(roles), -1, -1))


def gold(row: Asked, truth: Truth) -> Example:
    """A query with all its true rewrites."""
    return Example(row.query, tuple(Label(t, x) for t, texts in truth.of(row).items() for x in texts), row.count)
