"""Runs, playground and service in a real browser, at two widths."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from limbeck.artefacts import RunFolder
from limbeck.progress_display import ProgressDisplay
from limbeck.progress_file import progress_on_disk
from serving.release.bundle import Bundle, build, stamp
from serving.release.pointer import read_pointer, release
from task.codec import Codec
from task.files import write_jsonl
from task.load import load_task
from task.serving_settings import Change
from task.tokenizer import FastTokenizer
from tests.documented import documented
from tests.eval import test_report
from tests.limbeck.console.browsers import browser, check_page, opened, started
from tests.limbeck.console.finished_run import add_report, make_finished
from tests.limbeck.console.services import service
from tests.limbeck.console.small_run import make_run
from tests.limbeck.console.test_service import metrics, operators, status

__all__ = ["browser"]
content = test_report.content  # the fixture
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
QUERY = "verdant <img src=x onerror=alert(1)> " + "w" * 120
LONG = ("anextremelylongtaskname" * 4)[:64]


@dataclass(frozen=True)
class Place:
    """A console over three runs, two services and an operators' port."""

    url: str
    files: RunFolder
    pointer: Path
    bundles: tuple[Bundle, Bundle]


@pytest.fixture
def place(
    tmp_path: Path, content: tuple[dict[str, Any], Any], tiny_llama: Path, tokenizer: FastTokenizer
) -> Iterator[Place]:
    runs = tmp_path / "runs"
    runs.mkdir()
    make_run(runs)
    files = make_finished(runs)
    add_report(files, content, f1=0.9)
    add_report(make_finished(runs, LONG), content, f1=0.7)
    write_jsonl(files.train.curve, [
        {"step": i, "loss": 4.0 / i} | ({"dev_f1": i / 100} if i % 10 == 0 else {}) for i in range(1, 67)
    ])
    bundles = tuple(bundle(runs / name, tiny_llama, tokenizer) for name in ("before", LONG))
    pointer = tmp_path / "live.json"
    release(pointer, bundle=bundles[1].folder, change=Change(), ungated=True)
    other = [{"role": "product", "text": "<img", "start": 8, "end": 12, "confidence": 0.4}]
    with (
        service() as one, service(labels=other, source="cache") as two, operators(status(), metrics()) as admin,
        started(runs, *options(URL=one, admin=admin, pointer=pointer), "--service", two) as (url, _),
    ):
        yield Place(url, files, pointer, (bundles[0], bundles[1]))


def options(**given: str | Path) -> list[str]:
    """Those of the command in docs/console.md."""
    return documented(
        "limbeck console runs --service URL --operators http://127.0.0.1:8081 --pointer live.json",
        **{"URL": given["URL"], "http://127.0.0.1:8081": given["admin"], "live.json": given["pointer"]},
    )[2:]


def bundle(run: Path, base: Path, tokenizer: FastTokenizer) -> Bundle:
    """A bundle that passed its gate in a run folder, in place of the manifest of before that is there."""
    task = load_task(run / "task.json").task.model_copy(update={"name": "before", "description": run.name[:9]})
    folder = run / "bundle" / "bundle"
    made = build(folder, task, Codec.compile(task, [], tokenizer, "read"), base, [], {})
    stamp(folder, [{"rule": "min_f1", "ok": True, "text": "F1 95.0 % (gate min_f1: at least 90 %)"}])
    return made


def test_every_page_is_fit_for_both_widths_and_for_screen_readers(
    place: Place, browser: Browser, tmp_path: Path
) -> None:
    pages = {
        "runs": "/runs", "run": "/runs/before", "run-labels": "/runs/shop", "long": f"/runs/{LONG}",
        "difference": f"/runs/before/difference?with={LONG}", "plan": "/runs/before/plan", "playground": "/playground",
        "asked": f"/playground?run=shop&query={QUERY.replace(' ', '+')}", "service": "/service?paused=yes",
        "release": "/service/release", "preview": "/service/release?run=before&canary=0.05&canary_s=60",
        "rollback": "/service/rollback",
    }
    with opened(browser, place.url) as page:
        for name, path in pages.items():
            page.goto(path)
            check_page(page, tmp_path, name)
        page.goto("/playground?run=shop&query=verdant+oat+milk+0")
        check_page(page, tmp_path, "known")


def test_progress_is_followed_and_the_page_is_fresh_at_its_end(place: Place, browser: Browser, tmp_path: Path) -> None:
    display = ProgressDisplay()
    display.stage("train", 5, 7)
    display.begin("training", 40, 10)
    staged = place.files.folder / ".train.tmp" / "history.jsonl"
    write_jsonl(staged, [{"step": 1, "loss": 2.0}])
    with opened(browser, place.url) as page:
        with progress_on_disk(place.files.progress, display):
            page.goto("/runs/before")
            expect(page.locator("#progress")).to_contain_text("training · 10 of 40")
            check_page(page, tmp_path, "running")
            display.advance(15)
            expect(page.locator("#progress")).to_contain_text("25 of 40")
            assert float(page.locator("#progress progress").get_attribute("value") or 0) == 0.625
            write_jsonl(staged, [{"step": i, "loss": 2.0 / i} for i in range(1, 4)])
            expect(page.locator("#curves desc").first).to_have_text("From 2 at step 1 to 0.6667 at step 3.")
        expect(page.locator("#progress")).to_have_count(0)


