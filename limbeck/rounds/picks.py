"""`limbeck pick`: of the queries that a service captured, those worth a label within a budget, and why.

Two kinds with two purposes. Random picks are draws of requests: their mean is that of the traffic, so that they, and
only they, may estimate quality; nothing is learned from them. The others go where the expected errors are, spread over
the embedding space, so that ten thousand spellings of one product are not ten thousand picks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from limbeck.rounds.coverage import Covered, cover
from limbeck.rounds.learned import labelled_queries
from limbeck.run import Run
from task import captures as capture_files
from task import feedback as feedback_files
from task.captures import Capture, read_captures
from task.errors import InputError
from task.feedback import Feedback, read_feedback
from task.labels import Example
from task.normalize import normaliser

MOST_CANDIDATES: Final = 20_000
"""With the most expected errors; the embeddings of so many, and products of each with each, take seconds."""

Why = Literal["random", "errors"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A distinct query of the captures; spellings that caches take for equal are one.

    Attributes:
        query: Its most frequent spelling.
        requests: How many requests are estimated to have asked for it.
        error: Probability that the answer is wrong; 0 where labels answered it, not the student.
        judged: How many verdicts of clients are in `error`.
        known: Whether the run has it already: in its query log, its labels or its gold rows.
    """

    query: str
    requests: float
    error: float
    judged: int
    known: bool

    @property
    def expected_errors(self) -> float:
        """How many wrong answers are expected among its requests."""
        return self.requests * self.error


