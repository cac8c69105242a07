"""Invented brands, and why they are hard: some are common words, some look like something else."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

# Words that shoppers also use for something else: a colour, a flavour, a mark, praise.
COMMON_WORDS: Final = (
    "simple", "fresh", "golden", "pure", "honest", "peach", "ginger", "olive", "rose", "amber", "mint", "berry",
    "green", "sunny", "natural", "classic", "farmhouse", "basil", "maple", "clover", "hazel", "cherry", "snow",
    "bright", "gentle", "daily", "family", "choice", "local", "crisp", "dove tail", "blue", "indigo", "coral",
)
# Two words that read like a product or a flavour, and are a brand.
LOOKALIKES: Final = (
    "verdant machine", "coconut grove", "honey & oak", "apple street", "lemon lane", "the cheese room", "milk parade",
    "bread winner", "cocoa county", "garlic king", "vanilla sky farm", "rice field", "tea society", "berry good",
    "butter side", "oat republic", "salt & stone", "pepper mill", "orange crate", "plum line", "coffee cartel",
    "noodle house", "egg & spoon", "bean counter", "sugar cane co", "olive branch", "mint condition", "juice works",
    "soap opera", "clean slate", "cotton row", "paper moon", "wild rice co", "water mark", "ice house", "snack attack",
)
_FIRST: Final = (
    "al", "bar", "cal", "dor", "el", "fen", "gar", "hol", "is", "jor", "kel", "lun", "mar", "nor", "or", "pel", "quin",
    "ros", "sel", "tor", "ul", "val", "wes", "yar", "zan", "bren", "cors", "drum", "flor", "grim",
)
_MIDDLE: Final = ("a", "e", "i", "o", "an", "en", "il", "or", "ar", "em")
_LAST: Final = ("ta", "dale", "mont", "ri", "vik", "sen", "lo", "wick", "ssa", "ford", "ne", "ham", "zo", "via", "ton")
_SECOND: Final = ("farms", "kitchen", "& sons", "foods", "valley", "market", "house", "organics", "bakery co", "hill")


@dataclass(frozen=True, slots=True)
class Brand:
    """A brand with the department that it sells in and the product types it makes."""

    name: str
    department: str
    types: tuple[str, ...]
    in_catalogue: bool = True


def invent(rng: random.Random, departments: dict[str, list[str]], count: int, unseen: int) -> list[Brand]:
    """`count` brands of the catalogue and `unseen` that shoppers ask for and the market does not sell."""
    names = list(dict.fromkeys([*COMMON_WORDS, *LOOKALIKES]))
    taken = set(names)
    while len(names) < count + unseen:
        word = rng.choice(_FIRST) + rng.choice(_MIDDLE) + rng.choice(_LAST)
        name = f"{word} {rng.choice(_SECOND)}" if rng.random() < 0.35 else word
        if name not in taken:
            taken.add(name)
            names.append(name)
    seen, rest = names[:count], names[count:]
    rng.shuffle(seen)
    order = list(departments)
    brands = []
    for number, name in enumerate([*seen, *rest]):
        department = order[number % len(order)]
        types = departments[department]
        brands.append(Brand(name, department, tuple(rng.sample(types, rng.randint(3, 6))), number < count))
    return brands
