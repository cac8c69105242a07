"""Queries for the leaves of a taxonomy, with their categories as gold: the same from the same seed.

A query is made of words of its leaf's name, changed as shoppers change them: words dropped, replaced by synonyms, in
another number, in another order, misspelt; with a brand, a colour, a size or a filler beside them. Words of the nodes
above are added where the leaf's own words are those of another leaf too, so that before synonyms and typos a query
means one leaf. Brands, colours and sizes say nothing about the category.

Two sources of categories: the paths of a file (`read_paths`), such as Shopify's taxonomy, and the synthetic market's
departments and product types (`market_examples`), whose own generator words the queries. `outliers` makes queries of
other domains: a student that shall answer "none of these" must have seen some.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import reduce
from pathlib import Path
from typing import Final

from samples.market.assortment import departments
from samples.market.generate import HEAD, TAIL, TORSO, Ask, Market
from task.labels import Example, Label
from task.readers import Conversion, Item
from task.value_tree import ancestors

ROLE: Final = "category"
SEPARATOR: Final = " > "
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_SMALL: Final = frozenset({"and", "of", "for", "the", "with", "in", "or", "to", "a", "other"})
_SYNONYMS: Final = {
    "accessories": ("extras", "add ons"), "adhesive": ("sticky",), "apparel": ("clothing", "clothes"),
    "automotive": ("car",), "baby": ("infant", "newborn"), "bag": ("sack", "pouch"), "bags": ("sacks", "pouches"),
    "bath": ("bathing",), "beds": ("bedding",), "bicycle": ("bike", "cycling"), "blankets": ("throws",),
    "boxes": ("crates", "containers"), "brushes": ("scrubbers",), "cabinets": ("cupboards",),
    "camera": ("cam",), "cases": ("covers",), "cat": ("kitten",), "cell": ("mobile",), "chairs": ("seats",),
    "cleaners": ("cleaning products",), "coats": ("overcoats",), "computer": ("pc",), "containers": ("tubs",),
    "cookware": ("pots and pans",), "couches": ("sofas",), "diaper": ("nappy",), "diapers": ("nappies",),
    "dispensers": ("holders",), "dog": ("puppy",), "eyewear": ("glasses",), "faucet": ("tap",),
    "faucets": ("taps",), "flashlights": ("torches",), "footwear": ("shoes",), "freezers": ("deep freezers",),
    "garbage": ("trash", "rubbish"), "gloves": ("mitts",), "hair": ("hairstyle",), "handbags": ("purses",),
    "helmets": ("hard hats",), "jewelry": ("jewellery",), "kits": ("sets", "bundles"), "kitchen": ("cooking",),
    "lamps": ("lights",), "laundry": ("washing",), "lawn": ("grass",), "lights": ("lamps", "lighting"),
    "luggage": ("suitcases",), "mats": ("rugs", "pads"), "movies": ("films",), "motor": ("engine",),
    "organizers": ("storage",), "outdoor": ("outside", "garden"), "pants": ("trousers",), "pens": ("biros",),
    "pet": ("animal",), "pumps": ("inflators",), "replacement": ("spare",), "rods": ("poles",), "rugs": ("carpets",),
    "scarves": ("shawls",), "screen": ("display",), "shampoo": ("hair wash",), "shirts": ("tops",),
    "shoe": ("footwear",), "shoes": ("footwear", "trainers"), "snacks": ("nibbles",), "sneakers": ("trainers",),
    "socks": ("stockings",), "stands": ("racks",), "storage": ("organising",), "strollers": ("pushchairs", "buggies"),
    "supplies": ("stuff", "things"), "sweaters": ("jumpers", "pullovers"), "swimwear": ("bathers",),
    "tables": ("desks",), "tape": ("sticky tape",), "television": ("tv",), "televisions": ("tvs",),
    "tools": ("equipment",), "towels": ("wipes",), "toys": ("playthings",), "training": ("practice",),
    "umbrellas": ("brollies",), "underwear": ("undies",), "vacuum": ("hoover",), "vehicle": ("car",),
    "video": ("film",), "wallets": ("billfolds",), "watch": ("wristwatch",), "watches": ("wristwatches",),
    "wheels": ("castors",), "women's": ("ladies",), "men's": ("mens", "gents"), "yarn": ("wool",),
}
_FILLERS: Final = ("best", "cheap", "new", "good", "used", "small", "large", "buy", "premium", "mini")
_COLOURS: Final = ("black", "white", "red", "blue", "green", "grey", "pink", "silver", "beige")
_TRAILERS: Final = ("for kids", "on sale", "near me", "online", "gift", "in stock", "delivery", "for beginners")
_SIZES: Final = ("size {n}", "{n} pack", "{n}cm", "xl", "{n} inch", "set of {n}", "{n}mm")
_FIRST: Final = ("al", "bro", "cal", "dex", "el", "fi", "gor", "hal", "in", "jax", "kor", "lu", "mer", "nex", "ost")
_LAST: Final = ("ta", "van", "mont", "rix", "tek", "sen", "lo", "wick", "co", "ford", "na", "zo", "via", "tron")
_KEYS: Final = ("qwertyuiop", "asdfghjkl", "zxcvbnm")

# Questions and requests that no shop's category answers; slots are filled from `_SLOTS`.
_OTHER_DOMAINS: Final = (
    "what is the weather in {place} {time}", "will it rain in {place} {time}", "play {music}",
    "turn {switch} the {room} {device}",
    "set an alarm for {hour}", "wake me up at {hour} {time}", "how far is {place} from {place}",
    "flights from {place} to {place} {time}", "train times to {place}", "who won the {sport} {time}",
    "translate {phrase} into {language}", "how do you say {phrase} in {language}", "call {person}",
    "send a message to {person} that i am late", "remind me to call {person} at {hour}",
    "what is {number} times {number}",
    "how old is {person}", "tell me a joke", "what time is it in {place}", "traffic on the way to {place}",
    "my password does not work", "speak to a person", "what are your opening hours", "where is my order",
    "symptoms of {illness}", "how long does {illness} last", "is {person} married",
    "news about {place}", "convert {number} miles to kilometres", "capital of {place}", "what does {phrase} mean",
    "book a table for {number} {time}", "is there a {service} in {place}", "how tall is {person}",
    "what should i do {time} in {place}", "the app keeps crashing",
    "when does the {sport} start", "how do i reset my {device}", "add {person} to my contacts", "skip this song",
    "volume {switch}", "read my emails", "do i have meetings {time}", "how many calories has {person} eaten",
)
_SLOTS: Final = {
    "place": ("paris", "london", "new york", "berlin", "tokyo", "madrid", "chicago", "oslo", "cairo", "lima"),
    "time": ("today", "tomorrow", "tonight", "on friday", "next week", "this weekend", "yesterday", "last night"),
    "music": ("some jazz", "the beatles", "my playlist", "the radio", "something relaxing"),
    "switch": ("on", "off", "up", "down"), "room": ("bedroom", "kitchen", "hall", "office"),
    "device": ("lights", "heating", "phone", "router", "alarm"), "hour": ("7 am", "six thirty", "noon", "9 pm"),
    "sport": ("match", "game", "race", "final", "election"), "phrase": ("good morning", "thank you", "see you soon"),
    "language": ("french", "german", "spanish", "japanese"),
    "person": ("mum", "my boss", "anna", "the president", "john"),
    "number": ("two", "12", "45", "seven", "300"), "illness": ("flu", "a cold", "covid", "migraine"),
    "service": ("dentist", "petrol station", "library", "cinema", "post office"),
}


def read_paths(file: Path) -> list[str]:
    """The paths of a taxonomy, inner nodes too: the field `path` of a file of JSON lines."""
    return [str(json.loads(line)["path"]) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def leaves_of(paths: Sequence[str]) -> list[str]:
    """The paths that no other one continues, in order."""
    inner = {above for path in paths for above in ancestors(path, SEPARATOR)[:-1]}
    return [path for path in paths if path not in inner]


def words_of(text: str) -> list[str]:
    """Lower-case words without small ones, unless there are no others."""
    words = _WORD.findall(text.casefold())
    return [w for w in words if w not in _SMALL] or words


class Wording:
    """Words queries for the leaves of a taxonomy.

    Args:
        paths: All nodes or all leaves, with `SEPARATOR`.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.leaves = leaves_of(paths)
        self._names: defaultdict[frozenset[str], set[str]] = defaultdict(set)
        self._by_word: defaultdict[str, set[str]] = defaultdict(set)  # of the leaf's own name
        self._by_any: defaultdict[str, set[str]] = defaultdict(set)  # of its whole path
        for leaf in self.leaves:
            own = words_of(leaf.rsplit(SEPARATOR, 1)[-1])
            self._names[frozenset(own)].add(leaf)
            for word in own:
                self._by_word[word].add(leaf)
            for word in words_of(leaf):
                self._by_any[word].add(leaf)

    def examples(self, leaves: Sequence[str], each: int, seed: int) -> list[Example]:
        """Up to `each` distinct queries for every leaf, shuffled."""
        rng = random.Random(f"taxonomy-{seed}")
        found: dict[str, str] = {}
        for leaf in leaves:
            have = 0
            for _ in range(4 * each):
                query = self.query(rng, leaf)
                if query not in found:
                    found[query] = leaf
                    have += 1
                if have == each:
                    break
        out = [Example(query, (Label(ROLE, leaf),)) for query, leaf in found.items()]
        rng.shuffle(out)
        return out

    def query(self, rng: random.Random, leaf: str) -> str:
        """A query that means the leaf."""
        words = self._telling(rng, leaf)
        words = [rng.choice(_SYNONYMS[w]) if w in _SYNONYMS and rng.random() < 0.3 else w for w in words]
        if rng.random() < 0.3:
            words[-1] = _other_number(words[-1])
        if len(words) > 1 and rng.random() < 0.1:
            rng.shuffle(words)
        if rng.random() < 0.15:
            at = rng.randrange(len(words))
            words[at] = misspelt(rng, words[at])
        return " ".join(_dressed(rng, words))

    def _telling(self, rng: random.Random, leaf: str) -> list[str]:
        """Words that mean this leaf and no other: some of its name, and of the nodes above it as many as are needed."""
        *above, name = leaf.split(SEPARATOR)
        words = words_of(name)
        if len(words) > 2 and rng.random() < 0.3:
            fewer = list(words)
            del fewer[rng.randrange(len(fewer))]
            if _common(self._by_word[w] for w in fewer) == {leaf}:
                return fewer
        if self._names[frozenset(words)] == {leaf}:
            return words
        for node in reversed(above):
            for word in words_of(node):
                if word not in words and _common(self._by_any[w] for w in words) != {leaf}:
                    words = [word, *words]
        return words


