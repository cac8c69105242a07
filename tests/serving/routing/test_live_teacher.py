"""The live teacher: within its budget, in time, and only with valid labels."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError

from serving.routing.live_teacher import LiveTeacher, instructions
from task.errors import InputError
from task.serving_settings import Consult, Serving
from tests.conftest import make_task
from tests.llm_client import strict_schema
from tests.serving.conftest import Harness, Open

RIGHT = {"labels": [{"role": "product", "text": "milk"}, {"role": "aisle", "text": "dairy"}]}
DOUBT = {"certain": {"uncertain": 1.0}, "write_back": {"ttl_s": 600.0}}


@dataclass
class Llm:
    """A fake LLM API, which can misbehave."""

    reply: Any = field(default_factory=lambda: json.dumps(RIGHT))
    finish: Any = "stop"
    fields: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    delay_s: float = 0.0
    bodies: list[dict[str, Any]] = field(default_factory=list)

    async def chat(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json() | {"key": request.headers.get("authorization")})
        await asyncio.sleep(self.delay_s)
        choice = {"message": {"content": self.reply, **self.fields}, "finish_reason": self.finish}
        if (problem := strict_schema.refusal(self.bodies[-1])) is not None:
            return web.json_response({"error": problem}, status=400)
        return web.json_response({"choices": [choice]}, status=self.status)


@asynccontextmanager
async def consulting(
    h: Harness, llm: Llm, *, per_hour: int = 100, processes: int = 1, outcomes: list[str] | None = None,
    sure: float = 1.0, **changes: Any,
) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", llm.chat)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    settings = Consult.model_validate({
        "per_hour": per_hour, "base_url": f"http://127.0.0.1:{runner.addresses[0][1]}/v1", "timeout_s": 1.0,
        "api_key_env": "LIMBECK_TEST_KEY", **changes,
    })
    said = outcomes if outcomes is not None else []
    h.engine.sure = sure
    h.route.use_teacher(LiveTeacher(
        settings, h.route.bundle.task, processes=processes, on_outcome=said.append
    ))
    try:
        yield
    finally:
        await runner.cleanup()


def test_an_uncertain_query_is_asked_once_and_kept(harness: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMBECK_TEST_KEY", "secret")

    async def run() -> None:
        llm = Llm(delay_s=0.1)
        async with harness(**DOUBT) as h, consulting(h, llm):
            found = [r.json() for r in await asyncio.gather(*(h.label("rice milk") for _ in range(5)))]
            assert {(x["source"], x["status"]) for x in found} == {("teacher", "ok")}
            (product,) = [x for x in found[0]["labels"] if x["role"] == "product"]
            assert (product["text"], product["start"]) == ("milk", 5)
            again = (await h.label("Rice  milk")).json()
            assert (again["source"], [x["text"] for x in again["labels"]]) == ("kept", ["milk", "dairy"])
            (body,) = llm.bodies
            assert body["key"] == "Bearer secret"
            assert body["messages"][1] == {"role": "user", "content": "rice milk"}
            assert h.uncertain[0][0] == "rice milk"  # it is still one for the next labelling round

    asyncio.run(run())


def test_a_budget_that_is_spent_leaves_the_students_answer(harness: Open) -> None:
    async def run() -> None:
        llm, outcomes = Llm(), []
        async with harness(**DOUBT) as h, consulting(h, llm, per_hour=4, processes=2, outcomes=outcomes):
            found = [(await h.label(f"rice milk {i}")).json()["source"] for i in range(4)]
        assert found == ["teacher", "teacher", "student", "student"]
        assert outcomes == ["answered", "answered", "budget", "budget"]
        assert len(llm.bodies) == 2

    asyncio.run(run())


@pytest.mark.parametrize("change", [
    {"status": 500}, {"status": 401}, {"reply": None}, {"reply": "I cannot"}, {"finish": "length"}, {"delay_s": 5.0},
    {"finish": "content_filter"}, {"finish": "abort"}, {"reply": None, "fields": {"refusal": "No."}},
    {"reply": '<think>{"labels": []}'}, {"reply": "Rejected: []"}, {"reply": '{"labels": 1}'}, {"reply": "[[[["},
    {"reply": json.dumps({"labels": [{"role": "brand", "text": "rice"}, {"role": "brand", "text": "milk"}]})},
    {"reply": json.dumps({"labels": [{"role": "price", "text": "rice"}]})},  # nothing of it is left
])
def test_a_faulty_teacher_leaves_the_students_answer(harness: Open, change: dict[str, Any]) -> None:
    async def run() -> None:
        async with harness(**DOUBT, request_timeout_s=2.0) as h, consulting(h, Llm(**change)):
            found = await h.label("rice milk")
            assert (found.status_code, found.json()["source"]) == (200, "student")

    asyncio.run(run())


TEXT = json.dumps(RIGHT)


@pytest.mark.parametrize("change", [
    {"reply": [{"type": "text", "text": TEXT[:9]}, {"type": "text", "text": TEXT[9:]}]},
    {"reply": None, "fields": {"reasoning_content": TEXT}}, {"finish": None}, {"finish": "eos"},
    {"reply": f"```json\n{TEXT}\n```\nRejected: []"}, {"reply": f'<think>{{"labels": []}}</think>{TEXT}'},
    {"finish": "tool_calls", "reply": None, "fields": {"tool_calls": [{"function": {"arguments": TEXT}}]}},
])
def test_an_answer_is_read_as_in_a_labelling_job(harness: Open, change: dict[str, Any]) -> None:
    async def run() -> None:
        async with harness(**DOUBT) as h, consulting(h, Llm(**change)):
            found = (await h.label("rice milk")).json()
            assert (found["source"], [x["text"] for x in found["labels"]]) == ("teacher", ["milk", "dairy"])

    asyncio.run(run())


def test_the_key_the_proxy_and_the_fields_of_its_requests_follow_the_same_rules(
    harness: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMBECK_TEST_KEY", "secret\n")

    async def run() -> None:
        llm = Llm()
        extra = {"max_completion_tokens": 900, "temperature": None}
        async with harness(**DOUBT) as h, consulting(h, llm, extra_body=extra):
            assert (await h.label("rice milk")).json()["source"] == "teacher"
        (body,) = llm.bodies
        assert (body["key"], body["max_completion_tokens"]) == ("Bearer secret", 900)
        assert not {"max_tokens", "temperature"} & body.keys()
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nothing listens there
        monkeypatch.setenv("NO_PROXY", "")
        async with harness(**DOUBT) as h, consulting(h, llm):
            assert (await h.label("soy milk")).json()["source"] == "student"
        monkeypatch.setenv("LIMBECK_TEST_KEY", "sec\nret")
        async with harness(**DOUBT) as h:
            with pytest.raises(InputError, match="LIMBECK_TEST_KEY"):
                LiveTeacher(Consult(api_key_env="LIMBECK_TEST_KEY"), h.route.bundle.task)

    asyncio.run(run())


def test_a_bundle_of_before_has_the_same_settings_of_its_teacher() -> None:
    """A field that is not used is not written: no bundle or stage is made again for it."""
    assert set(Consult().model_dump()) == {"per_hour", "base_url", "model", "api_key_env", "timeout_s"}
    given = Consult(extra_body={"reasoning_effort": "low"})
    assert Consult.model_validate(given.model_dump(mode="json")) == given


def test_labels_that_the_task_does_not_know_are_left_out(harness: Open) -> None:
    async def run() -> None:
        rows = [*RIGHT["labels"], {"role": "price", "text": "milk"}, {"role": "product", "text": "cream"}, "?"]
        async with harness(**DOUBT) as h, consulting(h, Llm(reply=json.dumps({"labels": rows}))):
            found = (await h.label("rice milk")).json()
            assert [x["text"] for x in found["labels"]] == ["milk", "dairy"]

    asyncio.run(run())


def test_an_invalid_answer_is_asked_about_too_and_counted(harness: Open) -> None:
    async def run() -> None:
        async with harness(write_back={"ttl_s": 600.0}) as h, consulting(h, Llm()):
            h.engine.mood = "nan"
            found = (await h.label("rice milk")).json()
            assert (found["source"], found["status"], found["fault"]) == ("teacher", "ok", None)
            assert 'kind="unreadable"} 1.0' in (await h.client.get("/metrics")).text

    asyncio.run(run())


def test_certain_cached_and_batched_queries_are_not_asked(harness: Open) -> None:
    async def run() -> None:
        llm = Llm()
        async with harness(write_back={"ttl_s": 600.0}) as h, consulting(h, llm, sure=20.0):
            await h.label("RICE milk")
        async with harness(**DOUBT) as h, consulting(h, llm):
            await h.label("oat milk")
            await h.client.post("/v1/label:batch", json={"queries": ["rice milk", "soy milk"]})
            await h.client.get("/readyz")
        assert llm.bodies == []

    asyncio.run(run())


def test_a_client_in_a_hurry_gets_the_students_answer_and_the_next_one_the_teachers(harness: Open) -> None:
    async def run() -> None:
        llm = Llm(delay_s=0.5)
        async with harness(**DOUBT, request_timeout_s=0.3) as h, consulting(h, llm):
            assert (await h.label("rice milk")).json()["source"] == "student"
            await asyncio.sleep(0.5)
            assert (await h.label("rice milk")).json()["source"] == "kept"
            assert len(llm.bodies) == 1

    asyncio.run(run())


def test_a_teacher_whose_answers_are_not_kept_is_refused() -> None:
    with pytest.raises(ValidationError, match="would be paid for again"):
        Serving.model_validate({"consult": {"per_hour": 10}})


def test_the_teacher_is_told_roles_values_and_examples() -> None:
    task = make_task(instructions="Label the query.", examples=[
        {"query": "oat milk", "labels": [{"role": "product", "text": "oat milk"}]},
    ])
    said = instructions(task)
    assert said.startswith("Label the query.")
    assert "- aisle: see its name; one of dairy, drinks" in said
    assert 'oat milk\n{"labels": [{"role": "product", "text": "oat milk"}]}' in said


def test_a_text_role_is_asked_for_as_other_words() -> None:
    texts = {"name": "synonym", "kind": "text", "most": 2}
    plain = make_task()
    said = instructions(make_task(roles=[*(r.model_dump() for r in plain.roles), texts], student={"form": "write"}))
    assert "- synonym: see its name; other words for the query, at most 2\n" in said
    assert "one of the listed values, or, for synonym, other words for the query." in said
    assert "other words" not in instructions(plain)
