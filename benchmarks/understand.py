"""`POST /v1/understand`: roles, categories and rewrites together, and each of them alone.

    python -m benchmarks.understand --queries runs/market/queries.jsonl ROLES CATEGORIES REWRITES

The bundles are served by one gateway, each by stock vLLM (`serving.engine: vllm`). Misses, one query at a time: each
query is asked for each task alone and for all of them, in an order that changes from query to query, so that
everything is measured on one machine at one time. The latencies of the parts within the joint request are measured as
well: what the roles wait for because rewrites are asked for at the same time, on a machine where both share the cores.

Expected: together as long as the longest part where each task has processors of its own; on two cores up to the sum,
because the engines share them. Rewrites take a pass for each token, some 20 to 40 times a pass that reads.
Writes benchmarks/results/understand.json.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np

from eval.latency import percentiles
from limbeck.environment import device, git_commit, versions
from serving.client import served
from serving.release.bundle import Bundle, open_bundle
from serving.release.pointer import release
from task.files import write_json
from task.serving_settings import Change

RESULT: Final = Path(__file__).parent / "results" / "understand.json"
ALL: Final = "together"
WARM_UP: Final = 10


def main() -> None:
    """Serve, ask, and write the percentiles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+", help="bundles of different tasks")
    parser.add_argument("--queries", type=Path, required=True, help="JSON lines with `query`")
    parser.add_argument("--count", type=int, default=320, help="queries; p99 needs 299 of them")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    bundles = [open_bundle(path) for path in options.bundles]
    lines = options.queries.read_text(encoding="utf-8").splitlines()
    queries = list(dict.fromkeys(json.loads(line)["query"] for line in lines))
    random.Random(0).shuffle(queries)
    with tempfile.TemporaryDirectory() as name:
        pointers = Path(name) / "tasks"
        pointers.mkdir()
        for bundle in bundles:
            release(pointers / f"{bundle.task.name}.json", bundle=bundle.folder, change=Change(), ungated=True)
        settings = ("--set", "serving.engine=vllm", "--set", "serving.access_log=false")
        with served(pointers, state=Path(name) / "state", options=settings) as url:
            found = ask(url, bundles, queries[: options.count])
    write_json(options.out, {
        **found, "queries": min(options.count, len(queries)),
        "forms": {b.task.name: b.codec.form for b in bundles},
        "kinds": {b.task.name: sorted({r.kind for r in b.task.roles}) for b in bundles},
        "versions": versions(), "device": device(), "git": git_commit(),
    })
    print(options.out)


def ask(url: str, bundles: Sequence[Bundle], queries: Sequence[str]) -> dict[str, Any]:
    """Seconds of each kind of request, and of the parts of the joint one."""
    names = [b.task.name for b in bundles]
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
    arms = {name: [name] for name in names} | {ALL: names}
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    parts: dict[str, list[float]] = {name: [] for name in names}
    for number, query in enumerate([*queries[:WARM_UP], *queries]):
        order = list(arms)
        random.Random(number).shuffle(order)
        for arm in order:
            began = time.perf_counter()
            answer = understand(connection, query, arms[arm])
            took = time.perf_counter() - began
            wrong = [p for p in answer["parts"] if p["error"] is not None]
            if wrong:
                raise SystemExit(f"{query!r}: {wrong[0]}")
            if number >= WARM_UP:
                seconds[arm].append(took)
                if arm == ALL:
                    for part in answer["parts"]:
                        parts[part["task"]].append(part["ms"] / 1e3)
    return {
        "seconds": {arm: percentiles(np.array(s)) for arm, s in seconds.items()},
        "parts": {name: percentiles(np.array(s)) for name, s in parts.items()},
    }


def understand(connection: http.client.HTTPConnection, query: str, tasks: Sequence[str]) -> dict[str, Any]:
    """The answer to a request that no cache answers."""
    body = json.dumps({"query": query, "tasks": tasks, "use_cache": False})
    connection.request("POST", "/v1/understand", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    text = response.read()
    if response.status != 200:
        raise SystemExit(f"{response.status} for {query!r}: {text.decode(errors='replace')[:300]}")
    found: dict[str, Any] = json.loads(text)
    return found


if __name__ == "__main__":
    main()