@dataclass(frozen=True, slots=True)
class Pick:
    """A query to label.

    Attributes:
        why: `random`: drawn by traffic, to estimate quality. `errors`: to be learned from.
        draws: How many of the random draws are requests of it; the weight of its row in an estimate. 0 for `errors`.
        covers: Expected errors that it covers beyond the picks before it; None for `random`.
        alike: Other queries that it covers better than the picks before it; None for `random`.
    """

    candidate: Candidate
    why: Why
    draws: int = 0
    covers: float | None = None
    alike: int | None = None

    def row(self) -> dict[str, Any]:
        """The line of the file; what is None is left out."""
        c = self.candidate
        row = {
            "query": c.query, "count": max(1, round(c.requests)), "why": self.why, "draws": self.draws,
            "expected_errors": round(c.expected_errors, 3), "known": c.known, "alike": self.alike,
            "covers": None if self.covers is None else round(self.covers, 3),
        }
        return {name: value for name, value in row.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Picks:
    """What was picked, and of what.

    Attributes:
        random: Draws by traffic; those that are `known` need no new label.
        errors: The others, largest gain first.
        candidates: Number of distinct queries.
        requests: How many requests they stand for.
        expected_errors: Of those that the run does not know.
        considered: Those of the `MOST_CANDIDATES` among which was picked; None where there are no more than these.
    """

    random: tuple[Pick, ...]
    errors: tuple[Pick, ...]
    candidates: int
    requests: float
    expected_errors: float
    considered: float | None

    @property
    def new(self) -> list[Pick]:
        """Those that need a label."""
        return [p for p in (*self.random, *self.errors) if not p.candidate.known]

    @property
    def covered(self) -> float:
        """Expected errors that the picks cover."""
        return sum(p.covers or 0.0 for p in self.errors)


def pick(
    run: Run, state: Path, *, budget: int, random: float, seed: int = 0, since: float = 0.0,
    until: float = float("inf"),
) -> Picks:
    """Pick among the captures of a service in `[since, until)`, in seconds since 1970.

    Args:
        budget: Number of new labels, at least 1.
        random: Share of it for draws by traffic, in [0, 1]. What draws of known queries save goes to the others.
        seed: Of the draws.

    Raises:
        InputError: The service keeps no texts, or has no captures of this task.
    """
    held = captures_of(run, state, since=since, until=until)
    said = [f for f in read_feedback(state / feedback_files.FOLDER, since=since, until=until)
            if f.task == run.task.name]
    found = candidates(held, said, known=_known(run), normalise_with=run.task.normaliser)
    drawn = draws(found, round(budget * random), seed=seed)
    taken = {found[row].query for row in drawn}
    new = [c for c in found if not c.known]
    doubted = sorted((c for c in new if c.query not in taken and c.error > 0), key=lambda c: -c.expected_errors)
    considered = doubted[:MOST_CANDIDATES]
    left = budget - sum(not found[row].known for row in drawn)
    return Picks(
        random=tuple(Pick(found[row], "random", draws=n) for row, n in drawn.items()),
        errors=tuple(
            Pick(considered[c.row], "errors", covers=c.gain, alike=c.alike) for c in _spread(run, considered, left)
        ),
        candidates=len(found), requests=sum(c.requests for c in found),
        expected_errors=sum(c.expected_errors for c in new),
        considered=sum(c.expected_errors for c in considered) if len(doubted) > len(considered) else None,
    )


def require_captures(run: Run, state: Path) -> None:
    """Raise `InputError` as `pick` if there is nothing at all to pick from; reads no more than it takes to know."""
    folder = state / capture_files.FOLDER
    seen: list[Capture] = []
    for capture in read_captures(folder):
        if capture.task == run.task.name:
            seen = [capture]
            if capture.query is not None:
                break
    _check(seen, folder, run.task.name)


def captures_of(run: Run, state: Path, *, since: float = 0.0, until: float = float("inf")) -> list[Capture]:
    """The captures of the task in `[since, until)`. Raises `InputError` as `pick`."""
    folder = state / capture_files.FOLDER
    held = [c for c in read_captures(folder, since=since, until=until) if c.task == run.task.name]
    _check(held, folder, run.task.name)
    return held


def candidates(
    held: Iterable[Capture], said: Iterable[Feedback], *, known: set[str], normalise_with: str
) -> list[Candidate]:
    """The distinct queries of captures with texts, in order of their first one.

    A query's probability is that of the bundle that answered last, weighted by requests; of a bundle before it only
    where there is no other. Each verdict of a client on that bundle's answers, or on no particular bundle's, counts as
    much as the probability does: (1 - p + wrong) / (1 + wrong + right), the mean of a beta distribution whose prior has
    the weight of one verdict. If no answer at all has a probability, every one of the student counts as wrong, and
    traffic alone decides.

    Args:
        known: Normalised texts.
    """
    normalise = normaliser(normalise_with)
    of: dict[str, list[Capture]] = defaultdict(list)
    for capture in held:
        if capture.query is not None and (text := normalise(capture.query)):
            of[text].append(capture)
    every = [c for group in of.values() for c in group]
    bundle = max(every, key=lambda c: c.at).bundle if every else None
    none_has_one = all(c.probability is None for c in every)
    verdicts = _verdicts(said, bundle, normalise_with)
    out = []
    for text, group in of.items():
        spelled: Counter[str] = Counter()
        for capture in group:
            spelled[capture.query or ""] += capture.count
        wrong, right = verdicts.get(text, (0, 0))
        error = _error(group, bundle, none_has_one=none_has_one)
        out.append(Candidate(
            spelled.most_common(1)[0][0], sum(c.weight for c in group), (error + wrong) / (1 + wrong + right),
            wrong + right, text in known,
        ))
    return out


def draws(found: Sequence[Candidate], count: int, *, seed: int) -> dict[int, int]:
    """Draw requests with replacement: by row of the candidate, how many. Their mean is that of all requests."""
    if not count:
        return {}
    shares = np.array([c.requests for c in found])
    drawn = np.random.default_rng(seed).choice(len(found), size=count, p=shares / shares.sum())
    return dict(Counter(drawn.tolist()))


def _error(group: Sequence[Capture], bundle: str | None, *, none_has_one: bool) -> float:
    if none_has_one:
        return float(any(c.source == "student" for c in group))
    rated = [(c.weight, c.probability, c.bundle == bundle) for c in group if c.probability is not None]
    newest = [x for x in rated if x[2]] or rated
    return sum(w * (1 - p) for w, p, _ in newest) / sum(w for w, _, _ in newest) if newest else 0.0


def _verdicts(said: Iterable[Feedback], bundle: str | None, normalise_with: str) -> Mapping[str, tuple[int, int]]:
    """By normalised query, how many clients said wrong and right; other labels than the answer's are a wrong."""
    normalise = normaliser(normalise_with)
    found: dict[str, tuple[int, int]] = {}
    for f in said:
        if f.query is not None and f.judges(bundle):
            text = normalise(f.query)
            wrong, right = found.get(text, (0, 0))
            found[text] = (wrong + f.count, right) if f.wrong else (wrong, right + f.count)
    return found


def _known(run: Run) -> set[str]:
    """Normalised texts of all queries that the run has labels for, or is to label anyway."""
    normalise = normaliser(run.task.normaliser)
    inputs = run.inputs
    tables: Sequence[Sequence[Example]] = (labelled_queries(run), inputs.labels, inputs.calibration, inputs.test)
    return {normalise(x.query) for table in tables for x in table}


def _spread(run: Run, considered: Sequence[Candidate], most: int) -> list[Covered]:
    from task.model_store import fetch
    from teacher.retrieval.embedding_store import EmbeddingStore

    if not considered or most <= 0:
        return []
    model = fetch(run.task.teacher.retrieval.embedder)
    store = EmbeddingStore(run.files.index, model=model, progress=run.progress)
    vectors = store.vectors([c.query for c in considered], "captured queries")
    length = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    run.progress.begin("picking", min(most, len(considered)))
    mass = np.array([c.expected_errors for c in considered])
    return cover(mass, (vectors / length).astype(np.float32), most, done=run.progress.advance)


def _check(held: Sequence[Capture], folder: Path, task: str) -> None:
    if not held:
        raise InputError(
            "no captures of this task in this period", file=folder,
            expected=f"captures of {task!r} that limbeck serve wrote", fix="Check --state, --since and --until",
        )
    if all(c.query is None for c in held):
        raise InputError(
            "the service keeps no texts, so that nothing can be labelled", file=folder, field="serving.certain.keep",
            found="hash or nothing", expected="query",
            fix="Serve with --set certain.keep=query for as long as captures are to be picked from",
        )
