"""Labelling that got no answer is not finished: the same command asks again, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.limbeck.stages.shop import write_shop
from tests.limbeck.test_cli import in_process as limbeck
from tests.llm_client.fake_api import PURPOSES, FakeApi

QUERIES = [f"thing{i} milk" for i in range(4)]


class Provider(FakeApi):
    """Answers as `faults` says, query by query; all others well."""

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}
        super().__init__(lambda query, nth: self.faults.get(query, "ok"))


@pytest.fixture
def api() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.fixture
def command(tmp_path: Path, api: Provider) -> tuple[str | Path, ...]:
    path = write_shop(tmp_path, QUERIES, api.url, max_attempts=1, repair=False)
    return path, "--runs", tmp_path / "runs"


@pytest.mark.parametrize(("last", "fault"), [("label", "500"), ("curriculum", "429")])
def test_queries_without_an_answer_are_asked_again_and_no_others(
    api: Provider, command: tuple[str | Path, ...], last: str, fault: str
) -> None:
    api.faults = {"thing1 milk": fault}
    first = limbeck("label", *command)
    assert first.returncode == 1
    assert "3 of 4 queries accepted, 1 failed; " in first.stderr
    assert f"1 of 4 queries have no answer (most often: HTTP {fault}: " in first.stderr
    assert "Run the same command again" in first.stderr
    assert "ask again: 1 calls" in limbeck("label", *command, "--plan").stdout
    api.faults = {}
    asked = dict(api.calls)
    second = limbeck(last, *command)
    assert second.returncode == 0, second.stderr
    assert "not finished: 1 of 4 queries have no answer" in second.stderr
    assert "4 of 4 queries accepted" in second.stderr
    assert dict(api.calls) == asked | {"thing1 milk": 2}
    third = limbeck("label", *command)
    assert (third.returncode, "unchanged, not run again" in third.stderr) == (0, True)
    assert "ask again: 0 calls" in limbeck("label", *command, "--plan").stdout
    assert dict(api.calls) == asked | {"thing1 milk": 2}


def test_a_run_without_answers_stops_after_labelling_and_names_the_cause(
    api: Provider, command: tuple[str | Path, ...]
) -> None:
    gold = {"query": QUERIES[0], "labels": [{"role": "product", "text": "milk"}]}
    (Path(str(command[0])).parent / "gold.jsonl").write_text(json.dumps(gold) + "\n")
    api.faults = dict.fromkeys(QUERIES, "400")
    done = limbeck("run", *command, "--set", "data.gold.test=gold.jsonl")
    assert done.returncode == 1, done.stderr
    assert "4 of 4 queries have no answer (most often: HTTP 400: no, 4 of 4)" in done.stderr
    assert "curriculum:" not in done.stderr
    assert "min_confidence" not in done.stderr
    assert not list(Path(str(command[2])).glob("shop/curriculum"))


def test_a_run_with_most_answers_goes_on_and_ends_with_exit_code_1(
    api: Provider, command: tuple[str | Path, ...], tmp_path: Path
) -> None:
    api.faults = {"thing1 milk": "400"}
    done = limbeck("curriculum", *command)
    assert done.returncode == 1
    assert (tmp_path / "runs" / "shop" / "curriculum" / "manifest.json").exists()
    assert "1 of 4 queries have no answer" in done.stderr.splitlines()[-1]


def test_an_answer_that_cannot_be_read_is_asked_again_and_is_no_failure(
    api: Provider, command: tuple[str | Path, ...]
) -> None:
    api.faults = {"thing1 milk": "not-json", "thing2 milk": "truncated"}
    first = limbeck("label", *command)
    assert first.returncode == 0, first.stderr
    assert "1 of 4 queries have an answer that cannot be read" in first.stderr
    assert "ask again: 1 calls" in limbeck("label", *command, "--plan").stdout
    limbeck("label", *command)
    assert (api.calls["thing1 milk"], api.calls["thing2 milk"]) == (2, 1)  # a cut answer would be cut again


def test_a_run_of_before_with_failed_rows_is_not_finished_either(
    api: Provider, command: tuple[str | Path, ...], tmp_path: Path
) -> None:
    api.faults = {"thing1 milk": "400"}
    limbeck("label", *command)
    manifest = tmp_path / "runs" / "shop" / "label" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["figures"].pop("missing", None)
    content.pop("rules", None)
    manifest.write_text(json.dumps(content))
    api.faults = {}
    done = limbeck("label", *command)
    assert (done.returncode, api.calls["thing1 milk"], api.calls["thing0 milk"]) == (0, 2, 1)


def test_a_batch_that_leaves_queries_out_is_not_finished(api: Provider, command: tuple[str | Path, ...]) -> None:
    """One query is in the error file, another in neither file, as with a batch that has expired."""
    batch = ("--set", "teacher.backend=openai-batch", "--set", "teacher.openai.batch_poll_s=0.05")
    api.faults = {"thing1 milk": "500", "thing2 milk": "expired"}
    first = limbeck("label", *command, *batch)
    assert first.returncode == 1
    assert "2 of 4 queries have no answer" in first.stderr
    assert "ask again: 2 calls" in limbeck("label", *command, *batch, "--plan").stdout
    api.faults = {}
    second = limbeck("label", *command, *batch)
    assert second.returncode == 0, second.stderr
    assert [api.calls[q] for q in QUERIES] == [1, 2, 2, 1]


def test_a_calibration_of_an_attempt_before_is_not_kept(tmp_path: Path, command: tuple[str | Path, ...]) -> None:
    """An unfinished stage goes on in a copy of its folder; what it does not write again must not stay there."""
    label = tmp_path / "runs" / "shop" / "label"
    limbeck("label", *command)
    (label / "confidence.json").write_text("{}")
    manifest = label / "manifest.json"
    content = json.loads(manifest.read_text())
    content["figures"]["missing"]["unanswered"] = 1
    manifest.write_text(json.dumps(content))
    assert limbeck("label", *command).returncode == 0
    assert not (label / "confidence.json").exists()


def test_a_verification_that_cannot_be_read_is_paid_for_twice_and_then_said(
    api: Provider, command: tuple[str | Path, ...]
) -> None:
    def unreadable(body: dict[str, Any], completion: dict[str, Any]) -> dict[str, Any]:
        if body["messages"][0]["content"].startswith(PURPOSES["verify"]):
            completion["choices"][0]["message"]["content"] = "All of them are fine."
        return completion

    api.shape = unreadable
    verified = (*command, "--set", "teacher.openai.verify=true")
    said = [limbeck("label", *verified) for _ in range(3)]
    assert [done.returncode for done in said] == [0, 0, 0]
    assert api.calls["verify"] == 8
    told = "the verification of 4 of 4 queries could not be read twice; it is not asked for again"
    assert [told in " ".join(done.stderr.split()) for done in said] == [False, True, False]
    assert "unchanged, not run again" in said[2].stderr
    assert "ask again: 0 calls" in limbeck("label", *verified, "--plan").stdout
