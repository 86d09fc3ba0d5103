"""Test late results when a second batch asked for the same texts: the text that arrives first is kept."""

from __future__ import annotations

from typing import Any

import pytest

from batchgen.emulator.faults import Body, CallFault, Drop, Status
from batchgen.ledger.migrations import TEXT_IDS
from batchgen.ledger.rows import WAITING_STATES
from tests.support.bench import GEMINI_KEY
from tests.support.fork_server import KILLED, Forks
from tests.support.invariants import ledger, undisturbed
from tests.support.scene import HOUR, MINUTE, Make, Scene, built_again, spent

QUESTION = 3  # the position of the question of round 2
LATE = 5 * HOUR
DAY = 24 * HOUR


def asked_twice(make_bench: Make, toml: str = "") -> Scene:
    """A cancelled job with results five hours later, and the batches of the retry, which take a day."""
    scene = Scene.of(make_bench, 5, toml, job_seconds=100.0)
    scene.bench.service.faults.job(provider="gemini", times=1, cancel="late", late_seconds=LATE)
    scene.tick()
    scene.bench.service.world.advance(60)
    assert scene.run("cancel").code == 0
    scene.run("collect")
    scene.bench.service.world.job_seconds = DAY
    scene.tick(16 * MINUTE)
    return scene


def end(scene: Scene, expected: dict[str, bytes]) -> None:
    """Finish the run: it has the usual files, and `rebuild` restores it from them."""
    scene.bench.service.world.job_seconds = 0.0
    scene.finish(every=HOUR)
    assert scene.bench.files() == expected
    built_again(scene)


def sources(scene: Scene) -> list[int | None]:
    """Conversation -> the batch that its question of round 2 came from."""
    texts = ledger(scene.bench).texts
    return [texts[number * TEXT_IDS + QUESTION][0] for number in range(1, 6) if number * TEXT_IDS + QUESTION in texts]


@pytest.mark.fault(
    35,
    "such a job delivers while other batches are asked for the same",
    injected="cancel",
    seen="its texts are accepted; what nobody needs any more is cancelled, or superseded and booked",
)
def test_what_comes_late_is_accepted_while_others_are_asked(make_bench: Make) -> None:
    expected = undisturbed(make_bench, 5)
    scene = asked_twice(make_bench)
    assert scene.batches() == [(1, 5, "collected"), (2, 2, "in_flight"), (2, 2, "in_flight"), (2, 1, "in_flight")]
    said = scene.tick(LATE).err
    assert "5 of 5 accepted (5 accepted)" in said
    assert said.count("cancellation asked for") == 3
    assert sources(scene) == [1] * 5
    assert [part[1:] for part in scene.batches()[1:]] == [(0, "in_flight")] * 3
    [step] = [row for row in scene.bench.status()["steps"] if (row["round"], row["stage"]) == (2, "question")]
    assert (step["ready"], step["in_flight"], step["done"]) == (0, 0, 5)
    end(scene, expected)


def test_what_the_others_bring_all_the_same_is_superseded_and_booked(make_bench: Make) -> None:
    expected = undisturbed(make_bench, 5)
    scene = asked_twice(make_bench)
    scene.bench.service.faults.add(CallFault(endpoint="cancel", action=Status(500), times=0))
    assert "5 of 5 accepted" in scene.tick(LATE).err
    assert "could not" not in scene.tick(HOUR).err
    paid = spent(scene.bench)
    said = scene.tick(DAY).err
    assert said.count("0 of 0 accepted") == 3
    assert spent(scene.bench) > paid
    end(scene, expected)
    assert sources(scene) == [1] * 5


def test_a_batch_goes_on_with_the_conversations_that_are_left_to_it(make_bench: Make) -> None:
    """The late job has results for the first three of five."""
    expected = undisturbed(make_bench, 5)
    scene = asked_twice(make_bench)
    scene.bench.service.faults.rows("missing", where=lambda key: "-000004" in key or "-000005" in key)
    said = scene.tick(LATE).err
    scene.bench.service.faults.clear()
    assert "3 of 5 accepted" in said
    assert scene.batches() == [(1, 5, "collected"), (2, 0, "in_flight"), (2, 1, "in_flight"), (2, 1, "in_flight")]
    scene.tick(DAY)
    end(scene, expected)
    assert sources(scene) == [1, 1, 1, 3, 4]


