"""Progress on the terminal: one bar with stage, rate and time left, or plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress


_WINDOW_S = 60.0  # the rate is of the last minute, so that a slow start does not distort the time left


class Rate:
    """Throughput over the last minute."""

    def __init__(self, now: float, done: int = 0) -> None:
        self._marks = deque([(now, done)])

    def at(self, now: float, done: int) -> float:
        """Note how much is done at a time, in seconds; returns the rate."""
        if now - self._marks[-1][0] >= 1.0:
            self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[0][0] > _WINDOW_S:
            self._marks.popleft()
        since, before = self._marks[0]
        return (done - before) / max(1e-6, now - since)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a display shows.

    Attributes:
        stage: Name of the stage; empty before the first one.
        number: Its place among `of` stages, from 1.
        text: What is being done.
        total: None where it is not known.
        note: A short figure, such as money spent.
    """

    stage: str
    number: int
    of: int
    text: str
    done: int
    total: int | None
    note: str


class ProgressDisplay:
    """A `task.progress.Progress` on standard error."""

    def __init__(self) -> None:
        self._rich: RichProgress | None = None
        self._task: int | None = None
        self._place = ("", 0, 0)  # name, number and total of stages
        self._what, self._total, self._done, self._note = "", None, 0, ""  # type: tuple[str, int | None, int, str]
        self._told = 0.0
        self._rate = Rate(time.monotonic())

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console as RichConsole
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                SpinnerColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            self._rich = Progress(
                SpinnerColumn(), TextColumn("{task.fields[stage]}{task.description}"), BarColumn(),
                MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TextColumn("left"),
                TimeRemainingColumn(), TextColumn("[dim]{task.fields[note]}"), console=RichConsole(stderr=True),
            )
            self._rich.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._rich:
            self._rich.stop()

    def stage(self, name: str, number: int, of: int) -> None:
        """A stage starts."""
        self._place = name, number, of
        self._what, self._total, self._done, self._note = "", None, 0, ""
        if not self._rich:
            self._line("…")

    def finished(self, note: str) -> None:
        """The stage is done."""
        if self._rich:
            self._close_bar()
            self._rich.console.print(f"[green]✓[/] [bold]{self._stage}[/] {note}", highlight=False)
        else:
            self._line(note)

    def begin(self, what: str, total: int | None = None, done: int = 0) -> None:
        """See `task.progress.Progress`."""
        self._what, self._total, self._done, self._note = what, total, done, ""
        self._told = time.monotonic()
        self._rate = Rate(self._told, done)
        if self._rich:
            self._close_bar()
            self._task = self._rich.add_task(
                what, total=total, completed=done, stage=self._bold_stage, note="", rate="",
            )
        else:
            self._line(what)

    def advance(self, count: int = 1, note: str = "") -> None:
        """See `task.progress.Progress`."""
        self._done += count
        self._note = note or self._note
        now = time.monotonic()
        rate = self._rate.at(now, self._done)
        shown = f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2f}/s"
        if self._rich and self._task is not None:
            fields = {"rate": shown, **({"note": note} if note else {})}
            self._rich.update(self._task, advance=count, **fields)  # type: ignore[arg-type]
        elif now - self._told > 15:
            self._told = now
            todo = (self._total or 0) - self._done
            left = f", {todo / rate:,.0f} s left" if todo > 0 and rate else ""
            self._line(f"{self._what} {self._done:,}/{self._total or '?'} ({shown}{left}) {note}")

    @property
    def shown(self) -> Shown:
        """What is shown now; may be asked from another thread."""
        name, number, of = self._place
        return Shown(name, number, of, self._what, self._done, self._total, self._note)

    @property
    def _stage(self) -> str:
        name, number, of = self._place
        return f"{number}/{of} {name}" if name else ""

    @property
    def _bold_stage(self) -> str:
        return f"[bold]{self._stage}[/] " if self._stage else ""

    def _close_bar(self) -> None:
        if self._rich and self._task is not None:
            self._rich.remove_task(self._task)  # type: ignore[arg-type]
            self._task = None

    def _line(self, text: str) -> None:
        stage = f"{self._stage}: " if self._stage else ""  # a command that is no stage has none
        print(f"[{time.strftime('%H:%M:%S')}] {stage}{text}".rstrip(), file=sys.stderr, flush=True)
