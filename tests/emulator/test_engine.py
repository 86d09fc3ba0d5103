"""Test slow backends, restarts of the service, and both together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batchgen.emulator.backends.builtin import Answer, BackendError, Prompt, Scripted
from batchgen.emulator.server import LocalService
from tests.support.sdk_calls import (
    by_key,
    gemini_client,
    gemini_job,
    gemini_output,
    operation,
    parsed,
    raw,
    together_client,
    together_job,
    together_output,
    together_upload,
)

if TYPE_CHECKING:
    from google import genai

PATIENCE_SECONDS = 10.0


class Slow:
    """A backend that answers a limited number of prompts, and counts all of them."""

    instant = False

    def __init__(self, parallel: int = 4) -> None:
        self.parallel = parallel
        self.allowed = threading.Semaphore(0)
        self.asked = 0
        self.closed = False

    def answer(self, prompt: Prompt) -> Answer:
        self.asked += 1
        if not self.allowed.acquire(timeout=PATIENCE_SECONDS):
            raise BackendError("nobody allowed an answer")
        return Answer(f"slow {prompt.messages[-1].content}", "length", 3, 4)

    def allow(self, count: int) -> None:
        for _ in range(count):
            self.allowed.release()

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def slow() -> Iterator[Slow]:
    backend = Slow()
    yield backend
    assert backend.closed


def until(service: LocalService, condition: Callable[[], bool]) -> None:
    """Wait for worker threads without sleeping: they notify after each answer."""
    with service.world.wake:
        assert service.world.wake.wait_for(condition, PATIENCE_SECONDS)


def test_a_slow_backend_answers_many_rows_at_once(slow: Slow) -> None:
    with LocalService(slow) as service, gemini_client(service) as client:
        job = gemini_job(client, 6, plain=True)
        assert operation(service, job)["metadata"]["state"] == "BATCH_STATE_RUNNING"
        slow.allow(6)
        until(service, lambda: not service.world.active_jobs())
        rows = by_key(gemini_output(client, job))
    assert len(rows) == 6
    candidate = rows["k3"]["response"]["candidates"][0]
    assert candidate["finishReason"] == "MAX_TOKENS"
    assert candidate["content"]["parts"][0]["text"].startswith("slow Harbour 3")
    assert rows["k3"]["response"]["usageMetadata"]["totalTokenCount"] == 7


def test_cancelled_halfway_the_rest_is_not_served(slow: Slow) -> None:
    with LocalService(slow) as service, gemini_client(service) as client:
        job = gemini_job(client, 10)
        slow.allow(3)
        until(service, lambda: sum(len(p.answers) for p in service.world.progress.values()) == 3)
        client.batches.cancel(name=job)
        slow.allow(10)
        rows = parsed(gemini_output(client, job))
    assert len(rows) == 10
    assert [row["error"] for row in rows if "error" in row] == [{"code": 1}] * 7


def test_a_slow_job_expires_with_its_rows_unfinished(slow: Slow) -> None:
    with LocalService(slow) as service, gemini_client(service) as client:
        job = gemini_job(client, 3)
        service.world.advance(49 * 3600)
        assert operation(service, job)["metadata"]["state"] == "BATCH_STATE_EXPIRED"
        slow.allow(3)


def test_rows_the_backend_cannot_answer_fail_alone() -> None:
    def script(prompt: Prompt) -> str:
        if "Harbour 1" in prompt.messages[-1].content:
            raise BackendError("no idea")
        return "fine"

    with LocalService(Scripted(script)) as service, gemini_client(service) as client:
        rows = by_key(gemini_output(client, gemini_job(client, 3)))
    assert rows["k1"]["error"] == {"code": 13, "message": "no idea"}
    assert "response" in rows["k0"]


def test_everything_survives_a_restart(tmp_path: Path) -> None:
    with LocalService(data_dir=tmp_path) as service:
        with gemini_client(service) as gemini, together_client(service) as together:
            first, second = gemini_job(gemini), together_job(together)
            outputs = gemini_output(gemini, first), together_output(together, second)
            service.world.job_seconds = 1000
            pending = gemini_job(gemini, 4)
        keys = service.world.bought_keys
    with LocalService(data_dir=tmp_path) as service:
        assert service.world.bought_keys == keys
        with gemini_client(service) as gemini, together_client(service) as together:
            assert (gemini_output(gemini, first), together_output(together, second)) == outputs
            assert len(parsed(gemini_output(gemini, pending))) == 4
            assert [job.name for job in gemini.batches.list()] == [pending, first]
            assert len({pending, first, gemini_job(gemini)}) == 3


def test_finished_rows_survive_a_restart_and_the_rest_goes_on(tmp_path: Path) -> None:
    before, after = Slow(parallel=1), Slow(parallel=1)
    service = LocalService(before, data_dir=tmp_path).start()
    with gemini_client(service) as client:
        job = gemini_job(client, 5)
    before.allow(2)
    until(service, lambda: sum(len(p.answers) for p in service.world.progress.values()) == 2)
    stopping = threading.Thread(target=service.stop)
    stopping.start()
    until(service, lambda: service._workers._stopping)
    before.allow(1)  # the row that is being answered is finished first
    stopping.join()
    answers = tmp_path / "answers" / f"{job.removeprefix('batches/')}.jsonl"
    complete = answers.read_bytes().count(b"\n")
    with answers.open("ab") as file:
        file.write(b'{"index": 4, "row": {"key"')
    with LocalService(after, data_dir=tmp_path) as service, gemini_client(service) as client:
        after.allow(5)
        until(service, lambda: not service.world.active_jobs())
        assert len(parsed(gemini_output(client, job))) == 5
    assert (complete, after.asked) == (3, 2)
    assert not answers.exists()


def test_contents_nobody_needs_are_removed(tmp_path: Path) -> None:
    with LocalService(data_dir=tmp_path) as service, together_client(service) as client:
        identity = together_upload(client, b'{"custom_id": "a", "body": {}}\n')
        assert len(list((tmp_path / "blobs").iterdir())) == 1
        client.files.delete(identity)
        assert not list((tmp_path / "blobs").iterdir())
        assert not list((tmp_path / "together-files").iterdir())


def test_a_bug_in_a_script_reaches_the_test() -> None:
    def broken(prompt: Prompt) -> str:
        raise ZeroDivisionError(prompt.model)

    service = LocalService(Scripted(broken)).start()
    with raw(service) as client:
        body = {"contents": [{"parts": [{"text": "hi"}]}]}
        assert client.post("/v1/models/gemini-x:generateContent", json=body).status_code == 500
    with pytest.raises(ZeroDivisionError):
        service.__exit__(None, None, None)


def test_a_bug_in_a_backend_fails_its_row_and_reaches_the_test() -> None:
    class Broken(Slow):
        def answer(self, prompt: Prompt) -> Answer:
            raise ZeroDivisionError(prompt.model)

    service = LocalService(Broken()).start()
    with gemini_client(service) as client:
        job = gemini_job(client, 2)
        until(service, lambda: not service.world.active_jobs())
        assert all("ZeroDivisionError" in row["error"]["message"] for row in parsed(gemini_output(client, job)))
    with pytest.raises(ZeroDivisionError):
        service.__exit__(None, None, None)


def test_a_clock_set_back(service: LocalService, gemini: genai.Client) -> None:
    service.world.job_seconds = 100
    job = gemini_job(gemini)
    service.world.advance(-7200)
    service.step()
    with raw(service) as client:
        assert client.get(f"/v1beta/{job}").status_code == 404  # the job does not exist yet
    service.world.advance(7200 + 100)
    assert operation(service, job)["done"] is True
