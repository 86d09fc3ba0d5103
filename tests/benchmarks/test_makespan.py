"""Run the simulation behind docs/scale.md on cases whose result is known."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.core.dialogue import steps
from batchgen.runtime.settings import Settings
from benchmarks import makespan
from benchmarks.simulation import cases, weather
from benchmarks.simulation.run import ROOM, TICK, Draw, Fate, Limits, Plan, Switch, Work, simulate
from tests.support.slow import slow

SECONDS = 300  # of a tick
FREE = Limits(10**12, 10**6, 10**6, 10**12)
WORK = tuple(Work(f"step {number}", "gemini" if number % 3 else "together", 10, 100) for number in range(6))


def constant(seconds: float) -> Draw:
    return lambda *_: Fate(seconds)


AT_ONCE = constant(SECONDS)


def drawn(seed: int) -> Draw:
    """Turnaround times of one minute to two days that depend only on the batch."""
    return lambda _, __, luck: Fate(60.0 + 172_800 * random.Random(seed + luck.getrandbits(30)).random() ** 8)


def plan(conversations: int = 1000, max_requests: int = 100, *, draw: Draw = AT_ONCE, limits: Limits = FREE) -> Plan:
    both = {"gemini": limits, "together": limits}
    return Plan(conversations, max_requests, WORK, both, draw, 3, 50_000_000, SECONDS)


@pytest.mark.parametrize(("seconds", "ticks"), [(1, 1), (300, 1), (301, 2), (3000, 10)])
def test_one_batch_goes_through_the_steps_in_turn(seconds: float, ticks: int) -> None:
    result = simulate(plan(7, 10, draw=constant(seconds)))
    assert result.seconds == 6 * ticks * SECONDS
    assert (result.complete, result.rejected, result.batches, result.requests) == (7, 0, 6, 42)
    assert result.completed == ((result.seconds, 7),)


def test_constant_turnarounds_make_no_difference_between_barrier_and_flow() -> None:
    flow = simulate(plan(1000, 100))
    assert flow.seconds == simulate(replace(plan(1000, 100), flow=False)).seconds == 6 * SECONDS
    assert flow.batches == 60
    assert flow.peak == {"gemini": 10, "together": 10}


@pytest.mark.parametrize(
    "limits",
    [FREE._replace(concurrent_batches=1), FREE._replace(enqueued_tokens=1000)],
    ids=["one batch", "tokens of one batch"],
)
def test_limits_force_one_batch_after_another(limits: Limits) -> None:
    work = tuple(replaced._replace(provider="gemini") for replaced in WORK)
    result = simulate(replace(plan(1000, 100, limits=limits), work=work))
    assert (result.seconds, result.peak) == (60 * SECONDS, {"gemini": 1})


def test_a_batch_never_holds_more_than_the_limits_allow() -> None:
    tokens = FREE._replace(enqueued_tokens=500)  # 50 requests
    assert simulate(plan(1000, 1000, limits=tokens)).batches == 6 * 20
    assert simulate(replace(plan(1000, 1000), max_bytes=2500)).batches == 6 * 40
    assert simulate(plan(1000, 1000, limits=FREE._replace(file_bytes=2500))).batches == 6 * 40
    assert simulate(plan(1000, 1000, limits=FREE._replace(file_requests=25))).batches == 6 * 40


def test_two_providers_work_side_by_side() -> None:
    """One slot each: Gemini has four of the six steps, and Together's two run at the same time."""
    result = simulate(plan(1000, 100, limits=FREE._replace(concurrent_batches=1)))
    assert 40 * SECONDS <= result.seconds <= 44 * SECONDS


def test_batches_that_bring_nothing_are_halved_and_given_up() -> None:
    result = simulate(plan(1000, 100, draw=lambda *_: Fate(SECONDS, share=0.0)))
    assert (result.complete, result.rejected, result.seconds) == (0, 1000, 3 * SECONDS)
    assert result.batches == 10 + 20 + 40
    assert result.requests == 3000


