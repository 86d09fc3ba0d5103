"""Test polls and listings that fail, or that do not name a job which exists."""

from __future__ import annotations

import pytest

from batchgen.emulator.faults import CallFault, Drop, Hang, Merge, Status
from tests.support.bench import GEMINI_KEY
from tests.support.fork_server import KILLED, Forks
from tests.support.invariants import ledger
from tests.support.provider_facts import PROVIDERS
from tests.support.scene import HOUR, MINUTE, Make, Scene, reach


@pytest.mark.fault(
    21,
    "polls fail: 503, dropped, no answer, 404 three times, 429",
    injected="answers to get",
    seen="status 75 each time; never lost, collected once",
)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_polls_that_fail_change_nothing(make_bench: Make, provider: str) -> None:
    scene = Scene.of(make_bench, 4)
    reach(scene, provider)
    faults = scene.bench.service.faults
    faults.add(CallFault(provider=provider, endpoint="get", action=Status(503), times=3))
    faults.add(CallFault(provider=provider, endpoint="get", action=Drop(), times=3))
    faults.add(CallFault(provider=provider, endpoint="get", action=Hang(), times=1))
    faults.add(CallFault(provider=provider, endpoint="get", action=Status(404, "Not found."), times=3))
    faults.add(CallFault(provider=provider, endpoint="get", action=Status(429, "Slow down."), times=1))
    codes = [scene.tick(HOUR) for _ in range(2)]
    patient = (scene.bench.root / "batchgen.toml").read_text("utf-8")
    scene.bench.configure(f"{patient}batches.http_timeout_seconds = 0.3\n")
    codes.append(scene.tick(HOUR))
    scene.bench.configure(patient)
    codes += [scene.tick(HOUR) for _ in range(4)]
    assert [result.code for result in codes] == [75] * 7
    assert "does not know it at the moment (3 times)" in codes[5].err
    assert scene.jobs(provider) == 1
    scene.finish_as_expected(jobs=3)


@pytest.mark.fault(
    22,
    "a job's own address answers 404 for two hours",
    injected="answers to get",
    seen="status 3, the job is lost, its rows are asked again",
)
def test_a_job_that_is_404_for_long_is_lost_and_asked_again(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 4)
    scene.tick()
    [job] = scene.bench.service.world.jobs
    scene.bench.service.faults.add(CallFault(endpoint="get", contains=job, action=Status(404, "Not found."), times=0))
    for after in (0, 50, 50):  # three 404 in 100 minutes do not suffice, nor do more answers in quick succession
        assert scene.tick(after * MINUTE).code == 75
    for _ in range(5):
        assert scene.tick(MINUTE).code == 75
    assert scene.jobs() == 1
    lost = scene.tick(20 * MINUTE)
    assert lost.code == 3
    assert f"the provider has lost the job batches/{job}; it is given up, and what it cost is unknown" in lost.err
    assert scene.batches() == [(1, 4, "lost"), (2, 2, "in_flight"), (2, 2, "in_flight")]
    assert scene.bench.status()["cost"]["reserved_usd"] > 0
    scene.finish_as_expected()


def test_a_job_began_when_it_was_first_seen_at_work(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 4)
    waits, works = ["BATCH_STATE_PENDING", HOUR], ["BATCH_STATE_RUNNING", 3 * HOUR]
    scene.bench.service.faults.job(provider="gemini", times=1, states=[waits, works])
    scene.tick()
    seen = []
    for _ in range(5):
        scene.tick(0.75 * HOUR)
        seen.append((scene.bench.service.world.now(), ledger(scene.bench).batches[0]["started_at"]))
    began = [started for _, started in seen]
    assert began[0] is None
    assert began[1:] == [pytest.approx(seen[1][0], abs=MINUTE)] * 4
    scene.tick(HOUR)
    first = ledger(scene.bench).batches[0]
    assert first["ended_at"] <= first["collected_at"] <= scene.bench.service.world.now()
    assert first["collected_at"] == pytest.approx(scene.bench.service.world.now(), abs=MINUTE)


def test_rare_answers_must_be_as_many_in_a_row(make_bench: Make) -> None:
    """The time alone does not suffice, and answers before the job was known again do not count."""
    scene = Scene.of(make_bench, 4, job_seconds=40 * HOUR)
    scene.tick()
    unknown = CallFault(endpoint="get", action=Status(404, "Not found."), times=4)
    scene.bench.service.faults.add(unknown)
    for _ in range(4):
        assert scene.tick(2.5 * HOUR).code == 75
    assert scene.tick().code == 0
    scene.bench.service.faults.add(unknown, unknown)
    for _ in range(4):
        assert scene.tick(2.5 * HOUR).code == 75
    assert scene.jobs() == 1
    assert scene.tick(1.0).code == 3
    assert [state for _, _, state in scene.batches()] == ["lost", "in_flight", "in_flight"]


