"""The type of what people decided about labels, as a report tells it."""

from __future__ import annotations

from typing import TypedDict


class Corrected(TypedDict):
    """A query with the labels that people were shown, and those that they gave; ready to print."""

    query: str
    before: str
    now: str


class RoleChanges(TypedDict):
    """Labels of a role; one that was moved or changed counts as both."""

    added: int
    removed: int


class Decisions(TypedDict):
    """What people decided about the labels that the student learned from.

    Attributes:
        people: Their names.
        queries: Queries that somebody decided about.
        confirmed: Queries of these whose labels were right.
        corrected: Queries whose labels were changed.
        rejected: Queries that are not learned.
        disputed: Queries about which people disagree; neither learned nor gold.
        gold_rows: Queries that became, or were, gold; they are not learned.
        examples: Corrected queries, those with the most traffic first.
    """

    people: list[str]
    queries: int
    confirmed: int
    corrected: int
    rejected: int
    disputed: int
    gold_rows: int
    roles: dict[str, RoleChanges]
    examples: list[Corrected]