def test_rows_that_fail_are_asked_again_while_the_others_go_on() -> None:
    result = simulate(replace(plan(10_000, 1000), failing=0.1))
    assert result.seconds > 6 * SECONDS
    assert result.seconds_until(0.5) == 6 * SECONDS
    assert result.rejected == pytest.approx(10_000 * 6 * 0.1**3, rel=0.5)
    assert result.requests == pytest.approx(10_000 * 6 * 1.11, rel=0.02)


def test_blocked_rows_are_left_behind_at_once() -> None:
    result = simulate(replace(plan(10_000, 1000), blocked=0.1))
    assert result.seconds == 6 * SECONDS
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
@pytest.mark.slow
def test_no_conversation_is_lost(run: Plan, batches: int, tokens: int, failing: float, flow: bool) -> None:  # noqa: FBT001
    limits = FREE._replace(enqueued_tokens=tokens, concurrent_batches=batches)
    wild = replace(run, failing=failing, blocked=0.05, flow=flow, limits={"gemini": limits, "together": limits})
    result = simulate(wild)
    assert result.complete + result.rejected == run.conversations
    assert sum(count for _, count in result.completed) == result.complete
    assert max(result.peak.values()) <= batches
    assert result.requests <= run.conversations * len(WORK) * run.max_attempts
    assert simulate(wild) == result


@given(runs, st.floats(0, 1), st.floats(0, 0.5))
def test_the_chain_of_the_last_conversation_adds_up(run: Plan, share: float, failing: float) -> None:
    """Every second until it is settled is spent in one of its batches, on a tick, or waiting to be sent."""
    limits = {name: FREE._replace(concurrent_batches=3) for name in run.limits}
    result = simulate(replace(run, draw=lambda *_: Fate(1000, share, "odd"), failing=failing, limits=limits))
    assert result.chain.keys() == {"odd", TICK, ROOM}
    assert sum(result.chain.values()) == pytest.approx(result.seconds)
    batches = result.chain["odd"] / 1000
    assert batches in range(1, 6 * run.max_attempts + 1)
    assert result.chain[TICK] == pytest.approx(200 * batches)
    assert result.chain[ROOM] >= 0


def test_rows_that_an_expired_batch_brings_are_not_asked_again() -> None:
    result = simulate(plan(10_000, 1000, draw=lambda *_: Fate(SECONDS, 0.5, "expired")))
    assert result.complete == pytest.approx(10_000 * 0.875**6, rel=0.05)


def test_a_switch_holds_for_new_batches() -> None:
    slow = {"together": 100 * SECONDS, "gemini": SECONDS, "deepinfra": SECONDS}
    base = replace(plan(10, draw=lambda work, *_: Fate(slow[work.provider])), limits=dict.fromkeys(slow, FREE))
    assert simulate(base).seconds == 204 * SECONDS
    switched = simulate(replace(base, switch=Switch(2 * SECONDS, "together", "deepinfra")))
    assert switched.seconds == 105 * SECONDS  # the first batch of answers was in flight
    assert switched.peak == {"gemini": 1, "together": 1, "deepinfra": 1}


@pytest.mark.parametrize("name", weather.WEATHERS)
def test_the_weathers_are_what_they_say(name: str) -> None:
    weathers = dict.fromkeys(weather.WINDOWS, weather.WEATHERS[name])
    shares, size = weather.WEATHERS[name], weather.REFERENCE_SIZE
    fates = [weather.draw(weathers)(WORK[1], size, luck) for luck in _luck(4000)]
    for kind in ("hours", "days", "expired", "lost"):
        assert sum(fate.kind == kind for fate in fates) / 4000 == pytest.approx(getattr(shares, kind), abs=0.02)
    assert all(fate.share == (fate.kind not in ("expired", "lost")) for fate in fates)
    assert {fate.seconds for fate in fates if fate.kind == "expired"} == {weather.WINDOWS["gemini"]}
    harmless = [weather.draw(weathers, weather.Rules(harmless=True))(WORK[1], size, luck) for luck in _luck(4000)]
    assert [fate.seconds for fate in harmless] == [fate.seconds for fate in fates]
    assert all(fate.share == 1 for fate in harmless)
    calm = weather.Rules(frozenset(weather.KINDS))
    assert {weather.draw(weathers, calm)(WORK[1], size, luck).kind for luck in _luck(400)} == {"minutes"}
    hasty = weather.Rules(cancel_seconds=weather.HOUR)
    assert max(weather.draw(weathers, hasty)(WORK[1], size, luck).seconds for luck in _luck(400)) == weather.HOUR


