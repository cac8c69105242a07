"""The model store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from task import model_store


def test_fetching_ahead_runs_code_that_can_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    fetched: list[str] = []
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path))
    monkeypatch.setattr(model_store.subprocess, "Popen", lambda command, **_: started.append(command))
    model_store.fetch_ahead("all-MiniLM-L6-v2")
    ((*_, flag, code),) = started
    assert flag == "-c"
    monkeypatch.setattr(model_store, "fetch", fetched.append)
    names: dict[str, Any] = {}
    exec(code, names)
    assert fetched == ["all-MiniLM-L6-v2"]
