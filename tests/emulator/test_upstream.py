"""Test `serve` with an OpenAI-compatible server behind it, over real HTTP: many rows, errors, restarts, memory."""

from __future__ import annotations

import errno
import logging
import os
import socket
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import closing
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from together import Together

from batchgen.cli.serving import make_backend
from batchgen.core.errors import SetupError
from batchgen.core.outcomes import Reason
from batchgen.emulator.backends.builtin import BackendBusy, BackendError, Message, Prompt
from batchgen.emulator.backends.openai_chat import OpenAICompatible
from batchgen.emulator.backends.workers import MAX_TRIES
from batchgen.emulator.server import LocalService
from batchgen.providers.chat_codec import parse_result as chat_reply
from batchgen.runtime.logging_setup import redact
from benchmarks.serving import measure, serving
from benchmarks.upstream import Reply, Upstream
from tests.support.bench import REPOSITORY, Bench, seeds
from tests.support.sdk_calls import (
    KEY,
    by_key,
    gemini_client,
    gemini_job,
    gemini_output,
    jsonl,
    parsed,
    raw,
    together_client,
    together_create,
    together_job,
    together_output,
    together_rows,
    together_text,
    together_upload,
)

if TYPE_CHECKING:
    from google import genai

LOOKS, LOOK_SECONDS = 3000, 0.01
HELLO = Prompt((Message("user", "How do tides work?"),))
PLACE_BYTES = 200  # memory per row: its key, and the positions of its line and its answer
ROWS = int(os.environ.get("SOAK_ROWS", "2000"))


def over(service: LocalService, *, seconds: float = 0.0) -> None:
    """Wait for the workers until every job has ended; the clock moves by `seconds` at each look."""
    world = service.world
    with world.wake:
        for _ in range(LOOKS):
            if not world.active_jobs():
                return
            world.wake.wait(LOOK_SECONDS)
            world.advance(seconds)
    raise AssertionError("the jobs do not end")


def number_of(message: str) -> int:
    return int("".join(filter(str.isdigit, message)))


def test_as_many_rows_at_once_as_allowed_and_no_more() -> None:
    with Upstream(gather=16) as upstream:  # answers no request before 16 have arrived
        with LocalService(OpenAICompatible(upstream.url, parallel=16)) as service, together_client(service) as client:
            job = together_job(client, 80)
            over(service)
            rows = by_key(together_output(client, job), "custom_id")
        assert upstream.peak == 16
        assert set(upstream.asked.values()) == {1}
    assert {key: together_text(row) for key, row in rows.items()} == {
        f"k{number}": f"I heard: What is boat {number}?" for number in range(80)
    }


@pytest.mark.slow
def test_the_time_of_a_job_is_that_of_its_rows_shared_by_those_at_once() -> None:
    found = measure(400, 0.05, 32)
    assert found.rows == 400
    assert 400 * 0.05 / 32 <= found.seconds < 400 * 0.05 / 3


TROUBLES = (
    Reply(429, retry_after="30"),
    Reply(429, retry_after="Wed, 21 Oct 2026 07:28:00 GMT"),
    Reply(503),
    Reply(500),
    Reply(502, body=b"<html>Bad gateway</html>"),
    Reply(200, body=b"<html>Sign in</html>"),
    Reply(200, body=b'{"choices": [{"mess'),
    Reply(drop=True),
)


def troubled(message: str, before: int) -> Reply:
    """Every third row gets each of the errors once, one after another."""
    if number_of(message) % 3 == 0 and before < len(TROUBLES):
        return TROUBLES[before]
    return Reply()


@pytest.mark.slow
def test_a_busy_or_broken_server_loses_no_row() -> None:
    with Upstream(behaviour=troubled) as upstream:
        with LocalService(OpenAICompatible(upstream.url, parallel=8)) as service, together_client(service) as client:
            start = service.world.now()
            job = together_job(client, 60)
            over(service, seconds=20.0)
            rows = by_key(together_output(client, job), "custom_id")
            assert service.world.now() - start > 30  # the Retry-After of the server
            assert client.batches.retrieve(job).error_file_id is None
        assert len(rows) == 60
        assert set(upstream.answered.values()) == {1}
        assert {number_of(message) % 3 for message, times in upstream.asked.items() if times > 1} == {0}
        assert max(upstream.asked.values()) == len(TROUBLES) + 1


def half_a_character(message: str, _before: int) -> Reply:
    """A server that cuts a reply between tokens may split an emoji."""
    said = {"choices": [{"message": {"content": "\U0001f600 and \ud83d."}, "finish_reason": "stop"}]}
    return Reply(body=dumps(said).encode()) if number_of(message) == 3 else Reply()


