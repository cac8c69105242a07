from __future__ import annotations

from engine.circuit_breaker import FAILURES, FIRST_PAUSE, MAX_PAUSE, Breaker


def test_the_breaker_opens_tries_once_and_waits_longer_each_time() -> None:
    breaker = Breaker()
    for _ in range(FAILURES - 1):
        breaker.failed(0.0)
    assert breaker.wait(0.0) == 0
    breaker.failed(0.0)
    assert breaker.wait(0.1) > 0
    now, pauses = FIRST_PAUSE, []
    for _ in range(8):
        assert breaker.wait(now) == 0  # one may try
        assert breaker.wait(now) > 0  # and nobody else meanwhile
        breaker.failed(now)
        pauses.append(breaker.wait(now))
        now += pauses[-1]
    assert pauses == sorted(pauses)
    assert pauses[-1] == MAX_PAUSE
    assert breaker.wait(now) == 0
    breaker.succeeded()
    assert (breaker.wait(now), breaker.failures, breaker.pause) == (0, 0, FIRST_PAUSE)


def test_a_trial_that_says_nothing_lets_another_try() -> None:
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker.failed(0.0)
    assert breaker.wait(1.0) == 0
    breaker.abandoned()
    assert breaker.wait(1.0) == 0
