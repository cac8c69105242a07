"""What is said of an engine's process that ended before it answered."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from engine.interface import EngineError
from engine.process import EngineProcess, spawn
from task.python_process import environment, python


class Script(EngineProcess):
    """A process that runs some lines of Python in place of a server."""

    kind: ClassVar[str] = "Python"

    def __init__(self, code: str, log: Path) -> None:
        super().__init__(
            "script", log=log, timeout_s=30.0, port=None,
            started=lambda _port: spawn(python("-c", code), environment(), log),
        )


def said(code: str, log: Path) -> str:
    with pytest.raises(EngineError) as caught, Script(code, log) as process:
        process.wait_ready()
    return str(caught.value)


def test_what_ended_it_stands_in_the_first_line_and_the_end_of_its_log_below(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    assert said("print('no such model'); raise SystemExit(3)", log) == (
        f"Python ended with code 3; see {log}\nno such model"
    )


def test_a_log_without_a_line_of_this_process_is_not_quoted(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("what the one before it said\n")
    found = said("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", log)
    assert found == f"Python ended with code -9 (SIGKILL); it wrote nothing into {log}"
