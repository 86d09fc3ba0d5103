"""Test jobs that wait long, fail, expire or are cancelled: jobs created, rows kept, messages, final files."""

from __future__ import annotations

import re

import pytest

from batchgen.emulator.faults import CallFault, Html
from tests.support.invariants import ledger
from tests.support.provider_facts import POSITION
from tests.support.scene import HOUR, MINUTE, Make, Scene, reach, spent

# ---------------------------------------------------------------- waiting


@pytest.mark.fault(
    17,
    "a job waits for 60 h and then expires",
    injected="clock and state",
    seen="a warning after 24 h, nothing bought before the end, then batches half as large",
)
def test_pending_for_60_hours_then_expired(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 4)
    faults = scene.bench.service.faults
    faults.job(provider="gemini", times=1, states=[["BATCH_STATE_PENDING", 60 * HOUR]], end="BATCH_STATE_EXPIRED")
    scene.tick()
    assert scene.tick(23 * HOUR) == (0, "", "")
    stale = scene.tick(2 * HOUR)
    assert stale.code == 0
    assert "in flight for 25 h" in stale.err
    assert scene.tick(33 * HOUR).code == 0
    assert scene.jobs() == 1  # no second job while the first may still end
    assert scene.tick(3 * HOUR).code == 75  # nor at the first poll that finds the job ended without results
    assert scene.tick().code == 0
    assert scene.batches() == [(1, 4, "collected"), (2, 2, "in_flight"), (2, 2, "in_flight")]  # half as large
    scene.finish_as_expected()


@pytest.mark.fault(
    17, "jobs expire again and again", injected="state", seen="three attempts, then status 3 and data/rejected.jsonl"
)
def test_expired_at_every_attempt_ends(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 4)
    scene.bench.service.faults.job(key=r"question", end="BATCH_STATE_EXPIRED")
    codes = [result.code for result in scene.finish(every=16 * MINUTE)]
    assert [(attempt, requests) for attempt, requests, _ in scene.batches()] == [(1, 4), (2, 2), (2, 2)] + [(3, 1)] * 4
    assert codes[-1] == 3  # the step stops and reports it
    rejected = scene.bench.rows("rejected.jsonl")
    assert [row["id"] for row in rejected] == [f"r1-00000{number}" for number in range(1, 5)]
    assert {(row["round"], row["stage"], row["reason"], row["detail"], row["attempts"]) for row in rejected} == {
        (2, "question", "missing", "the job expired", 3)
    }
    assert scene.tick() == (0, "", "")
    assert scene.jobs() == 7


KEPT = pytest.mark.fault(
    18,
    "a job expires, fails, or is cancelled, with 40 % of its rows done",
    injected="state and result file",
    seen="those rows are kept and booked, only the others are asked again",
)
NAMED_LATE = pytest.mark.fault(
    18,
    "a job has expired or was cancelled by its provider, and what it did is named a little later",
    injected="state, and a file id that is missing at first",
    seen="status 75 at the first look; those rows are kept, only the others are asked again",
)
IN_PART = pytest.mark.fault(
    20, "a job succeeds in part", injected="state", seen="like a success; what is missing is asked again"
)


# (provider, final state, share of answered rows, seconds until the job names its results)
@pytest.mark.parametrize(
    ("provider", "end", "share", "late"),
    [
        pytest.param("gemini", "BATCH_STATE_EXPIRED", 0.4, 0.0, marks=KEPT),
        pytest.param("gemini", "BATCH_STATE_FAILED", 0.4, 0.0, marks=KEPT),
        pytest.param("gemini", "BATCH_STATE_CANCELLED", 0.4, 0.0, marks=KEPT),
        pytest.param("gemini", "JOB_STATE_PARTIALLY_SUCCEEDED", 0.4, 0.0, marks=[KEPT, IN_PART]),
        pytest.param("together", "EXPIRED", 0.4, 0.0, marks=KEPT),
        pytest.param("together", "FAILED", 0.4, 0.0, marks=KEPT),
        pytest.param("together", "CANCELLED", 0.4, 0.0, marks=KEPT),
        pytest.param("together", "EXPIRED", 0.4, MINUTE, marks=NAMED_LATE),
        pytest.param("together", "CANCELLED", 0.4, MINUTE, marks=NAMED_LATE),
        pytest.param("gemini", "BATCH_STATE_CANCELLED", 1.0, MINUTE, marks=NAMED_LATE),
        pytest.param("deepinfra", "expired", 0.4, 0.0, marks=KEPT),  # "failed" means that no row was begun
        pytest.param("deepinfra", "cancelled", 0.4, 0.0, marks=KEPT),
        pytest.param("deepinfra", "expired", 0.4, MINUTE, marks=NAMED_LATE),
        pytest.param("deepinfra", "cancelled", 0.4, MINUTE, marks=NAMED_LATE),
    ],
)
def test_what_an_unfinished_job_did_is_kept(
    make_bench: Make, provider: str, end: str, share: float, late: float
) -> None:
    scene = Scene.of(make_bench, 5)
    scene.bench.service.faults.job(provider=provider, times=1, end=end, share=share, output_after_seconds=late)
    reach(scene, provider)
    before = spent(scene.bench)
    if late:
        first = scene.tick()
        assert first.code == 75
        assert f"has ended ({end.replace('BATCH', 'JOB')}), but names no results" in first.err
        assert spent(scene.bench) == before
    assert scene.tick(2 * late).code == 0
    assert spent(scene.bench) > before
    again = [] if share == 1 else [(2, 2), (2, 1)]
    assert [part[:2] for part in scene.batches(POSITION[provider])] == [(1, 5), *again]
    assert not any(step["rejected"] for step in scene.bench.status()["steps"])
    scene.finish_as_expected()


