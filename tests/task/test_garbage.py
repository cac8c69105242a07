"""The garbage collector is off in a block, and afterwards as it was."""

from __future__ import annotations

import contextlib
import gc

from task.garbage import no_collection


def test_it_is_off_in_the_block_and_on_again_after_an_error() -> None:
    assert gc.isenabled()
    with contextlib.suppress(ValueError), no_collection():
        assert not gc.isenabled()
        raise ValueError
    assert gc.isenabled()


def test_where_it_is_off_it_stays_off() -> None:
    gc.disable()
    try:
        with no_collection(), no_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
