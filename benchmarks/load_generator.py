"""The load generator against servers with known latencies, compared with a closed-loop tool, and its own limit.

    python -m benchmarks.load_generator [--seconds 60] [--wrk PATH]

- `constant`: a server that answers after 20 ms.
- `mm1`: one server, exponential service at 500/s, Poisson arrivals at 350/s. The time in the system is exponential with
  rate 150/s: mean 6.67 ms, p99 30.7 ms. How far a run of this length may be off is what simulations of it say.
- `stall`: a server that stands still for one second in every ten. Of Poisson arrivals a tenth waits, uniformly up to a
  second: p99 is 900 ms. A closed loop over eight connections has eight slow requests in ten seconds, and thousands of
  others. wrk is one, but adds the requests that it did not send to its histogram afterwards.
- `limit`: rising rates against a server that answers at once with a constant, one process and two on the same cores.

Expected: the generator adds some 0.3 ms, and one process holds a few thousand requests a second. Writes
benchmarks/results/load_generator.json.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from benchmarks.serving import CONSTANT
from engine.loopback import free_port
from eval.arrivals import poisson
from eval.endpoint import Target
from eval.latency import percentiles, summarise
from eval.load_generator import run
from eval.load_samples import Samples
from limbeck.environment import device, git_commit, versions
from task.files import write_json
from tests.eval.known_server import known

RESULT = Path(__file__).parent / "results" / "load_generator.json"
QUERIES = [f"oat milk {i}" for i in range(1_000)]
SERVICE, ARRIVALS = 500.0, 350.0
RATES = (500, 1_000, 2_000, 3_000, 4_000, 5_000, 6_000, 8_000, 10_000, 12_000, 14_000, 16_000, 18_000, 20_000)


def main() -> None:
    """All four."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--wrk", default=shutil.which("wrk"), help="path of the closed-loop tool; may be missing")
    options = parser.parse_args()
    seconds = options.seconds
    with known("constant", 0.02) as url:
        constant = _told(poisson(100, seconds, QUERIES, 0), url)
    with known("mm1", SERVICE, 1) as url:
        queue = _told(poisson(ARRIVALS, seconds, QUERIES, 1), url)
    with known("stall", 10, 1) as url:
        stall = _told(poisson(100, seconds, QUERIES, 2), url)
    with known("stall", 10, 1) as url:
        corrected = wrk(options.wrk, url, seconds) if options.wrk else None
    with known("stall", 10, 1) as url:
        closed = asyncio.run(closed_loop(url, seconds))
    found = {
        "seconds": seconds, "constant": constant | {"theory": {"mean": 20.0, "p99": 20.0}},
        "mm1": queue | {"theory": theory(seconds)},
        "stall": stall | {"theory": {"mean": 50.0, "p99": 900.0}}, "wrk": corrected, "closed": closed,
        "limit": limits(seconds / 6),
    }
    write_json(RESULT, found | {"versions": versions(), "device": device(), "git": git_commit()})
    print(RESULT)


def _told(plan: Any, url: str) -> dict[str, Any]:
    samples = run(plan, Target(url))
    said = summarise([(plan, samples)])
    found = {
        "requests": len(samples), "mean": _mean(samples), "p50": said["blended"]["p50_ms"],
        "p99": said["blended"]["p99_ms"], "errors": said["blended"]["errors"], "valid": said["valid"],
        "dispatch_delay_ms": said["dispatch_delay_ms"],
    }
    print(url, found, flush=True)
    return found


def _mean(samples: Samples) -> float:
    return round(1e3 * float(samples.latency.mean()), 3)


def theory(seconds: float, trials: int = 400) -> dict[str, Any]:
    """Mean and p99 in ms of M/M/1, and where 95 % of runs of this length lie (Lindley's recursion)."""
    rng = np.random.default_rng(0)
    means, tails = [], []
    for _ in range(trials):
        n = int(ARRIVALS * seconds)
        gaps, services = rng.exponential(1 / ARRIVALS, n), rng.exponential(1 / SERVICE, n)
        steps = np.cumsum(services[:-1] - gaps[1:])
        waits = np.concatenate([[0.0], steps - np.minimum(np.minimum.accumulate(steps), 0.0)])
        times = waits + services
        means.append(1e3 * times.mean())
        tails.append(1e3 * np.quantile(times, 0.99))
    rate = SERVICE - ARRIVALS
    return {
        "mean": round(1e3 / rate, 3), "p99": round(-1e3 * float(np.log(0.01)) / rate, 3),
        "mean_95": [round(float(q), 3) for q in np.quantile(means, [0.025, 0.975])],
        "p99_95": [round(float(q), 3) for q in np.quantile(tails, [0.025, 0.975])],
    }


async def closed_loop(url: str, seconds: float) -> dict[str, Any]:
    """Eight connections, each asking again as soon as it has been answered, time from the sending."""
    taken: list[float] = []

    async def one(session: aiohttp.ClientSession) -> None:
        end = time.perf_counter() + seconds
        while (sent := time.perf_counter()) < end:
            async with session.post(f"{url}/v1/label", json={"query": "oat milk"}) as response:
                await response.read()
            taken.append(time.perf_counter() - sent)

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(one(session) for _ in range(8)))
    found = {"requests": len(taken), "mean": round(1e3 * float(np.mean(taken)), 3), **percentiles(taken)}
    print("closed", found, flush=True)
    return found


def wrk(command: str, url: str, seconds: float) -> dict[str, Any]:
    """What a closed loop over eight connections says of the server that stalls."""
    script = "wrk.method='POST'; wrk.body='{\"query\": \"oat milk\"}'"
    path = RESULT.parent / ".wrk.lua"
    path.write_text(script)
    try:
        done = subprocess.run(
            [command, "-t1", "-c8", f"-d{seconds:g}s", "--latency", "-s", str(path), f"{url}/v1/label"],
            capture_output=True, text=True, check=True,
        )
    finally:
        path.unlink()
    units = {"us": 1e-3, "ms": 1.0, "s": 1e3}
    found: dict[str, Any] = {"requests": int(re.findall(r"(\d+) requests in", done.stdout)[0])}
    for percent, value, unit in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", done.stdout):
        found[f"p{percent}"] = float(value) * units[unit]
    print("wrk", found, flush=True)
    return found


def limits(seconds: float) -> list[dict[str, Any]]:
    """The highest rates at which 99 % of the requests leave on time, with one process and with two."""
    out = []
    for processes in (1, 2):
        port = free_port()
        server = subprocess.Popen([sys.executable, "-c", CONSTANT, str(port)])
        time.sleep(1.0)
        held: dict[str, Any] | None = None
        try:
            for rate in RATES:
                plan = poisson(rate, seconds, QUERIES, 0)
                said = summarise([(plan, run(plan, Target(f"http://127.0.0.1:{port}"), processes=processes))])
                if not said["valid"] or said["blended"]["errors"]:
                    break
                held = {"rate": rate, "p50": said["blended"]["p50_ms"], "p99": said["blended"]["p99_ms"],
                        "dispatch_delay_ms": said["dispatch_delay_ms"], "cpu": said["generator_cpu"]}
                print(processes, held, flush=True)
        finally:
            server.kill()
            server.wait()
        out.append({"processes": processes, "held": held})
    return out


if __name__ == "__main__":
    main()