@pytest.mark.fault(
    19,
    "a state nobody knows, then none at all",
    injected="state",
    seen="a warning at each tick, status 3 after 6 h, no second job; collected when it says more",
)
@pytest.mark.parametrize(
    ("provider", "odd"), [("gemini", "BATCH_STATE_FOO"), ("together", "DREAMING"), ("deepinfra", "dreaming")]
)
def test_an_unknown_or_missing_state_is_polled_until_it_says_more(make_bench: Make, provider: str, odd: str) -> None:
    scene = Scene.of(make_bench, 4)
    states = [[odd, 3 * HOUR], [None, 9 * HOUR]]
    scene.bench.service.faults.job(provider=provider, times=1, states=states)
    reach(scene, provider)
    unknown = scene.tick(1 * HOUR)
    assert unknown.code == 0
    assert re.search(
        rf"unknown state '(JOB_STATE_)?{odd.removeprefix('BATCH_STATE_')}'; it stays in flight", unknown.err
    )
    missing = scene.tick(4 * HOUR)
    assert missing.code == 0
    assert "no state at all; it stays in flight" in missing.err
    alarm = scene.tick(2 * HOUR)
    assert alarm.code == 3
    assert "no state at all, 7 h after it was submitted" in alarm.err
    assert "batchgen cancel" in alarm.err
    bought = scene.jobs(provider)
    assert scene.tick(6 * HOUR).code == 0
    assert bought == 1
    scene.finish_as_expected()


def test_cancelling_is_no_end(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 5, job_seconds=100.0)
    for after in (0, 100):
        scene.tick(after)
    scene.bench.service.world.advance(60)
    assert scene.run("cancel").out == "1 batch: cancellation asked for.\n"
    scene.tick(5)
    assert scene.batches(4) == [(1, 5, "in_flight")]
    assert scene.bench.status()["batches"][-1]["remote_state"] == "CANCELING"
    scene.tick(15)
    assert [part[:2] for part in scene.batches(4)] == [(1, 5), (2, 2), (2, 1)]  # two rows were answered by then
    scene.finish_as_expected()


@pytest.mark.parametrize(("error", "code"), [("models/x is not found", 5), ("RESOURCE_EXHAUSTED", 8)])
def test_a_job_that_did_some_of_its_work_was_not_refused_as_a_whole(make_bench: Make, error: str, code: int) -> None:
    """Its error about the model or a quota causes no hold: the missing rows failed and are retried."""
    scene = Scene.of(make_bench, 8)
    said = {"code": code, "message": error}
    scene.bench.service.faults.job(provider="gemini", times=1, end="BATCH_STATE_FAILED", share=0.5, error=said)
    scene.tick()
    assert scene.tick().code == 0
    assert scene.bench.status()["waiting"] == []
    first, *again = scene.batches()
    assert first == (1, 8, "collected")
    assert {attempt for attempt, _, _ in again} == {2}
    assert 0 < sum(requests for _, requests, _ in again) < 8
    scene.finish()


# ---------------------------------------------------------------- failed


NOT_SERVED = "models/gemini-2.5-flash-lite is not found for API version v1beta"
REASON_DROPPED = pytest.mark.fault(
    23,
    "a failed job whose reason the SDK drops",
    injected="operation error",
    seen="the reason is shown and recorded, the rows are asked again",
)
MODEL_GONE = pytest.mark.fault(
    23,
    "a job fails because the model is gone",
    injected="operation error",
    seen="status 3, one job, nothing more is sent until `retry`",
)


