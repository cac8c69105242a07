"""The pictures of the console in README and docs, taken from a run in a real browser.

    python -m tools.console_pictures RUNS --run market

RUNS is a folder with run folders; of the run, the queue `uncertain` and the list of labels are shown. Needs Chromium
(the distribution's package) and Playwright. Writes docs/console-review.png and docs/console-labels.png.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from playwright.sync_api import sync_playwright

_DOCS: Final = Path(__file__).resolve().parent.parent / "docs"
_SIZE: Final = {"width": 1000, "height": 600}


def main() -> None:
    """Start a console, take both pictures, end it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--run", default="market")
    given = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no Chromium here: install the distribution's package `chromium`")
    command = [sys.executable, "-m", "limbeck", "console", str(given.runs), "--port", "0"]
    named = {**os.environ, "LOGNAME": "ada"}
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=named) as console,
        sync_playwright() as playwright,
    ):
        assert console.stderr is not None
        address = next(x for x in console.stderr if x.startswith("console: ")).removeprefix("console: ").strip()
        page = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page(viewport=_SIZE)
        page.goto(f"{address}/runs/{given.run}/labels")
        while not page.locator("tbody tr").count():  # the index of labels is being made
            page.wait_for_timeout(500)
            page.reload()
        page.screenshot(path=_DOCS / "console-labels.png")
        page.goto(f"{address}/runs/{given.run}/review/uncertain")
        page.locator("#drawn").wait_for()
        page.screenshot(path=_DOCS / "console-review.png")
        console.terminate()


if __name__ == "__main__":
    main()
