"""The list of runs, and the page of one."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from pathlib import Path

import pytest

from limbeck.artefacts import RunFolder
from limbeck.console.run_pages import shown
from limbeck.console.run_summary import READS, STAGES, summary_of
from limbeck.pipeline import STAGES as OF_PIPELINE
from limbeck.progress_display import ProgressDisplay
from limbeck.progress_file import progress_on_disk, running
from limbeck.rounds.history import Opening, open_round
from limbeck.run import Run
from task.files import read_json, write_json, write_jsonl
from task.load import load_task
from tests.eval import test_report
from tests.limbeck.console.consoles import add_user, console, secret, sign_in
from tests.limbeck.console.finished_run import add_report, make_finished

content = test_report.content  # the fixture


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def states(files: RunFolder) -> dict[str, str]:
    return {s.name: s.state for s in summary_of(files.folder.name, files).stages}


def test_the_stages_are_those_of_the_pipeline() -> None:
    assert tuple(s.name for s in OF_PIPELINE) == STAGES


def test_inputs_that_are_compared_are_those_that_stages_have(runs: Path) -> None:
    files = make_finished(runs)
    run = Run.of(load_task(files.task).task, runs, ProgressDisplay())
    digests = {name: read_json(files.folder / name / "manifest.json")["digest"] for name in STAGES if name != "sample"}
    for stage in OF_PIPELINE:
        if stage.name not in ("sample", "evaluate"):
            read = {k: v for k, v in stage.inputs(run).items() if v in digests.values()}
            assert read.keys() == READS.get(stage.name, {}).keys(), stage.name
            for name, digest in read.items():
                assert digest in {digests[m] for m in READS[stage.name][name]}


def test_a_stage_whose_input_has_other_content_by_now_is_stale(runs: Path) -> None:
    files = make_finished(runs)
    assert set(states(files).values()) == {"done"}
    manifest = files.train.folder / "manifest.json"
    write_json(manifest, read_json(manifest) | {"digest": "another"})
    found = {s.name: s for s in summary_of("before", files).stages}
    assert (found["merge"].state, found["merge"].why) == ("stale", "train changed since")
    assert found["evaluate"].state == "stale"
    assert {found[n].state for n in ("label", "curriculum", "cross-fit", "train", "bundle")} == {"done"}


def test_stages_that_are_not_there_and_those_that_were_killed_are_told_apart(runs: Path) -> None:
    files = make_finished(runs)
    for name in ("evaluate", "bundle", "merge"):
        shutil.rmtree(files.folder / name)
    (files.folder / ".merge.tmp").mkdir()
    (files.train.folder / "manifest.json").write_text("{")
    found = states(files)
    assert [found[n] for n in ("train", "merge", "bundle")] == ["unreadable", "interrupted", "not run"]
    assert "sample" not in found  # the task has none


def test_lists_every_run_with_its_answer(runs: Path, content: tuple[dict[str, object], object]) -> None:
    add_report(make_finished(runs), content, f1=0.876)
    broken = make_finished(runs, "broken")
    broken.task.write_text("[]")
    (runs / "notes").mkdir()
    with console(runs) as browser:
        page = browser.get("/runs").text
    assert "87.6 [86.6, 88.6]" in page
    assert page.count('<section class="card"') == 2
    assert "not a task" in page
    assert '<a href="/runs/before">before</a>' in page


def test_the_page_of_a_run_has_stages_report_training_and_links(
    runs: Path, content: tuple[dict[str, object], object]
) -> None:
    files = make_finished(runs)
    add_report(files, content)
    write_jsonl(files.train.curve, [
        {"step": i, "loss": 4.0 / i} | ({"dev_f1": i / 100} if i % 10 == 0 else {}) for i in range(1, 51)
    ])
    with console(runs) as browser:
        page = browser.get("/runs/before").text
        assert browser.get("/runs/other").status_code == 404
    for name in ("label", "curriculum", "cross-fit", "train", "merge", "bundle", "evaluate"):
        assert f"<td>{name}</td>" in page
    assert "May the student replace the teacher?" in page
    assert page.count('<svg class="plot"') == 2
    assert "From 4 at step 1 to 0.08 at step 50." in page
    assert "/runs/before/pages/evaluate/report.html" in page
    assert "/runs/before/difference" in page
    assert "data-events" not in page  # nothing runs


def test_what_queries_and_files_hold_is_text(runs: Path) -> None:
    name = "<b>&'\""
    files = make_finished(runs, "x")
    manifest = read_json(files.label.folder / "manifest.json")
    write_json(files.label.folder / "manifest.json", manifest | {"headline": "<script>alert(1)</script>"})
    files.folder.rename(runs / name)
    with console(runs) as browser:
        for path in ("/runs", "/runs/%3Cb%3E%26'%22"):
            page = browser.get(path)
            assert page.status_code == 200
            assert "<b>&" not in page.text
            assert "<script>alert" not in page.text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.text


def test_progress_is_sent_while_a_command_runs_and_its_end_is_said(runs: Path) -> None:
    files = make_finished(runs)
    display = ProgressDisplay()
    display.stage("train", 5, 7)
    display.begin("training <b>", 40, 10)
    write_jsonl(files.folder / ".train.tmp" / "history.jsonl", [{"step": 1, "loss": 2.0}])
    with console(runs) as browser, progress_on_disk(files.progress, display):
        page = browser.get("/runs/before").text
        assert 'data-events="/runs/before/progress"' in page
        assert "5/7 train" in page
        assert "training &lt;b&gt; · 10 of 40" in page
        assert '<span class="state running">running</span>' in page
        assert 'hx-get="/runs/before/curves"' in page
        assert "From 2 at step 1" in browser.get("/runs/before/curves").text
        assert "5/7 train" in browser.get("/runs").text
        there = read_json(files.progress)

    def end() -> None:
        time.sleep(1.5)
        display.advance(5, "loss 1.2")
        time.sleep(2.5)
        ended.set()

    ended = threading.Event()
    with console(runs) as browser:
        write_json(files.progress, there)
        threading.Thread(target=end, daemon=True).start()

        def keep() -> None:
            with progress_on_disk(files.progress, display):
                ended.wait(30)

        thread = threading.Thread(target=keep)
        thread.start()
        answer = browser.get("/runs/before/progress")
        thread.join()
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(x) for x in re.findall(r"^data: (.*)$", answer.text, re.MULTILINE)]
    assert events[0]["text"] == "training <b> · 10 of 40"
    assert events[0]["share"] == 0.25
    assert "training <b> · 15 of 40 · loss 1.2" in [e.get("text") for e in events]
    assert answer.text.endswith("event: end\ndata: {}\n\n")
    assert running(files.progress) is None


def test_a_stage_that_has_said_nothing_yet_begins(runs: Path) -> None:
    files = make_finished(runs)
    display = ProgressDisplay()
    display.stage("label", 1, 7)
    with progress_on_disk(files.progress, display):
        now = running(files.progress)
    assert now is not None
    assert (shown(now)["text"], shown(now)["share"]) == ("begins", None)


def test_rounds_are_listed_and_one_that_cannot_be_read_does_not_hide_the_run(runs: Path) -> None:
    files = make_finished(runs)
    open_round(files, Opening(
        opened="2026-11-28T12:00:00+00:00", since=0, until=1, student="abc", origin=0, pointer=Path("live.json"),
        state=Path("state"), asked=True, attempt=0,
    ))
    with console(runs) as browser:
        page = browser.get("/runs/before").text
        assert "not finished: the same command goes on with it" in page
        assert "1 round<" in browser.get("/runs").text
        (files.folder / "rounds" / "0001" / "round.json").write_text("{}")
        page = browser.get("/runs/before")
    assert page.status_code == 200
    assert "not what a round writes" in page.text


def test_reports_are_compared_clear_differences_first(
    runs: Path, content: tuple[dict[str, object], object]
) -> None:
    add_report(make_finished(runs), content, f1=0.9)
    add_report(make_finished(runs, "other"), content, f1=0.7)
    make_finished(runs, "without")
    with console(runs) as browser:
        choice = browser.get("/runs/before/difference").text
        assert "<option>other</option>" in choice
        assert "<option>without</option>" not in choice
        page = browser.get("/runs/before/difference?with=other").text
        missing = browser.get("/runs/before/difference?with=without")
        nowhere = browser.get("/runs/before/difference?with=../x")
    rows = re.findall(r"<tr><td>(.*?)</td>.*?</tr>", page)
    assert rows[0].endswith(": f1")
    assert "clearly higher" in page.partition("</tr>")[2].partition("</tr>")[0]
    assert "70.0 [69.0, 71.0]" in page
    assert "These are reports of two tasks, other and before" in page
    assert (missing.status_code, nowhere.status_code) == (404, 404)
    assert "has no report" in missing.text


def test_a_plan_runs_beside_the_console_and_is_shown_when_it_is_there(runs: Path) -> None:
    make_finished(runs)
    add_user(runs, "ada", "look")
    with console(runs) as browser:
        sign_in(browser, "ada")
        page = browser.get("/runs/before/plan").text
        csrf = re.findall(r'name="csrf" value="([^"]+)"', page)[0]
        assert browser.post("/runs/before/plan", data={"csrf": "other"}).status_code == 403
        done = browser.post("/runs/before/plan", data={"csrf": csrf})
        assert (done.status_code, done.headers["location"]) == (303, "/runs/before/plan")
        part = browser.get("/runs/before/plan", headers={"hx-request": "true"}).text
        assert 'hx-trigger="every 1s"' in part
        assert "<html" not in part
        until = time.monotonic() + 240
        while "hx-trigger" in part:
            assert time.monotonic() < until
            time.sleep(0.5)
            part = browser.get("/runs/before/plan", headers={"hx-request": "true"}).text
        assert "Done after" in part, part
        assert "Plan of before" in part
        assert "Stages in" in part


def test_a_plan_that_fails_says_why(runs: Path) -> None:
    files = make_finished(runs)
    task = read_json(files.task)
    write_json(files.task, task | {"data": task["data"] | {"dir": "/nowhere/at/all", "queries": "q.jsonl"}})
    files.folder.rename(runs / "moved")
    with console(runs) as browser:
        csrf = secret(browser)
        said = browser.post("/runs/moved/plan", data={"csrf": csrf})
        assert said.status_code == 409
        assert "holds a run of task &#39;before&#39;" in said.text
