"""The service under load: throughput of the cache, overhead of the gateway, scaling of the head cache.

    python -m benchmarks.serving BUNDLE [--seconds 60] [--workers 2] [--only hits|gateway|cache]

- `hits`: cached queries in an open loop (Poisson, time from the scheduled departure) over kept connections: first
  1,000/s, then rising rates until the service or the generator cannot follow. The generator is one process on the same
  two cores; its own limit is measured against a server that answers each request with a constant.
- `gateway`: single misses through the gateway and the same question sent straight to vLLM, in turns on an idle
  machine; the median difference of a pair is what the gateway adds.
- `cache`: head caches of a million and of ten million queries: build time, size, time to open, memory, look-ups.

Expected: a hit costs the gateway some 100 µs of CPU, so two cores that also run the generator bear about 8,000/s; a
miss costs it a millisecond. Writes benchmarks/results/serving.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.client import StudentClient
from engine.process import free_port
from eval.arrivals import poisson
from eval.endpoint import Target
from eval.latency import percentiles, slower_by, summarise
from eval.load_generator import run
from limbeck.stage import device, git_commit, versions
from serving.release.bundle import open_bundle
from serving.release.head_cache import HeadCache, build
from serving.service import served
from task.files import read_json, write_json
from task.labels import Example, Label
from task.tokenizer import load_tokenizer

RESULT = Path(__file__).parent / "results" / "serving.json"
RATES = (1_000, 2_000, 3_000, 4_000, 5_000, 6_000, 7_000, 8_000, 10_000, 12_000)
CONSTANT = """
import asyncio, sys, uvloop
class P(asyncio.Protocol):
    def connection_made(self, t): self.t = t
    def data_received(self, d):
        self.t.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\n{}" * d.count(b"\\r\\n\\r\\n"))
async def main():
    s = await asyncio.get_running_loop().create_server(P, "127.0.0.1", int(sys.argv[1])); await s.serve_forever()
uvloop.run(main())
"""


def main() -> None:
    """Measure what was asked for; what was measured before and is not asked for stays."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="the market's bundle")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the 1,000/s last; other rates a sixth")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--misses", type=int, default=300)
    parser.add_argument("--cache-rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--only", choices=("hits", "gateway", "cache"), action="append")
    options = parser.parse_args()
    wanted = options.only or ["hits", "gateway", "cache"]
    found: dict[str, Any] = read_json(RESULT) if RESULT.exists() else {}
    bundle = open_bundle(options.bundle)
    if {"hits", "gateway"} & set(wanted):
        with tempfile.TemporaryDirectory() as name:
            state = Path(name) / "state"
            with served(options.bundle, state, options=["--workers", str(options.workers)]) as url:
                if "hits" in wanted:
                    queries = list(HeadCache(options.bundle / "cache").queries())
                    found["hits"] = {"workers": options.workers, **hits(url, queries, options.seconds)}
                if "gateway" in wanted:
                    engine = read_json(state / "wanted.json")["routes"][0]["engine"]
                    found["gateway"] = asyncio.run(gateway(url, engine, bundle, options.misses))
                    print("gateway", found["gateway"], flush=True)
    if "cache" in wanted:
        found["cache"] = [cache(n) for n in options.cache_rows]
    write_json(RESULT, found | {"versions": versions(), "device": device(), "git": git_commit()})
    print(RESULT)


# -- hits -------------------------------------------------------------------------------------------------------------


def hits(url: str, queries: Sequence[str], seconds: float) -> dict[str, Any]:
    """Rising rates through the service; before, what the generator itself can hold."""
    port = free_port()
    constant = subprocess.Popen([sys.executable, "-c", CONSTANT, str(port)])
    try:
        time.sleep(1.0)
        limit = climb(f"http://127.0.0.1:{port}", queries, seconds / 6)
    finally:
        constant.kill()
        constant.wait()
    steady = load(url, queries, RATES[0], seconds)
    print("1,000/s", steady, flush=True)
    rates = climb(url, queries, seconds / 6)
    return {"steady": steady, "rates": rates, "generator": limit}


def climb(url: str, queries: Sequence[str], seconds: float) -> list[dict[str, Any]]:
    """Runs at rising rates, up to the first two that could not be sustained."""
    out: list[dict[str, Any]] = []
    for rate in RATES:
        out.append(load(url, queries, rate, seconds))
        print(rate, out[-1], flush=True)
        if len(out) > 1 and not out[-1]["sustained"] and not out[-2]["sustained"]:
            break
    return out


