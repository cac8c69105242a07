"""A job whose every call fails alike stops after the first few, says why, and keeps what was answered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from engine.loopback import free_port
from llm_client.error_text import short_error
from task.errors import ComponentError, InputWarning
from teacher.backends.llm.provider_failures import ALIKE, ProviderError
from teacher.ledger.ledger import Ledger
from tests.llm_client.fake_api import FakeApi
from tests.teacher.test_label import llm_task, queries, run

WRONG_KEY = {"error": {"message": "Incorrect API key provided: sk-made-up.", "type": "invalid_request_error"}}


class RefusingApi(FakeApi):
    """Answers a query as `refuse_with` says: (status, body), or None for an answer."""

    def __init__(self, refuse_with: Callable[[str, int], tuple[int, Any] | None]) -> None:
        super().__init__()
        self.refuse_with = refuse_with
        self.sent = 0

    async def _behave(self, request: web.Request) -> web.StreamResponse:
        self.sent += 1
        query = (await request.json())["messages"][-1]["content"]
        refused = self.refuse_with(query, self.sent)
        if refused is None:
            return await super()._behave(request)
        status, body = refused
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=status, text=text, headers={"Retry-After": "0"})


@pytest.mark.parametrize(("status", "body", "expected"), [
    (401, WRONG_KEY, "HTTP 401: Incorrect API key provided: sk-made-up. Check the key in OPENAI_API_KEY"),
    (403, {"message": "No access to this project"}, "HTTP 403: No access to this project. Check the key"),
    (404, {"error": "model 'm' not found"}, "HTTP 404: model 'm' not found. Check teacher.openai.base_url and .model"),
    (404, "<html><body><h1>404 Not Found</h1></body></html>", "HTTP 404: 404 Not Found. Check"),
    (400, {"error": {"message": "Unsupported parameter: 'max_tokens'"}}, "HTTP 400: Unsupported parameter"),
    (200, "<html>Log in</html>", "not a chat completion: Log in"),
])
def test_a_job_that_every_call_of_fails_alike_is_stopped(
    tmp_path: Path, status: int, body: Any, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-made-up")
    with RefusingApi(lambda *_: (status, body)) as api:
        with pytest.raises(ProviderError) as caught:
            run(llm_task(api.url, max_attempts=1, concurrency=64), queries(500), tmp_path)
        assert api.sent == ALIKE
    assert f"{ALIKE} queries in a row failed alike" in str(caught.value)
    assert expected in str(caught.value)
    assert "run the same command" in str(caught.value)
    assert isinstance(caught.value, ComponentError)  # exit code 1


def test_a_key_that_is_not_set_is_told_before_anything_is_sent_and_when_it_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HW_KEY", raising=False)
    with RefusingApi(lambda *_: (401, WRONG_KEY)) as api:
        task = llm_task(api.url, max_attempts=1, api_key_env="HW_KEY")
        with (
            pytest.warns(InputWarning, match=rf"variable HW_KEY is not set, so requests to {api.url} are sent without"),
            pytest.raises(ProviderError, match=r"HTTP 401: .*Set HW_KEY: it is not set; then run the same command"),
        ):
            run(task, queries(20), tmp_path)


def test_what_was_answered_before_the_key_was_withdrawn_is_kept(tmp_path: Path) -> None:
    with RefusingApi(lambda _, sent: (401, WRONG_KEY) if sent > 50 else None) as api:
        with pytest.raises(ProviderError, match="HTTP 401"):
            run(llm_task(api.url, concurrency=4), queries(500), tmp_path)
        assert api.sent <= 50 + ALIKE + 4 * 4  # eight queries had been begun before the last answer
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            assert ledger.statuses()["accepted"][0] == 50
        api.refuse_with = lambda *_: None
        before = api.sent
        assert {r.status for r in run(llm_task(api.url), queries(500), tmp_path).rows} == {"accepted"}
        assert api.sent == before + 450


def test_a_server_that_is_not_there_is_asked_as_often_as_the_task_says(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(ProviderError, match=r"Cannot connect to host 127\.0\.0\.1.*Check teacher\.openai\.base_url"):
        run(llm_task(url, max_attempts=2), queries(100), tmp_path)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.spent()["attempts"] == 2 * ALIKE


def test_failures_with_answers_between_them_do_not_stop_a_job(tmp_path: Path) -> None:
    def some(query: str, _: int) -> tuple[int, Any] | None:
        return (404, {"error": {"message": "no such thing"}}) if int(query.split()[0][5:]) % 3 else None

    with RefusingApi(some) as api:
        found = run(llm_task(api.url, concurrency=1), queries(60), tmp_path).rows
    assert [r.status for r in found[:4]] == ["accepted", "failed", "failed", "accepted"]
    assert found[1].reason == "no usable reply: HTTP 404: no such thing"


def test_queries_that_always_fail_leave_the_others_their_labels(tmp_path: Path) -> None:
    """Their calls are tried again, so that they end last, in a row; in the next job they are the only ones."""
    poison = {f"thing{i} milk" for i in range(0, 390, 15)}
    with RefusingApi(lambda query, _: (500, {"error": "cannot"}) if query in poison else None) as api:
        task = llm_task(api.url, max_attempts=3, concurrency=64)
        for sent in (400 - 26 + 3 * 26, 3 * 26):
            before = api.sent
            found = list(run(task, queries(400), tmp_path).rows)
            assert {r.query for r in found if r.status == "failed"} == poison
            assert sum(r.status == "accepted" for r in found) == 400 - 26
            assert api.sent - before <= sent


def test_queries_that_failed_before_are_asked_last(tmp_path: Path) -> None:
    poison = {f"thing{i} milk" for i in range(20, 46)}
    with RefusingApi(lambda query, _: (500, {"error": "cannot"}) if query in poison else None) as api:
        task = llm_task(api.url, max_attempts=1, concurrency=1)
        for _ in range(2):
            with pytest.raises(ProviderError):  # a server that is down looks like this
                run(task, queries(100), tmp_path)
        found = run(task, queries(100), tmp_path).rows
    assert [r.status for r in found] == ["accepted"] * 20 + ["failed"] * 26 + ["accepted"] * 54


def test_queries_that_a_filter_refuses_do_not_keep_the_others_from_being_asked(tmp_path: Path) -> None:
    log = queries(60)
    filtered = {q.query for q in log[:40]}
    with RefusingApi(lambda query, _: (400, {"error": "filtered"}) if query in filtered else None) as api:
        run(llm_task(api.url), log[35:], tmp_path)  # ends with answers
        found = run(llm_task(api.url), log, tmp_path).rows  # begins with more than ALIKE refusals
    assert [r.status for r in found] == ["failed"] * 40 + ["accepted"] * 20


@pytest.mark.parametrize(("error", "words"), [
    ('HTTP 401: {"error": {"message": "bad key"}}', "HTTP 401: bad key"),
    ('HTTP 422: {"detail": [{"loc": ["body"], "msg": "field required"}]}', "HTTP 422: field required"),
    ('HTTP 400: {"error": {"code": 1, "message": "cut in the mid', "HTTP 400: cut in the mid"),
    ("HTTP 502: <html><head><title>502</title></head>\r\n<body>\r\nBad Gateway</body>", "HTTP 502: 502 Bad Gateway"),
    ("HTTP 500: ", "HTTP 500"), ("TimeoutError: ", "TimeoutError"),
    ("HTTP 400: " + "x" * 900, "HTTP 400: " + "x" * 199 + "…"),
    ('HTTP 400: ["\\ud83e"]', "HTTP 400: \ufffd"), ("HTTP 400: [[[" * 9000, None),
])
def test_the_providers_own_words(error: str, words: str | None) -> None:
    found = short_error(error)
    assert found.encode()
    assert len(found) < 250
    assert words is None or found == words
