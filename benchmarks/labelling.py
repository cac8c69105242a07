"""Labelling throughput and faults: Limbeck, curator, distilabel and LiteLLM on one local server.

    python -m benchmarks.labelling
    python -m benchmarks.labelling --peer curator=~/venvs/curator/bin/python --peer litellm=~/venvs/litellm/bin/python

A server that takes 100 ms a call and counts what it answers; 2,000 short queries, 64 in flight: 3.2 s would be ideal.
Each client runs in a process of its own (`benchmarks/peers/NAME.py`), set up as well as its options allow; peers need
their own virtual environment (`pip install bespokelabs-curator`, `distilabel[openai]`, `litellm`). Limbeck's time has
key, prompt, guardrails, ledger and the final pass over the rows in it. Rounds alternate between clients. Then faults,
once each: every tenth query answered 400; every tenth cut; kill -9 half-way and the same command again.

Expected: raw aiohttp needs 0.4 ms of CPU a call, so below 1 ms with the ledger, and at least 85 % of the ideal.
Writes benchmarks/results/labelling.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from aiohttp import web

from limbeck.stage import device, git_commit, versions
from task.files import write_json

ROWS, IN_FLIGHT, DELAY_S, ROUNDS = 2_000, 64, 0.1, 5
IDEAL_S = math.ceil(ROWS / IN_FLIGHT) * DELAY_S
PEERS = Path(__file__).parent / "peers"
RESULT = Path(__file__).parent / "results" / "labelling.json"
LIMIT_S = 90.0  # near thirty times the ideal; who is not done by then is stopped, and the table says so


class Server:
    """Answers chat completions after a delay; counts calls by query. Runs in a process of its own, see `serve`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.labelling", "--serve"], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def reset(self, fault: str = "none") -> None:
        """Forget the counts; from now on every tenth query meets `fault`: none, 400 or truncated."""
        self._get(f"/reset?fault={fault}")

    def calls(self) -> Counter[str]:
        """Calls by query since the last reset."""
        return Counter(self._get("/calls"))

    def _get(self, path: str) -> Any:
        import urllib.request

        with urllib.request.urlopen(self.url + path, timeout=30) as response:
            return json.load(response)


def serve() -> None:
    """The server's process: prints its address, answers until it is killed."""
    state: dict[str, Any] = {"fault": "none", "calls": Counter()}

    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        if not body["messages"]:  # a probe for rate-limit headers
            return web.json_response({"error": {"message": "no messages"}}, status=400)
        query = body["messages"][-1]["content"]
        if not isinstance(query, str):
            query = query[0]["text"]
        state["calls"][query] += 1
        faulty = state["fault"] != "none" and int(query.split()[0][5:]) % 10 == 0
        await asyncio.sleep(DELAY_S)
        if faulty and state["fault"] == "400":
            return web.json_response({"error": {"message": "bad request", "type": "invalid_request_error"}}, status=400)
        content = json.dumps({"labels": [{"role": "product", "text": query.split()[-1]}]})
        cut = faulty and state["fault"] == "truncated"
        return web.json_response({
            "id": "x", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{
                "index": 0, "finish_reason": "length" if cut else "stop",
                "message": {"role": "assistant", "content": content[:9] if cut else content},
            }],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        })

    async def calls(_: web.Request) -> web.Response:
        return web.json_response(state["calls"])

    async def reset(request: web.Request) -> web.Response:
        state.update(fault=request.query["fault"], calls=Counter())
        return web.json_response({})

    async def run() -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/chat/completions", answer)
        app.router.add_get("/calls", calls)
        app.router.add_get("/reset", reset)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        print("http://{}:{}".format(*runner.addresses[0][:2]), flush=True)
        await asyncio.Event().wait()

    asyncio.run(run())


def command(name: str, python: str, url: str, folder: Path, out: Path) -> list[str]:
    """How a client is started: it labels `ROWS` queries and writes when it began, ended, and its rows."""
    return [python, str(PEERS / f"{name}.py"), f"{url}/v1", str(ROWS), str(IN_FLIGHT), str(folder), str(out)]


