"""Test faults between a planned batch and a batch in flight (1-5, 14-16).

Each test injects one fault at the local service and then runs ticks without a fault. The run must end as if there had
been no fault, and the ledger must name every job.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from batchgen.emulator.faults import Action, Body, CallFault, Delay, Drop, Empty, Hang, Html, LateCommit, Status, Unwrap
from tests.support.bench import Bench
from tests.support.fork_server import KILLED, Forks
from tests.support.invariants import (
    CONVERSATIONS,
    ROUNDS,
    Make,
    Watch,
    end,
    finished,
    ledger,
    met,
    posts,
    start,
    strikes,
    tick,
    until,
)
from tests.support.provider_facts import ANSWERERS, PROVIDERS
from tests.support.scene import ROUNDING_USD, Scene, bill, bought_again, built_again, spent

STEPS = 3


@pytest.fixture
def bench(expected: dict[str, bytes], make_bench: Make) -> Bench:
    return start(make_bench())


# ---------------------------------------------------------------- unclear answers, 1 to 5, 14, 15


@pytest.mark.fault(
    1,
    "killed after the intent, before the create call",
    injected="SIGKILL at the crash point",
    seen="status 75 while the batch is looked for; a second attempt after the grace period",
)
def test_1_killed_before_the_create_call(bench: Bench, forks: Forks, expected: dict[str, bytes]) -> None:
    """The intent is on disk, but the call was never made: the job is looked for in the grace period, then retried."""
    assert forks.run(bench, crash="intent_before_create").code == KILLED
    watch = Watch(bench)
    assert [batch["state"] for batch in watch.check().batches] == ["creating"]
    first = tick(bench)
    assert first.code == 75
    assert "Nothing is bought twice" in first.err
    assert tick(bench, 600).code == 75
    assert posts(bench) == 0
    assert tick(bench, 301).code == 0
    watch.check()
    assert [job.name[-3:] for job in bench.service.world.jobs_created()] == ["-a2"]
    assert strikes(bench) == {0}
    end(bench, expected, jobs=STEPS)


@pytest.mark.fault(
    1,
    "killed before the create call, and looked for only hours later",
    injected="SIGKILL at the crash point, clock",
    seen="one listing is never enough: a second one, a third of the grace period later, before it is tried again",
)
def test_1_one_listing_is_not_enough(bench: Bench, forks: Forks, expected: dict[str, bytes]) -> None:
    assert forks.run(bench, crash="intent_before_create").code == KILLED
    assert [tick(bench, after).code for after in (7200, 10, 200)] == [75, 75, 75]
    assert posts(bench) == 0
    assert tick(bench, 100).code == 0
    end(bench, expected, jobs=STEPS)


def test_however_short_the_patience_two_listings_must_lack_the_job(bench: Bench, expected: dict[str, bytes]) -> None:
    start(bench, "reconcile_grace_seconds = 0\n")
    bench.service.faults.add(CallFault(provider="gemini", endpoint="create", action=Drop()))
    assert [tick(bench, 60).code for _ in range(3)] == [75, 75, 0]
    end(bench, expected, jobs=STEPS)


@pytest.mark.fault(
    3,
    "the answer to a create is lost, and four jobs of its name are there",
    injected="the same create call from elsewhere",
    seen="the oldest is adopted; the others are named, cancelled if they have not ended, and what they cost is booked",
)
@pytest.mark.parametrize("job_seconds", [0.0, 7200.0], ids=["ended", "at work"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_of_several_jobs_of_one_name_the_oldest_is_taken(
    provider: str, job_seconds: float, expected: dict[str, bytes], make_bench: Make
) -> None:
    bench = start(make_bench(job_seconds=job_seconds), "reconcile_grace_seconds = 90000\n")
    bench.service.faults.add(CallFault(provider=provider, endpoint="create", action=Drop(), after_effect=True))
    until(bench, 75, every=7300)
    row = ledger(bench).batches[-1]
    twins = bought_again(bench, row)
    if not job_seconds:
        bench.service.step()
    said = tick(bench, 10).err
    done = "will be cancelled" if job_seconds else "has ended"
    assert all(f"bought twice; the later job {twin} {done}" in said for twin in twins)
    adopted = next(one for one in ledger(bench).batches if one["batch"] == row["batch"])
    assert adopted["remote_id"] not in {None, *twins}
    assert adopted["submitted_at"] == row["intent_at"]
    assert len(bench.service.world.seen(provider, "cancel")) == (3 if job_seconds else 0)
    bench.ticks(seconds=7300)
    finished(bench)
    assert bench.files() == expected
    entered = {one["remote_id"]: one["state"] for one in ledger(bench).batches if ".duplicate" in one["name"]}
    assert entered == dict.fromkeys(twins, "collected")
    total = bench.run("receipt", "--json").json["total"]
    assert total["superseded"] == (0 if job_seconds else 3 * CONVERSATIONS)
    assert bench.status()["cost"]["reserved_usd"] == 0
    assert abs(spent(bench) - bill(bench)) < ROUNDING_USD


@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_was_bought_twice_is_reserved_and_found_again_by_rebuild(provider: str, make_bench: Make) -> None:
    """The store is lost while the duplicates are in flight, or after they were booked."""
    scene = Scene(start(make_bench(), "reconcile_grace_seconds = 90000\n"))
    bench = scene.bench
    bench.service.faults.add(CallFault(provider=provider, endpoint="create", action=Drop(), after_effect=True))
    until(bench, 75)
    row = ledger(bench).batches[-1]
    reserved = bench.status()["cost"]["reserved_usd"]
    bought_again(bench, row)
    bench.service.faults.add(CallFault(provider=provider, endpoint="get", action=Status(503), times=0))
    assert tick(bench, 10).code == 75
    for _ in range(2):
        assert bench.status()["cost"]["reserved_usd"] == pytest.approx(4 * reserved, rel=0.5)
        assert len([one for one in bench.status()["batches"] if ".duplicate" in one["batch"]]) == 3
        (bench.root / "data" / "batchgen.sqlite").unlink()
        assert bench.run("rebuild").code == 0
    bench.service.faults.clear()
    scene.finish()
    assert bench.run("receipt", "--json").json["total"]["superseded"] == 3 * CONVERSATIONS
    built_again(scene)


def test_a_kill_when_a_batch_is_adopted_loses_no_duplicate(bench: Bench, forks: Forks) -> None:
    bench.service.faults.add(CallFault(provider="gemini", endpoint="create", action=Drop(), after_effect=True))
    until(bench, 75)
    twins = bought_again(bench, ledger(bench).batches[-1])
    assert forks.run(bench, crash="adopted").code == KILLED
    bench.ticks(seconds=60)
    finished(bench)
    assert {one["remote_id"] for one in ledger(bench).batches if ".duplicate" in one["name"]} == {*twins}
    assert abs(spent(bench) - bill(bench)) < ROUNDING_USD


@pytest.mark.fault(
    2,
    "killed after the create, before its id was written",
    injected="SIGKILL at the crash point, at both providers",
    seen="the next tick adopts the batch: one batch, one create call",
)
@pytest.mark.parametrize("provider", ANSWERERS)
def test_2_killed_before_the_id_was_recorded(
    provider: str, bench: Bench, forks: Forks, expected: dict[str, bytes]
) -> None:
    """The job was bought but its id is not stored: the next tick finds it by its lookup key and buys nothing."""
    for asked in ("gemini", provider):
        assert forks.run(bench, crash="created_before_recorded").code == KILLED
        before = posts(bench, asked)
        assert tick(bench).code == 0
        assert posts(bench, asked) == before
    end(bench, expected, jobs=STEPS)


UNCLEAR: dict[str, Action] = {
    "dropped": Drop(),
    "reset": Drop(reset=True),
    "408": Status(408),
    "500": Status(500),
    "503": Status(503),
    "html": Html(),
    "empty": Empty(),
    "no_json": Body(text="{", content_type="application/json"),
    "list": Body(json=[]),
}


@pytest.mark.fault(
    3,
    "create: the batch exists and the answer says nothing of it",
    injected="connection dropped or reset, 408, 500, 503, HTML, no JSON, empty",
    seen="status 75; the next tick adopts the batch",
)
@pytest.mark.parametrize("provider", ANSWERERS)
@pytest.mark.parametrize("name", UNCLEAR)
def test_3_the_answer_to_a_create_is_lost(name: str, provider: str, bench: Bench, expected: dict[str, bytes]) -> None:
    """The job exists but the response is lost: exit 75, and the next tick adopts it, at both providers."""
    for asked in ("gemini", provider):
        fault = CallFault(provider=asked, endpoint="create", action=UNCLEAR[name], after_effect=True)
        bench.service.faults.add(fault)
    watch = Watch(bench)
    lost = tick(bench)
    assert lost.code == 75
    assert "The next tick looks for it" in lost.err
    watch.check(said=lost[1:])
    assert [batch["state"] for batch in ledger(bench).batches] == ["creating"]
    assert tick(bench).code == 75  # adopted and collected; then the same fault at the other provider
    watch.check()
    end(bench, expected, jobs=STEPS)
    assert len(bench.service.world.posts) == STEPS


@pytest.mark.fault(
    4,
    "create: no answer, and the batch comes into being three minutes later",
    injected="hang, late commit",
    seen="status 75; nothing is bought again within the grace period; adopted",
)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_4_the_job_appears_minutes_later(provider: str, expected: dict[str, bytes], make_bench: Make) -> None:
    """A read time-out, and the job exists only three minutes later: the tick waits, then adopts it."""
    bench = start(make_bench(), "http_timeout_seconds = 0.5\n")
    late = LateCommit(seconds=180, then=Hang())
    bench.service.faults.add(CallFault(provider=provider, endpoint="create", action=late))
    assert met(bench, 1).code == 75
    bench.configure(ROUNDS)
    before = posts(bench, provider)
    assert [tick(bench, 80).code for _ in range(2)] == [75, 75]
    assert ledger(bench).batches[-1]["empty_listings"] == 2
    assert bench.run("collect").code == 75
    bench.service.world.advance(80)
    assert bench.run("collect").code == 0
    assert ledger(bench).batches[-1]["empty_listings"] == 0
    assert posts(bench, provider) == before
    end(bench, expected, jobs=STEPS)


@pytest.mark.fault(
    5,
    "create: 503 three times",
    injected="status",
    seen="at most one create call a tick; no attempt is counted",
)
def test_5_unavailable_three_times(bench: Bench, expected: dict[str, bytes]) -> None:
    """A job may exist in spite of a 503: at most one POST in a tick, no retry by the SDK, and no attempt counted."""
    bench.service.faults.add(CallFault(provider="gemini", endpoint="create", action=Status(503), times=3))
    for _ in range(20):
        before = posts(bench)
        result = tick(bench, 301)
        assert posts(bench) - before <= 1
        assert strikes(bench) == {0}
        if result.code == 0:
            break
        assert result.code == 75
    assert posts(bench) == 4
    assert bench.service.world.batches_bought == 1
    end(bench, expected, jobs=STEPS)


@pytest.mark.fault(
    14,
    "Together: the job itself in place of one in a wrapper",
    injected="body",
    seen="the job's id is clear enough; nothing to see",
)
def test_14_a_job_without_its_wrapper(bench: Bench, expected: dict[str, bytes]) -> None:
    bench.service.faults.add(CallFault(provider="together", endpoint="create", action=Unwrap("job"), times=0))
    assert {result.code for result in bench.ticks()} == {0}
    end(bench, expected, jobs=STEPS)


@pytest.mark.fault(
    14,
    "Together: 200 with a warning in place of a job",
    injected="body",
    seen="status 75 with the warning; looked for",
)
def test_14_an_answer_without_a_job(bench: Bench, expected: dict[str, bytes]) -> None:
    """Together may answer 200 with a warning and no job: the create is unclear, and the warning is logged."""
    answer = Body(json={"job": None, "warning": "quota is nearly used up"})
    bench.service.faults.add(CallFault(provider="together", endpoint="create", action=answer))
    assert tick(bench).code == 0
    unclear = tick(bench)
    assert unclear.code == 75
    assert "quota is nearly used up" in unclear.err
    assert tick(bench, 1).code == 75
    assert tick(bench, 901).code == 0
    end(bench, expected, jobs=STEPS)
    assert posts(bench, "together") == 2


LISTING_REFUSED = pytest.mark.fault(
    3,
    "the listing that would find an unanswered create is refused",
    injected="400, 403, 404, 500 in place of the listing",
    seen="status 75, or 2 for the key; it stays unclear, nothing is bought",
)
LISTING_PAGE = pytest.mark.fault(
    15,
    "the page of a proxy in place of a listing",
    injected="HTML with status 200",
    seen="status 75; nothing is believed, and nothing is bought on its word",
)


UNREADABLE: list[tuple[Action, int]] = [
    (Status(400, "no"), 75),
    (Status(403, "no"), 2),
    (Status(404, "no"), 75),
    (Status(500), 75),
    (Html(), 75),
]


@LISTING_REFUSED
@LISTING_PAGE
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_listing_that_cannot_be_read_says_nothing_of_the_job(
    provider: str, bench: Bench, expected: dict[str, bytes]
) -> None:
    faults = bench.service.faults
    faults.add(CallFault(provider=provider, endpoint="create", action=Drop(), after_effect=True))
    until(bench, 75)
    before = posts(bench, provider)
    for action, code in UNREADABLE:
        faults.clear()
        faults.add(CallFault(provider=provider, endpoint="list", action=action, times=0))
        for _ in range(2):
            refused = tick(bench, 2000)
            assert (refused.code, action) == (code, action)
            assert "Traceback" not in refused.err
        unclear = ledger(bench).batches[-1]
        assert (unclear["state"], unclear["empty_listings"], action) == ("creating", 0, action)
    assert posts(bench, provider) == before
    faults.clear()
    end(bench, expected, jobs=STEPS)


# ---------------------------------------------------------------- overlap, 16


@pytest.mark.fault(
    16,
    "several commands at the same time",
    injected="three processes",
    seen="one works, the others say so in one line and leave with 0; `status` works",
)
def test_16_commands_at_the_same_time(bench: Bench, expected: dict[str, bytes]) -> None:
    """One works; the others print one line that they did nothing, and exit with 0."""
    world = bench.service.world
    bench.service.faults.add(CallFault(endpoint="create", action=Delay(60)))
    with ThreadPoolExecutor() as pool:
        worker = pool.submit(bench.spawn, "submit", "--stage", "question")
        with world.wake:
            assert world.wake.wait_for(lambda: world.jobs, timeout=60)
        for locked in [bench.run("collect", "--advance"), bench.run("submit", "--stage", "question")]:
            assert (locked.code, locked.out, locked.err.count("\n")) == (0, "", 1)
            assert "Another command is at work" in locked.err
        assert bench.status()["batches"][0]["state"] == "creating"  # `status` needs no lock
        bench.service.faults.release()
        worked = worker.result()
    assert worked.returncode == 0
    assert posts(bench) == 1
    end(bench, expected, jobs=STEPS)