@pytest.mark.parametrize("refusal", [Status(429, "Quota exceeded."), Drop()])
def test_a_batch_that_was_not_created_yet_is_not_bought_any_more(refusal: Any, make_bench: Make) -> None:
    """A quota refused it, or its upload failed."""
    expected = undisturbed(make_bench, 5)
    scene = asked_twice(make_bench, "gemini.concurrent_batches = 1")
    endpoint = "upload_start" if isinstance(refusal, Drop) else "create"
    scene.bench.service.faults.add(CallFault(provider="gemini", endpoint=endpoint, action=refusal, times=0))
    jobs = scene.jobs()
    scene.bench.configure("rounds = 2\nbatches.max_requests = 5\n")
    assert scene.tick(MINUTE).code == 75
    assert {state for _, _, state in scene.batches()[2:]} <= {*WAITING_STATES}
    assert "5 of 5 accepted" in scene.tick(LATE).err
    assert {state for _, _, state in scene.batches()[2:]} <= {"refused", "abandoned"}
    assert scene.jobs("gemini") == jobs
    scene.bench.service.faults.clear()
    end(scene, expected)
    assert sources(scene) == [1] * 5


def test_texts_that_another_batch_brought_first_stay(make_bench: Make) -> None:
    expected = undisturbed(make_bench, 5)
    scene = asked_twice(make_bench)
    scene.bench.service.world.job_seconds = 0.0
    scene.tick(MINUTE)
    assert sources(scene) == [2, 2, 3, 3, 4]
    before = ledger(scene.bench).texts
    said = scene.tick(LATE).err
    assert "0 of 5 accepted (5 superseded)" in said
    assert before.items() <= ledger(scene.bench).texts.items()
    end(scene, expected)


def test_a_conversation_that_was_left_behind_meanwhile_takes_its_late_text(make_bench: Make) -> None:
    scene = asked_twice(make_bench, "question.max_rejected_share = 1.0")
    faults, world = scene.bench.service.faults, scene.bench.service.world
    world.job_seconds = 0.0
    faults.rows("blocked_prompt", times=2)
    scene.tick(MINUTE)
    faults.clear()
    assert scene.bench.status()["rejected"] == 2
    assert "2 of 5 accepted" in scene.tick(LATE).err
    assert scene.bench.status()["rejected"] == 0
    scene.finish(every=HOUR)
    assert not (scene.bench.root / "data" / "rejected.jsonl").read_bytes()
    store = scene.bench.root / "data" / "batchgen.sqlite"
    texts, files = ledger(scene.bench).texts, scene.bench.files()
    store.unlink()
    assert scene.bench.run("rebuild").code == 0
    assert ledger(scene.bench).texts == texts
    assert scene.bench.files() == files


@pytest.mark.parametrize("point", ["result_file_written", "ending_written", "store_before_commit", "batch_settled"])
@pytest.mark.parametrize("lost", [True, False])
def test_a_kill_while_late_texts_are_taken_from_others(
    point: str, make_bench: Make, forks: Forks, *, lost: bool
) -> None:
    """The next tick repeats it. If the store is lost too, every conversation still has one text."""
    expected = undisturbed(make_bench, 5)
    scene = asked_twice(make_bench)
    scene.bench.service.world.advance(LATE)
    assert forks.run(scene.bench, "collect", crash=point).code == KILLED
    if lost:
        (scene.bench.root / "data" / "batchgen.sqlite").unlink()
        assert scene.bench.run("rebuild").code == 0
        scene.bench.service.world.job_seconds = 0.0
        scene.bench.ticks(seconds=6 * HOUR)
        assert scene.bench.run("verify").code == 0
        assert scene.jobs("gemini") == 5
        assert scene.bench.files() == expected
        return
    scene.watch.check()
    scene.tick()
    assert sources(scene) == [1] * 5
    end(scene, expected)


def test_an_empty_late_file_takes_nothing_from_anybody(make_bench: Make) -> None:
    scene = asked_twice(make_bench)
    scene.bench.service.faults.add(CallFault(endpoint="download", action=Body(text=""), times=2))
    before = scene.batches()
    scene.tick(LATE)
    assert scene.batches() == before
    scene.bench.service.world.job_seconds = 0.0
    scene.finish(every=HOUR)


