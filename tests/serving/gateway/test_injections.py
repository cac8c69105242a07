"""Prompt injections: a query is data and never an instruction."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from task.codec import Codec
from task.labels import Label
from task.spec import Task
from task.tokenizer import FastTokenizer
from task.validation import violation
from tests.serving.conftest import Open

INJECTIONS: dict[str, list[str]] = json.loads((Path(__file__).parent / "injections.json").read_text())
ALL = [query for family in INJECTIONS.values() for query in family]


def test_there_are_enough_of_them() -> None:
    assert len(set(ALL)) == len(ALL) >= 200


@pytest.mark.parametrize("form", ["read", "write", "json"])
def test_no_query_puts_a_special_token_into_the_prompt(form: str, task: Task, tiny_llama: Path) -> None:
    tokenizer = FastTokenizer(tiny_llama)
    templates = [x for x in INJECTIONS["special tokens"] if " " not in x and "oat" not in x]
    tokenizer._tokenizer.add_special_tokens(templates)  # a base that knows them all
    codec = Codec.compile(task, [], tokenizer, form=form)
    special = {i for i, token in tokenizer._tokenizer.get_added_tokens_decoder().items() if token.special}
    assert len(special) >= len(templates)
    ours = [i for i in codec.prompt("oat milk", tokenizer).ids if i in special]
    for query in ALL:
        assert [i for i in codec.prompt(query, tokenizer).ids if i in special] == ours, query


def test_few_characters_that_are_too_many_tokens_cost_nobody_else_an_answer(harness: Open) -> None:
    """An engine refuses a whole batch for one prompt that is too long for it, and a breaker would open for it."""
    long = "🜁🜂🜃🜄" * 8

    async def run() -> None:
        async with harness(max_model_len=64) as h:
            for _ in range(20):
                response = await h.client.post(
                    "/v1/label:batch", json={"queries": ["rice MILK", long, "oat milk"], "use_cache": False}
                )
                rows = {r["query"]: r for r in map(json.loads, response.text.split("\n")[:-1])}
                assert rows[long]["labels"] == []
                assert rows[long]["probability"] == 0.0
                assert all("labels" in rows[q] for q in ("rice MILK", "oat milk"))
            assert (await h.label(long)).json()["status"] != "ok"
            assert (await h.label("rice MILK", use_cache=False)).json()["labels"]

    asyncio.run(run())


def test_shapes_and_neighbours_stay_as_they_were(harness: Open) -> None:
    neighbours = ["rice MILK", "oat milk"]

    async def run() -> None:
        async with harness(certain={"uncertain": 0.0}) as h:
            task = h.route.bundle.task
            alone = {q: (await h.label(q, use_cache=False)).json()["labels"] for q in neighbours}
            for query in ALL:
                queries = [neighbours[0], query, neighbours[1]]
                response = await h.client.post("/v1/label:batch", json={"queries": queries, "use_cache": False})
                assert response.status_code == 200, query
                rows = {r["index"]: r for r in map(json.loads, response.text.split("\n")[:-1])}
                assert {rows[0]["query"]: rows[0]["labels"], rows[2]["query"]: rows[2]["labels"]} == alone
                assert rows[1]["query"] == query
                assert set(rows[1]) == set(rows[0])
                assert violation(task, query, [Label(**x) for x in rows[1]["labels"]]) is None
                chat = await h.client.post("/v1/chat/completions", json={
                    "model": "toy", "messages": [{"role": "user", "content": query}],
                })
                assert chat.status_code == 200, query
                assert isinstance(json.loads(chat.json()["choices"][0]["message"]["content"])["labels"], list)

    asyncio.run(run())
