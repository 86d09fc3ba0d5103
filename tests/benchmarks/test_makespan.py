"""Run the simulation behind docs/scale.md on cases whose result is known."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.core.dialogue import steps
from batchgen.runtime.settings import Settings
from benchmarks import makespan
from benchmarks.simulation import Draw, Fate, Limits, Plan, Work, simulate

TICK = 300
FREE = Limits(10**12, 10**6)
WORK = tuple(Work(f"step {number}", "gemini" if number % 3 else "together", 10, 100) for number in range(6))


def constant(seconds: float) -> Draw:
    return lambda *_: Fate(seconds)


AT_ONCE = constant(TICK)


def drawn(seed: int) -> Draw:
    """Turnaround times of one minute to two days that depend only on the batch."""
    return lambda _, __, luck: Fate(60.0 + 172_800 * random.Random(seed + int(luck.integers(1 << 30))).random() ** 8)


def plan(conversations: int = 1000, max_requests: int = 100, *, draw: Draw = AT_ONCE, limits: Limits = FREE) -> Plan:
    both = {"gemini": limits, "together": limits}
    return Plan(conversations, max_requests, WORK, both, draw)


@pytest.mark.parametrize(("seconds", "ticks"), [(1, 1), (300, 1), (301, 2), (3000, 10)])
def test_one_batch_goes_through_the_steps_in_turn(seconds: float, ticks: int) -> None:
    result = simulate(plan(7, 10, draw=constant(seconds)))
    assert result.seconds == 6 * ticks * TICK
    assert (result.complete, result.rejected, result.batches, result.requests) == (7, 0, 6, 42)
    assert result.completed == ((result.seconds, 7),)


def test_constant_turnarounds_make_no_difference_between_barrier_and_flow() -> None:
    flow = simulate(plan(1000, 100))
    assert flow.seconds == simulate(replace(plan(1000, 100), flow=False)).seconds == 6 * TICK
    assert flow.batches == 60
    assert flow.peak == {"gemini": 10, "together": 10}


@pytest.mark.parametrize("limits", [Limits(10**12, 1), Limits(1000, 100)], ids=["one batch", "tokens of one batch"])
def test_limits_force_one_batch_after_another(limits: Limits) -> None:
    work = tuple(replaced._replace(provider="gemini") for replaced in WORK)
    result = simulate(replace(plan(1000, 100, limits=limits), work=work))
    assert (result.seconds, result.peak) == (60 * TICK, {"gemini": 1})


def test_a_batch_never_holds_more_than_the_limits_allow() -> None:
    assert simulate(plan(1000, 1000, limits=Limits(500, 100))).batches == 6 * 20  # 500 tokens are 50 requests
    assert simulate(replace(plan(1000, 1000), max_bytes=2500)).batches == 6 * 40


def test_two_providers_work_side_by_side() -> None:
    """One slot each: Gemini has four of the six steps, and Together's two run at the same time."""
    result = simulate(plan(1000, 100, limits=Limits(10**12, 1)))
    assert 40 * TICK <= result.seconds <= 44 * TICK


def test_batches_that_bring_nothing_are_halved_and_given_up() -> None:
    result = simulate(plan(1000, 100, draw=lambda *_: Fate(TICK, rows=False)))
    assert (result.complete, result.rejected, result.seconds) == (0, 1000, 3 * TICK)
    assert result.batches == 10 + 20 + 40
    assert result.requests == 3000


def test_rows_that_fail_are_asked_again_while_the_others_go_on() -> None:
    result = simulate(replace(plan(10_000, 1000), failing=0.1))
    assert result.seconds > 6 * TICK
    assert result.seconds_until(0.5) == 6 * TICK
    assert result.rejected == pytest.approx(10_000 * 6 * 0.1**3, rel=0.5)
    assert result.requests == pytest.approx(10_000 * 6 * 1.11, rel=0.02)


def test_blocked_rows_are_left_behind_at_once() -> None:
    result = simulate(replace(plan(10_000, 1000), blocked=0.1))
    assert result.seconds == 6 * TICK
    assert result.complete == pytest.approx(10_000 * 0.9**6, rel=0.05)


seeds = st.integers(0, 2**20)
runs = st.builds(plan, st.integers(1, 400), st.integers(1, 60), draw=st.builds(drawn, seeds))


@given(runs)
def test_a_barrier_is_never_faster_than_flow(run: Plan) -> None:
    assert simulate(replace(run, flow=False)).seconds >= simulate(run).seconds


@given(runs)
def test_a_step_less_is_never_slower(run: Plan) -> None:
    """`ask_next` in the simulation: the same turnaround times, with one step less."""
    assert simulate(replace(run, work=WORK[:3] + WORK[4:])).seconds <= simulate(run).seconds


@given(runs, st.integers(1, 5), st.integers(1, 2000), st.floats(0, 0.5), st.booleans())
def test_no_conversation_is_lost(run: Plan, batches: int, tokens: int, failing: float, flow: bool) -> None:  # noqa: FBT001
    limits = Limits(tokens, batches)
    wild = replace(run, failing=failing, blocked=0.05, flow=flow, limits={"gemini": limits, "together": limits})
    result = simulate(wild)
    assert result.complete + result.rejected == run.conversations
    assert sum(count for _, count in result.completed) == result.complete
    assert max(result.peak.values()) <= batches
    assert result.requests <= run.conversations * len(WORK) * run.max_attempts
    assert simulate(wild) == result


@pytest.mark.parametrize("weather", makespan.WEATHERS)
def test_the_weathers_are_what_they_say(weather: str) -> None:
    shares = makespan.WEATHERS[weather]
    fates = [makespan.draw(shares, failures=True)(WORK[1], makespan.DEFAULT_SIZE, luck) for luck in _luck(4000)]
    expired = sum(fate.seconds == makespan.EXPIRES["gemini"] and not fate.rows for fate in fates)
    quick = sum(fate.seconds < makespan.HOUR for fate in fates)
    assert expired / 4000 == pytest.approx(shares.expired, abs=0.01)
    assert quick / 4000 == pytest.approx(1 - sum(shares[:4]), abs=0.05)
    calm = [makespan.draw(shares, failures=False)(WORK[1], makespan.DEFAULT_SIZE, luck) for luck in _luck(4000)]
    assert [fate.seconds for fate in calm] == [fate.seconds for fate in fates]
    assert all(fate.rows for fate in calm)


def _luck(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(number) for number in range(count)]


def test_the_work_is_that_of_a_run() -> None:
    defaults = Settings()
    found = [(str(step), defaults.stage(step.stage).provider) for step in steps(defaults.rounds)]
    assert [(work.name, work.provider) for work in makespan.WORK] == found
    assert makespan.TIERS[1]["gemini"] == (defaults.gemini.enqueued_tokens, defaults.gemini.concurrent_batches)
    assert defaults.batches.max_requests == makespan.DEFAULT_SIZE


def test_the_page_is_made_of_tables() -> None:
    assert makespan.START in makespan.PAGE.read_text("utf-8")
    cells = next(makespan.mode_rows([200], 1))
    assert cells[:2] == ["200", "1"]
    assert (
        makespan.table(["a", "b", "c"], iter([cells[:3]]))
        == f"| a | b | c |\n| --- | --- | ---: |\n| 200 | 1 | {cells[2]} |\n"
    )