def test_half_a_character_does_not_cost_the_row() -> None:
    with (
        Upstream(behaviour=half_a_character) as upstream,
        LocalService(OpenAICompatible(upstream.url, parallel=4)) as service,
        together_client(service) as client,
    ):
        job = together_job(client, 6)
        over(service)
        rows = by_key(together_output(client, job), "custom_id")
    assert together_text(rows["k3"]) == "\U0001f600 and \ufffd."
    assert len(rows) == 6


ODD_ENDS: list[tuple[dict[str, Any], str, str]] = [  # (a choice, Together's finish reason, a part of the row's error)
    ({"message": {"content": "Whole."}, "finish_reason": "eos"}, "stop", ""),
    ({"message": {"content": "Half a"}, "finish_reason": "length"}, "length", ""),
    ({"message": {"content": "Half a"}, "finish_reason": "content_filter"}, "content_filter", ""),
    ({"message": {"content": None, "refusal": "I cannot."}, "finish_reason": "stop"}, "stop", ""),
    ({"message": {"content": "Half a"}, "finish_reason": "abort"}, "", "abort"),
    ({"message": {"content": "I look it up.", "tool_calls": [{}]}, "finish_reason": "tool_calls"}, "", "tool_calls"),
    ({"message": {"content": "Half a"}, "finish_reason": None}, "", "null"),
    (
        {"message": {"content": ""}, "finish_reason": "error", "error": {"code": 502, "message": "went away"}},
        "",
        "away",
    ),
]


def odd_end(message: str, _before: int) -> Reply:
    return Reply(body=dumps({"choices": [ODD_ENDS[number_of(message)][0]], "usage": None}).encode())


@pytest.mark.fault(
    28,
    "serve: the model server ends replies in other ways than `stop`",
    injected="finish reasons `length`, `content_filter`, `abort`, `tool_calls`, null; an error in a choice; a refusal",
    seen="a half text is never told as a whole one: cut, blocked, or an error of the row that names the reason",
)
def test_a_half_text_is_not_told_as_a_whole_one() -> None:
    with (
        Upstream(behaviour=odd_end) as upstream,
        LocalService(OpenAICompatible(upstream.url, parallel=4)) as service,
        together_client(service) as together,
        gemini_client(service) as gemini,
    ):
        first = together_job(together, len(ODD_ENDS))
        over(service)
        good = by_key(together_output(together, first), "custom_id")
        errors = together.batches.retrieve(first).error_file_id
        assert errors
        bad = by_key(together.files.content(errors).read(), "custom_id")
        upstream.behaviour = lambda _, __: odd_end("2", 0)
        rows = parsed(gemini_output(gemini, over_gemini(service, gemini)))
    assert chat_reply(orjson.dumps(good["k3"]), ()).reason is Reason.REFUSED
    for number, (_, finish, word) in enumerate(ODD_ENDS):
        if finish:
            assert good[f"k{number}"]["response"]["body"]["choices"][0]["finish_reason"] == finish
        else:
            assert word in bad[f"k{number}"]["error"]["message"]
    assert [row["response"]["candidates"][0]["finishReason"] for row in rows] == ["SAFETY"]


def over_gemini(service: LocalService, client: genai.Client) -> str:
    """A finished Gemini job of one row."""
    job = gemini_job(client, 1, plain=True)
    over(service)
    return job


def hanging(message: str, before: int) -> Reply:
    return Reply(hang=number_of(message) < 3 and before == 0)


def test_an_answer_that_never_comes_is_asked_for_again() -> None:
    with Upstream(behaviour=hanging) as upstream:
        backend = OpenAICompatible(upstream.url, parallel=8, timeout_seconds=1.0)
        with LocalService(backend) as service, together_client(service) as client:
            job = together_job(client, 12)
            over(service, seconds=20.0)
            assert len(parsed(together_output(client, job))) == 12
        assert sorted(upstream.asked.values()) == [1] * 9 + [2] * 3


def hopeless(message: str, before: int) -> Reply:
    return Reply({0: 503, 1: 400}.get(number_of(message), 200))


