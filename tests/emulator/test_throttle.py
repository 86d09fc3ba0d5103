"""Test when the service calls a model server, and with how many requests at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchgen.emulator.backends.throttle import (
    DOWN_AFTER,
    MAX_DELAY_SECONDS,
    MAX_RETRY_AFTER_SECONDS,
    Throttle,
    backoff_seconds,
)

MOST = 64


def worst() -> float:
    return 1.0


def test_a_server_that_answers_is_asked_as_much_as_it_may_be() -> None:
    throttle = Throttle(MOST)
    for _ in range(MOST):
        assert throttle.may_ask(0)
        throttle.asked += 1
    assert not throttle.may_ask(0)


def test_one_row_in_twenty_refused_costs_no_speed() -> None:
    throttle = Throttle(MOST)
    for number in range(2000):
        throttle.refused(0.0) if number % 20 == 0 else throttle.record_success()
        assert throttle.allowed > MOST * 0.8
        assert throttle.may_ask(0.0)


def test_a_server_that_is_down_gets_one_request_at_a_time_less_and_less_often() -> None:
    throttle = Throttle(MOST, luck=worst)
    now = 0.0
    pauses: list[int] = []
    for _ in range(DOWN_AFTER - 1):
        throttle.refused(now)
    assert not throttle.is_down
    assert throttle.may_ask(now)
    for _ in range(8):
        throttle.refused(now)
        for _ in range(MOST):
            throttle.refused(now)  # requests that were in flight at the same time
        assert throttle.is_down
        assert throttle.allowed == 1
        assert not throttle.may_ask(now)
        pauses.append(next(second for second in range(100) if throttle.may_ask(now + second)))
        now += pauses[-1]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    throttle.record_success()
    assert not throttle.is_down
    for _ in range(MOST):
        throttle.record_success()
    assert throttle.allowed == MOST


def test_a_clock_set_back_ends_a_pause() -> None:
    throttle = Throttle(MOST)
    for _ in range(DOWN_AFTER):
        throttle.refused(1_000_000.0)
    assert not throttle.may_ask(1_000_000.0)
    assert throttle.may_ask(0.0)


@given(st.integers(1, 10_000), st.floats(0, 10**9), st.floats(0, 1, exclude_max=True))
def test_a_row_waits_longer_each_time_and_as_long_as_it_is_told(tries: int, wish: float, luck: float) -> None:
    plain = backoff_seconds(tries, 0.0, luck)
    assert 0.5 <= plain <= MAX_DELAY_SECONDS
    assert backoff_seconds(tries + 1, 0.0, luck) >= plain
    assert backoff_seconds(tries, wish, luck) == max(plain, min(wish, MAX_RETRY_AFTER_SECONDS))


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 100)), max_size=300), st.integers(1, 512))
def test_whatever_happens_somebody_may_ask_again_soon(events: list[tuple[bool, float]], most: int) -> None:
    throttle = Throttle(most)
    now = 0.0
    for good, seconds in events:
        now += seconds
        throttle.record_success() if good else throttle.refused(now)
        assert 1 <= throttle.allowed <= most
        assert throttle.may_ask(now + MAX_DELAY_SECONDS)
