"""A hard budget waits for the calls in flight, which cost less than was reserved for them."""

from __future__ import annotations

import asyncio

import pytest

from llm_client.budget import Budget, BudgetSpentError


async def call(budget: Budget, *, most: float, cost: float) -> None:
    await budget.reserve(most)
    try:
        await asyncio.sleep(0)
    finally:
        budget.charge(reserved=most, cost=cost)


async def calls(budget: Budget, number: int, *, most: float, cost: float) -> list[BaseException]:
    done = await asyncio.gather(
        *(call(budget, most=most, cost=cost) for _ in range(number)), return_exceptions=True
    )
    return [x for x in done if isinstance(x, BaseException)]


@pytest.mark.parametrize(("limit", "refused"), [(100 * 0.1 + 0.9, 0), (99.5 * 0.1 + 0.9, 1), (50 * 0.1 + 0.9, 50)])
def test_only_what_was_spent_decides(limit: float, refused: int) -> None:
    """Ten calls at once would reserve all of it; one call costs a tenth of what is reserved for it."""
    budget = Budget(limit + 1e-9, 0.0)
    failed = asyncio.run(calls(budget, 100, most=1.0, cost=0.1))
    assert [type(x) for x in failed] == [BudgetSpentError] * refused
    assert budget.spent == pytest.approx(0.1 * (100 - refused))
    assert budget.spent <= limit
    assert budget.reserved == 0.0


def test_a_call_that_never_fits_is_refused_at_once() -> None:
    budget = Budget(1.0, 0.5)
    (failed,) = asyncio.run(calls(budget, 1, most=0.6, cost=0.1))
    assert "0.5000 of 1.0000" in str(failed)


def test_rounding_leaves_nothing_to_wait_for() -> None:
    budget = Budget(1.0, 0.0)
    asyncio.run(asyncio.wait_for(_sums(budget), timeout=5))


async def _sums(budget: Budget) -> None:
    """0.1 + 0.2 + 0.3 is not 0.6 in binary; after all came back, exactly the whole budget is free."""
    for amount in (0.1, 0.2, 0.3):
        await budget.reserve(amount)
    for amount in (0.3, 0.1, 0.2):
        budget.charge(reserved=amount, cost=0.0)
    await budget.reserve(1.0)
