"""The environment in which engines are started."""

from __future__ import annotations

import socket
import tempfile
import uuid
from pathlib import Path

import pytest

from engine.vllm_process import _environment
from task.serving_settings import Serving


def test_a_long_tmpdir_leaves_room_for_vllms_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM binds a socket with a random name of 36 characters there; Linux allows 107 bytes in all."""
    long = tmp_path / ("t" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.delenv("VLLM_RPC_BASE_PATH", raising=False)
    path = Path(_environment(Serving()).get("VLLM_RPC_BASE_PATH", tempfile.gettempdir())) / str(uuid.uuid4())
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
    path.unlink()
    monkeypatch.setenv("VLLM_RPC_BASE_PATH", "/elsewhere")
    assert _environment(Serving())["VLLM_RPC_BASE_PATH"] == "/elsewhere"
    monkeypatch.delenv("VLLM_RPC_BASE_PATH")
    monkeypatch.setattr(tempfile, "tempdir", "/var/tmp")
    assert "VLLM_RPC_BASE_PATH" not in _environment(Serving())