def test_what_the_server_never_answers_fails_as_the_providers_rows_do() -> None:
    with Upstream(behaviour=hopeless) as upstream:
        backend = OpenAICompatible(upstream.url, parallel=4)
        with (
            LocalService(backend) as service,
            together_client(service) as together,
            gemini_client(service) as gemini,
        ):
            first = together_job(together, 5)
            over(service, seconds=20.0)
            good = by_key(together_output(together, first), "custom_id")
            errors = together.batches.retrieve(first).error_file_id
            assert errors
            bad = by_key(together.files.content(errors).read(), "custom_id")
            second = gemini_job(gemini, 3, plain=True)
            over(service, seconds=20.0)
            rows = by_key(gemini_output(gemini, second))
        asked = [upstream.asked[f"What is boat {number}?"] for number in range(5)]
    assert set(good) == {"k2", "k3", "k4"}
    assert {key: row["error"]["code"] for key, row in bad.items()} == dict.fromkeys(["k0", "k1"], "batch_client_error")
    assert "503" in bad["k0"]["error"]["message"]
    assert asked == [MAX_TRIES, 1, 1, 1, 1]
    assert [rows[f"k{number}"].get("error", {}).get("code") for number in range(3)] == [13, 13, None]


def test_rows_wait_for_a_server_that_is_down() -> None:
    said: list[str] = []
    with Upstream() as upstream:
        backend = OpenAICompatible(upstream.url, parallel=8)
        with LocalService(backend, log=said.append) as service, together_client(service) as client:
            source = together_upload(client, jsonl(together_rows(100)))
            upstream.shut()
            job = together_create(client, source)
            throttle, world = service._workers.throttle, service.world
            with world.wake:
                end = world.now() + 200
                while world.now() < end:
                    world.wake.wait(LOOK_SECONDS)
                    world.advance(2.0)
                assert throttle.is_down
                tries = sum(tries for _, _, tries in world.progress[job].again)
            assert tries < 40  # not once per row: the server is tried with one row at a time, less and less often
            upstream.open()
            over(service, seconds=5.0)
            assert len(parsed(together_output(client, job))) == 100
    assert sum("rows wait until it answers again" in line for line in said) == 1
    assert sum("answers again" in line for line in said) == 2


def test_a_single_call_says_that_the_server_is_down() -> None:
    with Upstream() as upstream:
        url = upstream.url
    with LocalService(OpenAICompatible(url)) as service, raw(service) as client:
        body = {"contents": [{"parts": [{"text": "hi"}]}]}
        answer = client.post("/v1/models/gemini-x:generateContent", json=body)
    assert (answer.status_code, answer.json()["error"]["status"]) == (503, "UNAVAILABLE")


def test_busy_is_not_wrong() -> None:
    with Upstream(behaviour=lambda _, before: Reply(503 if before == 0 else 404)) as upstream:
        backend = OpenAICompatible(upstream.url, model="m")
        with pytest.raises(BackendBusy):
            backend.answer(HELLO)
        with pytest.raises(BackendError, match="404") as caught:
            backend.answer(HELLO)
        assert not isinstance(caught.value, BackendBusy)
        backend.close()


def finish(url: str, job: str) -> bytes:
    """The result file of a job whose rows are all answered: it ends within a few polls."""
    with Together(api_key=KEY, base_url=url, max_retries=0) as client:
        for _ in range(LOOKS):
            if output := client.batches.retrieve(job).output_file_id:
                return client.files.content(output).read()
    raise AssertionError("the job does not end")


@pytest.mark.slow
def test_killed_in_mid_job_nothing_answered_is_asked_again(tmp_path: Path) -> None:
    rows, at_once = 300, 4
    with Upstream(seconds=0.005) as upstream:
        with serving(tmp_path, upstream.url, "--concurrency", str(at_once)) as service:
            with Together(api_key=KEY, base_url=service.together_url, max_retries=0) as client:
                job = together_create(client, together_upload(client, jsonl(together_rows(rows))))
            upstream.until_answered(100)
            service.process.kill()  # -9
            service.process.wait()
        before = upstream.asked.total()
        assert before < rows
        with serving(tmp_path, upstream.url, "--concurrency", str(at_once)) as service:
            upstream.until_answered(rows)
            found = by_key(finish(service.together_url, job), "custom_id")
        assert len(found) == rows
        assert len(upstream.asked) == rows
        assert upstream.asked.total() <= rows + at_once  # the rows that were being answered
        assert max(upstream.asked.values()) <= 2


def test_a_disk_that_refuses_answers_costs_time_and_no_row(tmp_path: Path) -> None:
    said: list[str] = []
    with Upstream() as upstream:
        service = LocalService(OpenAICompatible(upstream.url, parallel=1), data_dir=tmp_path, log=said.append)
        with service, together_client(service) as client:
            source = together_upload(client, jsonl(together_rows(3)))
            with service.world.lock:
                job = together_create_soon(service, source)
                answers = tmp_path / "answers" / f"{job}.jsonl"
                answers.symlink_to("/dev/full")
            upstream.until_answered(3)
            answers.unlink()
            over(service, seconds=20.0)
            assert len(parsed(together_output(client, job))) == 3
    assert any("an answer could not be stored" in line for line in said)


