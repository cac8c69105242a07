"""kill -9 at random moments of a labelling job, with a server that fails in every way while it happens."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from teacher.ledger.ledger import Ledger
from tests.llm_client.fake_api import FakeApi
from tests.teacher.test_label import llm_task, queries, run

KILLS = int(os.environ.get("LIMBECK_KILLS", "8"))  # 100 in the run that docs/teacher.md quotes
ROWS, CONCURRENCY = 60 * KILLS, 16
MISHAPS = ["429", "500", "disconnect", "not-json", "timeout"]
SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.teacher.test_label import llm_task, queries, run
run(llm_task({url!r}, concurrency={concurrency}, timeout_s=1.0), queries({rows}), Path({folder!r}))
"""


def behaviour(query: str, nth: int) -> str:
    """5 % of first calls for each fault; retries succeed."""
    draw = int(hashlib.sha256(query.encode()).hexdigest(), 16) % 20
    return MISHAPS[draw] if nth == 1 and draw < len(MISHAPS) else "ok"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_9_at_any_moment_loses_no_reply_and_pays_for_none_twice(tmp_path: Path) -> None:
    rng = random.Random(0)
    log = tmp_path / "log.txt"
    with FakeApi(behaviour) as api:
        api.delay_s = 0.05
        script = SCRIPT.format(root=str(Path(__file__).resolve().parents[4]), url=api.url, folder=str(tmp_path),
                               concurrency=CONCURRENCY, rows=ROWS)
        kills = at_risk = 0
        while kills < KILLS:
            with log.open("ab") as output:
                process = subprocess.Popen([sys.executable, "-c", script], stderr=output)
            before = sum(api.calls.values())
            while process.poll() is None and sum(api.calls.values()) == before:
                time.sleep(0.005)
            time.sleep(rng.uniform(0.0, 0.25))
            if process.poll() is not None:
                break
            # Only a call in flight, or an answer that is not yet on disk, can be lost.
            at_risk += CONCURRENCY
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
        done = run(llm_task(api.url, concurrency=CONCURRENCY, timeout_s=1.0), queries(ROWS), tmp_path)
        assert kills >= KILLS // 2, log.read_text()
    assert [r.status for r in done.rows] == ["accepted"] * ROWS
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        usable = [a["query"] for a in ledger.attempts() if a["outcome"] == "ok" and a["purpose"] == "label"]
    assert len(usable) == len(set(usable))  # no stored reply was asked for again
    paid_again = sum(n - 1 for n in api.paid.values())
    assert paid_again <= at_risk
    assert sum(api.paid.values()) - len(usable) <= at_risk
    print(f"{kills} kills, {ROWS} rows, {paid_again} paid twice of at most {at_risk} at risk")
