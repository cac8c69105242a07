"""A hard budget: the most that a call can cost is reserved before the call, and replaced by its real cost after it."""

from __future__ import annotations

import asyncio
from typing import Protocol

from task.errors import InputError


class BudgetSpentError(InputError):
    """The next call could exceed the budget."""


class SpendLimiter(Protocol):
    """Enforces a budget, in this process or in another one. Amounts are in the currency of the price."""

    async def reserve(self, amount: float) -> None:
        """Reserve the most that a call can cost.

        Raises:
            BudgetSpentError: The budget does not have that much left.
        """

    def charge(self, *, reserved: float, cost: float) -> None:
        """Replace the `reserved` amount of a call by what the call cost."""


class Budget:
    """A `SpendLimiter` in this process.

    A call that does not fit while others are in flight waits for them: they cost less than was reserved for them.

    Args:
        limit: None for no limit.
        spent: What the ledger has recorded already.
    """

    def __init__(self, limit: float | None, spent: float) -> None:
        self.limit, self.spent, self.reserved = limit, spent, 0.0
        self._in_flight = 0
        self._changed = asyncio.Event()

    def try_reserve(self, amount: float) -> str | None:
        """Reserve an amount; returns why not, or None. `may_wait` says whether waiting can change that."""
        if self.limit is not None and self.spent + self.reserved + amount > self.limit:
            return (
                f"the budget is spent: {self.spent:.4f} of {self.limit:.4f}, {self.reserved:.4f} reserved for calls "
                f"in flight, and the next call could cost {amount:.4f}"
            )
        self.reserved += amount
        self._in_flight += 1
        return None

    def may_wait(self, amount: float) -> bool:
        """Whether an amount that does not fit now may fit when the calls in flight have come back."""
        return self.limit is None or self.spent + amount <= self.limit

    async def reserve(self, amount: float) -> None:
        """See `SpendLimiter`."""
        while (problem := self.try_reserve(amount)) is not None:
            if not self.may_wait(amount):
                raise_if_spent(problem)
            self._changed.clear()
            await self._changed.wait()

    def charge(self, *, reserved: float, cost: float) -> None:
        """See `SpendLimiter`."""
        self._in_flight -= 1
        self.reserved = self.reserved - reserved if self._in_flight else 0.0  # no rounding error is left to wait for
        self.spent += cost
        self._changed.set()


def raise_if_spent(problem: str | None) -> None:
    """Raise what `Budget.try_reserve` returned as a `BudgetSpentError`."""
    if problem is not None:
        raise BudgetSpentError(
            problem, field="teacher.openai.budget", fix="Raise it and run the same command: every paid reply is kept"
        )