class Refusing(Sequence[bytes]):
    """Request lines that cannot be read at the first try."""

    def __init__(self, lines: Sequence[bytes]) -> None:
        self.lines = lines
        self.refused: set[int] = set()

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.lines)

    def __getitem__(self, index: Any) -> Any:
        if index in self.refused:
            return self.lines[index]
        self.refused.add(index)
        raise OSError(errno.EMFILE, "Too many open files")


def test_a_disk_that_refuses_request_lines_costs_no_row() -> None:
    upstream = Upstream(behaviour=lambda _, before: Reply(503 if before == 0 else 200))
    with (
        upstream,
        LocalService(OpenAICompatible(upstream.url, parallel=2)) as service,
        together_client(service) as client,
    ):
        source = together_upload(client, jsonl(together_rows(4)))
        with service.world.lock:
            job = together_create_soon(service, source)
            progress = service.world.progress[job]
            progress.lines = refusing = Refusing(progress.lines)
        over(service, seconds=20.0)
        assert len(parsed(together_output(client, job))) == 4
    assert refusing.refused == {0, 1, 2, 3}


def together_create_soon(service: LocalService, source: str) -> str:
    """A job that no worker has seen yet. The caller holds the lock of the world."""
    from batchgen.emulator.http_values import Request
    from batchgen.emulator.protocols import together

    body = jsonl([{"input_file_id": source, "endpoint": "/v1/chat/completions"}])
    request = Request("POST", "/v1/batches", headers={"authorization": f"Bearer {KEY}"}, body=body)
    return str(parsed(together.handle(request, service.world).body)[0]["job"]["id"])


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows_of_a_job() -> None:
    """Each answer has 8 kB of text, so the answers of 2,000 rows in memory would exceed the limit."""
    found = measure(ROWS, 0.0, 32, text="The boats lie behind the harbour wall. " * 200)
    assert found.rows == ROWS
    assert found.working_mb - found.idle_mb < 12 + ROWS * PLACE_BYTES / 1e6


def test_the_configuration_of_the_page_grows_a_dataset(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = (REPOSITORY / "docs" / "scale.md").read_text("utf-8")
    block = page.partition("```toml\n")[2].partition("```")[0]
    model = tomllib.loads(block)["together"]["models"][0]
    with Upstream(text="It is drowned by whoever asks about ") as upstream:
        backend = OpenAICompatible(upstream.url, parallel=8)
        with LocalService(backend, data_dir=tmp_path / "serve") as own:
            monkeypatch.setenv("TOGETHER_BASE_URL", own.together_url)
            monkeypatch.setenv("TOGETHER_API_KEY", "local")
            bench.configure(block)
            bench.prepare(seeds(5))
            for _ in range(20):
                bench.run("collect", "--advance")
                if bench.status()["finished"]:
                    break
                over(own)
                bench.service.world.advance(60)
            assert bench.run("verify").code == 0
            assert not bench.service.world.jobs_created("together")
            assert {job.model for job in own.world.jobs_created()} == {model}
        assert upstream.answered.total() >= 10
    status = bench.status()
    assert (status["complete"], status["models"]["together"]) == (5, model)
    answers = [turn["answer"] for row in bench.rows("round3/round3_history.jsonl") for turn in row["rounds"][1:]]
    assert all(answer.startswith("It is drowned by") for answer in answers)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://[bad", "is unknown"),
        ("{}/v1/chat/completions", "no OpenAI-compatible server"),
        ("{}/elsewhere", "no OpenAI-compatible server"),
    ],
)
def test_a_mistyped_address_is_found_before_any_row_is_asked(url: str, said: str) -> None:
    with Upstream() as upstream:
        address = url.format(upstream.url.removesuffix("/v1"))
        with pytest.raises(SetupError, match=said) as raised:
            make_backend(address)
        assert address in str(raised.value)
        assert "/v1" in raised.value.do


def test_a_server_that_is_down_may_come_up_later(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setattr(logging.getLogger("batchgen"), "propagate", True)
    with closing(make_backend(f"http://127.0.0.1:{port}/v1")):
        pass
    assert "rows wait until it answers" in caplog.text


def test_a_key_for_the_model_server_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHGEN_BACKEND_KEY", "sk-PLANTED-backend-key")
    with Upstream() as upstream, closing(make_backend(upstream.url)) as backend:
        assert backend.answer(HELLO).text
        assert upstream.keys == {"Bearer sk-PLANTED-backend-key"}
    assert redact("no: sk-PLANTED-backend-key") == "no: ***"
