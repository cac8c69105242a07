"""What the tests of several commands read."""

from __future__ import annotations

from tests.task.exchange.conftest import fixtures

__all__ = ["fixtures"]
