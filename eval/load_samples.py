"""The outcome of every request of a load run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Samples:
    """The outcome of each request; arrays of shape (requests,), times in seconds.

    Attributes:
        scheduled: Scheduled departure, from the start of the run.
        delay: Actual minus scheduled departure.
        latency: From the scheduled departure to the end of the answer; infinite for an error or no answer.
        first: From the scheduled departure to the first token of a streamed answer; NaN where nothing was streamed.
        tokens: Number of tokens of a streamed answer.
        status: HTTP status; 0 for a lost connection or a timeout.
        hit: Whether the answer came from a cache.
        invalid: Whether a Limbeck gateway marked the answer as invalid.
        cpu: Processor seconds of the generator, shape (processes,).
    """

    scheduled: npt.NDArray[np.float64]
    delay: npt.NDArray[np.float64]
    latency: npt.NDArray[np.float64]
    first: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int64]
    status: npt.NDArray[np.int64]
    hit: npt.NDArray[np.bool_]
    invalid: npt.NDArray[np.bool_]
    cpu: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.scheduled)

    def where(self, mask: npt.NDArray[np.bool_]) -> Samples:
        """The requests where the mask is true."""
        return self.taken(np.flatnonzero(mask))

    def taken(self, places: npt.NDArray[np.int64]) -> Samples:
        """The requests at these places, in this order."""
        return replace(self, **{f.name: getattr(self, f.name)[places] for f in fields(self) if f.name != "cpu"})


def joined(parts: Sequence[Samples]) -> Samples:
    """Concatenate the requests of several processes or runs, by scheduled time."""
    whole = Samples(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Samples)))
    order = np.argsort(whole.scheduled, kind="stable")
    return whole.taken(order)


def empty() -> Samples:
    """No request at all."""
    none = np.zeros(0)
    numbers, marks = none.astype(np.int64), none.astype(bool)
    return Samples(none, none, none, none, numbers, numbers, marks, marks, none)
