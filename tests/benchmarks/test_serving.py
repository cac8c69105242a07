"""The load generator and the cache measurement do what they say, at a small size."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from benchmarks.serving import CONSTANT, cache, load
from engine.loopback import free_port


@pytest.fixture
def constant() -> Iterator[int]:
    """A server that answers everything at once."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", CONSTANT, str(port)])
    try:
        for _ in range(200):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


def test_every_departure_is_accounted_for(constant: int) -> None:
    found = load(f"http://127.0.0.1:{constant}", ["oat milk", "Käse"], 300, 1.0)
    assert found["errors"] == 0
    assert 200 < found["count"] < 400
    assert found["p99_ms"] is None or found["p50_ms"]["value"] <= found["p99_ms"]["value"]


def test_a_server_that_says_nothing_is_infinitely_slow() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(256)
        found = load(f"http://127.0.0.1:{silent.getsockname()[1]}", ["oat milk"], 100, 0.5, timeout_s=1.0)
    assert found["errors"] == found["count"] > 20
    assert not found["sustained"]


def test_a_cache_is_built_opened_and_asked() -> None:
    found = cache(3_000)
    assert found["rows"] == 3_000
    assert found["disk_mb"] <= 2
    assert {"build_s", "open_ms", "hit_us", "miss_us", "grown_mb"} <= found.keys()
