from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from limbeck.console.protection import RefusedError
from limbeck.console.side_commands import SideCommand, SideCommands


async def ended(commands: SideCommands, name: str) -> SideCommand:
    async with asyncio.timeout(120):
        while (found := commands.get(name)) is None or found.state == "running":
            await asyncio.sleep(0.05)
    return found


def in_loop(work: Callable[[SideCommands], object], limit_s: float = 120.0) -> None:
    async def run() -> None:
        commands = SideCommands(limit_s)
        try:
            await work(commands)  # type: ignore[misc]
        finally:
            await commands.close()

    asyncio.run(run())


def test_what_a_command_writes_is_kept_and_a_failed_one_says_why() -> None:
    async def work(commands: SideCommands) -> None:
        commands.start("help", ["plan", "--help"])
        commands.start("wrong", ["plan", "/no/such.yaml"])
        right, wrong = await ended(commands, "help"), await ended(commands, "wrong")
        assert (right.state, "Estimate a run" in right.out) == ("done", True)
        assert (wrong.state, "/no/such.yaml" in wrong.said) == ("failed", True)
        assert commands.get("other") is None

    in_loop(work)


def test_one_that_takes_too_long_is_ended_and_only_two_run_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "task.yaml"
    os.mkfifo(pipe)  # whoever reads it waits

    async def work(commands: SideCommands) -> None:
        commands.start("slow", ["plan", pipe])
        slow = commands.get("slow")
        commands.start("slow", ["plan", pipe])
        assert commands.get("slow") is slow  # it goes on
        commands.start("other", ["plan", pipe])
        with pytest.raises(RefusedError, match="Other commands are running"):
            commands.start("third", ["plan", pipe])
        found = await ended(commands, "slow")
        assert (found.state, "more than 2 seconds" in found.said) == ("late", True)

    in_loop(work, limit_s=2.0)


def test_commands_end_with_the_console(tmp_path: Path) -> None:
    pipe = tmp_path / "task.yaml"
    os.mkfifo(pipe)
    found: list[int] = []

    async def work(commands: SideCommands) -> None:
        commands.start("slow", ["plan", pipe])
        handle = await asyncio.to_thread(os.open, pipe, os.O_WRONLY)  # returns once the command reads
        found.append(handle)

    in_loop(work)
    with pytest.raises(BrokenPipeError):
        os.write(found[0], b"name: x")  # nobody reads any more
    os.close(found[0])
