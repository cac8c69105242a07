from __future__ import annotations

from task.io import Item
from task.labels import Label
from teacher.guardrails import Guardrails, summary
from tests.conftest import make_task

ROLES = [
    {"name": "brand", "multiple": False, "catalogue": "brand", "grounded": True}, {"name": "product"},
    {"name": "aisle", "kind": "closed", "values": ["dairy", "drinks"]},
]
ITEMS = [Item("1", "Oat milk", "Verdant Machine"), Item("2", "Milk", "Simple")]


def judge(query: str, *labels: Label) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    kept, verdicts = Guardrails(make_task(roles=ROLES), ITEMS).judge(query, labels)
    return [(x.role, x.text) for x in kept], [(v.verdict, v.reason.split(":")[0]) for v in verdicts]


def test_what_is_right_passes_with_its_span() -> None:
    kept, verdicts = judge("verdant machine oat milk", Label("product", "oat milk"), Label("brand", "verdant machine"))
    assert kept == [("brand", "verdant machine"), ("product", "oat milk")]
    assert verdicts == [("accept", "verbatim")] * 2


def test_case_is_repaired_and_invention_rejected() -> None:
    assert judge("OAT milk", Label("product", "oat milk")) == ([("product", "OAT milk")], [("repaired", "case")])
    assert judge("oat milk", Label("product", "soy milk")) == ([], [("rejected", "span")])
    assert judge("oat milk", Label("flavour", "oat")) == ([], [("rejected", "schema")])
    assert judge("oat milk", Label("aisle", "pets")) == ([], [("rejected", "closed set")])
    assert judge("oat milk 1l", Label("product", "milk ")) == ([], [("rejected", "span")])


def test_a_brand_must_be_known_to_the_catalogue_misspelt_or_shortened() -> None:
    for text in ("verdant machine", "verdnt machine", "machine"):
        assert judge(f"{text} milk", Label("brand", text))[0] == [("brand", text)]
    assert judge("acme milk", Label("brand", "acme")) == ([], [("rejected", "grounding")])


def test_overlaps_and_second_values_go_to_the_surer_label() -> None:
    kept, verdicts = judge("oat milk", Label("product", "milk", 4, 8, 0.6), Label("product", "oat milk", 0, 8, 0.9))
    assert kept == [("product", "oat milk")]
    assert ("rejected", "overlap") in verdicts
    kept, verdicts = judge("simple machine", Label("brand", "simple", 0, 6, 0.9), Label("brand", "machine", 7, 14, 0.7))
    assert kept == [("brand", "simple")]
    assert ("rejected", "one value") in verdicts


def test_the_summary_counts_by_role_and_reason() -> None:
    labels = [Label("product", "oat"), Label("x", "y")]
    _, verdicts = Guardrails(make_task(roles=ROLES), ITEMS).judge("oat milk", labels)
    assert {(r["role"], r["verdict"]): r["count"] for r in summary(verdicts)} == {
        ("product", "accept"): 1, ("x", "rejected"): 1,
    }
