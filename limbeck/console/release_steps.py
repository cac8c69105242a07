"""What a release or a rollback will do, in sentences, before it is done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from serving.release.kept_bundles import folder_of
from task.serving_settings import Bounds, Change


def release_steps(new: str, old: str | None, pointer: Path, change: Change) -> Iterator[str]:
    """The steps from the confirmation to the end of a release.

    Args:
        new: Id of the bundle that is released.
        old: Of the one that it replaces; None where nothing was released before.
    """
    yield f"Every file of {new} is hashed and compared with its manifest; a damaged one ends the release here."
    yield f"{new} is kept beside the pointer, in {folder_of(pointer)}."
    if old is None:
        yield f"{pointer} is written and names {new}. A service that is started with it serves {new}."
        return
    yield f"{pointer} names {new} in place of {old}, and {old} as the one to roll back to."
    yield f"Each service that follows the pointer starts {new} beside {old} and checks it. {old} answers meanwhile."
    if change.shadow and change.shadow_s:
        yield (
            f"Shadow: for {change.shadow_s:g} s the student of {new} gets {_percent(change.shadow)} of the queries "
            "for the student as well. Its answers are compared and not returned."
        )
    if change.canary and change.canary_s:
        yield (
            f"Canary: for {change.canary_s:g} s {new} answers {_percent(change.canary)} of the queries. "
            f"{_judged(change.bounds, old)}"
        )
    else:
        yield f"There is no canary: no query tries {new} before it answers all of them."
    yield f"{new} answers all queries. Requests in flight are finished first, and none fails."
    if change.watch_s:
        yield f"For {change.watch_s:g} s more it is watched and may still be refused in the same way."
    yield f"The engine of {old} keeps running for {change.keep_s:g} s: a rollback in that time need not start it."


def rollback_steps(now: str, previous: str, pointer: Path, change: Change) -> Iterator[str]:
    """The steps of a rollback from `now` to `previous`."""
    yield f"Every file of {previous} is hashed and compared with its manifest; a damaged one ends the rollback here."
    yield f"{pointer} names {previous} in place of {now}, and {now} as the one that a second rollback would return to."
    yield (
        f"Each service that follows the pointer changes to {previous}, without shadow or canary: in a moment where its "
        f"engine still runs, else as soon as that has started. {now} answers meanwhile."
    )
    yield f"The engine of {now} keeps running for {change.keep_s:g} s."


def _judged(bounds: Bounds, old: str) -> str:
    said = [text for allowed, text in (
        (bounds.errors, f"failures by more than {_points(bounds.errors or 0)}"),
        (bounds.abstained, f"abstentions by more than {_points(bounds.abstained or 0)}"),
        (bounds.slower, f"the 95th percentile of the latency by more than {bounds.slower or 0:g} times"),
        (bounds.probability, f"the mean probability by more than {bounds.probability or 0:g}"),
    ) if allowed is not None]
    if not said:
        return "It is not judged: its task sets no bounds."
    return (
        f"If it is beyond doubt worse than {old} ({'; '.join(said)}), it is refused: {old} answers again, and the "
        f"pointer names {old}. Nothing is judged on fewer than {bounds.least:,} answers of each."
    )


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _points(share: float) -> str:
    return "1 point" if share == 0.01 else f"{100 * share:g} points"
