from __future__ import annotations

from pathlib import Path

import pytest

from serving.routing.kept_answers import Store, has_label
from task.labels import Label
from task.normalize import normalize_v1


def test_answers_are_kept_for_their_bundle_and_their_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000.0]
    monkeypatch.setattr("serving.routing.kept_answers.time.time", lambda: now[0])
    store = Store(tmp_path / "s", ttl_s=60.0, max_rows=100)
    store.put("a", text="oat milk", query="Oat milk", labels=b"[]")
    found = store.get("a", text="oat milk")
    assert found is not None
    assert (found.query, found.labels) == ("Oat milk", b"[]")
    assert store.get("b", text="oat milk") is None
    now[0] += 61
    assert store.get("a", text="oat milk") is None
    assert Store(tmp_path / "s", ttl_s=0.0, max_rows=100).get("a", text="oat milk") is None


def test_it_does_not_grow_without_end(tmp_path: Path) -> None:
    store = Store(tmp_path / "s", ttl_s=60.0, max_rows=50)
    for number in range(2_002):
        store.put("a", text=f"query {number}", query="q", labels=b"[]")
    assert store._db.execute("select count(*) from answer").fetchone()[0] <= 1_050


def test_one_process_sees_what_another_purges(tmp_path: Path) -> None:
    mine, theirs = Store(tmp_path / "s", ttl_s=60.0, max_rows=100), Store(tmp_path / "s", ttl_s=60.0, max_rows=100)
    assert not mine.purges
    theirs.purge(text="oat milk")
    theirs.purge(label=("brand", "acme"))
    theirs.purge(before=5.0)
    mine._refreshed = 0.0  # a tenth of a second later
    found = mine.purges
    assert (found.texts, found.labels, found.before) == ({"oat milk"}, {("brand", "acme")}, 5.0)
    theirs.restore()
    mine._refreshed = 0.0
    assert not mine.purges
    assert has_label((Label("brand", "ACME"),), {("brand", "acme")}, normalize_v1)
    assert not has_label((Label("maker", "ACME"),), {("brand", "acme")}, normalize_v1)


def test_a_broken_file_is_replaced_and_a_vanished_one_is_counted(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"no database at all" * 100)
    store = Store(tmp_path / "s", ttl_s=60.0, max_rows=100)
    store.put("a", text="x", query="x", labels=b"[]")
    assert store.get("a", text="x") is not None
    store.close()
    store.put("a", text="y", query="y", labels=b"[]")
    assert store.get("a", text="y") is None
    assert store.problems == 2
