"""`limbeck drift`: a service's captures since a date against those of the first week of the bundle that answers."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from eval.drift import Shift, distance, random_features
from eval.drift_verdict import Verdict, verdict
from limbeck.rounds.learned import labelled_queries
from limbeck.rounds.traffic import Traffic, answer_shifts, verdict_shift, word_shift
from limbeck.run import Run
from task.captures import FOLDER, read_captures
from task.errors import InputError
from task.feedback import FOLDER as FEEDBACK
from task.feedback import Feedback, read_feedback
from task.near_duplicates import words_of
from task.normalize import normaliser

_DAY: Final = 86_400.0
WEEK: Final = 7 * _DAY
LEAST: Final = 100
"""Distinct queries of a period: with fewer, random signs are too few and no share is known to a point."""
VERDICTS: Final = 30
"""Of clients in a period: with fewer the share of wrong ones is known to 20 points at best."""
RECURS: Final = 3
"""Distinct queries, of both periods together, that have a word before it counts as one that the student lacks."""


class TooFewError(InputError):
    """A period has too few captures for any statement: the measurement is invalid."""

    exit_code = 3


def drift(run: Run, state: Path, *, since: float, until: float) -> Verdict:
    """Judge the traffic of `[since, until)`, in seconds since 1970.

    Raises:
        InputError: No captures of this task, or the first week of the bundle is not before `since`.
        TooFewError: A period has fewer than `LEAST` distinct queries.
    """
    folder = state / FOLDER
    every = [c for c in read_captures(folder, until=until) if c.task == run.task.name]
    if not every:
        raise InputError(
            "no captures of this task", file=folder, expected=f"captures of {run.task.name!r} that limbeck serve wrote",
            fix="Check --state and --until",
        )
    bundle = max(every, key=lambda c: c.at).bundle
    own = [c for c in every if c.bundle == bundle]
    end = min(c.at for c in own) + WEEK
    if end > since:
        raise InputError(
            f"the first week of the bundle that answers is the reference, and ends at {_moment(end)}",
            field="--since", found=_moment(since), expected=f"{_next_day(end)} or later",
            fix="Give a later date, or wait for captures of then",
        )
    traffic = Traffic.of([c for c in own if c.at < end], [c for c in own if c.at >= since])
    _require_enough(folder, traffic)
    said = [
        f for f in read_feedback(state / FEEDBACK, until=until) if f.task == run.task.name and f.judges(bundle)
    ]
    begin = end - WEEK
    found = measured(run, traffic, [f for f in said if begin <= f.at < end], [f for f in said if f.at >= since])
    last = max(c.at for c in own)
    found["about"] = {"bundle": bundle, "since": since, "last": last, "reference": [end - WEEK, end]}
    return found


def _moment(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC").replace(" 00:00 UTC", "")


def _next_day(at: float) -> str:
    """The first day that does not begin before a moment: `--since` takes days."""
    return _moment(-(-at // _DAY) * _DAY)


def measured(
    run: Run, traffic: Traffic, reference: Sequence[Feedback] = (), current: Sequence[Feedback] = ()
) -> Verdict:
    """Every figure that can be measured of this traffic, and the verdict.

    Args:
        reference: Verdicts of clients on answers of the reference period.
        current: The same of the current period.
    """
    found = answer_shifts(traffic, [r.name for r in run.task.roles])
    left: dict[str, str] = {}
    if min(sum(f.count for f in period) for period in (reference, current)) < VERDICTS:
        left["called wrong"] = f"a period has fewer than {VERDICTS} verdicts of clients"
    else:
        found["called wrong"] = verdict_shift(reference, current)
    if "expected error" not in found:
        left["expected error"] = "a period has no answer with a probability"
    if traffic.texts is None:
        left |= dict.fromkeys(("queries", "unseen words"), "the service does not keep texts")
    else:
        found["unseen words"] = word_shift(traffic, unseen_words(run, traffic.texts))
        found["queries"] = _distance(run, traffic, traffic.texts)
    return verdict(found, left)


def unseen_words(run: Run, texts: Iterable[str]) -> list[bool]:
    """Of each distinct text, whether it has a word that neither the labelled queries nor the catalogue have.

    A word counts from `RECURS` texts on: every calm month has its own slips of the keyboard, which no round can teach.
    """
    normalise = normaliser(run.task.normaliser)
    texts_before = (*(x.query for x in labelled_queries(run)), *(i.title for i in run.inputs.catalogue))
    seen = {w for text in texts_before for w in words_of(text, normalise)}
    words = [set(words_of(text, normalise)) - seen for text in texts]
    asked = Counter(w for new in words for w in new)
    return [any(asked[w] >= RECURS for w in new) for new in words]


def _distance(run: Run, traffic: Traffic, texts: tuple[str, ...]) -> Shift:
    from task.model_store import fetch
    from teacher.retrieval.embedding_store import EmbeddingStore

    model = fetch(run.task.teacher.retrieval.embedder)
    vectors = EmbeddingStore(run.files.index, model=model, progress=run.progress).vectors(texts, "queries")
    return distance(random_features(vectors), *traffic.weights())


def _require_enough(folder: Path, traffic: Traffic) -> None:
    for name, captures in (("reference", traffic.reference), ("current", traffic.current)):
        held = len({row for row, _ in captures})
        days = len({int(c.at // _DAY) for _, c in captures})
        kept = all(c.query is not None or c.keyed_hash is not None for _, c in captures)
        if held < LEAST if kept else days < WEEK / _DAY:
            raise TooFewError(
                f"too few captures in the {name} period", file=folder,
                found=f"{held:,} distinct queries" if kept else f"{days} days without texts or hashes",
                expected=f"at least {LEAST}, or seven days where neither texts nor hashes are kept",
                fix="Give a longer period",
            )
