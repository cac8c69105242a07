"""What a bundle's student does with clients' queries, counted by each worker while two bundles are compared.

A query is always answered by the same of the two bundles, so that chance divides queries, not requests: one that is
asked a thousand times says no more about a bundle than one that is asked once. Each distinct query therefore counts
once, by its first answer since the counting began, whichever worker gives it.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import Field

from task.settings import Strict

_BITS = 2**23  # a mebibyte; with a million queries counted, one in nine of the next is taken for one of them
_FASTEST_S, _STEPS = 1e-4, 16  # the first step of the histogram, and the steps in which the time doubles

Count = Annotated[int, Field(ge=0)]


class StudentFigures(Strict):
    """Sums over distinct queries; those of two workers are added.

    Attributes:
        answers: Queries for the student, those that failed included.
        failed: Of them, without a usable answer by the deadline.
        abstained: Of those that did not fail, answered without labels because these were too improbable.
        judged: Labellings with a probability, withheld ones included.
        probability: Sum of their probabilities.
        squares: Sum of the squares.
        seconds: Histogram of the time that answers took, late ones included: step (`step_s`) → count.
    """

    answers: Count = 0
    failed: Count = 0
    abstained: Count = 0
    judged: Count = 0
    probability: float = 0.0
    squares: float = 0.0
    seconds: dict[int, Count] = Field(default={})

    def __add__(self, other: StudentFigures) -> StudentFigures:
        return StudentFigures(
            answers=self.answers + other.answers, failed=self.failed + other.failed,
            abstained=self.abstained + other.abstained, judged=self.judged + other.judged,
            probability=self.probability + other.probability, squares=self.squares + other.squares,
            seconds=dict(Counter(self.seconds) + Counter(other.seconds)),
        )

    @property
    def usable(self) -> int:
        """Queries that did not fail."""
        return self.answers - self.failed


def step(seconds: float) -> int:
    """The step of the histogram for a time: equal steps of its logarithm, 4.4 % each."""
    return max(0, math.floor(_STEPS * math.log2(max(seconds, _FASTEST_S) / _FASTEST_S)))


def step_s(number: int) -> float:
    """The shortest time of a step, in seconds; of the first one 0."""
    return _FASTEST_S * 2.0 ** (number / _STEPS) if number > 0 else 0.0


class CountedQueries:
    """Which queries have been counted: a bit for each in a file that all workers share, found by the query's hash.

    Two queries of one bit are taken for one: of them only the first counts, whatever the student makes of it. Two
    workers that set bits of one byte at the same moment may lose one: that query may count twice.
    """

    def __init__(self, path: Path, hashed: Callable[[str], str]) -> None:
        """Open the file that `make_counted` has made.

        Args:
            hashed: The keyed hash of a query, in hexadecimal: without the key nobody can look a query up in the file.

        Raises:
            OSError: There is none.
        """
        self._hashed = hashed
        self._file = path.open("r+b", buffering=0)

    def first(self, query: str) -> bool:
        """Whether a query has not been counted yet; from now on it has.

        The file is written, not mapped: on a full disk a write fails, while one into a mapped file ends the process.
        """
        at = int(self._hashed(query)[:8], 16) % _BITS
        try:
            file = self._file.fileno()  # of a closed file a `ValueError`: its number may be another file's by now
            now = os.pread(file, 1, at >> 3)[0]
            bit = 1 << (at & 7)
            if now & bit:
                return False
            os.pwrite(file, bytes([now | bit]), at >> 3)
        except (OSError, ValueError, IndexError):  # what cannot be marked would count again
            return False
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def make_counted(path: Path) -> None:
    """Make the file of `CountedQueries`; raises `OSError`. Written in full, so that a full disk is noticed here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(_BITS // 8))


class StudentTally:
    """One bundle's counters in one worker."""

    def __init__(self, counted: CountedQueries) -> None:
        self._counted = counted
        self._answers = self._failed = self._abstained = self._judged = 0
        self._probability = self._squares = 0.0
        self._seconds: Counter[int] = Counter()

    def failed(self, query: str, late_s: float | None = None) -> None:
        """Count a query without an answer; `late_s` is how long it had been waiting where the deadline was missed."""
        if self._counted.first(query):
            self._answers += 1
            self._failed += 1
            if late_s is not None:
                self._seconds[step(late_s)] += 1

    def answered(
        self, query: str, seconds: float, *, failed: bool, abstained: bool, probability: float | None
    ) -> None:
        """Count an answer of the student.

        Args:
            seconds: How long it took.
            failed: Whether it is invalid, or was not there by the deadline.
            abstained: Whether its labels are withheld.
            probability: That its labelling is right; None where it is not known.
        """
        if not self._counted.first(query):
            return
        self._answers += 1
        self._seconds[step(seconds)] += 1
        self._failed += failed
        if failed:
            return
        self._abstained += abstained
        if probability is not None:
            self._judged += 1
            self._probability += probability
            self._squares += probability * probability

    def figures(self) -> StudentFigures:
        """What has been counted."""
        return StudentFigures(
            answers=self._answers, failed=self._failed, abstained=self._abstained, judged=self._judged,
            probability=self._probability, squares=self._squares, seconds=dict(self._seconds),
        )