def hidden(make_bench: Make) -> Scene:
    """A create call without a response. Its job is listed an hour after the batch was abandoned and retried."""
    scene = Scene.of(make_bench, 5, job_seconds=100.0)
    faults = scene.bench.service.faults
    faults.add(CallFault(provider="gemini", endpoint="create", action=Drop(), after_effect=True))
    faults.job(provider="gemini", times=1, unlisted_seconds=HOUR)
    scene.tick()
    scene.tick(6 * MINUTE)
    scene.duplicates = 1  # from now on no batch owns the hidden job
    scene.bench.service.world.job_seconds = DAY
    scene.tick(10 * MINUTE)
    assert [state for _, _, state in scene.batches()] == ["abandoned", "in_flight"]
    return scene


def test_a_batch_whose_texts_were_not_taken_after_a_kill_has_none_when_it_is_built_again(
    make_bench: Make, forks: Forks
) -> None:
    """The files that the kill left say that they were taken."""
    scene = hidden(make_bench)
    world = scene.bench.service.world
    world.advance(HOUR)
    assert forks.run(scene.bench, "collect", crash="ending_written").code == KILLED
    scene.duplicates = 0
    world.job_seconds = 0.0
    scene.tick()
    assert sources(scene) == [2] * 5
    scene.finish()
    built_again(scene)


def test_a_batch_that_is_sent_although_a_kill_gave_it_up_is_not_bought_again(make_bench: Make, forks: Forks) -> None:
    """The kill comes before the commit. Then the batch is sent, and then the store is lost."""
    scene = asked_twice(make_bench, "gemini.concurrent_batches = 1")
    faults = scene.bench.service.faults
    faults.add(CallFault(provider="gemini", endpoint="create", action=Status(429, "Quota exceeded."), times=0))
    scene.bench.configure("rounds = 2\nbatches.max_requests = 5\n")
    scene.tick(MINUTE)
    faults.clear()
    faults.rows("missing", where=lambda key: "-000003" in key)
    scene.bench.service.world.advance(LATE)
    assert forks.run(scene.bench, "collect", crash="store_before_commit").code == KILLED
    faults.clear()
    scene.bench.configure("rounds = 2\nbatches.max_requests = 5\ngemini.concurrent_batches = 3\n")
    scene.run("submit", "--stage", "question")
    jobs = scene.jobs("gemini")
    assert [state for _, _, state in scene.batches()].count("in_flight") == jobs - 1
    (scene.bench.root / "data" / "batchgen.sqlite").unlink()
    assert scene.bench.run("rebuild").code == 0
    asked = len(scene.bench.service.world.bought_keys)
    scene.bench.run("collect")
    scene.bench.run("submit", "--stage", "question")
    assert len(scene.bench.service.world.bought_keys) == asked
    scene.bench.service.world.job_seconds = 0.0
    scene.bench.ticks(seconds=6 * HOUR)
    assert scene.bench.run("verify").code == 0


def test_a_batch_that_is_found_although_a_kill_gave_it_up_is_not_bought_again(make_bench: Make, forks: Forks) -> None:
    scene = Scene.of(make_bench, 5, job_seconds=DAY)
    faults = scene.bench.service.faults
    faults.add(CallFault(provider="gemini", endpoint="create", action=Drop(), after_effect=True))
    faults.job(provider="gemini", times=1, unlisted_seconds=HOUR)
    scene.tick()
    scene.tick(6 * MINUTE)
    scene.bench.service.world.advance(10 * MINUTE)
    assert forks.run(scene.bench, "collect", crash="store_before_commit").code == KILLED
    scene.tick(HOUR)
    assert scene.batches() == [(1, 5, "in_flight")]
    (scene.bench.root / "data" / "batchgen.sqlite").unlink()
    assert scene.bench.run("rebuild").code == 0
    scene.bench.service.world.job_seconds = 0.0
    scene.bench.ticks(seconds=HOUR)
    assert scene.jobs("gemini") == 2
    assert scene.bench.run("verify").code == 0


def cancels(scene: Scene) -> int:
    return len(scene.bench.service.world.seen("gemini", "cancel"))


