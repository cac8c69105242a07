from __future__ import annotations

import hashlib
import hmac
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving.telemetry.query_key import QueryKey
from task.errors import InputError


def test_a_hash_needs_the_key_and_is_the_same_after_a_restart(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    found = QueryKey.of(tmp_path).hash("oat milk")
    assert found == QueryKey.of(tmp_path).hash("oat milk")
    assert found != QueryKey.of(tmp_path / "other").hash("oat milk")
    assert found not in (hashlib.sha256(b"oat milk").hexdigest(), hmac.digest(b"", b"oat milk", "sha256").hex())
    assert found == hmac.digest((tmp_path / "query.key").read_bytes(), b"oat milk", "sha256").hex()


def test_queries_that_a_cache_takes_for_equal_have_one_hash(tmp_path: Path) -> None:
    key = QueryKey.of(tmp_path)
    assert key.hash("OAT  Milk ") == key.hash("oat milk") != key.hash("oatmilk")


def test_only_its_owner_can_read_the_key(tmp_path: Path) -> None:
    QueryKey.of(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["query.key"]
    assert stat.S_IMODE((tmp_path / "query.key").stat().st_mode) == 0o600
    assert (tmp_path / "query.key").stat().st_size == 32


def test_processes_that_start_together_share_one_key(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from serving.telemetry.query_key import QueryKey; " \
        "print(QueryKey.of(Path(sys.argv[1])).hash('x'))"
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(
            lambda _: subprocess.check_output([sys.executable, "-c", code, str(tmp_path)]), range(4),
        ))
    assert found == {f"{QueryKey.of(tmp_path).hash('x')}\n".encode()}


def test_a_damaged_key_is_told(tmp_path: Path) -> None:
    (tmp_path / "query.key").write_bytes(b"short")
    with pytest.raises(InputError, match=r"query\.key.*5 bytes.*32 bytes"):
        QueryKey.of(tmp_path)
