"""A query that was forgotten is answered by the student: no cache may give what it holds of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from serving.release.head_cache import HeadCache
from serving.routing.kept_answers import Purges, Store
from serving.routing.purge_counts import taken_out
from serving.telemetry.query_key import QueryKey
from tests.serving.conftest import Open


def test_neither_the_head_cache_nor_an_undone_purge_answers_it(harness: Open, tmp_path: Path) -> None:
    async def run() -> None:
        async with harness() as h:
            key = QueryKey.of(tmp_path)
            worker, other = (
                Store(tmp_path / "shared.sqlite", ttl_s=60.0, max_rows=10, hashed=key.hash) for _ in range(2)
            )
            h.route._store = worker
            assert (await h.label("OAT milk")).json()["source"] == "cache"
            other.forget("oat MILK", keyed_hash=key.hash("oat milk"))
            other.restore()
            worker._refreshed = 0.0  # a tenth of a second later
            for query in ("OAT milk", "oat  milk"):
                assert (await h.label(query)).json()["source"] == "student"
            assert worker.purges.texts == set()
            worker.close()
            other.close()

    asyncio.run(run())


def test_a_later_purge_does_not_count_it_again(harness: Open, tmp_path: Path) -> None:
    async def run() -> None:
        async with harness() as h:
            cache, key = HeadCache(h.route.bundle.folder / "cache"), QueryKey.of(tmp_path)
            before = Purges(forgotten={key.hash("oat milk")}, hashed=key.hash)
            for more in ({"before": 1e12}, {"labels": {("aisle", "dairy")}}, {"texts": {"oat milk"}}):
                first, after = (
                    Purges(**{"forgotten": known.forgotten, "hashed": key.hash, **more})  # type: ignore[arg-type]
                    for known in (Purges(), before)
                )
                assert taken_out(cache, made=0.0, before=Purges(), after=first) == 1
                assert taken_out(cache, made=0.0, before=before, after=after) == 0

    asyncio.run(run())
