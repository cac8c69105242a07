"""What happens in the market, month by month. Month 0 is the market of `generate`; a month without a line moves slowly.

| month | change |
|---|---|
| 1 | new brands, half of them common words, and a new product type in each department |
| 2 | a season: four times the traffic of these product types, in this month and the next |
| 3 | words come into fashion: for 60 % of the mentions of these types, and trailers that carry no role |
| 4 | a department is renamed: in the catalogue, and so in gold |
| 5 | a data fault: no purchases are recorded in four departments, a third of all |
| 6 | nothing but the slow movement: a month to be calm in |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

SEASON_MONTHS: Final = 2
SEASON_FACTOR: Final = 4.0
IN_FASHION: Final = 0.6  # of the mentions of a type are its new word
NEW_TRAILER: Final = 0.1  # of the queries below the head have a trailer that has come into fashion


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is new in a month.

    Attributes:
        brands: Names of new brands, which are dealt to the departments in turn.
        types: Department → its new product type and shoppers' other word for it.
        season: Product types of which more is asked for `SEASON_MONTHS` months.
        words: Product type → the word that comes into fashion for it, and stays.
        trailers: Words that come into fashion and carry no role, and stay.
        renamed: Department → its name from this month on.
        unrecorded: Departments whose purchases are missing in this month's conversions.
    """

    brands: tuple[str, ...] = ()
    types: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    season: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    trailers: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    unrecorded: tuple[str, ...] = ()


PLAN: Final[Mapping[int, Change]] = {
    1: Change(
        brands=(
            "harvest", "little", "royal", "happy", "silver", "morning", "lucky", "wild", "tender", "velvet", "breeze",
            "homestead", "quivanta", "zelmora", "brackenby", "ovisko", "tarrowell", "mellivar", "junipo", "fenwicka",
            "drostel", "halvanti", "pomarro", "kestrino",
        ),
        types={
            "Dairy and Eggs": ("skyrella", "skyr fluff"), "Bakery": ("crumbini", "twisty bun"),
            "Fruit and Vegetables": ("pluotine", "plumcot"), "Meat and Fish": ("seitanelli", "wheat roast"),
            "Frozen": ("glacetta", "gelato dots"), "Drinks": ("switchelo", "vinegar quencher"),
            "Hot Drinks": ("cascarita", "cherry husk brew"), "Pantry": ("umamole", "savoury dust"),
            "Snacks": ("lotusettes", "puffed lotus"), "Breakfast": ("chiabowl", "overnight seeds"),
            "Household": ("limescalo", "kettle descaler"), "Beauty and Baby": ("balmelle", "melting cleanser"),
        },
    ),
    2: Change(season=(
        "ice cream", "ice lollies", "lemonade", "iced tea", "sparkling water", "pork sausages", "veggie burgers",
        "hamburger buns", "sunscreen", "romaine lettuce",
    )),
    3: Change(
        words={
            "greek yogurt": "yoggo", "sandwich bread": "sarnie slab", "bananas": "nanas", "chicken breast": "cluckers",
            "frozen pizza": "zza", "energy drink": "rocket fuel", "ground coffee": "bean juice", "spaghetti": "sketti",
            "potato chips": "munchies", "porridge oats": "oaties", "toilet tissue": "bog paper", "shampoo": "sudsy",
        },
        trailers=("viral", "dupe", "haul", "as seen on reels", "aesthetic", "hack"),
    ),
    4: Change(renamed={"Hot Drinks": "Coffee and Tea"}),
    5: Change(unrecorded=("Frozen", "Pantry", "Household", "Beauty and Baby")),
}


def in_season(month: int) -> frozenset[str]:
    """The product types of which more is asked in a month."""
    return frozenset(
        t for begin, change in PLAN.items() if begin <= month < begin + SEASON_MONTHS for t in change.season
    )
