"""A value of the catalogue is shown once in a prompt, whatever its spellings; other prompts stay as they are."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from llm_client.prompt import Prompter
from samples.market.generate import generate
from task.labels import Example
from task.load import load_task
from task.normalize import normaliser
from task.progress import quiet
from task.readers import Conversion, Item, read_catalogue
from task.spec import Task
from teacher.backends.job import LabellingJob, Sources
from teacher.backends.llm.contexts import blocks
from teacher.backends.llm.typical_contexts import typical_contexts
from teacher.ledger.ledger import Ledger
from teacher.retrieval import context
from teacher.retrieval.context import spellings_of
from teacher.retrieval.evidence import Evidence
from teacher.retrieval.spellings import most_spellings, once, spellings
from tests.conftest import make_task
from tests.documented import ROOT
from tests.teacher.test_label import PROMPT

NORMALISE = normaliser("v1")
BRANDS = [
    "AQUACLEAR", "AquaClear", "AquaClear", "Fluval", "FLUVAL", "Tetra", "Juwel", "Eheim", "Oase", "Sera", "Hikari",
    "Sicce", "Ista", "Dennerle",
    *(a + b for a in ("Mar", "Lom", "Vel", "Quor", "Zan") for b in ("ina", "usk", "tep", "o")),
]
ITEMS = [Item(str(i), f"{b} pump {i}", b) for i, b in enumerate(BRANDS)]
LOG = [Example(" ".join(pair)) for pair in itertools.permutations(("aquaclear", "fluval", "tetra", "juwel", "ista"), 2)]
BOUGHT = [
    Conversion("aquaclear fluval", "0", 5), Conversion("aquaclear fluval", "1", 3), Conversion("juwel ista", "0", 2),
    Conversion("juwel ista", "6", 1),
]


def doubled(values: list[str]) -> bool:
    return len({NORMALISE(v) for v in values}) < len(values)


def task_of(embedder: Path) -> Task:
    roles = [{"name": "brand", "catalogue": "brand", "grounded": True}, {"name": "product"}]
    return make_task(roles=roles, teacher={
        "backend": "openai", "retrieval": {"embedder": str(embedder), "neighbours": 0},
        "openai": {"prompt": str(PROMPT), "model": "m", "few_shot": 0},
    })


def contexts(task: Task, folder: Path) -> list[dict[str, Any]]:
    with Ledger(folder / "ledger.sqlite") as ledger:
        sources = Sources(LOG, ITEMS, BOUGHT)
        job = LabellingJob(task, sources, LOG, ledger=ledger, folder=folder, fetch=Path, progress=quiet)
        return [dict(found) for block in blocks(job) for _, found in block]


def test_the_most_frequent_spelling_stands_for_the_others_of_two_the_first() -> None:
    same = spellings("brand", ITEMS, NORMALISE)
    assert same == {"AQUACLEAR": "AquaClear", "AquaClear": "AquaClear", "Fluval": "Fluval", "FLUVAL": "Fluval"}
    assert most_spellings(same) == 2
    assert most_spellings({}) == 1
    assert once(["AQUACLEAR", "Tetra", "AquaClear", "FLUVAL", "Sera"], same, 3) == ["AquaClear", "Tetra", "Fluval"]
    # One spelling of each: the prompt is the one that was paid for.
    assert once(["AQUACLEAR", "Tetra", "FLUVAL", "AquaClear"], same, 3) == ["AQUACLEAR", "Tetra", "FLUVAL"]


def test_only_prompts_that_showed_a_value_twice_change(
    embedder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(embedder_folder)
    now = contexts(task, tmp_path)
    monkeypatch.setattr(context, "spellings_of", lambda *_: {})
    before = contexts(task, tmp_path)
    kept = 0
    for query, old, new in zip(LOG, before, now, strict=True):
        twice = {kind for kind in ("converted", "similar") if doubled(old[kind].get("brand", []))}
        for kind in ("converted", "similar"):
            assert not doubled(new[kind].get("brand", []))
            if kind not in twice:
                assert new[kind] == old[kind]
        assert len(new["similar"]["brand"]) == 5  # the next values take the place of further spellings
        keys = [[r.key for r in Prompter(task).first(query.query, found)] for found in (old, new)]
        assert (keys[0] == keys[1]) == (not twice)
        kept += not twice
    assert 0 < kept < len(LOG)


def test_what_was_bought_most_is_shown_once() -> None:
    task = task_of(Path("none"))
    evidence = Evidence((), {0: 5, 5: 3, 1: 2, 4: 1}, (), {})
    same = spellings_of(task, ITEMS)
    shown = [
        context.assemble(task, ITEMS, evidence, examples=[], similar={}, spelling=s)["converted"]["brand"]
        for s in ({}, same)
    ]
    assert shown == [["AQUACLEAR", "Tetra", "AquaClear", "FLUVAL"], ["AquaClear", "Tetra", "Fluval"]]


def test_a_plan_ahead_counts_prompts_that_show_a_value_once() -> None:
    for found in typical_contexts(task_of(Path("none")), Sources(LOG, ITEMS, BOUGHT), LOG):
        assert not doubled(found["similar"]["brand"])
        assert not doubled(found["converted"].get("brand", []))


def test_the_market_has_no_value_in_two_spellings(tmp_path: Path) -> None:
    """Its prompts are those that were recorded."""
    generate(tmp_path, seed=0, queries=200, items=2_000)
    catalogue = read_catalogue(tmp_path / "catalogue.jsonl")
    found = spellings_of(load_task(ROOT / "configs" / "market.yaml").task, catalogue)
    assert found
    assert not any(found.values())