def load(url: str, queries: Sequence[str], rate: float, seconds: float, timeout_s: float = 5.0) -> dict[str, Any]:
    """Poisson departures at a rate; hits may come from the cache, which is what they are for."""
    plan = poisson(rate, seconds, (), 0, hits=queries, hit_share=1.0)
    said = summarise([(plan, run(plan, Target(url), timeout_s=timeout_s))])
    found = said["blended"]
    p99 = (found["p99_ms"] or {}).get("value")
    late = 1 - said["sent_in_time"]
    return {
        "rate": rate, "seconds": seconds, "achieved": said["achieved_rate"], "late": round(late, 5),
        "generator_cpu": said["generator_cpu"], "dispatch_delay_ms": said["dispatch_delay_ms"],
        "sustained": found["errors"] == 0 and said["valid"] and p99 is not None and p99 < 100,
        **{k: v for k, v in found.items() if k != "hdr"},
    }


# -- misses -----------------------------------------------------------------------------------------------------------


async def gateway(url: str, engine: str, bundle: Any, count: int) -> dict[str, Any]:
    """The same questions through the gateway and straight to vLLM, in turns."""
    import aiohttp

    queries = made_up_misses(bundle, count)
    student = StudentClient.of(bundle, engine, load_tokenizer(bundle.model), 60.0)
    through: list[float] = []
    straight: list[float] = []
    async with aiohttp.ClientSession() as session:
        async def ask(query: str) -> None:
            async with session.post(f"{url}/v1/label", json={"query": query, "use_cache": False}) as response:
                assert response.status == 200
                await response.read()

        for query in queries[:20]:
            await ask(query)
            await student.label([query])
        for number, query in enumerate(queries[20:]):
            pair = [(ask, through), (lambda q: student.label([q]), straight)]
            for call, times in pair if number % 2 else pair[::-1]:
                started = time.perf_counter()
                await call(query)
                times.append(time.perf_counter() - started)
                await asyncio.sleep(0.02)
    await student.close()
    return {
        "pairs": len(through), "through": percentiles(through), "straight": percentiles(straight),
        "added_ms": slower_by(np.array(through), np.array(straight)),
    }


def made_up_misses(bundle: Any, count: int) -> list[str]:
    """Queries that no cache knows: known ones with other words in front."""
    known = list(HeadCache(bundle.folder / "cache").queries())
    words = sorted({w for q in known for w in q.split()})
    rng = random.Random(1)
    return [f"{rng.choice(words)} {rng.choice(known)}" for _ in range(count + 20)]


# -- the cache --------------------------------------------------------------------------------------------------------


def cache(rows: int) -> dict[str, Any]:
    """Build a head cache of so many queries, open it in a fresh process, look things up."""
    folder = Path(tempfile.mkdtemp(prefix="limbeck-cache-"))
    try:
        started = time.monotonic()
        build(folder, _made_up(rows), "v1", "benchmark")
        seconds = time.monotonic() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        code = "from benchmarks.serving import look; import sys; look(sys.argv[1], int(sys.argv[2]))"
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder), str(rows)], capture_output=True, text=True, check=True
        )
        found = {
            "rows": rows, "build_s": round(seconds, 1), "build_peak_mb": round(peak),
            "disk_mb": round(sum(p.stat().st_size for p in folder.iterdir()) / 1e6), **json.loads(done.stdout),
        }
        print(found, flush=True)
        return found
    finally:
        shutil.rmtree(folder)


def look(folder: str, rows: int) -> None:
    """Open, look up 100,000 that are there and as many that are not; prints JSON."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    opened = HeadCache(Path(folder))
    open_s = time.perf_counter() - started
    rng = random.Random(2)
    numbers = [rng.randrange(rows) for _ in range(100_000)]
    known = [_text(n) for n in numbers]
    started = time.perf_counter()
    hits_ = sum(opened.find(opened.normalise(q)) is not None for q in known)
    hit_us = 10 * (time.perf_counter() - started)
    started = time.perf_counter()
    wrong = sum(opened.find(opened.normalise(f"no {q}")) is not None for q in known)
    miss_us = 10 * (time.perf_counter() - started)
    assert (hits_, wrong) == (100_000, 0)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({
        "open_ms": round(1e3 * open_s, 2), "hit_us": round(hit_us, 2), "miss_us": round(miss_us, 2),
        "grown_mb": round(grown),
    }))


def _made_up(rows: int) -> Iterator[Example]:
    for number in range(rows):
        query = _text(number)
        words = query.split()
        yield Example(query, (
            Label("brand", words[0], 0, len(words[0]), 0.99),
            Label("product", " ".join(words[1:3]), len(words[0]) + 1, len(" ".join(words[:3])), 0.98),
            Label("department", "Dairy and Eggs", confidence=0.97),
        ))


def _text(number: int) -> str:
    return f"brand{number % 5_003} oat milk{number % 997} {number}ml"


if __name__ == "__main__":
    main()
