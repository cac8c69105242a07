"""A task with every kind of role, as annotators would label it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from task.spec import Task


def shop_task(**changes: Any) -> Task:
    return Task.model_validate({
        "name": "shop",
        "roles": [
            {"name": "brand"}, {"name": "product type"},
            {"name": "aisle", "kind": "closed", "values": ["dairy", "drinks", "a=b"], "multiple": False},
            {"name": "mark", "kind": "closed", "values": ["vegan", "organic", "kosher"]},
            {"name": "category", "kind": "closed", "separator": " > ", "multiple": False,
             "values": ["Food > Dairy > Milk", "Food > Bakery"]},
            {"name": "synonym", "kind": "text"},
        ],
        "data": {"dir": ".", "labels": "labels.jsonl"}, "teacher": {"backend": "labels"}, "student": {"form": "write"},
        **changes,
    })


@pytest.fixture(scope="session")
def shop() -> Task:
    return shop_task()


@pytest.fixture
def fixtures() -> Path:
    return Path(__file__).parents[2] / "fixtures" / "exchange"
