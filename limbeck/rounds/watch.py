"""`limbeck watch`: rounds by themselves, when drift says so or by schedule."""

from __future__ import annotations

import datetime
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from limbeck.rounds.history import Round, rounds_of
from limbeck.rounds.round import check, run_round
from limbeck.run import Run
from task.errors import own_error


def watch(
    run: Run, *, pointer: Path, state: Path, every_s: float, tell: Callable[[str], None],
    ended: Callable[[], object] = lambda: None, sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.time, looks: int | None = None,
) -> None:
    """Look at the traffic again and again, and run a round where one is due.

    Args:
        every_s: Seconds between two looks.
        tell: Called with what happens.
        ended: Called after each round.
        looks: How many; None never ends.

    Raises:
        InputError: Something that every round needs is not there when it begins.
    """
    check(run, pointer)
    number = 0
    while looks is None or number < looks:
        number += 1
        try:
            _look(run, pointer, state, tell=tell, clock=clock)
        except Exception as error:
            if (own := own_error(error)) is None:
                raise
            tell(f"no round was finished: {own}. Tried again in {every_s / 3600:g} h")
        ended()
        run.shortfalls.clear()
        if looks is None or number < looks:
            sleep(every_s)


def due(rounds: list[Round], every_days: float | None, now: float) -> str | None:
    """Why a round is due whatever drift says; None where it is not."""
    if rounds and rounds[-1].outcome is None:
        return f"round {rounds[-1].number} is not finished"
    if every_days is None:
        return None
    done = [r.outcome.finished for r in rounds if r.outcome is not None and r.outcome.ending != "not worth it"]
    if not done:
        return "there was no round yet"
    days = (now - datetime.datetime.fromisoformat(done[-1]).timestamp()) / 86_400
    return f"the last round ended {days:.1f} days ago" if days >= every_days else None


def _look(
    run: Run, pointer: Path, state: Path, *, tell: Callable[[str], None], clock: Callable[[], float]
) -> None:
    why = due(rounds_of(run.files.folder), run.task.rounds.every_days, clock())
    if why is not None:
        tell(f"a round begins or goes on: {why}")
    done = run_round(run, pointer=pointer, state=state, if_worth=why is None, clock=clock)
    assert done.outcome is not None
    if done.outcome.ending == "not worth it" and not done.opening.asked:
        shutil.rmtree(done.folder.folder)  # a look a day would fill the list with rounds in which nothing happened
        tell(f"no round: {done.outcome.why}")
    else:
        tell(f"round {done.number}: {done.outcome.ending}. {done.outcome.why}")