def _common(sets: Iterable[set[str]]) -> set[str]:
    return reduce(set.intersection, sets)


def _dressed(rng: random.Random, words: list[str]) -> list[str]:
    """The words with a brand, a filler, a colour, a size or a trailer beside them, or none of these."""
    out = list(words)
    if rng.random() < 0.12:
        out.insert(0, rng.choice(_COLOURS))
    if rng.random() < 0.25:
        out.insert(0, rng.choice(_FIRST) + rng.choice(_LAST))
    if rng.random() < 0.15:
        out.insert(0, rng.choice(_FILLERS))
    if rng.random() < 0.15:
        out.append(rng.choice(_SIZES).format(n=rng.randint(2, 60)))
    if rng.random() < 0.1:
        out.append(rng.choice(_TRAILERS))
    return out


def _other_number(word: str) -> str:
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word + "s"


def misspelt(rng: random.Random, word: str) -> str:
    """A word with one letter missing, doubled, exchanged for a neighbour on the keyboard or swapped with the next."""
    if len(word) < 4:
        return word
    at = rng.randrange(1, len(word) - 1)
    row = next((r for r in _KEYS if word[at] in r), "")
    match rng.randrange(4):
        case 0:
            return word[:at] + word[at + 1 :]
        case 1:
            return word[:at] + word[at] + word[at:]
        case 2 if row:
            place = row.index(word[at])
            return word[:at] + row[place - 1 if place else 1] + word[at + 1 :]
        case _:
            return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def outliers(count: int, seed: int) -> list[Example]:
    """Distinct queries of other domains, without labels; fewer if no more can be made."""
    rng = random.Random(f"outliers-{seed}")
    found: dict[str, None] = {}
    for _ in range(20 * count):
        text = re.sub(r"\{(\w+)\}", lambda m: rng.choice(_SLOTS[m[1]]), rng.choice(_OTHER_DOMAINS))
        words = text.split(" ")
        if rng.random() < 0.15:
            at = rng.randrange(len(words))
            words[at] = misspelt(rng, words[at])
        if rng.random() < 0.3:
            words = [*rng.choice((["please"], ["can", "you"], ["hey"])), *words]
        found.setdefault(" ".join(words))
        if len(found) == count:
            break
    return [Example(query) for query in found]