# (code and message of the operation, exit status of the next tick, its message, jobs created, failed attempts)
@pytest.mark.parametrize(
    ("code", "message", "status", "words", "jobs", "counted"),
    [
        pytest.param(13, "The quokka tripped.", 0, "code 13: The quokka tripped.", 3, 1, marks=REASON_DROPPED),
        pytest.param(5, NOT_SERVED, 3, "gemini does not serve gemini-2.5-flash-lite", 1, 0, marks=MODEL_GONE),
        (8, "Resource has been exhausted (e.g. check quota).", 75, "Resource has been exhausted", 1, 0),
    ],
    ids=["internal error", "model", "quota"],
)
def test_a_job_that_failed(  # noqa: PLR0913, PLR0917 - a row of the table
    make_bench: Make, code: int, message: str, status: int, words: str, jobs: int, counted: int
) -> None:
    scene = Scene.of(make_bench, 4)
    error = {"code": code, "message": message}
    scene.bench.service.faults.job(times=1, end="BATCH_STATE_FAILED", error=error)
    scene.tick()
    for after in (0, HOUR, HOUR) if status == 3 else (0,):
        result = scene.tick(after)
        assert result.code == status
        assert words in result.err
    assert scene.jobs() == jobs
    assert ledger(scene.bench).batches[0]["error"] == f"code {code}: {message}"
    assert {row["failed_attempts"] for row in ledger(scene.bench).conversations} == {counted}
    if status == 3:
        assert "1 halt lifted" in scene.run("retry").out
    scene.finish_as_expected()


# ---------------------------------------------------------------- where results are


@pytest.mark.fault(
    24,
    "a success without results, which then stand in one of three places",
    injected="operation",
    seen="status 75 until they are there; the same files",
)
@pytest.mark.parametrize("output", ["response", "metadata", "inline"])
def test_results_are_found_wherever_they_are_and_whenever_they_come(make_bench: Make, output: str) -> None:
    scene = Scene.of(make_bench, 4)
    scene.bench.service.faults.job(provider="gemini", output=output, output_after_seconds=1800.0)
    scene.tick()
    early = scene.tick()
    assert early.code == 75
    assert "has ended (JOB_STATE_SUCCEEDED), but names no results" in early.err
    scene.finish_as_expected(every=20 * MINUTE, jobs=3)


@pytest.mark.fault(
    24,
    "a success whose results never come",
    injected="operation",
    seen="status 75, after 6 h status 3, after 72 h lost and asked again",
)
def test_results_that_never_come_call_somebody_and_are_given_up_in_the_end(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 4)
    scene.bench.service.faults.job(provider="gemini", times=1, output="none")
    scene.tick()
    assert scene.tick().code == 75
    assert scene.tick(5 * HOUR).code == 75
    alarm = scene.tick(2 * HOUR)
    assert alarm.code == 3
    assert "It ended 7 h ago" in alarm.err
    assert "in the provider's console" in alarm.err
    assert scene.jobs() == 1
    lost = scene.tick(66 * HOUR)
    assert lost.code == 3
    assert "what it cost is unknown" in lost.err
    assert [part[0] for part in scene.batches()] == [1, 2, 2]
    scene.finish_as_expected()


@pytest.mark.fault(
    24,
    "the results cannot be read when the first tick for days runs, or the clock has jumped",
    injected="a page in place of the file, four days between two ticks",
    seen="status 3; nothing is asked again before the user was told for 66 h",
)
def test_a_break_of_days_is_no_time_in_which_results_did_not_come(make_bench: Make) -> None:
    """A laptop sleeps for four days, or the clock jumps: one more download that fails does not give the job up."""
    scene = Scene.of(make_bench, 4)
    page = CallFault(provider="gemini", endpoint="download", action=Html(200), times=0)
    scene.bench.service.faults.add(page)
    scene.tick()
    assert scene.tick().code == 75
    assert scene.tick(4 * 24 * HOUR).code == 3
    assert scene.tick(65 * HOUR).code == 3
    assert scene.jobs() == 1
    scene.bench.service.faults.clear()
    scene.finish_as_expected(jobs=3)


@pytest.mark.fault(
    24,
    "a job succeeds, runs on for days, and succeeds again",
    injected="states; results that are named hours after the end",
    seen="status 75; only the last end counts",
)
def test_an_end_that_was_shown_too_early_is_forgotten(make_bench: Make) -> None:
    """SUCCEEDED, then RUNNING for days, then really ended, with results that are named a little later."""
    scene = Scene.of(make_bench, 4)
    states = ["BATCH_STATE_SUCCEEDED", ["BATCH_STATE_RUNNING", 80 * HOUR]]
    scene.bench.service.faults.job(provider="gemini", times=1, states=states, output_after_seconds=82 * HOUR)
    scene.tick()
    assert scene.tick().code == 75
    assert scene.tick(MINUTE).code == 0
    assert scene.tick(79 * HOUR).code == 0
    assert scene.tick(90 * MINUTE).code == 75  # ended, and the results are not named yet
    scene.finish_as_expected(jobs=3)
