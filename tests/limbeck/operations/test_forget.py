"""`limbeck forget`: no file of a state or run folder has the query afterwards, but for those that it names."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck.artefacts import RunFolder
from limbeck.console.label_index import LabelIndex
from limbeck.operations.forget import Forgotten, forget, same_as
from serving.routing.kept_answers import Store
from serving.telemetry.kept_files import KeptFiles
from task.errors import InputError
from task.files import write_jsonl
from teacher.curriculum.rows import read
from tests.documented import documented
from tests.limbeck.test_cli import in_process, small_task

SECRET = "Zofia  Quux"
VARIANTS = (SECRET, "zofia quux", "ZOFIA QUUX ")
LABEL = {"role": "brand", "text": "oat"}


def write_state(folder: Path) -> Path:
    """What a service leaves, with the query in every letter case in everything."""
    folder.mkdir()
    files = KeptFiles(folder)
    days = [files.captures / "2026-01-01.jsonl", files.captures / "2026-01-02.jsonl"]
    for path in (*days, files.feedback / "2026-01-01.jsonl", files.uncertain):
        files.append(path, [
            *({"query": v, "count": 1} for v in VARIANTS), {"keyed_hash": files.key.hash(SECRET), "count": 1},
            {"query": "oat milk", "count": 2}, {"keyed_hash": files.key.hash("oat milk")}, {"count": 3},
        ], since=0.0)
    store = Store(folder / "store.sqlite", ttl_s=1e6, max_rows=100)
    for bundle in ("b1", "b2"):
        for query in (SECRET, "oat milk"):
            store.put(bundle, text=query.lower().replace("  ", " "), query=query, labels=b"[]")
    store.put("b1", text="gone", query=f"{SECRET} replaced", labels=b"[]")  # in a page that is free afterwards
    store.purge(text="gone")
    store.purge(text="zofia quux")
    for bundle in ("b1", "b2"):
        store.put(bundle, text="zofia quux", query=SECRET, labels=b"[]")
    store.close()
    return folder


def write_run(folder: Path) -> Path:
    """A run up to its curriculum, and what later stages would have written."""
    rows = [{"query": f"oat milk {n}", "labels": [LABEL]} for n in range(30)]
    task = small_task(folder, [*rows, {"query": SECRET, "labels": [{"role": "brand", "text": "Quux"}]}])
    done = in_process("curriculum", task, "--runs", folder / "runs")
    assert done.returncode == 0, done.stderr
    run = folder / "runs" / "small"
    (run / "train").mkdir()
    (run / "train" / "manifest.json").write_text("{}")
    write_jsonl(run / "bundle" / "bundle" / "reference.jsonl", [{"query": SECRET, "labels": []}])
    write_jsonl(run / "evaluate" / "predictions" / "student.jsonl", [{"query": "oat milk 1", "labels": []}])
    write_jsonl(run / "console" / "predictions.jsonl", [{"query": SECRET, "labels": []}, {"query": "x", "labels": []}])
    LabelIndex(RunFolder(run)).update()
    return run


def content(folder: Path) -> bytes:
    return b"".join(p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()).lower()


def test_a_state_folder_has_nothing_of_the_query_afterwards(tmp_path: Path) -> None:
    state = write_state(tmp_path / "state")
    dry = forget(SECRET, states=[state], runs=[], dry_run=True)
    assert b"zofia" in content(state)
    found = forget("zofia QUUX", states=[state], runs=[])
    assert dry.removed == found.removed == {
        str(state / "captures"): 8, str(state / "feedback"): 4, str(state / "uncertain.jsonl"): 4,
        str(state / "store.sqlite"): 2,
    }
    assert b"zofia" not in content(state)
    files = KeptFiles(state)
    for path in files.files():
        left = [json.loads(line) for line in path.read_text().splitlines()]
        assert left == [{"query": "oat milk", "count": 2}, {"keyed_hash": files.key.hash("oat milk")}, {"count": 3}]
    assert forget(SECRET, states=[state], runs=[]) == Forgotten()


def test_a_running_service_no_longer_answers_it_from_a_cache(tmp_path: Path) -> None:
    state = write_state(tmp_path / "state")
    worker = Store(state / "store.sqlite", ttl_s=1e6, max_rows=100, hashed=KeptFiles(state).key.hash)
    assert worker.get("b1", text="oat milk")
    forget("oat MILK", states=[state], runs=[])
    assert worker.get("b1", text="oat milk") is None
    assert worker.purges.have("oat milk")
    assert not worker.purges.have("rice milk")
    worker.put("b1", text="oat milk", query="oat milk", labels=b"[]")  # an answer that was on its way
    assert worker.get("b1", text="oat milk") is None
    worker.restore()
    assert worker.purges.have("oat milk")
    worker.close()


def test_hashes_of_before_are_found_too(tmp_path: Path) -> None:
    state = write_state(tmp_path / "state")
    plain = "f5d0e0a5"  # of another query
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    write_jsonl(state / "uncertain.jsonl", [{"sha256": digest, "count": 1}, {"sha256": plain, "count": 1}])
    forget(SECRET, states=[state], runs=[])
    assert [json.loads(x)["sha256"] for x in (state / "uncertain.jsonl").read_text().splitlines()] == [plain]


def test_a_run_has_it_only_where_it_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    before = forget(SECRET, states=[], runs=[run], tables=[tmp_path / "labels.jsonl"], dry_run=True)
    assert (run / "label" / "manifest.json").exists()
    found = forget("zofia quux", states=[], runs=[run], tables=[tmp_path / "labels.jsonl"])
    assert before == found
    assert found.removed[str(run / "label" / "labels.jsonl")] == 1
    assert found.removed[str(run / "ledger.sqlite") + " (rows)"] == 1
    assert found.held.keys() == {
        str(run / "label"), str(run / "curriculum"), str(run / "train"), str(run / "bundle"),
        str(tmp_path / "labels.jsonl"),
    }
    for name in ("label", "curriculum"):
        assert b"zofia" not in content(run / name)
        assert not (run / name / "manifest.json").exists()
    assert b"zofia" not in b"".join(p.read_bytes() for p in run.glob("*.sqlite*")).lower()
    assert found.removed[str(run / "console" / "predictions.jsonl")] == 1
    assert {p.name for p in (run / "console").iterdir() if not p.name.startswith(".")} == {"predictions.jsonl"}
    assert {r.example.query for r in read(run / "curriculum", "train")} <= {f"oat milk {n}" for n in range(30)}
    again = forget(SECRET, states=[], runs=[run], tables=[tmp_path / "labels.jsonl"])
    assert (again.removed, again.held) == ({}, found.held)


@pytest.mark.parametrize("ended", [False, True])
def test_a_round_has_it_only_where_it_says_so(tmp_path: Path, ended: bool) -> None:
    run = write_run(tmp_path)
    one = run / "rounds" / "0001"
    for stage in ("label", "curriculum", "train"):
        shutil.copytree(run / stage, one / stage)
    row = {"query": SECRET, "count": 1, "labels": [], "status": "accepted", "reason": "", "confidence": 1.0}
    write_jsonl(one / "label" / "random.jsonl", [row])
    write_jsonl(one / "picks" / "picks.jsonl", [{"query": SECRET}, {"query": "oat milk"}])
    (one / "picks" / "manifest.json").write_text("{}")
    (run / "rounds" / "rounds.html").write_text(f"<p>{SECRET}</p>")
    if ended:
        (one / "outcome.json").write_text("{}")
    dry = forget(SECRET, states=[], runs=[run], dry_run=True)
    found = forget(SECRET, states=[], runs=[run])
    assert dry == found
    assert [found.removed[str(one / name)] for name in (
        "picks/picks.jsonl", "label/labels.jsonl", "label/random.jsonl",
    )] == [1, 1, 1]
    assert b"zofia" not in content(run / "rounds")
    stages = ("picks", "label", "curriculum")
    assert [(one / s / "manifest.json").exists() for s in stages] == [ended] * 3
    assert [str(one / s) in found.held for s in stages] == [not ended] * 3
    assert ("scratch" in found.held[str(one / "train")]) is ended


def test_the_next_run_makes_what_was_made_from_it_again(tmp_path: Path) -> None:
    run, task = write_run(tmp_path), tmp_path / "task.yaml"
    rows = (tmp_path / "labels.jsonl").read_text().splitlines()
    forget(SECRET, states=[], runs=[run])
    (tmp_path / "labels.jsonl").write_text("".join(f"{r}\n" for r in rows if "Zofia" not in r))
    done = in_process("curriculum", task, "--runs", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    assert len(read(run / "curriculum", "train")) > 0
    assert forget(SECRET, states=[], runs=[run]).removed == {}
    assert b"zofia" not in content(run / "label") + content(run / "curriculum")


def test_a_stage_that_does_not_hold_it_stays_finished(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    before = content(run / "label") + content(run / "curriculum")
    assert forget("oat milk", states=[], runs=[run]).removed == {}  # the rows are about `oat milk 1`, and so on
    assert content(run / "label") + content(run / "curriculum") == before


def test_a_query_that_nothing_has_is_held_by_nothing(tmp_path: Path) -> None:
    """Not by an index, which has words of every query, nor by a stage that a run has not finished."""
    run = write_run(tmp_path)
    (run / "index").mkdir()
    (run / "label" / "manifest.json").unlink()
    assert forget("no such thing", states=[], runs=[run]) == Forgotten()
    said = in_process("forget", "--query", "no such thing", run).stdout
    assert "nothing is kept of it" in said
    assert "still holding it" not in said
    assert str(run / "index") in forget(SECRET, states=[], runs=[run], dry_run=True).held


def stopped(state: Path, run: Path, step: int) -> None:
    """Forget, and be killed at a step that changes a file."""
    left = step

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    Path.replace = counted(Path.replace)  # type: ignore[method-assign]
    Path.unlink = counted(Path.unlink)  # type: ignore[method-assign]
    connect = sqlite3.connect

    class Killed(sqlite3.Connection):
        def execute(self, sql: str, *more: Any) -> Any:
            if sql.split()[0].upper() in {"DELETE", "COMMIT", "VACUUM"}:
                return counted(super().execute)(sql, *more)
            return super().execute(sql, *more)

    sqlite3.connect = lambda *a, **k: connect(*a, **{"factory": Killed, **k})
    forget(SECRET, states=[state], runs=[run])


@pytest.mark.parametrize("step", [1, 3, 6, 8, 10, 12, 14, 16])
def test_killed_anywhere_and_run_again_gives_the_same_end(tmp_path: Path, step: int) -> None:
    state, run = write_state(tmp_path / "state"), write_run(tmp_path)
    process = multiprocessing.get_context("spawn").Process(target=stopped, args=(state, run, step))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    found = forget(SECRET, states=[state], runs=[run])
    assert b"zofia" not in content(state) + content(run / "label") + content(run / "curriculum")
    assert b"zofia" not in b"".join(p.read_bytes() for p in run.glob("*.sqlite*")).lower()
    assert not [*state.rglob(".*.tmp"), *run.rglob(".*.tmp")]
    assert str(run / "train") in found.held
    for path in KeptFiles(state).files():
        assert len(path.read_text().splitlines()) == 3
    assert not (run / "label" / "manifest.json").exists()


def test_the_command_shows_and_forgets_and_refuses_what_is_no_folder_of_ours(tmp_path: Path) -> None:
    state, run = write_state(tmp_path / "state"), write_run(tmp_path)
    command = ("forget", "--query", SECRET, "--state", state, "--runs", tmp_path / "runs", tmp_path / "task.yaml")
    dry = in_process(*command, "--dry-run")
    assert (dry.returncode, "would be removed" in dry.stdout) == (0, True), dry.stderr
    assert f"{run / 'label'}: would be unfinished: `limbeck run TASK` makes it again" in dry.stdout
    assert "unfinished now" not in dry.stdout
    assert "8 " + str(state / "captures") in dry.stdout
    assert b"zofia" in content(state)
    done = in_process(*command)
    assert (done.returncode, "'Zofia  Quux': removed" in done.stdout) == (0, True), done.stderr
    assert "the student was trained on it" in done.stdout
    assert f"{run / 'label'}: is unfinished now" in done.stdout
    assert "labels.jsonl: has 1 rows about it: remove them" in done.stdout
    assert b"zofia" not in content(state)
    all_runs = in_process("forget", "--query", "oat milk 3", "--runs", tmp_path / "runs")
    assert f"1 {run / 'label' / 'labels.jsonl'}" in all_runs.stdout
    assert "nothing is kept of it" in in_process("forget", "--query", SECRET, run, "--state", state).stdout


def test_the_documented_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_state(tmp_path / "limbeck-serve")
    write_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    dry, both, runs = (
        documented('limbeck forget --query "oat milk" --state limbeck-serve TASK --dry-run', TASK="task.yaml"),
        documented('limbeck forget --query "oat milk" --state limbeck-serve TASK', TASK="task.yaml"),
        documented('limbeck forget --query "oat milk" --runs runs'),
    )
    for command, said in ((dry, "would be removed"), (both, "'oat milk': removed"), (runs, "nothing is kept of it")):
        done = in_process(*command)
        assert (done.returncode, said in done.stdout) == (0, True), (done.stdout, done.stderr)


@pytest.mark.parametrize(("arguments", "said"), [
    (("--query", "a"), "says not where"), (("--query", " ", "--state", "."), "has no text"),
    (("--query", "a", "--state", "."), "not the state folder of a service"),
    (("--query", "a", "."), "not a run folder"), (("--query", "a", "none.yaml"), "none.yaml"),
    (("--query", "a", "--runs", "none"), "no such folder"),
])
def test_what_cannot_be_done_is_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = in_process("forget", *arguments)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())


def test_equal_means_what_it_means_to_a_cache() -> None:
    assert all(map(same_as(SECRET), VARIANTS))
    assert not same_as(SECRET)("zofia quux 2")
    with pytest.raises(InputError):
        same_as(" ")
