"""What is counted is what is shown: queries that are asked are not counted as values that are embedded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from task.progress import Progress
from task.readers import Item
from teacher.backends.job import Sources
from teacher.label import label_queries
from teacher.ledger.ledger import Ledger
from tests.conftest import make_task
from tests.llm_client.fake_api import FakeApi
from tests.teacher.test_label import PROMPT, queries


class Recorder(Progress):
    """Phase → its total and how much of it was advanced."""

    def __init__(self) -> None:
        self.phase = ""
        self.totals: dict[str, int | None] = {}
        self.done: Counter[str] = Counter()

    def begin(self, what: str, total: int | None = None, done: int = 0) -> None:
        self.phase = what
        self.totals[what] = total

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done[self.phase] += count


def test_no_phase_counts_more_than_its_total(tmp_path: Path, embedder_folder: Path) -> None:
    roles = [{"name": "brand", "catalogue": "brand", "grounded": True}, {"name": "product"}]
    items = [Item(str(i), f"maker{i} milk", f"maker{i}") for i in range(15)]
    recorder = Recorder()
    with FakeApi() as api, Ledger(tmp_path / "ledger.sqlite") as ledger:
        openai = {"base_url": api.url, "model": "m", "prompt": str(PROMPT)}
        task = make_task(roles=roles, teacher={"backend": "openai", "openai": openai})
        label_queries(
            task, Sources(queries(140), items), ledger, tmp_path, lambda _: embedder_folder, recorder
        )
    assert recorder.totals["embedding values of brand"] == 15
    assert (recorder.totals["asking m"], recorder.done["asking m"]) == (140, 140)
    assert all(recorder.done[phase] <= (total or 0) for phase, total in recorder.totals.items() if total is not None)
