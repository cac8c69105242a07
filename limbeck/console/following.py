"""The index of labels follows the ledger in a thread of its own, for as long as the console shows the run."""

from __future__ import annotations

import logging
import threading
from typing import Final

from limbeck.console.label_index import LabelIndex
from task.errors import InputError

_EVERY_S: Final = 5.0
_log = logging.getLogger(__name__)


class Following:
    """Brings an index up to date again and again, until it is stopped."""

    def __init__(self, index: LabelIndex) -> None:
        self.problem = ""
        """What kept the last update from being made, for the page."""
        self._index = index
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="label index", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it; an update that is going on ends early, and is gone on with the next time."""
        self._stop.set()
        self._thread.join(10.0)

    def _follow(self) -> None:
        while True:
            try:
                self._index.update(self._stop)
                self.problem = ""
            except InputError as error:
                if str(error) != self.problem:
                    _log.warning("the index of labels is not up to date: %s", error)
                self.problem = str(error)
            if self._stop.wait(_EVERY_S):
                return