def test_what_nobody_needs_is_cancelled_until_that_was_asked_for(make_bench: Make) -> None:
    """The provider fails at first, which is not reported: no step waits for this batch."""
    scene = asked_twice(make_bench)
    scene.bench.service.faults.add(CallFault(endpoint="cancel", action=Status(500), times=0))
    assert scene.tick(LATE).code == 0
    scene.bench.service.faults.clear()
    assert scene.tick(MINUTE).err.count("cancellation asked for") == 3
    asked = cancels(scene)
    scene.tick(MINUTE)
    assert cancels(scene) == asked


def test_the_end_of_what_nobody_needs_is_no_trouble(make_bench: Make) -> None:
    """It was cancelled before any row was answered, and no results are expected."""
    scene = asked_twice(make_bench)
    scene.bench.service.world.job_seconds = 10 * DAY
    scene.tick(LATE)
    result = scene.tick(MINUTE)
    assert result.code == 0
    assert result.err.count("0 of 0 accepted\n") == 3
    assert {state for _, _, state in scene.batches()} == {"collected"}


def test_a_batch_that_nobody_needs_is_cancelled_when_it_is_found(make_bench: Make) -> None:
    """Its create call got no response, and it is listed only after its texts came from another batch."""
    expected = undisturbed(make_bench, 5)
    patient = "batches.reconcile_grace_seconds = 86400\n"
    scene = asked_twice(make_bench, "gemini.concurrent_batches = 1")
    faults = scene.bench.service.faults
    faults.add(CallFault(provider="gemini", endpoint="create", action=Drop(), after_effect=True, times=2))
    faults.job(provider="gemini", times=2, unlisted_seconds=6 * HOUR)
    scene.bench.configure(f"rounds = 2\nbatches.max_requests = 5\n{patient}")
    scene.tick(MINUTE)
    assert [state for _, _, state in scene.batches()][1:3] == ["in_flight", "creating"]
    scene.bench.service.faults.clear()
    assert "5 of 5 accepted" in scene.tick(LATE).err
    assert scene.batches()[2] == (2, 0, "creating")
    before = cancels(scene)
    scene.tick(2 * HOUR)
    scene.tick(MINUTE)
    assert cancels(scene) == before + 1
    end(scene, expected)


def lost_with_a_kill(scene: Scene, forks: Forks) -> None:
    """Late results are on the disk without an ending when the store is rebuilt."""
    assert forks.run(scene.bench, "collect", crash="result_file_written").code == KILLED
    (scene.bench.root / "data" / "batchgen.sqlite").unlink()
    assert scene.bench.run("rebuild").code == 0


def test_late_results_that_a_rebuilt_store_has_booked_are_not_booked_again(make_bench: Make, forks: Forks) -> None:
    expected = undisturbed(make_bench, 5)
    scene = asked_twice(make_bench, "gemini.concurrent_batches = 1")
    assert scene.batches() == [(1, 5, "collected"), (2, 2, "in_flight")]
    scene.bench.service.world.advance(LATE)
    lost_with_a_kill(scene, forks)
    scene.bench.service.world.job_seconds = 0.0
    scene.bench.run("collect")
    [step] = [row for row in scene.bench.status()["steps"] if (row["round"], row["stage"]) == (2, "question")]
    assert (step["ready"], step["in_flight"], step["done"]) == (0, 0, 5)
    end(scene, expected)


def test_late_results_of_a_batch_that_was_given_up_are_not_lost_with_the_store(make_bench: Make, forks: Forks) -> None:
    expected = undisturbed(make_bench, 5)
    scene = hidden(make_bench)
    scene.bench.service.world.advance(HOUR)
    lost_with_a_kill(scene, forks)
    scene.bench.run("collect")
    assert sources(scene) == [1] * 5
    scene.duplicates = 0
    end(scene, expected)


def test_a_key_that_nobody_needs_any_more_is_not_asked_for(make_bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the receipt waits for it."""
    scene = asked_twice(make_bench)
    scene.bench.service.faults.add(CallFault(endpoint="cancel", action=Status(500), times=0))
    scene.tick(LATE)
    monkeypatch.setenv("GEMINI_API_KEY", "another-key-of-mine")
    scene.bench.service.world.job_seconds = 0.0
    assert [scene.tick(MINUTE).code for _ in range(4)] == [0] * 4
    assert scene.bench.status()["finished"]
    paid = spent(scene.bench)
    monkeypatch.setenv("GEMINI_API_KEY", GEMINI_KEY)
    scene.finish()
    assert spent(scene.bench) > paid