def test_a_job_missing_from_a_listing_is_not_lost(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 5, most=1, job_seconds=2 * HOUR)
    scene.bench.service.faults.job(provider="gemini", times=2, unlisted_seconds=50 * HOUR)
    scene.tick()
    for _ in range(8):
        assert scene.tick(10 * MINUTE).code == 0
    assert scene.bench.service.world.seen("gemini", "list")
    scene.finish_as_expected(every=HOUR, jobs=15)


@pytest.mark.fault(
    3,
    "the listing that would find an unanswered create lacks jobs that are there",
    injected="listing",
    seen="it proves nothing as long as it lacks a batch in flight; nothing is bought twice",
)
def test_a_listing_that_lacks_a_batch_in_flight_says_nothing_of_others(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 4, most=2, job_seconds=2 * HOUR)
    faults = scene.bench.service.faults
    faults.add(CallFault(provider="gemini", endpoint="create", nth=2, action=Drop(), after_effect=True))
    faults.job(provider="gemini", times=2, unlisted_seconds=HOUR)
    assert scene.tick().code == 75
    for _ in range(5):
        result = scene.tick(10 * MINUTE)
        assert result.code == 75
        assert "the provider's list is not complete" in result.err
    assert scene.jobs() == 2
    scene.finish_as_expected(every=HOUR, jobs=6)


@pytest.mark.fault(
    22,
    "the key is another one than the job was made with",
    injected="environment",
    seen="status 3 naming the variable; nothing is asked, lost or bought",
)
def test_jobs_of_another_key_are_left_alone(make_bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene.of(make_bench, 4)
    scene.tick()
    asked = len(scene.bench.service.world.seen("gemini"))
    monkeypatch.setenv("GEMINI_API_KEY", "AIzaSy-some-other-key-0000000000000000000")
    for _ in range(7):
        result = scene.tick(HOUR)
        assert result.code == 3
        assert "was submitted with another key" in result.err
        assert "in GEMINI_API_KEY to collect it" in result.err
    assert scene.batches() == [(1, 4, "in_flight")]
    assert len(scene.bench.service.world.seen("gemini")) == asked
    assert scene.run("cancel").code == 0
    monkeypatch.setenv("GEMINI_API_KEY", GEMINI_KEY)
    scene.finish_as_expected(jobs=3)


# ---------------------------------------------------------------- a part of what a job did


def error_file_nowhere(scene: Scene) -> None:
    named = Merge({"error_file_id": "file-nowhere"})
    scene.bench.service.faults.add(CallFault(provider="together", endpoint="get", action=named, times=0))


@pytest.mark.fault(
    29,
    "Together names an error file that is not there",
    injected="the file's id",
    seen="nothing, where the output file answers every request",
)
def test_a_file_that_nobody_needs_is_not_waited_for(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 4)
    error_file_nowhere(scene)
    assert {result.code for result in scene.finish_as_expected(jobs=3)} == {0}


@pytest.mark.fault(
    29,
    "Together names an error file that is not there, and a row is missing",
    injected="the file's id, and a row of the other file",
    seen="status 75, after 6 h status 3; after 72 h the other rows are kept, the missing one is asked again",
)
def test_what_can_be_had_of_a_job_that_is_given_up_is_kept(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 4)
    reach(scene, "together")
    scene.bench.service.faults.rows("missing", provider="together", key=r"r1-000002\.r2\.answer\.a1")
    error_file_nowhere(scene)
    assert scene.tick(HOUR).code == 75
    assert scene.tick(7 * HOUR).code == 3
    assert scene.tick(66 * HOUR).code == 3
    scene.bench.service.faults.clear()
    scene.finish_as_expected()
    assert scene.batches(4) == [(1, 4, "lost"), (2, 1, "collected")]


def test_results_on_disk_outlive_their_job(make_bench: Make, forks: Forks) -> None:
    """A kill between the download and the settling; then the job is gone."""
    scene = Scene.of(make_bench, 4)
    reach(scene, "gemini")
    assert forks.run(scene.bench, crash="results_read").code == KILLED
    scene.bench.service.faults.add(CallFault(provider="gemini", endpoint="get", action=Status(404), times=0))
    for _ in range(5):
        scene.bench.service.world.advance(HOUR)
        scene.bench.run("collect", "--advance")
    assert scene.batches(3) == [(1, 4, "lost")]
    scene.bench.service.faults.clear()
    scene.finish_as_expected()
