from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.gateway.admission import Bucket


@given(
    rate=st.floats(0.1, 1_000), burst=st.integers(1, 500),
    asks=st.lists(st.tuples(st.floats(0, 5), st.integers(1, 50)), max_size=60),
)
def test_no_bucket_gives_more_than_its_rate_and_its_burst(
    rate: float, burst: int, asks: list[tuple[float, int]]
) -> None:
    bucket, now, given_ = Bucket(rate=rate, burst=burst, tokens=burst, at=0.0), 0.0, 0
    largest = 0
    for pause, wanted in asks:
        now += pause
        if not bucket.take(wanted, now=now):
            given_ += wanted
            largest = max(largest, wanted)
    # A request larger than the bucket may overdraw it once; the debt is paid before the next.
    assert given_ <= burst + rate * now + largest + 1e-6


@given(rate=st.floats(0.1, 1_000), burst=st.integers(1, 100), wanted=st.integers(1, 300))
def test_who_waits_as_long_as_told_is_served(rate: float, burst: int, wanted: int) -> None:
    bucket = Bucket(rate=rate, burst=burst, tokens=0.0, at=0.0)
    wait = bucket.take(wanted, now=0.0)
    assert wait > 0
    assert bucket.take(wanted, now=wait * 1.0001 + 1e-6) == 0
