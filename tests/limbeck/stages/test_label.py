"""The labeller's commands as a person meets them, against a local server that plays the paid API."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documented import documented
from tests.limbeck.stages.shop import write_shop
from tests.limbeck.test_cli import in_process as limbeck
from tests.limbeck.test_cli import small_task
from tests.llm_client.fake_api import FakeApi

QUERIES = [f"thing{i} milk" for i in range(12)]


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi(lambda query, nth: "wrong-role" if query.startswith("thing7") else "ok") as running:
        yield running


@pytest.fixture
def task_file(tmp_path: Path, api: FakeApi) -> Path:
    return write_shop(tmp_path, QUERIES, api.url, price_input_per_million=1.0, price_output_per_million=2.0)


def test_plan_label_look_and_export(task_file: Path, api: FakeApi, tmp_path: Path) -> None:
    runs = ("--runs", tmp_path / "runs")
    planned = limbeck("label", task_file, "--plan", *runs)
    assert planned.returncode == 0, planned.stderr
    assert "ask again: 12 calls" in planned.stdout
    assert "0 queries, and teacher.confidence.min_rows is 50: confidences stay uncalibrated" in planned.stdout
    assert sum(api.calls.values()) == 0

    labelled = limbeck("label", task_file, *runs)
    assert labelled.returncode == 0, labelled.stderr
    page = (tmp_path / "runs" / "shop" / "label" / "report.html").read_text()
    assert "schema: unknown role" in page
    assert "Not calibrated: 0 gold calibration queries, and teacher.confidence.min_rows is 50." in page
    assert sum(api.calls.values()) == 12

    again = limbeck("label", task_file, "--plan", *runs)
    assert "leave as they are" in again.stdout
    assert "ask again: 0 calls" in again.stdout

    overview = limbeck("ledger", task_file, *runs)
    assert "accepted" in overview.stdout
    assert "0.0014" in overview.stdout  # 12 x (100 in + 2 x 10 out) / 1e6
    partial = limbeck("ledger", task_file, "--status", "partial", *runs)
    assert "thing7 milk" in partial.stdout
    assert "thing8 milk" not in partial.stdout
    one = limbeck("ledger", task_file, "--query", "thing3 milk", *runs)
    assert '"reply"' in one.stdout
    out = tmp_path / "rows.parquet"
    assert "11 rows" in limbeck("ledger", task_file, "--status", "accepted", "--export", out, *runs).stdout

    import pyarrow.parquet as pq

    table = pq.read_table(out).to_pylist()
    assert {r["query"] for r in table} == {q for q in QUERIES if q != "thing7 milk"}
    assert table[0]["labels"][0]["text"] == "milk"
    assert sum(api.calls.values()) == 12


def test_what_the_llm_would_be_shown_is_shown_without_asking_it(
    task_file: Path, api: FakeApi, tmp_path: Path
) -> None:
    runs = ("--runs", tmp_path / "runs")
    new = json.loads(limbeck("context", task_file, "--query", "new <b>milk", "--json", *runs).stdout)
    (request,) = new["requests"]
    assert (request["purpose"], request["answered"]) == ("label", False)
    assert [m["role"] for m in request["messages"]] == ["system", "user"]
    assert request["messages"][1]["content"] == "new <b>milk"
    assert sum(api.calls.values()) == 0
    limbeck("label", task_file, *runs)
    asked = sum(api.calls.values())
    words = documented('limbeck context TASK --query "oat milk"', TASK=task_file)
    assert "Request `label`, not asked yet:" in limbeck(*words, *runs).stdout
    known = limbeck("context", task_file, "--query", "thing3 milk", *runs).stdout
    assert "Request `label`, the ledger has its reply:" in known
    assert sum(api.calls.values()) == asked
    for query, problem in ((" ", "empty query"), ("x" * 5_000, "characters, more than data.max_query_chars")):
        wrong = limbeck("context", task_file, "--query", query, *runs)
        assert (wrong.returncode, problem in wrong.stderr) == (2, True), wrong.stderr
    other = limbeck("context", task_file, "--query", "x", "--set", "teacher.backend=labels",
                    "--set", "data.labels=queries.jsonl", *runs)
    assert (other.returncode, "this teacher is no LLM" in other.stderr) == (2, True), other.stderr


def test_what_a_person_can_get_wrong(task_file: Path, tmp_path: Path) -> None:
    runs = ("--runs", tmp_path / "runs")
    none = limbeck("ledger", task_file, *runs)
    assert (none.returncode, "there is no ledger yet" in none.stderr) == (2, True)
    assert not (tmp_path / "runs").exists()
    audit = limbeck("audit-context", task_file, *runs)
    assert (audit.returncode, "no gold calibration rows" in audit.stderr) == (2, True)
    assert limbeck("audit-context", task_file, "--gold", "silver", *runs).returncode == 2
    budget = limbeck("label", task_file, "--set", "teacher.openai.budget=0.000001", *runs)
    assert (budget.returncode, "the budget is spent" in budget.stderr) == (2, True)
    limbeck("label", task_file, *runs)
    wrong = limbeck("ledger", task_file, "--status", "acepted", *runs)
    assert wrong.returncode == 2
    assert "expected one of: accepted, partial" in wrong.stderr
    assert "Did you mean `accepted`?" in wrong.stderr
    role = limbeck("ledger", task_file, "--role", "Prodct", *runs)
    assert (role.returncode, role.stdout) == (2, "")
    assert "unknown role; found 'Prodct'; expected one of: product. Did you mean `product`?" in role.stderr
    assert "thing1 milk" in limbeck("ledger", task_file, "--role", "product", *runs).stdout


def test_imported_labels_are_not_advised_to_get_more_calibration_rows(tmp_path: Path) -> None:
    """They come without signals: no number of gold rows calibrates them."""
    rows = [{"query": f"oat milk {n}", "labels": [{"role": "brand", "text": "oat"}]} for n in range(5)]
    task = small_task(tmp_path, rows)
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps({**r, "query": f"new {r['query']}"}) + "\n" for r in rows))
    done = limbeck(
        "label", task, "--set", "data.gold.calibration=gold.jsonl", "--set", "teacher.confidence.min_rows=5",
        "--runs", tmp_path / "runs",
    )
    assert (done.returncode, "Add calibration queries" in done.stderr) == (0, False), done.stderr


def test_calibration_rows_that_tell_nothing_are_told_on_the_terminal(task_file: Path, tmp_path: Path) -> None:
    (tmp_path / "gold.jsonl").write_text("".join(
        json.dumps({"query": f"gold{i} milk", "labels": [{"role": "product", "text": "milk"}]}) + "\n" for i in range(5)
    ))
    settings = (
        task_file, "--set", "data.gold.calibration=gold.jsonl", "--set", "teacher.confidence.min_rows=5",
        "--runs", tmp_path / "runs",
    )
    assert "to be calibrated" in limbeck("plan", *settings).stdout
    done = limbeck("label", *settings)
    assert done.returncode == 0, done.stderr
    why = "all 5 labels of 5 answered gold calibration queries are right, so that nothing tells right ones from wrong"
    assert f"confidences are not calibrated: {why}" in " ".join(done.stderr.split())
    assert f"Not calibrated: {why}" in (tmp_path / "runs" / "shop" / "label" / "report.html").read_text()
    planned = limbeck("plan", *settings).stdout
    assert ("to be calibrated" in planned, "not calibrated" in planned) == (False, True)
    assert "all 5 labels of 5 answered gold calibration queries are right" in planned


def test_the_audit_says_what_context_is_worth(task_file: Path, api: FakeApi, tmp_path: Path) -> None:
    gold = "".join(
        json.dumps({"query": f"gold{i} milk", "labels": [{"role": "product", "text": "milk"}]}) + "\n" for i in range(5)
    )
    (tmp_path / "gold.jsonl").write_text(gold)
    settings = ("--set", "data.gold.calibration=gold.jsonl", "--set", "teacher.openai.context=[]")
    runs = ("--runs", tmp_path / "runs")
    planned = limbeck(*documented("limbeck audit-context TASK --plan", TASK=task_file), *settings, *runs)
    assert "In all 5 calls, about " in planned.stdout
    assert sum(api.calls.values()) == 0
    done = limbeck(*documented("limbeck audit-context TASK", TASK=task_file), *settings, *runs)
    assert done.returncode == 0, done.stderr
    assert "to ask: 5 calls, about " in done.stderr
    assert "| all queries, 5 | all of it | 100.0" in done.stdout
    assert sum(api.calls.values()) == 5  # with no context to leave out all variants are one request
    assert (tmp_path / "runs" / "shop" / "audit" / "audit.html").exists()


def test_an_audit_asks_what_its_plan_says(task_file: Path, api: FakeApi, tmp_path: Path) -> None:
    """Variants whose contexts of a query are the same share its request."""
    (tmp_path / "gold.jsonl").write_text("".join(
        json.dumps({"query": q, "labels": [{"role": "product", "text": "milk"}]}) + "\n"
        for q in ("gold milk", "maker0 milk", "milk")
    ))
    command = (
        "audit-context", task_file, "--set", "data.gold.calibration=gold.jsonl", "--runs", tmp_path / "runs",
    )
    planned = limbeck(*command, "--plan")
    found = re.search(r"In all (\d+) calls, about [\d,]+ tokens in and [\d,]+ out, about \d", planned.stdout)
    assert found, planned.stdout + planned.stderr
    done = limbeck(*command)
    assert done.returncode == 0, done.stderr
    assert sum(api.calls.values()) == int(found[1])
    assert "In all 0 calls" in limbeck(*command, "--plan").stdout


def test_an_audit_with_unanswered_queries_says_so_and_asks_them_again(
    task_file: Path, api: FakeApi, tmp_path: Path
) -> None:
    (tmp_path / "gold.jsonl").write_text("".join(
        json.dumps({"query": f"gold{i} milk", "labels": [{"role": "product", "text": "milk"}]}) + "\n" for i in range(4)
    ))
    command = (
        "audit-context", task_file, "--set", "data.gold.calibration=gold.jsonl", "--runs", tmp_path / "runs",
        "--set", "teacher.openai.context=[]", "--set", "teacher.openai.max_attempts=1",
    )
    api.behaviour = lambda query, nth: "400"
    none = limbeck(*command)
    assert (none.returncode, "4 of 4 gold queries have no usable answer" in none.stderr) == (1, True)
    assert not (tmp_path / "runs" / "shop" / "audit").exists()
    api.behaviour = lambda query, nth: "400" if query == "gold1 milk" else "ok"
    some = limbeck(*command)
    assert some.returncode == 1
    told = "1 of 4 gold queries have no usable answer and are left out of the comparison (most often: HTTP 400"
    assert told in some.stderr
    assert "| all queries, 3 | all of it | 100.0" in some.stdout
    asked = sum(api.calls.values())
    api.behaviour = lambda query, nth: "ok"
    done = limbeck(*command)
    assert (done.returncode, sum(api.calls.values())) == (0, asked + 1)
    assert "| all queries, 4 | all of it | 100.0" in done.stdout
