"""What tests of the label list share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from limbeck.console import label_text, label_update


@pytest.fixture(scope="module")
def small_blocks() -> Iterator[None]:
    """A few rows make several blocks and batches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_update, "BLOCK", 8)
        patch.setattr(label_update, "BATCH", 5)
        patch.setattr(label_text, "_FEW", 2)
        yield