def test_a_report_filters_its_table_and_has_no_access_to_the_console(place: Place, browser: Browser) -> None:
    with opened(browser, place.url) as page:
        page.goto("/runs/before")
        page.get_by_role("link", name="Report", exact=True).click()
        expect(page.locator("#left")).to_have_text("1 of 1")  # its own script runs
        page.locator("#find").fill("nothing like it")
        expect(page.locator("#left")).to_have_text("0 of 1")
        assert page.evaluate("self.origin") == "null"
        assert page.evaluate("(() => { try { return document.cookie } catch (e) { return 'none' } })()") == "none"
        page.go_back()
        expect(page.locator("h1")).to_have_text("before")


def test_a_script_that_is_none_of_ours_does_not_run_in_a_report(place: Place, browser: Browser) -> None:
    report = place.files.evaluate.folder / "report.html"
    report.write_text(report.read_text().replace("<h1>", "<script>document.title = 'mine'</script><h1>", 1))
    said: list[str] = []
    context = browser.new_context(base_url=place.url)
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.goto("/runs/before/pages/evaluate/report.html")
    assert page.title() == "Limbeck · before"
    assert ["Content Security Policy" in text for text in said] == [True]  # the one that is not ours
    context.close()


def test_a_plan_appears_without_loading_the_page_again(place: Place, browser: Browser, tmp_path: Path) -> None:
    with opened(browser, place.url) as page:
        page.goto("/runs/before")
        page.get_by_role("link", name="Plan", exact=True).click()
        page.get_by_role("button", name="Plan").click()
        expect(page.get_by_role("status")).to_contain_text("Runs since")
        page.locator("pre.output").first.wait_for(timeout=240_000)
        check_page(page, tmp_path, "planned")
        page.go_back()
        expect(page.locator("h1")).to_be_visible()


def test_a_query_is_asked_by_keyboard_and_its_answer_can_be_linked(place: Place, browser: Browser) -> None:
    with opened(browser, place.url) as page:
        page.goto("/playground")
        expect(page.locator("input[name=query]")).to_be_focused()
        page.keyboard.type("verdant oat milk")
        page.keyboard.press("Enter")
        expect(page.locator("mark").first).to_contain_text("verdant")
        assert "query=verdant+oat+milk" in page.url
        address = page.url
        page.locator("select[name=cache]").select_option("no")
        page.get_by_role("button", name="Ask").click()
        assert "cache=no" in page.url
        page.go_back()
        assert page.url == address
        expect(page.locator("mark").first).to_contain_text("verdant")
        page.goto(f"/playground?query={QUERY.replace(' ', '+')}")
        expect(page.locator("mark").first).to_contain_text("verdant")
        assert page.locator("main img").count() == 0


def test_the_service_is_looked_at_again_until_it_is_paused(place: Place, browser: Browser) -> None:
    with opened(browser, place.url) as page:
        page.goto("/service")
        first = page.locator("#now p").first.inner_text()
        page.wait_for_function("said => document.querySelector('#now p').innerText !== said", arg=first)
        page.get_by_role("link", name="Pause").click()
        first = page.locator("#now p").first.inner_text()
        time.sleep(4)
        assert page.locator("#now p").first.inner_text() == first
        page.get_by_role("link", name="Go on").click()
        page.wait_for_function("said => document.querySelector('#now p').innerText !== said", arg=first)


def test_a_release_and_a_rollback_are_confirmed_by_keyboard(place: Place, browser: Browser) -> None:
    new, old = place.bundles
    with opened(browser, place.url) as page, opened(browser, place.url, allow=[400]) as second:
        page.goto("/service")
        page.get_by_role("link", name="Release a bundle").click()
        page.locator("select[name=run]").select_option("before")
        page.get_by_role("button", name="Look").press("Enter")
        confirm = page.get_by_role("button", name=f"Release {new.id} in place of {old.id}")
        second.goto(page.url)
        assert read_pointer(place.pointer).current.id == old.id
        confirm.press("Enter")
        expect(page.locator("h1")).to_have_text("Service")
        assert read_pointer(place.pointer).current.id == new.id
        second.get_by_role("button", name=f"Release {new.id}").click()
        expect(second.get_by_role("alert")).to_contain_text("somebody has released or rolled back meanwhile")
        page.get_by_role("link", name="Roll back").click()
        page.get_by_role("button", name=f"Roll back to {old.id}").press("Enter")
        expect(page.locator("h1")).to_have_text("Service")
        assert read_pointer(place.pointer).current.id == old.id
        page.goto("/audit")
        expect(page.locator("tbody tr")).to_have_count(6)


def test_everything_is_there_without_scripts(place: Place, browser: Browser) -> None:
    context = browser.new_context(base_url=place.url, java_script_enabled=False)
    page = context.new_page()
    page.goto("/runs/before")
    expect(page.locator("svg.plot")).to_have_count(2)
    page.goto("/runs/before/plan")
    page.get_by_role("button", name="Plan").click()
    deadline = time.monotonic() + 240
    while not page.locator("pre.output").count():
        assert time.monotonic() < deadline
        time.sleep(1.0)
        page.get_by_role("link", name="Load again").click()
    page.goto("/playground?query=verdant+milk")
    expect(page.locator("mark").first).to_contain_text("verdant")
    page.goto("/service/release?run=before")
    page.get_by_role("button", name="Release").click()
    assert read_pointer(place.pointer).current.id == place.bundles[0].id
    context.close()
