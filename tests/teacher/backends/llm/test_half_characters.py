"""Replies with half characters: their row is invalid or repaired, the other rows go on, and so does the next run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from limbeck.operations.ledger_view import export
from task.files import write_jsonl
from task.labels import Example
from teacher.ledger.ledger import Ledger
from tests.llm_client.fake_api import FakeApi
from tests.teacher.backends.llm.test_batch import batch_task
from tests.teacher.test_label import llm_task, queries, run

ODD = "thing0 milk"
HALF = "\ud83e"  # json.dumps writes it as an escape, as providers do
MILK = {"role": "product", "text": "milk"}
ANSWERS = {
    "in the text around the JSON": f'{HALF} {{"labels": [{{"role": "product", "text": "milk"}}]}}',
    "raw in a label": json.dumps({"labels": [MILK, {"role": "brand", "text": HALF}]}, ensure_ascii=False),
    "escaped in a label": json.dumps({"labels": [MILK, {"role": "brand", "text": HALF}]}),
    "in a role": json.dumps({"labels": [MILK, {"role": HALF, "text": "milk"}]}),
    "in an answer without JSON": f"no idea {HALF}",
}


class HalvingApi(FakeApi):
    """Answers one query with half a character."""

    def __init__(self, answer: str) -> None:
        super().__init__()
        self.answer = answer

    def _reply(self, body: dict[str, Any], content: str, *, cut: bool = False) -> web.Response:
        asked = body["messages"][-1]["content"]
        return super()._reply(body, self.answer if asked == ODD else content, cut=cut)

    async def _content(self, request: web.Request) -> web.StreamResponse:
        rows = [json.loads(x) for x in self.files[request.match_info["name"]].split("\n") if x]
        for row in rows:
            message = row["response"]["body"]["choices"][0]["message"]
            if "thing0" in self._asked(row["custom_id"]):
                message["content"] = self.answer
        return web.Response(text="".join(json.dumps(r) + "\n" for r in rows))

    def _asked(self, key: str) -> str:
        lines = (json.loads(x) for f in self.files.values() for x in f.split("\n") if '"method"' in x)
        return str(next(x for x in lines if x["custom_id"] == key)["body"]["messages"][-1]["content"])


@pytest.mark.parametrize("where", ANSWERS)
@pytest.mark.parametrize("batch", [False, True])
def test_a_reply_with_half_a_character_costs_its_own_row_only(tmp_path: Path, where: str, batch: bool) -> None:
    with HalvingApi(ANSWERS[where]) as api:
        task = (batch_task if batch else llm_task)(api.url, max_attempts=1, logprobs=True, verify=True, repair=True)
        first = run(task, queries(5), tmp_path).rows
        again = run(task, queries(5), tmp_path).rows
    assert [r.status for r in first[1:]] == ["accepted"] * 4
    kept = [(x.role, x.text) for x in first[0].labels]
    assert kept == ([] if where == "in an answer without JSON" else [("product", "milk")])
    assert [r.to_json() for r in again] == [r.to_json() for r in first]
    assert write_jsonl(tmp_path / "labels.jsonl", (r.to_json() for r in again)) == 5
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert export(ledger.all_rows(), tmp_path / "rows.parquet") == 5


def test_a_query_with_half_a_character_that_no_reader_saw_is_skipped(tmp_path: Path) -> None:
    log = [Example(f"milk {HALF}"), *queries(2)]
    with FakeApi() as api:
        found = run(llm_task(api.url), log, tmp_path).rows
    assert [r.status for r in found] == ["skipped", "accepted", "accepted"]
    assert "half a character" in found[0].reason
