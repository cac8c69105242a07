"""The shelves: items with brand, type, flavour, size, pack, dietary mark and colour."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from samples.market.brands import Brand

VOLUMES: Final = ("250 ml", "330 ml", "500 ml", "750 ml", "1 l", "1.5 l", "2 l")
WEIGHTS: Final = ("100 g", "150 g", "200 g", "250 g", "400 g", "500 g", "750 g", "1 kg", "2 kg")
COUNTS: Final = ("4 pack", "6 pack", "8 pack", "10 pack", "12 pack", "16 pack", "24 pack")


@dataclass(frozen=True, slots=True)
class Department:
    """A department: what its items can carry, and its product types with shoppers' other words for them."""

    name: str
    measures: tuple[str, ...]
    flavours: tuple[str, ...]
    dietary: tuple[str, ...]
    colours: tuple[str, ...]
    types: dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class MarketItem:
    """An item with its truth."""

    id: str
    brand: str
    department: str
    type: str
    flavour: str | None
    size: str | None
    pack: str | None
    dietary: str | None
    colour: str | None

    def row(self) -> dict[str, Any]:
        """The catalogue row."""
        attributes = {
            "flavour": self.flavour, "size": self.size, "pack": self.pack, "dietary": self.dietary,
            "colour": self.colour,
        }
        words = [self.brand, self.dietary, self.colour, self.flavour, self.type, self.size, self.pack]
        return {
            "id": self.id,
            "title": " ".join(w for w in words if w).title(),
            "brand": self.brand,
            "category": f"{self.department} > {self.type}",
            "attributes": {k: v for k, v in attributes.items() if v},
        }


def departments() -> list[Department]:
    """The assortment of `assortment.yaml`."""
    raw = yaml.safe_load((Path(__file__).parent / "assortment.yaml").read_text(encoding="utf-8"))
    out = []
    for name, d in raw.items():
        types = {}
        for line in d["types"]:
            own, _, others = line.partition("|")
            types[own.strip()] = tuple(o.strip() for o in others.split(",") if o.strip())
        measures, flavours, dietary, colours = (
            tuple(d.get(k, ())) for k in ("measures", "flavours", "dietary", "colours")
        )
        out.append(Department(name, measures, flavours, dietary, colours, types))
    return out


def stock(rng: random.Random, shelves: list[Department], brands: list[Brand], count: int) -> list[MarketItem]:
    """`count` distinct items of the brands in the catalogue."""
    by_name = {d.name: d for d in shelves}
    sold = [b for b in brands if b.in_catalogue]
    seen: set[tuple[str | None, ...]] = set()
    items: list[MarketItem] = []
    while len(items) < count:
        brand = sold[len(items) % len(sold)] if len(items) < 3 * len(sold) else rng.choice(sold)
        shelf = by_name[brand.department]
        measure = rng.choice(shelf.measures)
        size = {"volume": VOLUMES, "weight": WEIGHTS, "count": ()}[measure]
        values = (
            brand.name,
            rng.choice(brand.types),
            rng.choice(shelf.flavours) if shelf.flavours and rng.random() < 0.55 else None,
            rng.choice(size) if size else None,
            rng.choice(COUNTS) if measure == "count" or rng.random() < 0.2 else None,
            rng.choice(shelf.dietary) if rng.random() < 0.35 else None,
            rng.choice(shelf.colours) if shelf.colours and rng.random() < 0.4 else None,
        )
        if values not in seen:
            seen.add(values)
            name, type_, flavour, weight, pack, dietary, colour = values
            items.append(MarketItem(
                f"i{len(items):05d}", str(name), shelf.name, str(type_), flavour, weight, pack, dietary, colour
            ))
    return items
