"""How shoppers put an item into words: parts with known roles, and the noise on top of them.

A query is a list of `Part`s, so that its gold labels are known whatever is done to its spelling.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Final

from samples.market.assortment import Department, MarketItem

ABBREVIATIONS: Final = {
    "chocolate": "choc", "strawberry": "strawb", "organic": "org", "vegetable": "veg", "detergent": "deterg",
    "conditioner": "cond", "yogurt": "yog", "sandwich": "sndwch", "chicken": "chkn", "sparkling": "sprkl",
    "gluten free": "gf", "sugar free": "sf", "lactose free": "lf", "wholegrain": "wg", "high protein": "hi protein",
    "vanilla": "van", "barbecue": "bbq", "unscented": "unsc", "raspberry": "rasp", "dishwasher": "dw",
}
FILLERS: Final = ("fresh", "best", "cheap", "natural", "good", "simple", "new", "family", "daily", "local", "classic")
TRAILERS: Final = ("for kids", "on offer", "near me", "deals", "for breakfast", "online", "delivery", "in stock")
EMPTY_HANDED: Final = (
    "what is on offer", "opening times", "delivery slots", "gift ideas", "recipes for tonight", "my last order",
    "help", "refund", "click and collect", "weekly deals", "something nice", "asdf", "coupons", "new arrivals",
    "where is my order", "party food ideas", "bbq ideas", "lunch box ideas", "store near me", "student discount",
    "customer service", "track my delivery", "food for two", "dinner tonight", "cheap stuff", "what is new",
)
_KEYS: Final = {
    "a": "sqz", "b": "vgn", "c": "xvd", "d": "sfe", "e": "wrd", "f": "dgr", "g": "fht", "h": "gjy", "i": "uok",
    "j": "hku", "k": "jli", "l": "kop", "m": "nj", "n": "bmh", "o": "ipl", "p": "ol", "q": "wa", "r": "etf",
    "s": "adw", "t": "ryg", "u": "yij", "v": "cbf", "w": "qes", "x": "zcs", "y": "tuh", "z": "xas",
}


@dataclass(frozen=True, slots=True)
class Part:
    """Some words of a query and the role they play; None for words that carry none."""

    role: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Noise:
    """Chances of each disturbance, per part that it can hit."""

    typo: float
    abbreviation: float
    joined: float
    plural: float
    synonym: float
    partial_brand: float
    filler: float
    trailer: float
    shuffled: float
    unseen_brand: float
    two_products: float
    brand_alone: float


HEAD: Final = Noise(0.02, 0.05, 0.02, 0.10, 0.35, 0.12, 0.10, 0.03, 0.05, 0.0, 0.0, 0.06)
TORSO: Final = Noise(0.07, 0.10, 0.05, 0.15, 0.45, 0.20, 0.20, 0.06, 0.12, 0.01, 0.02, 0.04)
TAIL: Final = Noise(0.14, 0.14, 0.08, 0.18, 0.50, 0.25, 0.28, 0.10, 0.20, 0.05, 0.05, 0.02)


def mention(rng: random.Random, item: MarketItem, length: float) -> list[Part]:
    """The parts of an item that a shopper names: the longer the query, the more of them.

    Args:
        length: Chance of each optional part.
    """
    with_brand = rng.random() < 0.35 + 0.4 * length
    parts = []
    optional = [("dietary", item.dietary), ("colour", item.colour), ("flavour", item.flavour)]
    if with_brand:
        parts.append(Part("brand", item.brand))
    for role, value in optional:
        if value and rng.random() < length:
            parts.append(Part(role, value))
    parts.append(Part("product", item.type))
    if item.size and rng.random() < length * 0.7:
        parts.append(Part("size", _spell_size(rng, item.size)))
    if item.pack and rng.random() < length * 0.7:
        parts.append(Part("pack", _spell_pack(rng, item.pack)))
    return parts


def disturb(rng: random.Random, parts: list[Part], noise: Noise, shelf: Department) -> list[Part]:
    """Apply the noise; roles stay with their words."""
    out = []
    for part in parts:
        text = part.text
        others = shelf.types.get(text, ())
        if part.role == "product" and others and rng.random() < noise.synonym:
            text = rng.choice(others)
        if part.role == "product" and rng.random() < noise.plural:
            text = _other_number(text)
        if part.role == "brand" and " " in text and rng.random() < noise.partial_brand:
            text = next(w for w in text.split() if w not in {"the", "&"})
        if part.role in {"product", "flavour", "dietary"} and rng.random() < noise.abbreviation * 3:
            text = _abbreviate(text)
        if part.role != "size" and " " in text and rng.random() < noise.joined:
            text = text.replace(" ", "", 1)
        if part.role in {"brand", "product", "flavour", "dietary", "colour"} and rng.random() < noise.typo:
            text = _typo(rng, text)
        out.append(replace(part, text=text))
    if rng.random() < noise.shuffled:
        rng.shuffle(out)
    if rng.random() < noise.filler:
        out.insert(rng.choice([0, 0, len(out)]), Part(None, rng.choice(FILLERS)))
    if rng.random() < noise.trailer:
        out.append(Part(None, rng.choice(TRAILERS)))
    return out


def _spell_size(rng: random.Random, size: str) -> str:
    number, unit = size.split()
    long = {"l": "litre", "ml": "ml", "g": "g", "kg": "kg"}[unit]
    return rng.choice([f"{number}{unit}", f"{number}{unit}", f"{number} {unit}", f"{number} {long}", f"{number}{long}"])


def _spell_pack(rng: random.Random, pack: str) -> str:
    number = pack.split()[0]
    return rng.choice([pack, pack, f"pack of {number}", f"{number}pk", f"x{number}"])


def _other_number(text: str) -> str:
    if text.endswith("ies"):
        return text[:-3] + "y"
    if text.endswith("s") and not text.endswith("ss"):
        return text[:-1]
    return text[:-1] + "ies" if text.endswith("y") else text + "s"


def _abbreviate(text: str) -> str:
    for full, short in ABBREVIATIONS.items():
        if full in text:
            return text.replace(full, short, 1)
    return text


def _typo(rng: random.Random, text: str) -> str:
    spots = [i for i, c in enumerate(text) if c in _KEYS and i > 0]
    if len(text) < 4 or not spots:
        return text
    at = rng.choice(spots)
    match rng.randrange(4):
        case 0:
            return text[:at] + text[at + 1 :]
        case 1:
            return text[:at] + text[at] + text[at:]
        case 2:
            return text[:at] + rng.choice(_KEYS[text[at]]) + text[at + 1 :]
        case _ if at + 1 < len(text) and text[at + 1] != " ":
            return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
        case _:
            return text[:at] + text[at + 1 :]
