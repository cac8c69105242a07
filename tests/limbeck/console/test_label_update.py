"""The index follows the ledger, whatever happens to that and to itself meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.console_ledger import write_ledger
from limbeck.artefacts import RunFolder
from limbeck.console import label_block, label_index, label_store, label_update
from limbeck.console.label_filter import LabelFilter
from limbeck.console.label_index import LabelIndex
from limbeck.console.label_update import Update
from task.labels import Label
from teacher.ledger.ledger import Ledger
from teacher.ledger.records import LedgerRow
from tests.limbeck.console.label_lists import EVERYTHING, check, index_of, numbered, paged
from tests.limbeck.console.ledgers import FILTERS, delete, rows, write

pytestmark = pytest.mark.usefixtures("small_blocks")


@settings(max_examples=20)
@given(st.data())
def test_following_the_ledger_gives_what_reading_it_anew_gives(data: st.DataObject) -> None:
    """After writes, changes and deletions, with and without VACUUM, of any rows, the last ones among them."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "ledger.sqlite")
        known: dict[str, LedgerRow] = {}
        write(path, [])
        index = LabelIndex(RunFolder(Path(name)))
        for step in range(data.draw(st.integers(1, 4))):
            for _ in range(2):
                new = data.draw(st.lists(rows(), max_size=12))
                write(path, new)
                for row in new:
                    known.pop(row.query, None)  # a row that is replaced gets the greatest rowid
                    known[row.query] = row
                gone = data.draw(st.lists(st.sampled_from(list(known)), unique=True, max_size=4)) if known else []
                if known and data.draw(st.booleans()):  # rowids that are given again
                    gone += [q for q in list(known)[-data.draw(st.integers(1, 3)) :] if q not in gone]
                delete(path, gone, vacuum=data.draw(st.booleans()))
                known = {q: r for q, r in known.items() if q not in gone}
            index.update()
            other = Path(name, str(step))
            other.mkdir()
            other.joinpath("ledger.sqlite").symlink_to(path)
            anew = index_of(other)
            wanted = data.draw(FILTERS)
            check(index, list(known.values()), wanted, [], limit=7)
            assert paged(index, wanted, 10) == paged(anew, wanted, 10)
            assert index.facets() == anew.facets()
            for role in ("brand", "aisle"):
                assert index.values(role) == anew.values(role)


@pytest.mark.parametrize("vacuum", [False, True])
def test_a_query_that_was_forgotten_is_in_no_file_of_the_index(tmp_path: Path, vacuum: bool) -> None:
    secret = "Ünusual query of a person"
    label = Label("brand", "Ünusual")
    write(tmp_path / "ledger.sqlite", [*numbered(20), LedgerRow(secret, 1, "key", "accepted", (label,), 0.5)])
    index = index_of(tmp_path)
    held = [p for p in index.path.parent.iterdir() if "Ünusual".encode() in p.read_bytes()]
    assert held
    delete(tmp_path / "ledger.sqlite", [secret], vacuum=vacuum)
    index.update()
    for file in index.path.parent.iterdir():
        assert "Ünusual".encode() not in file.read_bytes()
        assert b"usual query" not in file.read_bytes()
    assert index.count(EVERYTHING) == 20


def test_another_ledger_in_its_place_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    write(path, numbered(30))
    index = index_of(tmp_path)
    path.unlink()
    write(path, [LedgerRow(f"other {i}", 1, "key", "accepted", (), 0.5) for i in range(40)])
    index.update()
    assert {r.query for r in paged(index, EVERYTHING, 50)} == {f"other {i}" for i in range(40)}


def _killed_after(folder: Path, batches: int) -> None:
    """Update, and kill the process in the middle of a transaction."""
    whole, left = Update._replace, [batches]

    def replace(self: Update, entries: Sequence[label_block.Entry]) -> None:
        whole(self, entries)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    label_update.BATCH, Update._replace = 5, replace  # type: ignore[misc, method-assign]
    LabelIndex(RunFolder(folder)).update()


