"""Test faults that DeepInfra alone has: refused input files, cancels that do not stop a batch, listings of pages."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from batchgen.emulator.faults import Body, CallFault, Drop, Status
from batchgen.emulator.protocols.openai_rows import error_item, error_list
from batchgen.providers import connect, find_provider
from batchgen.providers.base import ConnectionOptions
from tests.support.invariants import ledger, until
from tests.support.openai_calls import chat_lines
from tests.support.scene import HOUR, MINUTE, Make, Scene, bill, built_again, reach, spent
from tests.support.sdk_calls import LLAMA, jsonl

DEEPINFRA = "deepinfra"
ALONE = pytest.mark.parametrize("provider", [DEEPINFRA])
pytestmark = ALONE


def refuse_file(scene: Scene, *problems: dict[str, Any]) -> None:
    """The next batch fails in validation."""
    scene.bench.service.faults.job(provider=DEEPINFRA, times=1, end="failed", error=error_list(problems))


def lose_answer(scene: Scene) -> None:
    """The batch is created, and the answer to the create call is lost."""
    lost = CallFault(provider=DEEPINFRA, endpoint="create", action=Drop(), after_effect=True)
    scene.bench.service.faults.add(lost)


def buy_elsewhere(scene: Scene, count: int) -> None:
    """Create batches of another program with the same key."""
    row, variables = find_provider(DEEPINFRA), scene.bench.environment
    access = ConnectionOptions(variables[row.key_variable], variables[row.url_variable], 10.0, "v1beta")
    path = scene.bench.root.parent / "elsewhere.jsonl"
    path.write_bytes(jsonl(chat_lines(1)))
    with closing(connect(row, access)) as remote:
        file = remote.upload(path, path.stat().st_size).file_id
        for number in range(count):
            remote.create(model=LLAMA, file_id=file, name=f"elsewhere {number}")
    scene.duplicates += count


@pytest.mark.fault(
    11,
    "validation refuses two lines of a file, and the whole batch fails",
    injected="errors with the numbers of lines, from 0",
    seen="status 75; those conversations are rejected with the reason, the others are sent again, nothing is paid",
)
@pytest.mark.parametrize("code", ["invalid_line", "invalid_json", "duplicate_custom_id", "model_mismatch"])
def test_refused_lines_are_left_behind(make_bench: Make, provider: str, code: str) -> None:
    scene = Scene.of(make_bench, 5)
    refuse_file(scene, error_item(code, "Not like that.", 0), error_item(code, "Nor like this.", 3))
    reach(scene, provider)
    before = spent(scene.bench)
    refused = scene.tick()
    assert refused.code == 75
    assert "2 of its requests were refused" in refused.err
    assert spent(scene.bench) == before
    left = {row["id"]: (row["stage"], row["reason"], row["detail"]) for row in scene.bench.rows("rejected.jsonl")}
    assert left == {
        "r1-000001": ("answer", "invalid_request", f"{code}: Not like that."),
        "r1-000004": ("answer", "invalid_request", f"{code}: Nor like this."),
    }
    scene.finish()
    assert scene.bench.status()["complete"] == 3


@pytest.mark.fault(
    23,
    "validation does not know the model",
    injected="unknown_model for the first line",
    seen="status 3, one batch, nothing more is sent until `retry`",
)
def test_a_model_that_validation_does_not_know_halts_it(make_bench: Make, provider: str) -> None:
    scene = Scene.of(make_bench, 4)
    refuse_file(scene, error_item("unknown_model", "The model 'meta-llama/Llama' does not exist.", 0, "body.model"))
    reach(scene, provider)
    for after in (0, HOUR, HOUR):
        halted = scene.tick(after)
        assert halted.code == 3
        assert "deepinfra does not serve" in halted.err
    assert scene.jobs(provider) == 1
    assert scene.bench.rows("rejected.jsonl") == []
    assert "1 halt lifted" in scene.run("retry").out
    scene.finish_as_expected()


@pytest.mark.fault(
    29,
    "request_counts is null until the file is checked",
    injected="a batch in validation",
    seen="nothing to see",
)
def test_a_batch_without_counts_is_in_flight(make_bench: Make, provider: str) -> None:
    scene = Scene.of(make_bench, 4, job_seconds=100.0)
    scene.tick()
    assert scene.tick(110).code == 0
    assert scene.tick(5) == (0, "", "")
    assert scene.bench.status()["batches"][-1]["remote_state"] == "validating"
    scene.finish_as_expected(jobs=3)


@pytest.mark.fault(
    29,
    "DeepInfra: error codes as text in an error file, and error files that are empty",
    injected="codes 400 and 500; an error file without a row",
    seen="a 400 is left behind with its words, a 500 is asked again",
)
def test_codes_of_an_error_file(make_bench: Make, provider: str) -> None:
    scene = Scene.of(make_bench, 6)
    rows = scene.bench.service.faults.rows
    rows("error", provider=provider, key=r"r1-000001.*answer\.a1", code=400, message="Input too long.")
    rows("error", provider=provider, key=r"r1-00000[23].*answer\.a1", code=500, message="Worker died.")
    reach(scene, provider)
    assert "3 of 6 accepted (3 accepted, 1 invalid_request, 2 provider_error)" in scene.tick().err
    scene.finish()
    [left] = scene.bench.rows("rejected.jsonl")
    assert (left["id"], left["reason"], left["detail"]) == ("r1-000001", "invalid_request", "HTTP 400: Input too long.")
    asked_again = [job for job in scene.bench.service.world.jobs_created(provider) if job.failed == 0]
    assert all(job.errors for job in asked_again)  # an error file without a row has a name


@pytest.mark.fault(
    35,
    "a cancelled batch in progress runs to its end",
    injected="cancel",
    seen="its texts are accepted and booked, nothing is asked again",
)
def test_a_cancel_that_ends_completed(make_bench: Make, provider: str) -> None:
    scene = Scene.of(make_bench, 5, job_seconds=100.0)
    for after in (0, 110):
        scene.tick(after)
    scene.bench.service.world.advance(60)
    assert scene.run("cancel").out == "1 batch: cancellation asked for.\n"
    scene.tick(5)
    assert scene.bench.status()["batches"][-1]["remote_state"] == "cancelling"
    scene.tick(40)
    assert scene.batches(4) == [(1, 5, "collected")]
    assert scene.jobs(provider) == 1
    scene.finish_as_expected(jobs=3)


@pytest.mark.fault(
    3,
    "DeepInfra: the answer to a create is lost, and the listing shows no metadata, or only metadata",
    injected="connection dropped after the batch was made; fields of the listing",
    seen="status 75; the next tick adopts the batch by its input file or by its name",
)
@pytest.mark.parametrize("shown", ["input_file_id", "metadata"])
def test_a_lost_create_is_found_by_either_handle(make_bench: Make, provider: str, shown: str) -> None:
    scene = Scene.of(make_bench, 4, job_seconds=100.0)
    scene.tick()
    lose_answer(scene)
    assert scene.tick(110).code == 75
    [job] = scene.bench.service.world.jobs_created(provider)
    handle = {"input_file_id": job.input_file, "metadata": job.metadata}[shown]
    listed = {"object": "list", "data": [{"id": job.id, "status": "validating", shown: handle}], "has_more": False}
    scene.bench.service.faults.add(CallFault(provider=provider, endpoint="list", action=Body(json=listed), times=0))
    assert scene.tick(1).code == 0
    assert [row["state"] for row in ledger(scene.bench).batches][-1] == "in_flight"
    scene.bench.service.faults.clear()
    scene.finish_as_expected(jobs=3)


@pytest.mark.fault(
    3,
    "DeepInfra: the listing that would find an unanswered create has several pages, and one cannot be read",
    injected="two batches on a page; 400 and 500 in place of the second page",
    seen="status 75 and nothing is bought until all pages are read; then the batch is adopted",
)
@pytest.mark.parametrize("status", [400, 500])
def test_a_page_of_the_listing_fails(make_bench: Make, provider: str, status: int) -> None:
    scene = Scene.of(make_bench, 4)
    world, faults = scene.bench.service.world, scene.bench.service.faults
    world.page_size = 2
    lose_answer(scene)
    until(scene.bench, 75)
    buy_elsewhere(scene, 4)  # the newest are listed first: the batch stands on the third page
    for _ in range(3):
        failing = CallFault(provider=provider, endpoint="list", action=Status(status, "no"), nth=2, times=0)
        faults.add(failing)  # the second page of this tick
        assert scene.tick(HOUR).code == 75
        assert [row["state"] for row in ledger(scene.bench).batches][-1] == "creating"
        faults.clear()
    read = len(world.seen(provider, "list"))
    scene.finish_as_expected(jobs=3 + 4)
    assert len(world.seen(provider, "list")) - read == 3


@pytest.mark.fault(
    9,
    "DeepInfra: the uploaded file is gone when the batch is created",
    injected="404 in place of the batch",
    seen="uploaded again, one batch",
)
def test_a_file_that_create_does_not_find_is_uploaded_again(make_bench: Make, provider: str) -> None:
    scene = Scene.of(make_bench, 4)
    gone = Status(404, "No such file: file-abc")
    scene.bench.service.faults.add(CallFault(provider=provider, endpoint="create", action=gone))
    scene.tick()
    assert scene.tick().code in {0, 75}
    scene.tick(5 * MINUTE)
    assert len(scene.bench.service.world.seen(provider, "upload_whole")) == 2
    scene.finish_as_expected(jobs=3)


@pytest.mark.fault(
    41,
    "the store is lost while a batch of DeepInfra is in flight",
    injected="the file deleted, `rebuild`",
    seen="the batch is collected, nothing is bought again",
)
def test_rebuild_with_a_batch_in_flight(make_bench: Make, provider: str) -> None:
    scene = Scene.of(make_bench, 4, job_seconds=600.0)
    scene.tick()
    scene.tick(700)
    assert scene.batches(4) == [(1, 4, "in_flight")]
    (scene.bench.root / "data" / "batchgen.sqlite").unlink()
    assert scene.bench.run("rebuild").code == 0
    scene.tick(1)
    assert scene.batches(4) == [(1, 4, "in_flight")]
    scene.finish_as_expected(jobs=3)
    built_again(scene)
    assert spent(scene.bench) == pytest.approx(bill(scene.bench), abs=2e-6)
