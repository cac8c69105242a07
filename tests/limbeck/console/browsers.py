"""A real console in a process of its own, and a real browser at it.

Chromium comes from the distribution (package `chromium`), driven by Playwright. Whatever a page writes into the
browser's console, and every request that fails, fails the test.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.documented import documented

expect.set_options(timeout=30_000)  # a busy machine is slow, not wrong
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@contextmanager
def started(runs: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A console over the runs in a folder; gives its address and its process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "limbeck", *documented("limbeck console runs", runs=runs), "--port", "0", *options],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )
    assert process.stderr is not None
    told: list[str] = []
    try:
        for line in process.stderr:
            told.append(line)
            if line.startswith("console: "):
                break
        assert told[-1:] and told[-1].startswith("console: "), "".join(told)  # noqa: PT018 (the text is what was said)
        yield told[-1].removeprefix("console: ").strip(), process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(20)
        process.stderr.close()


@pytest.fixture(scope="module")  # Playwright keeps an event loop running: other modules begin their own
def browser() -> Iterator[Browser]:
    """Chromium; where there is none, the tests are skipped, but on CI they fail."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        told = "no Chromium here: install the distribution's package `chromium`"
        pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@contextmanager
def opened(browser: Browser, address: str, *, size: Any = None, allow: Sequence[int] = ()) -> Iterator[Page]:
    """A page of its own, as of another person's computer; what it complains about fails the test.

    Args:
        allow: Statuses of refused requests that the test expects.
    """
    context = browser.new_context(base_url=address, viewport=size or WIDE)
    page = context.new_page()
    page.set_default_timeout(30_000)
    said: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if not any(f"status of {status}" in message.text for status in allow):
            said.append(f"{message.type}: {message.text}")

    page.on("console", note)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: dialog.accept())
    yield page
    context.close()
    assert said == []


def check_page(page: Page, pictures: Path, name: str) -> None:
    """The page at both widths: nothing serious for axe, nothing wider than the window; leaves pictures to look at."""
    from axe_playwright_python.sync_playwright import Axe

    for size in (WIDE, NARROW):
        page.set_viewport_size(size)  # type: ignore[arg-type]
        page.screenshot(path=pictures / f"{name}-{size['width']}.png", full_page=True)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= size["width"], f"{name} is {wide} pixels wide at {size['width']}"
        found = [v for v in Axe().run(page).response["violations"] if v["impact"] in ("serious", "critical")]
        assert [f"{v['id']}: {v['help']}: {v['nodes'][0]['html'][:300]}" for v in found] == [], name
    page.set_viewport_size(WIDE)  # type: ignore[arg-type]


class Keyboard:
    """Counts the keys that a person presses."""

    def __init__(self, page: Page) -> None:
        self._page, self.pressed = page, 0

    def press(self, *keys: str) -> None:
        for key in keys:
            self._page.keyboard.press(key)
            self.pressed += 1

    def decide(self, *keys: str) -> None:
        """Press keys of which the last one sends the decision; returns when the next query is there."""
        token = self._page.locator("input[name=token]").last.input_value()
        self.press(*keys)
        self._page.wait_for_function(
            "token => !document.querySelector('#decision') || "
            "document.querySelector('#decision input[name=token]').value !== token", arg=token,
        )


def open_queue(page: Page, queue: str = "uncertain", *, run: str = "shop") -> Keyboard:
    """The queue, once the index has been made."""
    page.goto(f"/runs/{run}/review/{queue}")
    for _ in range(50):
        if page.locator("#decision").count():
            break
        page.wait_for_timeout(200)
        page.reload()
    expect(page.locator("#drawn")).to_be_focused()
    return Keyboard(page)


def current(page: Page) -> str:
    return page.locator("#decision input[name=query]").input_value()