@pytest.mark.parametrize("again", [False, True])
def test_an_update_that_was_killed_goes_on_where_it_was(tmp_path: Path, again: bool) -> None:
    """The first one, or one of a ledger that is to be read anew, while the rows of before are shown."""
    path = tmp_path / "ledger.sqlite"
    if again:
        write(path, numbered(12, confidence=0.9))
        index_of(tmp_path)
        path.unlink()
    write(path, numbered(30))
    process = multiprocessing.get_context("spawn").Process(target=_killed_after, args=(tmp_path, 4))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    index = LabelIndex(RunFolder(tmp_path))
    state = index.state()
    assert (state.read, state.rows) == (15, 12 if again else 15)
    read: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        whole = Update._replace
        patch.setattr(Update, "_replace", lambda self, e: (read.append(len(e)), whole(self, e)))
        index.update()
    assert sum(read) == 15
    assert (index.state().read, index.state().rows) == (None, 30)
    check(index, numbered(30), EVERYTHING, [], limit=7)


def test_an_update_stops_when_it_is_told_and_goes_on(tmp_path: Path) -> None:
    write(tmp_path / "ledger.sqlite", numbered(30))
    index = LabelIndex(RunFolder(tmp_path))
    stop = threading.Event()
    stop.set()
    assert index.update(stop)
    assert index.state().as_of is None
    index.update()
    assert index.state().as_of is not None
    assert index.count(EVERYTHING) == 30


def test_pages_are_whole_while_a_job_writes_and_the_index_follows(tmp_path: Path) -> None:
    """A writer changes every row again and again: a page has no row twice, and in the end the index has all."""
    path = tmp_path / "ledger.sqlite"
    write(path, numbered(40))
    index = index_of(tmp_path)
    stop = threading.Event()
    problems: list[BaseException] = []

    def job() -> None:
        try:
            with Ledger(path) as ledger:
                for turn in range(30):
                    ledger.write_rows([LedgerRow(f"q{i:03}", turn, "key", "accepted", (), 0.5) for i in range(40)])
        except BaseException as error:  # noqa: BLE001 (raised in the test's own thread)
            problems.append(error)
        finally:
            stop.set()

    def follow() -> None:
        try:
            while not stop.is_set():
                index.update()
        except BaseException as error:  # noqa: BLE001 (raised in the test's own thread)
            problems.append(error)

    threads = [threading.Thread(target=job), threading.Thread(target=follow)]
    for thread in threads:
        thread.start()
    pages = 0
    while not stop.is_set():
        page = index.page(EVERYTHING, limit=50)
        assert len({r.query for r in page.rows}) == len(page.rows) == page.total == 40
        pages += 1
    for thread in threads:
        thread.join()
    for problem in problems:
        raise problem
    assert pages
    index.update()
    check(index, [LedgerRow(f"q{i:03}", 29, "key", "accepted", (), 0.5) for i in range(40)], EVERYTHING, [], limit=9)


def test_an_update_waits_while_a_page_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "ledger.sqlite", numbered(300))
    monkeypatch.setattr(label_index, "_GIVE_WAY_S", 60.0)
    index = LabelIndex(RunFolder(tmp_path))
    making, made = threading.Event(), threading.Event()
    whole = label_index.find

    def find(*args: Any, **more: Any) -> Any:
        making.set()
        made.wait(60)
        return whole(*args, **more)

    monkeypatch.setattr(label_index, "find", find)
    page = threading.Thread(target=index.page, args=(EVERYTHING,))
    update = threading.Thread(target=index.update)
    page.start()
    making.wait(60)
    update.start()
    update.join(1.0)
    assert update.is_alive()
    made.set()
    page.join()
    update.join()
    assert index.count(EVERYTHING) == 300


def test_two_updates_at_once_are_one(tmp_path: Path) -> None:
    write(tmp_path / "ledger.sqlite", numbered(5))
    index = LabelIndex(RunFolder(tmp_path))
    whole = Update.run
    answers: list[bool] = []

    def run(self: Update) -> None:
        answers.append(LabelIndex(RunFolder(tmp_path)).update())
        whole(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Update, "run", run)
        assert index.update()
    assert answers == [False]


def test_memory_does_not_grow_with_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times the rows, in blocks and batches of the same size, take no more of it."""
    monkeypatch.setattr(label_update, "BLOCK", 512)
    monkeypatch.setattr(label_update, "BATCH", 256)
    monkeypatch.setattr(label_store.Numbers, "_KEPT", 256)
    peaks = []
    for size in (1_000, 4_000):
        folder = tmp_path / str(size)
        folder.mkdir()
        write_ledger(folder / "ledger.sqlite", size)
        tracemalloc.start()
        index = index_of(folder)
        assert index.page(LabelFilter(text="a", order="query")).total > size // 2
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.25 * peaks[0] + 200_000  # the numbers of its blocks
