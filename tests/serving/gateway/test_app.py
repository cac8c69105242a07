"""The HTTP API: answers, errors, and no access to the engine behind it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from serving.gateway.admission import Callers
from serving.gateway.api_keys import KeyRow, make_key, read_keys
from serving.routing.task_routes import Choice, Routes
from tests import simulated_time
from tests.serving.conftest import Harness, Open


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(x) for x in response.text.splitlines()]


def test_a_hit_a_miss_and_what_both_say(harness: Open) -> None:
    async def run() -> None:
        async with harness() as h:
            hit = await h.label("OAT  milk")
            assert hit.status_code == 200
            found = hit.json()
            assert (found["source"], found["status"], found["task"]) == ("cache", "ok", "toy")
            assert [(x["role"], x["text"], x["start"], x["end"]) for x in found["labels"]] == [
                ("product", "OAT  milk", 0, 9), ("aisle", "dairy", None, None),
            ]
            miss = (await h.label("rice MILK")).json()
            assert (miss["source"], [x["text"] for x in miss["labels"]]) == ("student", ["MILK"])
            assert 0.9 < miss["probability"] <= 1.0
            past = (await h.label("oat milk", use_cache=False)).json()
            assert past["source"] == "student"

    asyncio.run(run())


def test_hits_flow_while_the_engine_is_down_and_misses_are_refused(harness: Open) -> None:
    async def run() -> None:
        async with harness() as h:
            assert (await h.client.get("/readyz")).json()["status"] == "ready"
            h.engine.mood = "gone"
            assert (await h.label("oat milk")).status_code == 200
            miss = await h.label("rice milk")
            assert (miss.status_code, miss.headers["Retry-After"]) == (503, "1")
            assert (await h.client.get("/healthz")).status_code == 200
            ready = await h.client.get("/readyz")  # taking it out of the balancer would lose the hits as well
            assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
            text = (await h.client.get("/metrics")).text
            assert 'limbeck_refused_total{reason="engine"} 1.0' in text
            assert 'limbeck_answers_total{bundle="' in text

    asyncio.run(run())


def test_it_is_not_ready_before_the_engine_has_answered(harness: Open) -> None:
    async def run() -> None:
        async with harness() as h:
            h.engine.mood = "broken"
            assert (await h.client.get("/readyz")).status_code == 503

    asyncio.run(run())


def test_a_deadline_is_kept(harness: Open) -> None:
    async def run() -> None:
        async with harness() as h:
            h.engine.mood = "hanging"
            loop = asyncio.get_running_loop()
            started = loop.time()
            found = await h.client.post(
                "/v1/label", json={"query": "rice milk"}, headers={"X-Request-Timeout-Ms": "150"}
            )
            assert (found.status_code, found.headers["Retry-After"]) == (503, "1")
            assert 0.14 < loop.time() - started < 1.0
            wrong = await h.client.post("/v1/label", json={"query": "a"}, headers={"X-Request-Timeout-Ms": "soon"})
            assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "X-Request-Timeout-Ms")

    asyncio.run(run())


def test_a_batch_streams_what_is_known_before_what_is_asked(harness: Open) -> None:
    async def run() -> None:
        async with harness() as h:
            queries = ["rice MILK", "oat milk", "", "rice MILK", *(f"query {i}" for i in range(20))]
            answer = await h.client.post("/v1/label:batch", json={"queries": queries})
            found = lines(answer)
            assert answer.headers["content-type"] == "application/x-ndjson"
            assert sorted(x["index"] for x in found) == list(range(24))
            assert [x["index"] for x in found[:2]] == [1, 2]
            assert all(x["query"] == queries[x["index"]] for x in found)
            assert sorted(h.engine.asked) == [5, 16]  # 21 distinct ones, asked together
            assert lines(await h.client.post("/v1/label:batch", json={"queries": []})) == []

    asyncio.run(run())


def test_a_batch_says_which_of_its_queries_failed(harness: Open) -> None:
    async def run() -> None:
        async with harness() as h:
            h.engine.mood = "broken"
            found = {x["index"]: x for x in lines(
                await h.client.post("/v1/label:batch", json={"queries": ["rice milk", "oat milk"]})
            )}
            assert found[1]["source"] == "cache"
            assert found[0]["error"]["type"] == "overloaded_error"
            h.engine.mood = "hanging"
            late = lines(await h.client.post(
                "/v1/label:batch", json={"queries": ["rice milk", "oat milk"]}, headers={"X-Request-Timeout-Ms": "100"}
            ))
            assert late[1]["error"]["message"] == "not answered by the deadline"

    asyncio.run(run())


@pytest.mark.parametrize("body", [
    b"{}", b'{"query": null}', b'{"query": 5}', b'{"query": "\\ud800"}', b'{"query": "a", "n": 5}', b"[]", b"nonsense",
    b"", b'{"query": "' + b"x" * 10_000 + b'"}', b"\xff\xfe", b'{"query": "\xff"}', b"[" * 100_000,
    b'{"query": "a", "use_cache": "yes"}',
])
def test_malformed_bodies_are_422_and_never_500(harness: Open, body: bytes) -> None:
    async def run() -> None:
        async with harness() as h:
            for path in ("/v1/label", "/v1/label:batch", "/v1/chat/completions"):
                response = await h.client.post(path, content=body)
                assert response.status_code == 422, path
                assert response.json()["error"]["message"]
            assert h.engine.requests == 0

    asyncio.run(run())


def test_limits_on_bodies_headers_batches_and_methods(harness: Open) -> None:
    async def run() -> None:
        async with harness(max_body_bytes=1_000, max_batch=3) as h:
            async def chunks() -> Any:
                for _ in range(20):
                    yield b" " * 100

            assert (await h.client.post("/v1/label", content=b" " * 1_001)).status_code == 413
            assert (await h.client.post("/v1/label", content=chunks())).status_code == 413
            many = await h.client.post("/v1/label:batch", json={"queries": ["a"] * 4})
            assert (many.status_code, many.json()["error"]["param"]) == (400, "queries")
            huge = await h.client.post("/v1/label", json={"query": "a"}, headers={"X-Padding": "x" * 20_000})
            assert huge.status_code == 431
            wrong = await h.client.put("/v1/label")
            assert (wrong.status_code, wrong.headers["Allow"]) == (405, "POST, OPTIONS")
            head = await h.client.head("/healthz")
            assert (head.status_code, head.content) == (200, b"")
            assert (await h.client.head("/v1/label")).status_code == 405
            for path, allowed in (("/v1/label", "POST, OPTIONS"), ("/v1/models/toy", "GET, HEAD, OPTIONS")):
                options = await h.client.options(path)
                assert (options.status_code, options.headers["Allow"]) == (200, allowed)
            assert (await h.client.options("/nowhere")).status_code == 404

    asyncio.run(run())


@pytest.mark.parametrize("path", [
    "/pause", "/invocations", "/update_weights", "/pooling", "/v1/completions", "/v1/load_lora_adapter", "/docs",
    "/v1/label/", "/v1/../pause", "/%70ause", "//pooling", "/tokenize", "/server_info", "/reset_prefix_cache",
])
def test_nothing_of_vllms_can_be_reached(harness: Open, path: str) -> None:
    async def run() -> None:
        async with harness() as h:
            for method in ("GET", "POST"):
                assert (await h.client.request(method, path, json={})).status_code == 404
            assert h.engine.requests == 0

    asyncio.run(run())


def test_an_openai_client_needs_another_base_url_only(harness: Open) -> None:
    async def run() -> None:
        async with harness() as h:
            body = {
                "model": "toy", "temperature": 0.7, "seed": 1, "response_format": {"type": "json_object"},
                "messages": [
                    {"role": "system", "content": "Answer in French"}, {"role": "user", "content": "rice MILK"},
                ],
            }
            found = (await h.client.post("/v1/chat/completions", json=body)).json()
            (choice,) = found["choices"]
            assert [x["text"] for x in json.loads(choice["message"]["content"])["labels"]] == ["MILK"]
            assert (choice["finish_reason"], found["object"]) == ("stop", "chat.completion")
            assert found["usage"]["prompt_tokens"] > 0
            parts = [{"type": "text", "text": "rice "}, {"type": "text", "text": "MILK"}]
            for model in ("student", h.route.bundle.model_name):
                streamed = await h.client.post("/v1/chat/completions", json={
                    "model": model, "stream": True, "messages": [{"role": "user", "content": parts}],
                })
                events = [x[6:] for x in streamed.text.split("\n\n") if x]
                assert events[-1] == "[DONE]"
                content = "".join(json.loads(e)["choices"][0]["delta"].get("content", "") for e in events[:-1])
                assert [x["text"] for x in json.loads(content)["labels"]] == ["MILK"]
            listed = (await h.client.get("/v1/models")).json()
            assert [m["id"] for m in listed["data"]] == ["toy", h.route.bundle.model_name, "student"]

    asyncio.run(run())


@pytest.mark.parametrize(("change", "status"), [
    ({"model": "gpt-4"}, 404), ({"n": 2}, 422), ({"messages": []}, 422),
    ({"messages": [{"role": "system", "content": "x"}]}, 422),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc"}}]}]}, 422),
])
def test_what_a_student_cannot_do_is_refused(harness: Open, change: dict[str, Any], status: int) -> None:
    async def run() -> None:
        async with harness() as h:
            body = {"model": "toy", "messages": [{"role": "user", "content": "x"}]} | change
            assert (await h.client.post("/v1/chat/completions", json=body)).status_code == status
            assert h.engine.requests == 0

    asyncio.run(run())


def test_keys_open_the_door_and_rates_close_it(harness: Open, tmp_path: Any) -> None:
    async def run() -> None:
        file = tmp_path / "keys.json"
        key = make_key(file, "web", rate=0.5, burst=3, concurrency=2)
        assert key not in file.read_text()
        async with harness() as h:
            h.gateway.callers = Callers(read_keys(file))
            for wrong in (None, "lk_web_" + "x" * 43, "lk_app" + key[6:], key[:-1], "nonsense", "lk_ü"):
                headers = {} if wrong is None else {"Authorization": b"Bearer " + wrong.encode()}
                refused = await h.client.post("/v1/label", json={"query": "oat milk"}, headers=headers)
                assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
            h.client.headers["Authorization"] = f"Bearer {key}"
            assert (await h.label("oat milk")).status_code == 200
            assert (await h.client.post("/v1/label:batch", json={"queries": ["oat milk"] * 2})).status_code == 200
            over = await h.label("oat milk")
            assert (over.status_code, over.json()["error"]["type"]) == (429, "rate_limit_error")
            assert int(over.headers["Retry-After"]) >= 1
            assert (await h.client.get("/healthz")).status_code == 200

    asyncio.run(run())


def test_a_caller_may_have_so_many_at_a_time(harness: Open, tmp_path: Any) -> None:
    async def run() -> None:
        key = make_key(tmp_path / "keys.json", "web", rate=1_000, burst=1_000, concurrency=2)
        async with harness() as h:
            h.gateway.callers = Callers(read_keys(tmp_path / "keys.json"))
            h.client.headers["X-API-Key"] = key
            h.engine.delay_s = 0.2
            found = await asyncio.gather(*(h.label(f"query {i}") for i in range(5)))
            assert sorted(x.status_code for x in found) == [200, 200, 429, 429, 429]
            assert (await h.label("later")).status_code == 200  # those that ended were given back

    simulated_time.run(run())


def test_a_request_carries_its_id_through(harness: Open) -> None:
    async def run() -> None:
        async with harness() as h:
            mine = await h.client.post("/v1/label", json={"query": "oat milk"}, headers={"X-Request-Id": "abc-1"})
            assert mine.headers["X-Request-Id"] == "abc-1"
            bad = await h.client.post("/v1/label", json={"query": "x"}, headers={"X-Request-Id": "a b\tc" * 30})
            assert len(bad.headers["X-Request-Id"]) == 16

    asyncio.run(run())


def test_a_fault_of_ours_is_500_without_details(harness: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with harness() as h:
            monkeypatch.setattr(type(h.route), "known", lambda *_: 1 / 0)
            found = await h.label("oat milk")
            assert found.status_code == 500
            assert "ZeroDivision" not in found.text

    asyncio.run(run())


def test_two_tasks_are_told_apart(harness: Open) -> None:
    async def run() -> None:
        async with harness() as h:
            h.gateway.routes = Routes({"toy": Choice(h.route), "other": Choice(h.route)})
            unnamed = await h.label("oat milk")
            assert (unnamed.status_code, "toy, other" in unnamed.json()["error"]["message"]) == (400, True)
            assert (await h.label("oat milk", task="toy")).status_code == 200
            assert (await h.label("oat milk", task="none")).status_code == 404

    asyncio.run(run())


async def shadows_done(h: Harness) -> None:
    while h.gateway._shadows:
        await asyncio.sleep(0.01)


def test_a_trial_sees_its_share_and_clients_see_nothing_of_a_shadow(harness: Open) -> None:
    async def run() -> None:
        async with harness() as now, harness() as new:
            new.engine.sure = 20.0
            now.gateway.routes = Routes({"toy": Choice(now.route, new.route, shadow=1.0)})
            new.engine.delay_s = 0.1
            first = await now.label("rice MILK")
            assert first.json()["source"] == "student"
            await shadows_done(now)
            new.engine.mood = "broken"
            await now.label("soy MILK")
            await shadows_done(now)
            text = (await now.client.get("/metrics")).text
            assert 'result="same"} 1.0' in text
            assert 'result="failed"} 1.0' in text
            new.engine.mood, before = "well", new.engine.requests
            now.gateway.routes = Routes({"toy": Choice(now.route, new.route, canary=0.3)})
            for _ in range(2):
                for number in range(60):
                    await now.label(f"query {number}")
            seen = new.engine.requests - before
            assert 2 * 8 <= seen <= 2 * 30
            assert seen % 2 == 0  # the same queries each time

    asyncio.run(run())


def test_the_document_describes_the_api_and_holds(harness: Open) -> None:
    async def run() -> None:
        async with harness() as h:
            document = (await h.client.get("/openapi.json")).json()
            assert {"/v1/label", "/v1/label:batch", "/v1/chat/completions", "/healthz"} <= document["paths"].keys()
            answer = (await h.label("rice MILK")).json()
            promised = document["components"]["schemas"]["LabelResponse"]["properties"]
            assert answer.keys() == promised.keys()

    asyncio.run(run())


def test_a_key_row_says_what_is_wrong(tmp_path: Any) -> None:
    from task.errors import InputError

    (tmp_path / "k.json").write_text('[{"name": "web"}]')
    with pytest.raises(InputError, match=r"k\.json.*not a key file"):
        read_keys(tmp_path / "k.json")
    with pytest.raises(InputError, match="limbeck key"):
        read_keys(tmp_path / "none.json")
    with pytest.raises(InputError, match="not a name"):
        make_key(tmp_path / "new.json", "Über", rate=1.0, burst=1, concurrency=1)
    assert KeyRow(name="a", sha256="0" * 64).rate == 100.0
