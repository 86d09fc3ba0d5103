"""Test faults of one batch: they hold back the conversations of that batch, and no others."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from batchgen.emulator.faults import CallFault, Status
from tests.support.provider_facts import UPLOAD_DATA
from tests.support.scene import HOUR, MINUTE, Make, Scene, reach

NOT_TAKEN = pytest.mark.fault(
    8,
    "one file alone meets an error of the server, again and again",
    injected="500 to the bytes of two request files, always",
    seen="status 75; every other batch goes on",
)
NOT_READ = pytest.mark.fault(
    21,
    "one job's own address, or its file, answers 500 for good",
    injected="answers to get or to download for that job",
    seen="status 75; every other batch of the provider goes on",
)


def fail(scene: Scene, provider: str, endpoint: str, part: str) -> None:
    """Answer 500 to every call of `endpoint` with `part` in its path or body."""
    broken = CallFault(provider=provider, endpoint=endpoint, contains=part, action=Status(500), times=0)
    scene.bench.service.faults.add(broken)


def two_uploads(scene: Scene, provider: str) -> None:
    for number in (1, 5):
        fail(scene, provider, UPLOAD_DATA[provider], f"r1-{number:06d}.r2.answer")


def polls_of_one_job(scene: Scene, provider: str) -> None:
    reach(scene, provider)
    fail(scene, provider, "get", scene.bench.service.world.jobs_created(provider)[0].id)


def download_of_one_job(scene: Scene, provider: str) -> None:
    reach(scene, provider)
    scene.bench.service.step()  # the job has its result file now
    output = scene.bench.service.world.jobs_created(provider)[0].output
    fail(scene, provider, "download", output.rpartition("/")[2])


@pytest.mark.parametrize(
    ("provider", "conversations", "inject"),
    [
        pytest.param("together", 8, two_uploads, marks=NOT_TAKEN),
        pytest.param("deepinfra", 8, two_uploads, marks=NOT_TAKEN),
        pytest.param("gemini", 6, polls_of_one_job, marks=NOT_READ),
        pytest.param("together", 6, polls_of_one_job, marks=NOT_READ),
        pytest.param("deepinfra", 6, polls_of_one_job, marks=NOT_READ),
        pytest.param("gemini", 6, download_of_one_job, marks=NOT_READ),
        pytest.param("together", 6, download_of_one_job, marks=NOT_READ),
        pytest.param("deepinfra", 6, download_of_one_job, marks=NOT_READ),
    ],
)
def test_a_batch_in_trouble_holds_back_its_own_rows_only(
    make_bench: Make, provider: str, conversations: int, inject: Callable[[Scene, str], None]
) -> None:
    scene = Scene.of(make_bench, conversations, most=2)
    inject(scene, provider)
    codes = [scene.tick(HOUR).code for _ in range(8)]
    assert set(codes) <= {0, 75}
    assert set(codes[3:]) == {75}
    assert scene.bench.status()["complete"] == 4
    scene.bench.service.faults.clear()
    scene.finish_as_expected()


def test_a_stuck_batch_holds_back_its_own_rows_only(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 6, most=2)
    scene.bench.service.faults.job(provider="gemini", times=1, states=[["BATCH_STATE_RUNNING", 30 * HOUR]])
    for _ in range(5):
        scene.tick(MINUTE)
    assert scene.bench.status()["complete"] == 4
    scene.finish(every=10 * HOUR)


def test_a_batch_that_needs_a_person_does_not_hold_up_the_next(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 4, most=2)
    faults = scene.bench.service.faults
    faults.job(provider="gemini", times=1, output="none")
    faults.job(provider="gemini", times=1, states=[["BATCH_STATE_RUNNING", 8 * HOUR]])
    scene.tick()
    assert scene.tick(HOUR).code == 75
    needs_person = scene.tick(8 * HOUR)
    assert needs_person.code == 3
    assert "It ended 8 h ago" in needs_person.err
    assert scene.batches() == [(1, 2, "in_flight"), (1, 2, "collected")]


def test_a_provider_in_trouble_is_not_asked_for_the_next_batch(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 4, most=2)
    scene.tick()
    assert scene.jobs() == 2
    scene.bench.service.faults.add(CallFault(endpoint="get", action=Status(503), times=0))
    assert scene.tick(MINUTE).code == 75
    assert len(scene.bench.service.world.seen("gemini", "get")) == 3  # one batch, with retries