def test_no_batch_outlives_the_window_of_its_provider() -> None:
    weathers = dict.fromkeys(weather.WINDOWS, weather.WEATHERS["bad week"])
    rules = weather.Rules(expired_share=(("deepinfra", 0.5),))
    for name, window in weather.WINDOWS.items():
        work = WORK[0]._replace(provider=name)
        fates = [weather.draw(weathers, rules)(work, 2000, luck) for luck in _luck(1000)]
        expired = [fate for fate in fates if fate.kind == "expired"]
        assert {(fate.seconds, fate.share) for fate in expired} == {(window, 0.5 if name == "deepinfra" else 0.0)}
        assert all(fate.seconds <= window for fate in fates if fate.kind != "lost")


def _luck(count: int) -> list[random.Random]:
    return [random.Random(number) for number in range(count)]


@pytest.mark.slow
def test_the_work_is_that_of_a_run() -> None:
    defaults = Settings()
    answers = cases.Answers().provider
    found = [(str(step), defaults.stage(step.stage).provider) for step in steps(defaults.rounds)]
    assert [(work.name, work.provider) for work in cases.work(answers, ask_next=False)] == found
    assert [work.name for work in cases.work(answers, ask_next=True)] == [
        name for name, _ in found if name != "round 3 question"
    ]
    assert {work.provider for work in cases.work("deepinfra", ask_next=False)} == {"gemini", "deepinfra"}
    plan = cases.plan(cases.Case(1), 0)
    batches = defaults.batches
    assert (plan.max_requests, plan.max_bytes, plan.max_attempts) == (
        batches.max_requests,
        batches.max_bytes,
        batches.max_attempts,
    )
    gemini = (defaults.gemini.enqueued_tokens, defaults.gemini.concurrent_batches)
    assert plan.limits["gemini"][:2] == gemini
    timer = (makespan.REPOSITORY / "deploy" / "systemd" / "batchgen@.timer").read_text("utf-8")
    assert f"OnCalendar=*:0/{plan.tick_seconds // 60}\n" in timer


@pytest.mark.parametrize("rows", [slow(makespan.mode_rows), makespan.chain_rows, slow(makespan.answer_rows)])
@pytest.mark.slow
def test_the_tables_have_a_cell_in_every_column(rows: Callable[..., Iterator[list[str]]]) -> None:
    found = list(rows({"201": cases.Case(201)}, 1))
    assert len({len(row) for row in found}) == 1
    assert all(all(row) for row in found)


def test_the_page_is_made_of_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = ["200", "1", "2"]
    text = makespan.table(["a", "b", "c"], iter([cells]))
    assert text == "| a | b | c |\n| --- | ---: | ---: |\n| 200 | 1 | 2 |\n"
    page = makespan.PAGE.read_text("utf-8")
    assert page.count(makespan.START) == page.count(makespan.END) == 1
    copy = tmp_path / "scale.md"
    copy.write_text(page, "utf-8")
    monkeypatch.setattr(makespan, "PAGE", copy)
    makespan.write(text)
    makespan.write(text)
    before, after = page.split(makespan.START)[0], page.split(makespan.END)[1]
    assert copy.read_text("utf-8") == f"{before}{makespan.START}{text}{makespan.END}{after}"
