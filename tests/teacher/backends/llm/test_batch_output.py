"""The answers of a batch are collected whatever its output file looks like: they are paid for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from task.errors import ComponentError
from task.labels import Example
from task.text import repaired
from teacher.backends.llm.batch_output import read_lines
from teacher.ledger.ledger import Ledger
from tests.llm_client.fake_api import FakeApi
from tests.teacher.backends.llm.test_batch import batch_task
from tests.teacher.ledger.test_any_text import ANY_TEXT
from tests.teacher.test_label import queries, run

Rows = list[dict[str, Any]]
SEPARATED = [Example("acme\u2028rice"), Example("green\u0085tea"), Example("soy\u2029milk"), Example("oat milk")]


class RewritingApi(FakeApi):
    """Sends output files as `rewrite` makes them of their rows."""

    def __init__(self, rewrite: Callable[[Rows], bytes]) -> None:
        super().__init__()
        self.rewrite = rewrite

    async def _content(self, request: web.Request) -> web.StreamResponse:
        rows = [json.loads(x) for x in self.files[request.match_info["name"]].split("\n") if x]
        return web.Response(body=self.rewrite(rows), content_type="application/octet-stream")


def lines(rows: Rows, end: str = "\n") -> bytes:
    return "".join(json.dumps(r, ensure_ascii=False) + end for r in rows).encode()


@pytest.mark.parametrize("rewrite", [
    lines, lambda rows: lines(rows, "\r\n"), lambda rows: b"\xef\xbb\xbf" + lines(rows, "\r\n") + b"\r\n \n",
    lambda rows: lines(rows).rstrip(b"\n"), lambda rows: b"\n\n" + lines(rows),
])
def test_line_separators_in_answers_blank_lines_and_a_byte_order_mark(
    tmp_path: Path, rewrite: Callable[[Rows], bytes]
) -> None:
    def whole(rows: Rows) -> bytes:  # the label is the whole query, so that the separator stands in it raw
        for row, query in zip(rows, SEPARATED, strict=True):
            content = json.dumps({"labels": [{"role": "product", "text": query.query}]}, ensure_ascii=False)
            row["response"]["body"]["choices"][0]["message"]["content"] = content
        return rewrite(rows)

    with RewritingApi(whole) as api:
        found = run(batch_task(api.url), SEPARATED, tmp_path)
        assert [(r.status, [x.text for x in r.labels]) for r in found.rows] == [
            ("accepted", [q.query]) for q in SEPARATED
        ]
        assert len(api.batches) == 1


def cut(rows: Rows) -> bytes:
    return lines(rows[1:]) + lines(rows[:1])[:150]


def set_response(value: Any) -> Callable[[Rows], bytes]:
    return lambda rows: json.dumps(rows[0] | {"response": value}).encode() + b"\n" + lines(rows[1:])


def set_body(value: Any) -> Callable[[Rows], bytes]:
    return set_response({"status_code": 200, "body": value})


@pytest.mark.parametrize(("rewrite", "reason"), [
    (cut, "no usable reply: line 4 of the output file is not JSON"),
    (lambda rows: b'{"custom_id": "%s", x}\n' % rows[0]["custom_id"].encode() + lines(rows[1:]), "line 1 of the"),
    (set_response(None), "no response"), (set_response([1]), "no response"), (set_response("busy"), "no response"),
    (set_body(None), "not a chat completion"), (set_body([1]), "not a chat completion"),
    (set_body({"choices": [{"message": {"content": "\ud83d"}}]}), "the answer cannot be read"),
    (set_body({"choices": [{"message": {"content": "{}"}, "logprobs": [1, 2]}]}), "no usable reply"),
    (set_body({"choices": [{"message": {"content": "{}"}, "logprobs": {"content": [{}]}}]}), "no usable reply"),
])
def test_a_line_that_cannot_be_read_costs_its_own_row_only(
    tmp_path: Path, rewrite: Callable[[Rows], bytes], reason: str
) -> None:
    def once(rows: Rows) -> bytes:
        return rewrite(rows) if len(rows) == 4 else lines(rows)

    def always(rows: Rows) -> bytes:
        return rewrite(rows)

    with RewritingApi(once) as api:
        found = run(batch_task(api.url), queries(4), tmp_path / "once")
        assert [r.status for r in found.rows] == ["accepted"] * 4  # the broken one was asked again
        assert {k: n for k, n in api.calls.items() if n > 1}.keys() <= {"thing0 milk"}
    with RewritingApi(always) as api:
        found = run(batch_task(api.url, max_attempts=1), queries(4), tmp_path / "always")
        assert [r.status for r in found.rows] == ["failed"] + ["accepted"] * 3
        assert reason in found.rows[0].reason


def test_a_line_without_the_name_of_its_request_is_passed_over(tmp_path: Path) -> None:
    with RewritingApi(lambda rows: b'[]\n7\n{"custom_id": 5}\nnonsense\n' + lines(rows)) as api:
        assert [r.status for r in run(batch_task(api.url), queries(3), tmp_path).rows] == ["accepted"] * 3


def test_answers_of_a_batch_that_failed_are_kept(tmp_path: Path) -> None:
    class Failing(FakeApi):
        async def _batch(self, request: web.Request) -> web.Response:
            await super()._batch(request)
            batch = self.batches[request.match_info["id"]]
            failed = {"status": "failed", "errors": {"data": [{"message": "out of credit"}]}}
            return web.json_response(batch | failed if batch["status"] == "completed" else batch)

    with Failing() as api, pytest.raises(ComponentError, match="out of credit"):
        run(batch_task(api.url), queries(3), tmp_path)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.spent()["attempts"] == 3


def test_a_server_without_the_batch_api_is_named(tmp_path: Path) -> None:
    class Portal(FakeApi):
        async def _upload(self, request: web.Request) -> web.Response:
            return web.Response(text="<html>Log in</html>")

    class Odd(FakeApi):
        async def _make_batch(self, request: web.Request) -> web.Response:
            return web.json_response(["batch"])

    for kind in (Portal, Odd):
        with kind() as api, pytest.raises(ComponentError, match=r"(POST|GET) http.*not an answer of the batch API"):
            run(batch_task(api.url), queries(1), tmp_path / kind.__name__)


@given(st.lists(ANY_TEXT, max_size=4), st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_every_line_comes_back(texts: list[str], end: str) -> None:
    rows = [{"custom_id": f"{n:064x}", "response": repaired(t)} for n, t in enumerate(texts)]
    assert [x.row for x in read_lines(lines(rows, end), "output")] == rows


@given(st.binary(max_size=60))
def test_no_file_stops_the_reader(raw: bytes) -> None:
    assert all(x.row is None or x.key == x.row["custom_id"] for x in read_lines(raw, "output"))