def market_paths() -> list[str]:
    """The categories of the synthetic market: department and product type."""
    return [f"{d.name}{SEPARATOR}{t}" for d in departments() for t in d.types]


def market_examples(count: int, seed: int) -> list[Example]:
    """Distinct queries of the synthetic market with the category of the product that they name.

    Queries that name two products are left out; those that name none, only a brand or nothing that is sold, have no
    category.
    """
    market = Market(seed, items=4_000)
    out = [_with_category(ask) for ask in _asks(market, count)]
    market.rng.shuffle(out)
    return out


def market_log(count: int, seed: int) -> tuple[list[Item], list[Example], list[Conversion]]:
    """Catalogue, queries with their categories, and what was bought after half of them, the more frequent ones."""
    market = Market(seed, items=4_000)
    rows = (item.row() for item in market.items)
    items = [Item(r["id"], r["title"], r["brand"], r["category"], r["attributes"]) for r in rows]
    asks = _asks(market, count)
    bought: Counter[tuple[str, str]] = Counter()
    for rank, ask in enumerate(asks[: count // 2]):
        fitting = market.fitting(ask)
        bought.update((ask.query, market.buys(fitting)) for _ in range(1 + count // (rank + 20)))
    conversions = [Conversion(query, item, n) for (query, item), n in bought.items()]
    return items, [_with_category(ask) for ask in asks], conversions


def _asks(market: Market, count: int) -> list[Ask]:
    """Distinct queries: a tenth of the frequent, clean kind, a third in between, the rest of the noisy tail."""
    found: dict[str, Ask] = {}
    while len(found) < count:
        share = len(found) / count
        noise, length = (HEAD, 0.25) if share < 0.1 else (TORSO, 0.45) if share < 0.4 else (TAIL, 0.65)
        ask = market.ask(noise, length, 0.03)
        if sum(p.role == "product" for p in ask.parts) <= 1:
            found.setdefault(ask.query, ask)
    return list(found.values())


def _with_category(ask: Ask) -> Example:
    if ask.item is None or all(p.role != "product" for p in ask.parts):
        return Example(ask.query)
    return Example(ask.query, (Label(ROLE, f"{ask.item.department}{SEPARATOR}{ask.item.type}"),))
