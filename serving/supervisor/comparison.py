"""A new bundle beside the one that it is to replace: counts what the students of both do, and has it judged."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from serving.release.pointer import Pointer, read_pointer
from serving.routing.student_tally import StudentFigures, make_counted
from serving.supervisor.canary import Harm, Judge
from serving.supervisor.state import StateFolder
from serving.supervisor.worker_pool import POLL_S, WorkerPool
from task.errors import InputError
from task.serving_settings import Bounds


class Comparison:
    """The comparison of one change.

    Attributes:
        tally: The counting that is under way, which the workers' routes name; empty where there is none.
    """

    def __init__(self, bounds: Bounds, *, released: str, new: str, state: StateFolder, workers: WorkerPool) -> None:
        """Prepare; nothing is counted before `begin`.

        Args:
            released: The id of the bundle that is served.
            new: That of the one that is to replace it.
        """
        self.tally = ""
        self._released, self._new, self._state, self._workers = released, new, state, workers
        self._judge = Judge(bounds)
        self._kept: StudentFigures | None = None
        self._by_process: dict[int, Mapping[str, StudentFigures]] = {}

    def begin(self) -> None:
        """Count anew; raises `OSError` where the state folder cannot be written."""
        self.end()
        name = secrets.token_hex(8)
        make_counted(self._state.counted(name))
        self.tally, self._by_process = name, {}
        self._judge.counts_anew()

    def end(self) -> None:
        """Count no more; what has been counted stays."""
        if self.tally:
            with contextlib.suppress(OSError):
                self._state.counted(self.tally).unlink(missing_ok=True)
        self.tally = ""

    def keep_released(self) -> None:
        """Compare with the released bundle's figures as they are now, whatever is counted from here on."""
        self._kept = self.figures()[0]

    def look(self, *, last: bool = False) -> Harm | None:
        """What is wrong with the new bundle, as far as it shows; see `Judge.look`."""
        if self.tally:
            self._collect()
        return self._judge.look(*self.figures(), last=last)

    def figures(self) -> tuple[StudentFigures, StudentFigures]:
        """Those of the released bundle and of the new one."""
        def total(bundle: str) -> StudentFigures:
            return sum((x[bundle] for x in self._by_process.values() if bundle in x), StudentFigures())

        return self._kept if self._kept is not None else total(self._released), total(self._new)

    def outcome(self) -> str:
        """What came of looks that found nothing, as a sentence about the canary."""
        why = self._judge.unjudged(*self.figures())
        if why is not None:
            return f"it is not judged: {why}"
        released, new = self.figures()
        return f"within its bounds on {new.answers:,} answers, compared with {released.answers:,}"

    def _collect(self) -> None:
        """Take over the workers' counts; those of a process that has ended stay, its successor begins at zero."""
        for report in self._workers.reports():
            found = report.figures.get(self.tally)
            if found is not None:
                self._by_process[report.pid] = found


class PointerChangedError(InputError):
    """While a bundle was on trial or watched, another one was released, or it was turned back."""


async def unchanged(
    source: Path, pointer: Pointer, seconds: float, comparison: Comparison | None = None
) -> Harm | None:
    """Wait while a pointer's file names the bundle that it named; ends early with the harm that a comparison finds.

    Raises:
        PointerChangedError: It names another bundle.
    """
    found, until = "", time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, InputError):
            found = read_pointer(source).current.id
            if found != pointer.current.id:
                break
        over = time.monotonic() >= until
        harm = comparison.look(last=over) if comparison is not None else None
        if over or harm is not None:
            return harm
        await asyncio.sleep(POLL_S)
    raise PointerChangedError("the pointer points to another bundle now", file=source, found=found)
