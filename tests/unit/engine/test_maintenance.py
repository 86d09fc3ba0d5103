"""Test `cancel`, `clean` and `retry`: they can be repeated, and they do not touch the files and jobs of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchgen.emulator.faults import ALWAYS, CallFault, Drop, Status
from batchgen.emulator.state import World
from tests.support.bench import Bench, seeds
from tests.support.invariants import ROUNDS, ledger, undisturbed
from tests.support.scene import HOUR, MINUTE, Make, Scene

BUSY = "The entity is in use and cannot be changed now."


def beside(scene: Scene, root: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Another run with the same keys at the same service, with a batch in flight and one that has ended."""
    other = Bench(root, scene.bench.service, capsys)
    other.configure(ROUNDS)
    other.prepare(seeds(3))
    other.run("collect", "--advance")
    other.service.world.advance(120)
    other.run("collect", "--advance")
    return other


def remains(world: World, keys: set[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Jobs (id, phase) with these request keys, and the files that hold them."""
    jobs = [(job.id, str(job.phase)) for job in world.jobs.values() if keys & set(job.keys)]
    files = [file.id for file in world.files.values() if any(key.encode() in world.content(file) for key in keys)]
    return jobs, files


@pytest.mark.slow
def test_another_run_is_not_touched(make_bench: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = undisturbed(make_bench, 4)
    scene = Scene.of(make_bench, 4, job_seconds=100.0)
    other = beside(scene, tmp_path / "other", capsys)
    world = scene.bench.service.world
    foreign = {key for job in world.jobs.values() for key in job.keys}
    scene.duplicates = len(world.jobs)
    before = remains(world, foreign)
    assert {phase for _, phase in before[0]} == {"ended", "pending"}
    scene.tick()
    world.advance(50)
    assert scene.run("cancel").out == "1 batch: cancellation asked for.\n"
    scene.tick(HOUR)
    assert scene.run("clean").out == "1 input file and 1 finished job deleted.\n"
    after = remains(world, foreign)
    assert [job for job, _ in after[0]] == [job for job, _ in before[0]]
    assert not [job for job in world.jobs.values() if job.cancelled_at and foreign & set(job.keys)]
    assert set(before[1]) <= set(after[1])
    scene.finish()
    assert scene.run("clean").code == 0
    assert set(before[1]) <= set(remains(world, foreign)[1])
    assert scene.bench.files() == expected
    other.ticks()
    assert other.run("verify").code == 0


def test_clean_deletes_what_is_settled_once(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 4)
    scene.tick()
    assert scene.run("clean") == (0, "0 input files and 0 finished jobs deleted.\n", "")  # because its job is in flight
    scene.tick()
    assert scene.run("clean").out == "1 input file and 1 finished job deleted.\n"
    scene.finish()
    assert scene.run("clean", "--json").json == {"deleted": 2, "jobs": 1}
    world = scene.bench.service.world
    calls = len(world.requests)
    assert scene.run("clean").out == "0 input files and 0 finished jobs deleted.\n"
    assert len(world.requests) == calls
    left = [file for file in world.files.values() if file.id in {job.input_file for job in world.jobs.values()}]
    assert left == []
    assert len(world.files) == 3  # the result files stay
    assert {job.provider for job in world.jobs.values() if job.deleted} == {"gemini"}
    assert scene.run("verify").code == 0
    assert scene.tick() == (0, "", "")


def test_clean_does_not_insist_where_a_delete_fails(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 4)
    scene.finish()
    down = [CallFault(endpoint=endpoint, times=ALWAYS, action=Status(503)) for endpoint in ("file_delete", "delete")]
    scene.bench.service.faults.add(*down)
    assert scene.run("clean").code == 75
    world = scene.bench.service.world
    assert [len(world.seen(provider, "file_delete")) for provider in ("gemini", "together")] == [1, 1]
    assert len(world.seen("gemini", "delete")) == 1
    scene.bench.service.faults.clear()
    assert scene.run("clean").out == "3 input files and 2 finished jobs deleted.\n"


def test_clean_goes_on_where_it_was_interrupted(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 4)
    scene.finish()
    faults = scene.bench.service.faults
    faults.add(CallFault(provider="gemini", endpoint="file_delete", action=Status(503), times=0))
    first = scene.run("clean")
    assert (first.code, first.out) == (75, "1 input file and 2 finished jobs deleted.\n")
    faults.clear()
    faults.add(CallFault(provider="gemini", endpoint="file_delete", action=Status(400, BUSY)))
    second = scene.run("clean")
    assert (second.code, second.out) == (75, "1 input file and 0 finished jobs deleted.\n")
    assert "its input file was not deleted" in second.err
    faults.add(CallFault(provider="gemini", endpoint="file_delete", action=Status(404, "Not found.")))
    assert scene.run("clean") == (0, "1 input file and 0 finished jobs deleted.\n", "")
    assert scene.run("clean") == (0, "0 input files and 0 finished jobs deleted.\n", "")


def test_clean_and_cancel_leave_what_another_key_made(make_bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene.of(make_bench, 4)
    scene.tick()
    scene.tick()
    monkeypatch.setenv("GEMINI_API_KEY", "AIzaSy-some-other-key-0000000000000000000")
    monkeypatch.setenv("TOGETHER_API_KEY", "tgp_v1_another_key_00000000000000000000")
    calls = len(scene.bench.service.world.requests)
    result = scene.run("cancel")
    assert (result.code, result.out) == (0, "0 batches: cancellation asked for.\n")
    assert "was submitted with another key; to cancel it, run `batchgen cancel` with that key" in result.err
    assert scene.run("clean").out == "0 input files and 0 finished jobs deleted.\n"
    assert len(scene.bench.service.world.requests) == calls


@pytest.mark.slow
def test_cancel_as_often_as_one_likes(make_bench: Make) -> None:
    expected = undisturbed(make_bench, 4)
    scene = Scene.of(make_bench, 4, most=2, job_seconds=100.0)
    assert scene.run("cancel") == (0, "0 batches: cancellation asked for.\n", "")
    scene.tick()
    scene.bench.service.faults.add(CallFault(endpoint="cancel", action=Status(503)))
    scene.bench.service.world.advance(50)
    first = scene.run("cancel")
    assert (first.code, first.out) == (75, "1 batch: cancellation asked for.\n")
    for _ in range(3):
        again = scene.run("cancel")
        assert again.code == 0
    assert len([job for job in scene.bench.service.world.jobs.values() if job.cancelled_at]) == 2
    scene.finish(every=20 * MINUTE)
    assert scene.run("cancel") == (0, "0 batches: cancellation asked for.\n", "")
    assert scene.bench.files() == expected


def test_a_cancel_that_is_refused_is_told(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 4, job_seconds=100.0)
    scene.tick()
    scene.bench.service.faults.add(CallFault(endpoint="cancel", action=Status(400, BUSY)))
    result = scene.run("cancel")
    assert (result.code, result.out) == (75, "0 batches: cancellation asked for.\n")
    assert BUSY in result.err


def test_cancel_finds_the_job_of_an_unanswered_create(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 4, job_seconds=100.0)
    scene.bench.service.faults.add(CallFault(endpoint="create", action=Drop(), after_effect=True))
    assert scene.tick().code == 75
    scene.bench.service.world.advance(50)
    assert scene.run("cancel").out == "1 batch: cancellation asked for.\n"
    assert [job.phase for job in scene.bench.service.world.jobs.values()] == ["ended"]
    scene.finish()


@pytest.mark.slow
def test_retry_by_round_stage_and_reason(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 8, "question.max_rejected_share = 1.0\nanswer.max_rejected_share = 1.0\n")
    rows = scene.bench.service.faults.rows
    rows("blocked_prompt", key=r"r1-00000[12].*question")
    rows("safety", key=r"r1-000003.*question")
    rows("http_status", key=r"r1-00000[45].*answer")
    scene.finish()
    left = [(row["stage"], row["reason"]) for row in scene.bench.rows("rejected.jsonl")]
    assert (
        left
        == [("question", "blocked_prompt")] * 2 + [("question", "blocked_output")] + [("answer", "invalid_request")] * 2
    )
    scene.bench.service.faults.clear()
    nothing = "0 conversations ready again, 0 halts lifted.\n"
    assert scene.run("retry", "--stage", "correction").out == nothing
    assert scene.run("retry", "--stage", "answer", "--reason", "blocked_prompt").out == nothing
    assert scene.run("retry", "--reason", "blocked_output", "--json").json == {"conversations": 1, "halts": 0}
    assert scene.run("retry", "--reason", "blocked_output").out == nothing
    assert len(scene.bench.rows("rejected.jsonl")) == 4
    assert scene.run("retry").out.startswith("4 conversations")
    assert scene.run("retry").out == nothing
    attempts = [row["attempt"] for row in ledger(scene.bench).conversations]
    assert attempts == [1, 1, 1, 1, 1, 0, 0, 0]  # because keys are never reused
    scene.finish()
    assert scene.bench.rows("rejected.jsonl") == []
    assert len(set(scene.bench.service.world.bought_keys)) == len(scene.bench.service.world.bought_keys)


@pytest.mark.parametrize("command", ["retry", "cancel", "clean"])
def test_on_a_root_without_anything(make_bench: Make, command: str) -> None:
    bench = make_bench()
    result = bench.run(command)
    assert result.code == 2
    assert not (bench.root / "data").exists()
    assert "Traceback" not in result.err
