"""A hard budget: the most that a call can cost is set aside before it is made, what it did cost is put in its place."""

from __future__ import annotations

from typing import Protocol

from task.errors import InputError


class BudgetSpentError(InputError):
    """The next call could cross the budget."""


class Purse(Protocol):
    """Somebody who keeps a budget."""

    async def reserve(self, most: float) -> None:
        """Set money aside for a call, or raise `BudgetSpentError`."""

    def settle(self, most: float, cost: float) -> None:
        """A call for which `most` was set aside did cost `cost`."""


class Budget:
    """A budget in this process.

    Args:
        limit: None is no limit.
        spent: What the ledger has on record already.
    """

    def __init__(self, limit: float | None, spent: float) -> None:
        self.limit, self.spent, self.reserved = limit, spent, 0.0

    def take(self, most: float) -> str | None:
        """Set money aside; why not, where the budget has no room for it."""
        if self.limit is not None and self.spent + self.reserved + most > self.limit:
            return (
                f"the budget is spent: {self.spent:.4f} of {self.limit:.4f}, {self.reserved:.4f} for calls on their "
                f"way, and the next call could cost {most:.4f}"
            )
        self.reserved += most
        return None

    async def reserve(self, most: float) -> None:
        """See `Purse`."""
        check(self.take(most))

    def settle(self, most: float, cost: float) -> None:
        """See `Purse`."""
        self.reserved -= most
        self.spent += cost


def check(problem: str | None) -> None:
    """Raise `BudgetSpentError` where there is a problem."""
    if problem is not None:
        raise BudgetSpentError(
            problem, field="teacher.openai.budget", fix="Raise it and run the same command: every paid reply is kept"
        )
