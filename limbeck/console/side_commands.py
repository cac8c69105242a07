"""Commands that pages run in processes of their own: what they import would make the console slow to start.

A command has a name; while it runs, and afterwards, the page of that name shows it. What it writes is kept in memory up
to a limit, and it ends when its time is over or the console ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from engine.process_guard import die_with_parent
from limbeck.console.protection import RefusedError
from task.python_process import environment, python

_LIMIT_S: Final = 300.0
_AT_ONCE: Final = 2
_MOST_BYTES: Final = 1 << 20
_KEPT: Final = 32  # results
_COLUMNS: Final = "100"


@dataclass(slots=True)
class SideCommand:
    """A command of `limbeck`.

    Attributes:
        words: After `limbeck`.
        state: `late`: ended because its time was over.
        out: What it has written to standard output, once it has ended; `said` is the same of standard error.
    """

    words: tuple[str, ...]
    began: float
    state: Literal["running", "done", "failed", "late"] = "running"
    out: str = ""
    said: str = ""
    seconds: float = 0.0


class SideCommands:
    """The commands of a console; belongs to its event loop."""

    def __init__(self, limit_s: float = _LIMIT_S) -> None:
        self._limit_s = limit_s
        self._found: dict[str, SideCommand] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, name: str) -> SideCommand | None:
        """The command of this name, if it was started."""
        return self._found.get(name)

    def start(self, name: str, words: Sequence[str | Path]) -> None:
        """Start a command in place of the last one of this name; one that runs still goes on, and is not started again.

        Raises:
            RefusedError: Others run already.
        """
        last = self._found.get(name)
        if last is not None and last.state == "running":
            return
        if len(self._tasks) >= _AT_ONCE:
            raise RefusedError(503, "Other commands are running for this console. Try again when they have ended.")
        found = SideCommand(tuple(map(str, words)), time.time())
        self._found.pop(name, None)
        self._found[name] = found
        for old in [n for n, c in self._found.items() if c.state != "running"][:-_KEPT]:
            del self._found[old]
        task = asyncio.create_task(self._run(found))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End all commands."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, command: SideCommand) -> None:
        try:
            await self._ended(command)
        except OSError as error:
            command.state, command.said = "failed", f"cannot be started: {error}"

    async def _ended(self, command: SideCommand) -> None:
        process = await asyncio.create_subprocess_exec(
            *python("-m", "limbeck", *command.words), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, start_new_session=True, preexec_fn=die_with_parent,
            env=environment() | {"COLUMNS": _COLUMNS, "NO_COLOR": "1"},
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.timeout(self._limit_s):
                out, said, code = await asyncio.gather(_read(process.stdout), _read(process.stderr), process.wait())
            command.out, command.said = out, said
            command.state = "done" if code == 0 else "failed"
        except TimeoutError:
            command.state, command.said = "late", f"ended: it took more than {self._limit_s:g} seconds"
        finally:
            command.seconds = time.time() - command.began
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _read(stream: asyncio.StreamReader) -> str:
    """What a process writes, up to a limit; the rest is read as well, so that the process is not held up."""
    kept, size = [], 0
    while part := await stream.read(1 << 16):
        if size < _MOST_BYTES:
            kept.append(part)
        size += len(part)
    return b"".join(kept)[:_MOST_BYTES].decode(errors="replace")
