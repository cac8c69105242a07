"""The `catalog` backend on three items, where every answer can be derived by hand."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from task.normalize import normalize_v1
from task.readers import Item
from teacher.backends.catalog.lexicon import Lexicon
from teacher.backends.catalog.segmenter import Segmenter
from teacher.retrieval.evidence import Evidence
from teacher.retrieval.hybrid_search import Hit
from tests.conftest import make_task

ROLES = [
    {"name": "brand", "multiple": False, "catalogue": "brand"}, {"name": "product", "catalogue": "category.leaf"},
    {"name": "size", "catalogue": "attributes.size", "pattern": r"\d+\s?(ml|l)"},
    {"name": "aisle", "kind": "closed", "multiple": False, "catalogue": "category.root", "values": ["Drinks", "Home"]},
]
ITEMS = [
    Item("1", "Verdant Machine smoothie", "verdant machine", "Drinks > smoothie", {"size": "1 l"}),
    Item("2", "Fresh oat milk", "fresh", "Drinks > oat milk", {"size": "1 l"}),
    Item("3", "Acme toilet tissue", "acme", "Home > toilet tissue"),
]
TASK = make_task(roles=ROLES, teacher={"backend": "labels"})


def evidence(bought: Mapping[int, int], hits: tuple[int, ...] = (0, 1, 2)) -> Evidence:
    return Evidence(tuple(Hit(r, 0.5) for r in hits), bought, (), {})


def lexicon() -> Lexicon:
    return Lexicon.build(TASK, ITEMS, normalize_v1)


def label(query: str, bought: Mapping[int, int], lex: Lexicon | None = None) -> set[tuple[str, str]]:
    found = Segmenter(TASK, lex or lexicon()).label(query, evidence(bought))
    return {(x.role, x.text) for x in found.labels}


def test_what_was_bought_names_the_parts() -> None:
    assert label("verdant machine smoothie 500ml", {0: 5}) == {
        ("brand", "verdant machine"), ("product", "smoothie"), ("size", "500ml"), ("aisle", "Drinks"),
    }


@pytest.mark.parametrize(("text", "span"), [("verdnt machine", "verdnt machine"), ("verdantmachine", "verdantmachine"),
                                            ("machine", "machine")])
def test_misspelt_joined_and_shortened_names_are_found(text: str, span: str) -> None:
    assert ("brand", span) in label(f"{text} smoothies", {0: 8})


def test_a_common_word_is_a_brand_only_where_its_items_are_bought() -> None:
    lex = lexicon()
    lex.learn_trust(TASK, {"fresh smoothie": {0: 40.0}, "fresh tissue": {2: 40.0}, "fresh oat milk": {1: 10.0}})
    assert lex.trust["brand", "fresh"] < 0.3
    assert ("brand", "fresh") not in label("fresh smoothie", {0: 6}, lex)
    assert ("brand", "fresh") in label("fresh oat milk", {1: 12}, lex)


def test_shoppers_words_are_learned_from_purchases_and_fillers_are_not() -> None:
    lex = lexicon()
    rows = [(text, frozenset({"brand"}), {2: 9.0}) for text in ("loo roll", "fresh loo roll", "cheap loo roll")]
    rows += [(text, frozenset({"brand", "product"}), {0: 9.0}) for text in ("fresh", "cheap", "fresh cheap")]
    rows += [(text, frozenset({"brand"}), {0: 30.0}) for text in ("fresh", "cheap", "cheap fresh")]
    assert lex.learn_aliases(TASK, rows, min_lift=1.5) > 0  # in a catalogue of three items nothing can be rare
    assert lex.aliases["product"]["loo roll"] == "toilet tissue"
    assert "fresh loo roll" not in lex.aliases["product"]
    assert ("product", "loo roll") in label("acme loo roll", {2: 3}, lex)


def test_nothing_known_gives_nothing_and_leaves_a_residue() -> None:
    found = Segmenter(TASK, lexicon()).label("opening times", evidence({}, hits=()))
    assert found.labels == ()
    assert found.residue == ("opening times",)
