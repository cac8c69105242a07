"""The pages that stages and studies wrote, served as they are, in a sandbox of their own.

They hold what people and LLMs wrote, and have scripts of their own for their filters. So each is served with a policy
under which it has no origin, loads and sends nothing, and runs only the scripts that our templates have. Nothing else
of a run folder is served.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import eval as of_pages
from limbeck.console.protection import RefusedError, allowed
from limbeck.console.shared import console_of

# Path in the run folder → what it is.
_PAGES: Final = {
    "evaluate/report.html": "Report", "label/report.html": "Labels", "rounds/rounds.html": "Rounds",
    "audit/audit.html": "Audit of the context", "ablate/ablation.html": "Ablation", "sweep/sweep.html": "Sweep",
}
_ANY: Final = {"*/comparison.html": "Comparison", "*/bench.html": "Benchmark"}
_OF_ROUNDS: Final = re.compile(r"rounds/(\d+)/label/report\.html")
_SCRIPT: Final = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def known_pages(folder: Path) -> dict[str, str]:
    """Path in the run folder → title of every page that is there; a path that leads outside of the folder is none."""
    found = {path: title for path, title in _PAGES.items() if (folder / path).is_file()}
    for pattern, title in _ANY.items():
        found |= {p.relative_to(folder).as_posix(): f"{title} in {p.parent.name}" for p in sorted(folder.glob(pattern))}
    for page in sorted(folder.glob("rounds/*/label/report.html")):
        path = page.relative_to(folder).as_posix()
        if number := _OF_ROUNDS.fullmatch(path):
            found[path] = f"Labels of round {int(number[1])}"
    inside = folder.resolve()
    return {path: title for path, title in found.items() if (folder / path).resolve().is_relative_to(inside)}


async def show(request: Request) -> Response:
    """A page, word for word."""
    folder = console_of(request).runs.files(request.path_params["run"]).folder
    path = request.path_params["path"]
    if path not in known_pages(folder):
        raise RefusedError(404, "This run has no such page.")
    return Response(
        (folder / path).read_bytes(), media_type="text/html; charset=utf-8",
        headers={"Content-Security-Policy": policy()},
    )


@functools.cache
def policy() -> str:
    """The policy of these pages: no origin, no network, and of scripts only those of our templates, by their hashes."""
    scripts = sorted(
        script for template in Path(of_pages.__path__[0]).glob("*.html.j2")
        for script in _SCRIPT.findall(template.read_text(encoding="utf-8"))
    )
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return (
        f"sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {hashes}; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )


ROUTES: Final = (Route("/runs/{run}/pages/{path:path}", allowed("look", show)),)
