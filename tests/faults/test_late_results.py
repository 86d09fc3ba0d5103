"""Test jobs that end after they were cancelled or given up: results are kept or booked, and not paid for twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from batchgen.emulator.faults import Body, CallFault, Drop, Html, Status, Truncate
from tests.support.fork_server import KILLED, Forks
from tests.support.invariants import ledger, undisturbed
from tests.support.provider_facts import OUTPUT_FILE, PROVIDERS
from tests.support.scene import HOUR, MINUTE, Make, Scene, bought_again, built_again, reach, spent

if TYPE_CHECKING:
    from tests.support.bench import Bench


def cancelled_at_60_seconds(make_bench: Make, how: str) -> Scene:
    scene = Scene.of(make_bench, 5, job_seconds=100.0)
    scene.bench.service.faults.job(provider="gemini", times=1, cancel=how)
    scene.tick()
    scene.bench.service.world.advance(60)
    assert scene.run("cancel").code == 0
    return scene


@pytest.mark.fault(
    35,
    "a cancelled job ends as a success with part of its rows",
    injected="cancel",
    seen="its rows are kept, only the others are asked again",
)
def test_a_cancelled_job_that_succeeds_with_the_rows_it_had(make_bench: Make) -> None:
    scene = cancelled_at_60_seconds(make_bench, "succeeded")
    again = scene.run("cancel")  # the job has ended by now, so the second cancel does nothing
    assert (again.code, again.out) == (0, "0 batches: cancellation asked for.\n")
    result = scene.tick(5)
    assert "2 of 5 accepted (2 accepted, 3 cancelled)" in result.err
    assert [part[:2] for part in scene.batches()] == [(1, 5), (2, 2), (2, 1)]
    scene.finish_as_expected()


@pytest.mark.fault(
    35,
    "a cancelled job delivers everything, at once or after it said it was cancelled",
    injected="cancel",
    seen="everything is kept, nothing bought again",
)
@pytest.mark.parametrize("how", ["ignored", "late"])
def test_a_cancelled_job_that_delivers_everything_is_not_bought_again(make_bench: Make, how: str) -> None:
    scene = cancelled_at_60_seconds(make_bench, how)
    for _ in range(4):
        scene.tick(30)
    scene.finish_as_expected(jobs=3)


def test_a_cancelled_job_without_results_is_asked_again_after_the_grace_period(make_bench: Make) -> None:
    scene = cancelled_at_60_seconds(make_bench, "cancelled")
    assert scene.tick().code == 75
    assert scene.tick(16 * MINUTE).code == 0
    assert [part[:2] for part in scene.batches()] == [(1, 5), (2, 2), (2, 2), (2, 1)]
    scene.finish()


def cancelled_for(
    make_bench: Make, seconds: float, provider: str = "gemini", toml: str = "", conversations: int = 5
) -> Scene:
    """A job that a tick has found cancelled, and that has all results this many seconds later."""
    scene = Scene.of(make_bench, conversations, toml, job_seconds=100.0)
    scene.bench.service.faults.job(provider=provider, times=1, cancel="late", late_seconds=seconds)
    for after in (0,) if provider == "gemini" else (0, 110):
        scene.tick(after)
    scene.bench.service.world.advance(60)
    assert scene.run("cancel").code == 0
    scene.run("collect")
    return scene


@pytest.mark.fault(
    35,
    "a job was cancelled, and the store is lost",
    injected="the store deleted after `cancel`; results ten minutes later",
    seen="after `rebuild` its requests still wait for the grace period; its texts are accepted",
)
def test_a_rebuilt_store_awaits_what_a_cancelled_job_may_deliver(make_bench: Make) -> None:
    """It gets the grace period before its requests are sent again."""
    scene = cancelled_for(make_bench, 10 * MINUTE)
    (scene.bench.root / "data" / "batchgen.sqlite").unlink()
    assert scene.bench.run("rebuild").code == 0
    for _ in range(3):
        scene.tick(MINUTE)
    assert scene.jobs() == 1
    scene.finish_as_expected(jobs=3)


def collects(scene: Scene, after: float) -> str:
    """The log of a tick this many seconds later."""
    scene.bench.service.world.advance(after)
    return scene.run("collect").err


@pytest.mark.fault(
    35,
    "a cancelled job delivers hours after its conversations were given back",
    injected="cancel",
    seen="where nobody was asked again its texts are accepted",
)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_a_cancelled_job_delivers_hours_later_is_accepted(make_bench: Make, provider: str) -> None:
    scene = cancelled_for(make_bench, 5 * HOUR, provider)
    position, files = (3, 0) if provider == "gemini" else (4, 1)
    assert "0 of 5 accepted (5 cancelled)" in collects(scene, 16 * MINUTE)
    assert f"{files} input files" in scene.run("clean").out.replace("1 input file ", "1 input files ")
    assert "accepted" not in collects(scene, HOUR)
    assert "5 of 5 accepted (5 accepted)" in collects(scene, 5 * HOUR)
    assert scene.batches(position) == [(1, 5, "collected")]
    assert not {row["failed_attempts"] for row in ledger(scene.bench).conversations} - {0}
    scene.finish_as_expected(jobs=3)


@pytest.mark.fault(
    35,
    "such a job delivers when some of its conversations were asked again",
    injected="cancel",
    seen="of those its texts are superseded, and booked",
)
def test_what_a_cancelled_job_delivers_for_conversations_asked_again_is_superseded(make_bench: Make) -> None:
    scene = cancelled_for(make_bench, 5 * HOUR, toml="gemini.concurrent_batches = 1")
    scene.tick(16 * MINUTE)  # no more than one batch may be in flight
    assert [part[:2] for part in scene.batches()] == [(1, 5), (2, 2)]
    paid = spent(scene.bench)
    said = collects(scene, 5 * HOUR)
    assert "3 of 5 accepted (3 accepted, 2 superseded)" in said
    assert spent(scene.bench) > paid
    scene.finish_as_expected()
    built_again(scene)


@pytest.mark.parametrize("point", ["result_half_written", "store_before_commit", "ending_written", "batch_settled"])
def test_a_kill_while_late_results_are_booked(point: str, make_bench: Make, forks: Forks) -> None:
    scene = cancelled_for(make_bench, 5 * HOUR)
    collects(scene, 16 * MINUTE)
    scene.bench.service.world.advance(5 * HOUR)
    assert forks.run(scene.bench, crash=point).code == KILLED
    scene.watch.check()
    scene.finish_as_expected(jobs=3)
    built_again(scene)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_store_that_was_rebuilt_awaits_what_the_run_awaited(make_bench: Make, provider: str) -> None:
    scene = cancelled_for(make_bench, 5 * HOUR, provider)
    collects(scene, 16 * MINUTE)
    (scene.bench.root / "data" / "batchgen.sqlite").unlink()
    assert scene.run("rebuild").code == 0
    others = 0 if provider == "gemini" else 1
    assert scene.run("clean").out.startswith(f"{others} input file")  # the job of this batch needs its input file
    assert "5 of 5 accepted (5 accepted)" in collects(scene, 5 * HOUR)
    scene.finish_as_expected(jobs=3)


def test_a_store_that_was_rebuilt_looks_for_jobs_that_were_given_up(make_bench: Make) -> None:
    scene = hidden(make_bench, 0.0)
    (scene.bench.root / "data" / "batchgen.sqlite").unlink()
    assert scene.bench.run("rebuild").code == 0
    scene.bench.service.world.advance(HOUR)
    assert "was abandoned, but its job batches/" in scene.bench.run("collect", "--advance").err
    scene.duplicates = 0
    scene.finish_as_expected()


def test_a_store_that_is_lost_with_a_kill_while_late_results_are_booked(make_bench: Make, forks: Forks) -> None:
    """Two conversations were retried, and the ending does not show it yet: their texts must not be accepted twice."""
    expected = undisturbed(make_bench, 5)
    scene = cancelled_for(make_bench, 5 * HOUR, toml="gemini.concurrent_batches = 1")
    scene.tick(16 * MINUTE)
    assert "2 of 2 accepted" in collects(scene, 2 * MINUTE)
    scene.bench.service.world.advance(5 * HOUR)
    assert forks.run(scene.bench, "collect", crash="result_file_written").code == KILLED
    (scene.bench.root / "data" / "batchgen.sqlite").unlink()
    assert scene.bench.run("rebuild").code == 0
    scene.bench.ticks(seconds=HOUR)
    assert scene.bench.files() == expected
    assert scene.bench.run("verify").code == 0


@pytest.mark.parametrize("output", ["both", "inline"])
def test_late_results_that_cannot_be_had_at_once_are_asked_for_again(make_bench: Make, output: Any) -> None:
    """From four awaited batches on, one listing tells which job has changed. It does not contain inline results."""
    scene = Scene.of(make_bench, 4, most=1, job_seconds=100.0)
    late = {"cancel": "late", "late_seconds": 5 * HOUR, "output": output, "output_after_seconds": HOUR}
    scene.bench.service.faults.job(provider="gemini", times=4, **late)
    scene.tick()
    assert scene.run("cancel").code == 0
    scene.run("collect")
    assert collects(scene, 16 * MINUTE).count("0 of 1 accepted") == 4
    scene.bench.service.faults.add(CallFault(endpoint="download", action=Status(503), times=12))
    assert "accepted" not in collects(scene, 5 * HOUR)  # a success that names no results yet
    said = [collects(scene, HOUR) for _ in range(2)]
    assert "".join(said).count("1 of 1 accepted") == 4
    scene.finish()
    assert scene.jobs("gemini") == 8


def test_a_lost_job_that_is_found_again_has_its_texts_accepted(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 4)
    scene.tick()
    [job] = scene.bench.service.world.jobs
    scene.bench.service.faults.add(CallFault(endpoint="get", contains=job, action=Status(404, "Not found."), times=6))
    said = [collects(scene, 30 * MINUTE) for _ in range(7)]
    assert "has lost the job" in said[4]
    assert "4 of 4 accepted" in "".join(said[5:])
    scene.finish_as_expected(jobs=3)
    built_again(scene)


def hidden(make_bench: Make, job_seconds: float, seconds: float = HOUR, times: int = 1) -> Scene:
    """A create call without a response. Its job is listed only after the batch was abandoned and bought again."""
    scene = Scene.of(make_bench, 4, job_seconds=job_seconds)
    faults = scene.bench.service.faults
    faults.add(CallFault(provider="gemini", endpoint="create", action=Drop(), after_effect=True))
    faults.job(provider="gemini", key=r"question\.a1", times=times, unlisted_seconds=seconds)
    assert scene.tick().code == 75
    assert scene.tick(6 * MINUTE).code == 75
    scene.duplicates = 1  # from now on no batch owns the hidden job
    assert scene.tick(10 * MINUTE).code == 0
    assert [(part[0], part[2]) for part in scene.batches()] == [(1, "abandoned"), (2, "in_flight")]
    return scene


def texts_and_bill(bench: Bench) -> tuple[dict[int, tuple[int | None, str]], float]:
    return ledger(bench).texts, spent(bench)


@pytest.mark.fault(
    35,
    "the job of an unanswered create turns up after it was given up",
    injected="listing",
    seen="it is named, its cost is booked, no text changes",
)
def test_a_job_that_turns_up_after_it_was_given_up_is_booked_and_changes_nothing(make_bench: Make) -> None:
    scene = hidden(make_bench, 0.0)
    for _ in range(3):
        scene.tick()
    texts, paid = texts_and_bill(scene.bench)
    scene.duplicates = 0  # the program has found and reported it
    result = scene.tick(HOUR)
    assert "was abandoned, but its job batches/" in result.err
    assert "exists after all" in result.err
    assert not scene.bench.service.world.seen("gemini", "cancel")  # the job has ended
    assert scene.batches()[0] == (1, 4, "abandoned")  # an abandoned batch does not count as bought
    now, more = texts_and_bill(scene.bench)
    assert texts.items() <= now.items()
    assert more > paid
    scene.finish_as_expected()
    calls = len(scene.bench.service.world.requests)
    assert scene.tick(HOUR) == (0, "", "")
    assert len(scene.bench.service.world.requests) == calls


def test_every_job_that_turns_up_for_a_batch_that_was_given_up_is_booked(make_bench: Make) -> None:
    scene = hidden(make_bench, 0.0, times=3)
    bench = scene.bench
    scene.duplicates = 3
    twins = bought_again(bench, ledger(bench).batches[0], 2)
    for _ in range(3):
        bench.service.world.advance(MINUTE)
        bench.run("collect", "--advance")
    scene.duplicates = 0
    scene.tick(HOUR)
    scene.finish()
    assert {one["remote_id"] for one in ledger(bench).batches if ".duplicate" in one["name"]} == {*twins}
    assert bench.run("receipt", "--json").json["total"]["superseded"] == 3 * 4
    built_again(scene)


@pytest.mark.parametrize(("hours", "found"), [(60, True), (80, False)])
def test_a_job_that_was_given_up_is_looked_for_for_three_days(make_bench: Make, hours: float, *, found: bool) -> None:
    scene = hidden(make_bench, 0.0, hours * HOUR)
    scene.duplicates = 0 if found else 1
    assert ("exists after all" in scene.tick(hours * HOUR).err) == found


@pytest.mark.fault(
    35, "such a job turns up while it is still running", injected="listing", seen="it is named and cancelled"
)
def test_a_live_job_that_turns_up_after_it_was_given_up_is_cancelled(make_bench: Make) -> None:
    scene = hidden(make_bench, 2 * HOUR)
    assert scene.run("clean").out == "0 input files and 0 finished jobs deleted.\n"  # its job needs the file
    scene.duplicates = 0
    scene.tick(HOUR)
    world = scene.bench.service.world
    assert world.jobs_created("gemini")[0].phase == "ended"
    assert len(world.seen("gemini", "cancel")) == 1
    scene.finish(every=HOUR)
    assert len(world.seen("gemini", "cancel")) == 1


def test_a_late_job_that_cannot_be_read_keeps_no_other_from_being_cancelled(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 4, most=2, job_seconds=3 * HOUR)
    faults, world = scene.bench.service.faults, scene.bench.service.world
    faults.add(CallFault(provider="gemini", endpoint="create", action=Drop(), after_effect=True, times=2))
    faults.job(provider="gemini", times=2, unlisted_seconds=HOUR)
    for _ in range(6):
        scene.bench.service.world.advance(6 * MINUTE)
        scene.bench.run("collect", "--advance")
    assert [state for _, _, state in scene.batches()[:2]] == ["abandoned", "abandoned"]
    first, second = world.jobs_created("gemini")[:2]
    faults.add(CallFault(provider="gemini", endpoint="cancel", contains=first.id, action=Status(500), times=0))
    faults.add(CallFault(provider="gemini", endpoint="get", contains=first.id, action=Status(500), times=0))
    scene.bench.service.world.advance(HOUR)
    scene.bench.run("collect", "--advance")
    assert (first.phase, second.phase) == ("running", "ended")


def test_a_late_success_that_is_empty_at_first_is_still_awaited(make_bench: Make) -> None:
    scene = hidden(make_bench, 0.0)
    for _ in range(3):
        scene.tick()
    texts, paid = texts_and_bill(scene.bench)
    first = scene.bench.service.world.jobs_created("gemini")[0]
    file = first.output.rpartition("/")[2]
    empty = CallFault(provider="gemini", endpoint="download", contains=file, action=Body(text=""), times=2)
    scene.bench.service.faults.add(empty)
    scene.duplicates = 0
    scene.tick(HOUR)
    assert texts_and_bill(scene.bench)[1] == paid
    scene.tick(MINUTE)
    now, more = texts_and_bill(scene.bench)
    assert texts.items() <= now.items()
    assert more > paid


def test_late_results_that_are_cut_off_are_not_believed_at_once(make_bench: Make) -> None:
    """They are downloaded again: rows that they lack would otherwise be lost, and bought again."""
    scene = cancelled_for(make_bench, 5 * HOUR)
    assert "0 of 5 accepted (5 cancelled)" in collects(scene, 16 * MINUTE)
    cut = Truncate(keep=0.7, content_length=False)
    scene.bench.service.faults.add(CallFault(provider="gemini", endpoint="download", action=cut, times=2))
    assert "accepted" not in collects(scene, 5 * HOUR)
    assert "5 of 5 accepted (5 accepted)" in collects(scene, MINUTE)
    scene.finish_as_expected(jobs=3)


@pytest.mark.parametrize("looks", [1, 4])
def test_a_cancelled_job_whose_file_is_empty_at_first_is_still_awaited(make_bench: Make, looks: int) -> None:
    """Before it is settled, and again when its late results seem to exist."""
    scene = Scene.of(make_bench, 4, job_seconds=100.0)
    named = 0.0 if looks > 1 else HOUR
    cancelled = {"end": "BATCH_STATE_CANCELLED", "share": 1.0, "output_after_seconds": named}
    scene.bench.service.faults.job(provider="gemini", times=1, **cancelled)
    empty = CallFault(provider="gemini", endpoint="download", action=Body(text=""), times=2 * looks)
    scene.bench.service.faults.add(empty)
    scene.tick()
    said = [collects(scene, after) for after in (110, MINUTE, 15 * MINUTE, HOUR, MINUTE, MINUTE)]
    assert "0 of 4 accepted (4 cancelled)" in "".join(said[:3])
    assert "4 of 4 accepted (4 accepted)" in "".join(said[3:])
    scene.finish_as_expected(jobs=3)


def test_a_late_job_that_cannot_be_read_is_no_news_at_every_tick(make_bench: Make) -> None:
    """A repeated line would be mailed by cron at every tick."""
    scene = cancelled_for(make_bench, 5 * HOUR)
    collects(scene, 16 * MINUTE)
    scene.bench.service.faults.add(CallFault(endpoint="get", action=Status(500), times=0))
    assert [collects(scene, HOUR) for _ in range(2)] == ["", ""]
    scene.bench.service.faults.clear()
    assert "5 of 5 accepted" in collects(scene, 4 * HOUR)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_late_results_that_are_cut_off_at_the_first_download_are_not_believed(make_bench: Make, provider: str) -> None:
    """Also after many earlier downloads that found nothing."""
    expected = undisturbed(make_bench, 8)
    scene = cancelled_for(make_bench, 5 * HOUR, provider, conversations=8)
    assert "0 of 8 accepted (8 cancelled)" in collects(scene, 16 * MINUTE)
    faults = scene.bench.service.faults
    faults.add(CallFault(provider=provider, endpoint="download", action=Html(), times=0))
    assert not any("accepted" in collects(scene, after) for after in (5 * HOUR, MINUTE, MINUTE))
    faults.clear()
    cut = Truncate(keep=0.6, content_length=False, on_line=True)
    part = OUTPUT_FILE[provider]
    faults.add(CallFault(provider=provider, endpoint="download", contains=part, action=cut, times=2))
    collects(scene, MINUTE)
    assert "8 of 8 accepted (8 accepted)" in collects(scene, MINUTE)
    scene.finish()
    assert len(scene.bench.service.world.bought_keys) == 24
    assert scene.bench.files() == expected


@pytest.mark.fault(
    35,
    "an expired job names its rows hours after its end, when its requests were given back",
    injected="results named late, and the job hidden before",
    seen="its rows are accepted where nobody else brought them, nothing is bought again",
)
@pytest.mark.parametrize("missing", [0, 5])
def test_what_an_expired_job_names_late_is_not_lost(make_bench: Make, missing: int) -> None:
    """Also if the job was given up as lost before."""
    scene = Scene.of(make_bench, 5)
    faults = scene.bench.service.faults
    faults.job(provider="together", times=1, end="EXPIRED", share=1.0, output_after_seconds=3 * HOUR)
    reach(scene, "together")
    if missing:
        faults.add(CallFault(provider="together", endpoint="get", action=Status(404, "Not found."), times=missing))
    said = [collects(scene, 31 * MINUTE) for _ in range(5 if missing else 3)]
    assert ("has lost the job" if missing else "0 of 5 accepted (5 missing)") in "".join(said)
    said = [collects(scene, HOUR) for _ in range(4)]
    assert "5 of 5 accepted (5 accepted)" in "".join(said)
    scene.finish_as_expected(jobs=3)
    built_again(scene)


def test_late_results_are_looked_for_while_no_whole_list_can_be_had(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 4, most=1, job_seconds=100.0)
    faults = scene.bench.service.faults
    faults.job(provider="gemini", times=4, cancel="late", late_seconds=5 * HOUR)
    scene.tick()
    assert scene.run("cancel").code == 0
    scene.run("collect")
    assert collects(scene, 16 * MINUTE).count("0 of 1 accepted") == 4
    faults.add(CallFault(endpoint="list", action=Body(json={"unreachable": ["locations/us"]}), times=0))
    assert collects(scene, 5 * HOUR).count("1 of 1 accepted") == 4
    scene.finish()
    assert scene.jobs("gemini") == 8
