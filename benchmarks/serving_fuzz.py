"""Fuzzing: a hundred thousand malformed and valid requests over real sockets to a running service.

    python -m benchmarks.serving_fuzz BUNDLE [--requests 100000] [--examples 400]

First schemathesis reads `/openapi.json`, sends requests that the document allows and forbids (`--examples` for each
operation), and checks every response against it; then a mutation fuzzer (`benchmarks/mutations.py`) changes bodies,
headers, methods and paths, until together they have sent `--requests`. Recorded are the statuses, memory and open
files of every worker after a tenth and at the end, and the statuses of vLLM's paths through the gateway.

Expected: no 5xx but 503, memory that has stopped growing by the tenth, no file descriptor leaked. Writes
benchmarks/results/serving_fuzz.json.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.mutations import mutated
from engine.loopback import free_port
from limbeck.environment import device, git_commit, versions
from serving.client import served
from task.files import write_json

RESULT = Path(__file__).parent / "results" / "serving_fuzz.json"
CONNECTIONS = 16
PATIENCE_S = 30.0
SILENT = -1
# A deadline of a millisecond is a valid one: such a request is refused for being late before its body is looked at.
REFUSALS = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503]
[checks.negative_data_rejection]
expected-statuses = [400, 401, 404, 405, 408, 413, 422, 429, 431, 503]
"""
# Paths of vLLM that must not be reachable.
VLLM = (
    "/pooling", "/classify", "/score", "/v1/embeddings", "/v1/completions", "/tokenize", "/detokenize", "/version",
    "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/sleep", "/wake_up", "/collective_rpc", "/reset_prefix_cache",
    "/pause", "/resume", "/server_info", "/load", "/ping", "/invocations", "/docs", "/rerank", "/inference/v1/generate",
)


def main() -> None:
    """Run both and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--examples", type=int, default=400, help="examples of schemathesis per operation")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        admin = free_port()
        more = ["--admin-port", str(admin), "--workers", "2", "--set", "request_timeout_s=2.0"]
        with served(options.bundle, state=Path(name) / "state", options=more) as url:
            found = fuzz(url, f"http://127.0.0.1:{admin}", options.requests, options.examples)
    write_json(RESULT, found | {"versions": versions(), "device": device(), "git": git_commit()})
    print(RESULT)


def fuzz(url: str, admin: str, requests: int, examples: int) -> dict[str, Any]:
    """Both fuzzers on a running service."""
    found: dict[str, Any] = {"schemathesis": from_document(url, examples)}
    print(found["schemathesis"], flush=True)
    left = requests - found["schemathesis"]["requests"]
    port = int(url.rpartition(":")[2])
    started = time.monotonic()
    statuses = asyncio.run(mutations(port, max(left // 10, 0), seed=0))
    memory = {"a tenth": workers(admin)}
    statuses += asyncio.run(mutations(port, max(left - left // 10, 0), seed=1))
    memory["the end"] = workers(admin)
    assert [w["pid"] for w in memory["a tenth"]] == [w["pid"] for w in memory["the end"]], "a worker has died"
    found |= {
        "mutations": {
            "requests": sum(statuses.values()), "statuses": {str(k): v for k, v in sorted(statuses.items())},
            "seconds": round(time.monotonic() - started, 1),
        },
        "workers": memory, "vllm_paths": {path: asked(url + path) for path in VLLM},
    }
    print(found["mutations"], found["workers"], flush=True)
    return found


def from_document(url: str, examples: int) -> dict[str, Any]:
    """Schemathesis against the service's own document.

    Not asked for: that whatever the document's schemas allow is accepted, for no schema can say which names of tasks
    and models there are.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "schemathesis.toml").write_text(REFUSALS)
        command = [
            str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json", "--max-examples",
            str(examples), "--seed", "1", "--phases", "examples,coverage,fuzzing", "--checks", "all",
            "--exclude-checks", "positive_data_acceptance", "--no-color", "--suppress-health-check", "all",
            "--warnings", "off", "--continue-on-failure",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        cases = re.search(r"([\d,]+) generated", done.stdout)
        return {
            "ok": done.returncode == 0, "requests": int(cases[1].replace(",", "")) if cases else 0,
            "output": done.stdout.splitlines()[-60:] if done.returncode else [],
        }


async def mutations(port: int, count: int, seed: int) -> Counter[int]:
    """Statuses of mutated requests; 0 where the connection was closed without an answer, `SILENT` where none came."""
    rng = random.Random(seed)
    statuses: Counter[int] = Counter()
    gate = asyncio.Semaphore(CONNECTIONS)

    async def one(request: tuple[str, str, list[tuple[bytes, bytes]], bytes]) -> None:
        try:
            statuses[await sent(port, *request)] += 1
        finally:
            gate.release()

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            await gate.acquire()
            group.create_task(one(mutated(rng)))
    return statuses


async def sent(port: int, method: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes) -> int:
    """The status that a request gets; every one has a connection of its own, which it then closes for writing."""
    names = [k for k, _ in headers]
    if body and b"content-length" not in names and b"transfer-encoding" not in names:
        headers = [*headers, (b"content-length", b"%d" % len(body))]
    head = b"%s %s HTTP/1.1\r\n" % (method.encode(), (path or "*").encode())
    raw = head + b"".join(b"%s: %s\r\n" % x for x in headers) + b"connection: close\r\n\r\n" + body
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with contextlib.suppress(OSError):  # it may have answered and closed before all was sent
            writer.write(raw)
            writer.write_eof()
        async with asyncio.timeout(PATIENCE_S):
            answer = await reader.read()
    except TimeoutError:
        return SILENT
    except OSError:
        return 0
    finally:
        writer.close()
    found = re.match(rb"HTTP/1\.1 (\d{3})", answer)
    return int(found[1]) if found else 0


def workers(admin: str) -> list[dict[str, int]]:
    """Resident memory in KB and open files of each worker."""
    with urllib.request.urlopen(f"{admin}/status", timeout=30) as response:
        pids = [w["pid"] for w in json.load(response)["workers"]]
    out = []
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text()
        resident = re.search(r"VmRSS:\s+(\d+)", status)
        assert resident is not None
        out.append({"pid": pid, "rss_kb": int(resident[1]), "files": len(list(Path(f"/proc/{pid}/fd").iterdir()))})
    return out


def asked(url: str) -> int:
    """The status of a path."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, b"{}"), timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


if __name__ == "__main__":
    main()
