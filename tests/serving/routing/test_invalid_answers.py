"""Answers that cannot be used: marked for the client, counted by kind, and never kept."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from task.forms import Decoded
from task.labels import Label
from tests.serving.conftest import Harness, Open

LIST = '[{"role":"product","text":"MILK"}]'


def said(*labels: Any) -> dict[str, Any]:
    return {"text": json.dumps(labels)}


async def counted(h: Harness) -> dict[str, float]:
    lines = (await h.client.get("/metrics")).text.splitlines()
    mark = f'limbeck_invalid_total{{bundle="{h.route.bundle.id}",kind="'
    return {x.removeprefix(mark).partition('"')[0]: float(x.split()[-1]) for x in lines if x.startswith(mark)}


@pytest.mark.parametrize("form", ["json"])
@pytest.mark.parametrize(("choice", "fault"), [
    ({"text": "I cannot help with that"}, "unreadable"),
    ({"text": '[{"role":"product","te'}, "unreadable"),
    ({"text": "[" * 100_000 + "]" * 100_000}, "unreadable"),
    (said(7), "unreadable"),
    (said({"role": "product"}), "unreadable"),
    ({"text": LIST + ', {"role":"prod', "finish_reason": "length"}, "truncated"),
    (said({"role": "colour", "text": "MILK"}), "unknown_value"),
    (said({"role": "aisle", "text": "moon"}), "unknown_value"),
    (said({"role": "product", "text": "MILK"}, {"role": "aisle", "text": "moon"}), "unknown_value"),
    (said({"role": "product", "text": "bread"}), "rule"),
    (said({"role": "product", "text": "MILK", "start": 0}), "rule"),
    (said({"role": "product", "text": "MILK", "nth": 3}), "rule"),
    (said({"role": "product", "text": ""}), "rule"),
    (said({"role": "brand", "text": "rice"}, {"role": "brand", "text": "MILK"}), "rule"),
])
def test_what_a_student_writes_wrongly_is_marked_and_counted(harness: Open, choice: dict[str, Any], fault: str) -> None:
    async def run() -> None:
        async with harness(write_back={"ttl_s": 600.0, "probability": 0.0}) as h:
            assert (await h.label("rice MILK")).json()["status"] == "ok"
            h.engine.choice = choice
            for _ in range(2):
                found = (await h.label("rice MILK")).json()
                assert (found["status"], found["fault"], found["labels"]) == ("invalid", fault, [])
                assert (found["source"], found["probability"]) == ("student", None)
            (line,) = (await h.client.post("/v1/label:batch", json={"queries": ["rice MILK"]})).text.splitlines()
            assert json.loads(line)["fault"] == fault
            body = {"model": "toy", "messages": [{"role": "user", "content": "rice MILK"}]}
            chat = (await h.client.post("/v1/chat/completions", json=body)).json()
            content = json.loads(chat["choices"][0]["message"]["content"])
            assert (content["status"], content["fault"]) == ("invalid", fault)
            assert await counted(h) == {fault: 4.0}
            assert h.uncertain == [("rice MILK", 0.0)] * 4

    asyncio.run(run())


@pytest.mark.parametrize("form", ["write"])
def test_symbols_out_of_place_or_missing_are_marked_and_counted(harness: Open) -> None:
    async def run() -> None:
        async with harness() as h:
            assert [x["text"] for x in (await h.label("rice MILK")).json()["labels"]] == ["MILK"]
            codec = h.route.bundle.codec
            states = [codec.symbol_ids[0]] * 2
            probes = [codec.symbol_ids[c.symbols[0]] for c in codec.closed for _ in c.probes]
            for ids, fault in (
                ([*states, *probes], None), ([*probes, *states], "unreadable"), ([*states, *probes[1:]], "truncated"),
            ):
                h.engine.choice = {"token_ids": ids, "logprobs": {"token_logprobs": [-0.01] * len(ids)}}
                found = (await h.label("rice MILK")).json()
                assert (found["fault"], found["status"]) == (fault, "invalid" if fault else "ok")
            assert await counted(h) == {"unreadable": 1.0, "truncated": 1.0}
            h.engine.choice = {"logprobs": {"token_logprobs": [float("nan")] * 9}}
            assert (await h.label("rice MILK")).json()["fault"] == "unreadable"

    asyncio.run(run())


@pytest.mark.parametrize("form", ["json", "write"])
@pytest.mark.parametrize("choice", [
    {"finish_reason": "abort"}, {"finish_reason": None}, {"text": None, "logprobs": None},
])
def test_an_answer_that_the_engine_broke_off_is_none(harness: Open, choice: dict[str, Any]) -> None:
    async def run() -> None:
        async with harness() as h:
            h.engine.choice = choice
            assert (await h.label("rice MILK")).status_code == 503
            assert await counted(h) == {}

    asyncio.run(run())


def test_scores_that_are_no_numbers_are_an_invalid_answer(harness: Open) -> None:
    async def run() -> None:
        async with harness(write_back={"ttl_s": 600.0, "probability": 0.0}) as h:
            h.engine.mood = "nan"
            for _ in range(2):
                found = await h.label("rice MILK")
                assert (found.json()["status"], found.json()["fault"]) == ("invalid", "unreadable")
                assert (found.json()["source"], found.json()["probability"]) == ("student", 0.0)
            assert await counted(h) == {"unreadable": 2.0}

    asyncio.run(run())


def test_the_gateway_checks_the_labels_of_every_engine(harness: Open) -> None:
    """Another engine, or a codec of another task, may give labels that were never checked."""
    async def run() -> None:
        async with harness() as h:
            found = h.route.judge("oat milk", Decoded((Label("aisle", "moon", confidence=0.9),), 0.99))
            assert (found.status, found.fault, found.labels) == ("invalid", "unknown_value", b"[]")
            assert await counted(h) == {"unknown_value": 1.0}

    asyncio.run(run())


def test_a_query_that_the_engine_cannot_take_has_no_answer_whatever_the_thresholds(harness: Open) -> None:
    async def run() -> None:
        async with harness(max_model_len=64, certain={"uncertain": 0.0}) as h:
            found = (await h.label("🜁🜂🜃🜄" * 8)).json()
            assert (found["status"], found["fault"], found["probability"]) == ("invalid", "too_long", 0.0)
            assert h.engine.requests == 0

    asyncio.run(run())


def test_a_trial_that_answers_nonsense_does_not_agree(harness: Open) -> None:
    """Both answers are without labels: the active student found none, the one on trial cannot be read."""
    from serving.routing.task_routes import Choice, Routes

    async def run() -> None:
        async with harness() as now, harness() as new:
            new.engine.mood = "nan"
            now.gateway.routes = Routes({"toy": Choice(now.route, new.route, shadow=1.0)})
            assert (await now.label("rice milk")).json()["labels"] == []
            while now.gateway._shadows:
                await asyncio.sleep(0.01)
            assert 'result="invalid"} 1.0' in (await now.client.get("/metrics")).text

    asyncio.run(run())
