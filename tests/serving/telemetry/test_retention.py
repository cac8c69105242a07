from __future__ import annotations

import asyncio
from pathlib import Path

from serving.telemetry.kept_files import DAY_S, KeptFiles
from serving.telemetry.retention import expire_daily
from tests import simulated_time

NOON = 1_767_268_800.0  # 2026-01-01, 12:00 UTC


def test_each_day_the_oldest_goes_and_a_disk_that_refuses_is_tried_again(tmp_path: Path) -> None:
    files = KeptFiles(tmp_path)
    files.captures.mkdir()
    for day in range(28, 32):
        (files.captures / f"2025-12-{day}.jsonl").write_text("{}\n")
    (tmp_path / "uncertain.jsonl").write_text("{}\n")

    def days() -> list[int]:
        return sorted(int(p.stem[-2:]) for p in files.captures.iterdir())

    async def run() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        task = asyncio.create_task(expire_daily(files, days=2, clock=lambda: NOON + loop.time() - began))
        await asyncio.sleep(30.0)
        assert days() == [30, 31]
        await asyncio.sleep(DAY_S / 2)
        assert days() == [31]
        (tmp_path / "kept.lock").unlink()
        (tmp_path / "kept.lock").mkdir()  # cannot be opened
        (files.captures / "2025-12-29.jsonl").write_text("{}\n")
        await asyncio.sleep(DAY_S)
        assert days() == []
        assert not task.done()
        task.cancel()

    simulated_time.run(run())