def once(name: str, python: str, server: Server, fault: str = "none") -> dict[str, Any]:
    """One run of a client from nothing: seconds of the work itself, CPU seconds of the whole process, and its rows."""
    server.reset(fault)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ended = _run(command(name, python, server.url, Path(folder), out))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        said = json.loads(out.read_text()) if out.exists() else {"seconds": None, "rows": None, "idle_cpu_s": 0.0}
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - said["idle_cpu_s"]
    calls = server.calls()
    return {
        "seconds": said["seconds"], "cpu_s": round(cpu, 3), "rows": said["rows"], "exit": ended,
        "calls": sum(calls.values()), "most_calls_a_query": max(calls.values(), default=0),
    }


def killed(name: str, python: str, server: Server) -> dict[str, Any]:
    """kill -9 when the server has answered half, then the same command again in the same folder."""
    server.reset()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        line = command(name, python, server.url, Path(folder), out)
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None and sum(server.calls().values()) < ROWS / 2:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        first = sum(server.calls().values())
        ended = _run(line)
        said = json.loads(out.read_text()) if out.exists() else {"rows": None}
    calls = server.calls()
    return {
        "calls_before": first, "calls": sum(calls.values()), "exit": ended, "rows": said["rows"],
        "asked_twice": sum(n - 1 for n in calls.values()),
    }


def _run(line: list[str]) -> int | str:
    """A process's exit code, or `stopped`."""
    log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115 (closed below)
    process = subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    timer = threading.Timer(LIMIT_S, lambda: os.killpg(process.pid, signal.SIGKILL))
    timer.start()
    code = process.wait()
    stopped = not timer.is_alive()
    timer.cancel()
    if code and not stopped:
        log.seek(0)
        print(log.read()[-1_500:], file=sys.stderr)
    log.close()
    return "stopped" if stopped else code


def main() -> None:
    """Run every client in turn, then the faults; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help="also run this peer")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    clients = {"limbeck": sys.executable} | {
        n: str(Path(p).expanduser()) for n, p in (x.split("=", 1) for x in options.peer)
    }
    server = Server()
    try:
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in clients}
        for number in range(options.rounds):
            order = list(clients) if number % 2 == 0 else list(reversed(clients))
            for name in order:
                rounds[name].append(once(name, clients[name], server))
                print(f"round {number + 1}: {name} {rounds[name][-1]}", flush=True)
        found = {}
        for name, python in clients.items():
            seconds = [r["seconds"] for r in rounds[name] if r["seconds"] is not None]
            found[name] = {
                "seconds": _spread(seconds), "share_of_ideal": _spread([IDEAL_S / s for s in seconds]),
                "cpu_ms_a_call": _spread([1e3 * r["cpu_s"] / ROWS for r in rounds[name]]),
                "http_400": once(name, python, server, "400"), "truncated": once(name, python, server, "truncated"),
                "killed": killed(name, python, server), "version": _version(name, python),
            }
            print(name, json.dumps(found[name]), flush=True)
    finally:
        server.close()
    write_json(RESULT, {
        "rows": ROWS, "in_flight": IN_FLIGHT, "limit_s": LIMIT_S, "delay_s": DELAY_S, "ideal_s": IDEAL_S,
        "rounds": options.rounds, "clients": found, "versions": versions(), "device": device(), "git": git_commit(),
    })
    print(RESULT)


def _spread(values: list[float]) -> dict[str, float] | None:
    """Median, least and most."""
    if not values:
        return None
    return {k: round(v, 4) for k, v in (("median", statistics.median(values)), ("low", min(values)),
                                        ("high", max(values)))}


def _version(name: str, python: str) -> str | None:
    package = {"curator": "bespokelabs-curator"}.get(name, name)
    line = [python, "-c", f"from importlib.metadata import version; print(version({package!r}))"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


if __name__ == "__main__":
    main()
