"""The queries for an engine's warm-up and check, taken from a bundle."""

from __future__ import annotations

import itertools

from engine.servable import StartupQueries
from serving.release.bundle import Bundle
from serving.release.head_cache import HeadCache

_WARM_UP, _REFERENCE, _READ = 8, 32, 200


def startup_queries(bundle: Bundle) -> StartupQueries:
    """Head queries of all lengths to warm up with, and the first rows of the bundle's reference."""
    queries = itertools.islice(HeadCache(bundle.folder / "cache").queries(), _READ)
    found = sorted(queries, key=len) or ["warm up", "a longer one to warm up"]
    return StartupQueries(found[:: max(1, len(found) // _WARM_UP)], bundle.reference()[:_REFERENCE])
