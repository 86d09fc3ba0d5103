"""Test `serve` as a service: token, addresses, names of models, a stop that loses nothing."""

from __future__ import annotations

import logging
import re
import signal
import socket
import threading
from functools import partial
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from together import Together

from batchgen.cli.serving import check_host, make_backend, parse_models, read_token
from batchgen.core.errors import SetupError
from batchgen.emulator.backends.openai_chat import OpenAICompatible
from batchgen.emulator.server import LocalService, run_service
from batchgen.runtime.logging_setup import redact
from benchmarks.serving import serving
from benchmarks.upstream import MODEL, Reply, Upstream
from tests.emulator.test_upstream import finish, over
from tests.support.bench import Bench, seeds
from tests.support.sdk_calls import (
    KEY,
    NO_TLS,
    by_key,
    jsonl,
    parsed,
    together_client,
    together_create,
    together_job,
    together_output,
    together_rows,
    together_upload,
)

TOKEN = "planted-serve-token-0123456789"
QUESTION = {"messages": [{"role": "user", "content": "How?"}]}


get = partial(httpx.get, verify=NO_TLS, timeout=5)
post = partial(httpx.post, verify=NO_TLS, timeout=5)


# ---- token and address


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "LOCALHOST", "::1"])
def test_this_machine_needs_no_token(host: str) -> None:
    check_host(host, "")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.7", "serve.cluster", "127.0.0.1.example"])  # noqa: S104
def test_another_address_needs_one_and_says_so(host: str, bench: Bench) -> None:
    check_host(host, TOKEN)
    done = bench.run("serve", "--host", host, "--backend", "scripted")
    assert (done.code, done.out) == (2, "")
    assert "there is no token" in done.err
    assert "BATCHGEN_SERVE_TOKEN or --token-file" in done.err


def test_where_a_token_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    assert read_token(path, {"BATCHGEN_SERVE_TOKEN": "other"}) == TOKEN
    assert read_token(None, {"BATCHGEN_SERVE_TOKEN": f" {TOKEN} "}) == TOKEN
    assert read_token(None, {}) == ""
    assert redact(f"no: {TOKEN}") == "no: ***"
    for content in (b"", b"\n", b"two words", b"\xff", "gr\u00fcn".encode(), b"a\nb"):
        path.write_bytes(content)
        with pytest.raises(SetupError, match=str(path)) as caught:
            read_token(path, {})
        assert "words" not in f"{caught.value} {caught.value.do}"
    with pytest.raises(SetupError, match="No such file"):
        read_token(tmp_path / "missing", {})


def calls(service: LocalService, key: str) -> dict[str, httpx.Response]:
    """One call at each provider, with this key in the way of that provider."""
    bearer = {"Authorization": f"Bearer {key}"} if key else {}
    return {
        "gemini": get(f"{service.gemini_url}/v1beta/batches", headers={"x-goog-api-key": key} if key else {}),
        "together": get(f"{service.together_url}/v1/batches", headers=bearer),
        "deepinfra": get(f"{service.service_url('deepinfra')}/batches", headers=bearer),
    }


def test_without_the_token_every_provider_refuses_as_it_does() -> None:
    lines: list[str] = []
    with LocalService(token=TOKEN, log=lines.append, control=True) as service:
        assert {name: answer.status_code for name, answer in calls(service, TOKEN).items()} == {
            "gemini": 200,
            "together": 200,
            "deepinfra": 200,
        }
        for key in ("", "local", TOKEN[:-1], TOKEN + "x", "gr\u00fc"[:2]):
            refused = {name: answer.status_code for name, answer in calls(service, key).items()}
            assert refused == {"gemini": 400 if key else 403, "together": 401, "deepinfra": 401}
        own = {"Authorization": f"Bearer {TOKEN}"}
        for path in ("/metrics", "/_control/world"):
            assert get(service.gemini_url + path).status_code == 401
            assert get(service.gemini_url + path, headers=own).status_code == 200
        assert get(f"{service.gemini_url}/healthz").json() == {"status": "ok"}
        # A web page cannot know the token: any host name may be used.
        assert get(f"{service.together_url}/v1/batches", headers={"Host": "gpu.box", **own}).status_code == 200
        assert TOKEN not in f"{lines} {service.world.requests} {service.world.summary()}"


def test_a_body_is_read_only_from_those_who_have_the_token() -> None:
    with LocalService(token=TOKEN) as service:
        refused = post(f"{service.together_url}/v1/files/upload", content=b"x" * 500_000)
        assert refused.status_code == 401
        with together_client(service, key=TOKEN) as client:
            source = together_upload(client, jsonl(together_rows(2)))
            assert together_create(client, source)


@pytest.mark.parametrize("length", ["-5", "many", "\u00b2", "9" * 5000])
def test_a_length_that_is_none_ends_the_connection(length: str) -> None:
    with LocalService() as service:
        port = int(service.together_url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
            head = f"GET /v1/batches HTTP/1.1\r\nAuthorization: Bearer k\r\nContent-Length: {length}\r\n\r\n"
            plain.sendall(head.encode("latin-1") + b"GET /v1/models HTTP/1.1\r\n\r\n")
            assert plain.recv(100).startswith(b"HTTP/1.1 200")
            while plain.recv(1000):
                pass
        assert [request.path for request in service.world.requests] == ["/v1/batches"]


def test_serve_listens_where_it_is_told(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    options = ("--host", "0.0.0.0", "--token-file", str(token))  # noqa: S104
    with serving(tmp_path / "data", "scripted", *options) as service:
        url = service.together_url.replace("0.0.0.0", "127.0.0.2")  # noqa: S104
        assert get(f"{url}/v1/batches").status_code == 401
        assert get(f"{url}/v1/batches", headers={"Authorization": f"Bearer {TOKEN}"}).json() == []


def test_serve_listens_on_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with LocalService(host="::1") as six:
        assert six.together_url.startswith("http://[::1]:")
        assert get(f"{six.together_url}/healthz").status_code == 200


# ---- names of models


def test_names_choose_and_map_models() -> None:
    assert parse_models([]) == {}
    assert parse_models(["a, b=x/y:z", "c"]) == {"a": "", "b": "x/y:z", "c": ""}
    for wrong in (["=m"], ["a="], [""], ["a,,b"]):
        with pytest.raises(SetupError, match="is not a name"):
            parse_models(wrong)
    with pytest.raises(SetupError, match="twice"):
        parse_models(["a=b", "a=c"])


NAME = st.text("aZ9_/.:-\u00e9", min_size=1, max_size=8)


@given(st.dictionaries(NAME, st.one_of(st.just(""), NAME), max_size=5))
def test_names_are_read_as_they_are_written(names: dict[str, str]) -> None:
    words = [f"{name}={model}" if model else name for name, model in names.items()]
    assert parse_models(words) == names
    assert parse_models([",".join(words)] if words else []) == names


def test_a_mapped_model_is_asked_and_an_unknown_one_refused_as_the_provider_does() -> None:
    names = parse_models(["big=own/large", "small"])
    with Upstream() as upstream:
        backend = make_backend(upstream.url, models=names)
        with (
            LocalService(backend) as service,
            httpx.Client(headers={"Authorization": "Bearer k"}, verify=NO_TLS) as client,
        ):
            service.world.served_models = set(names)
            for model, found in {"big": "own/large", "small": MODEL}.items():
                upstream.models.clear()
                body = {"model": model, **QUESTION}
                assert client.post(f"{service.together_url}/v1/chat/completions", json=body).status_code == 200
                assert upstream.models == {found}
            other = {"model": "other", **QUESTION}
            together = client.post(f"{service.together_url}/v1/chat/completions", json=other)
            assert (together.status_code, together.json()["error"]["code"]) == (400, "model_not_available")
            deepinfra = client.post(f"{service.service_url('deepinfra')}/chat/completions", json=other)
            assert deepinfra.status_code == 404
            google = f"{service.gemini_url}/v1beta/models/other:generateContent"
            gemini = client.post(google, json={}, headers={"x-goog-api-key": "k"})
            assert (gemini.status_code, gemini.json()["error"]["status"]) == (404, "NOT_FOUND")
            listed = client.get(f"{service.service_url('deepinfra')}/models").json()["data"]
            assert [one["id"] for one in listed] == ["big", "small"]


def test_a_model_that_a_server_does_not_list_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("batchgen"), "propagate", True)
    with Upstream() as upstream:
        for model, warned in {"own/large": True, MODEL: False}.items():
            caplog.clear()
            make_backend(upstream.url, models={"big": model}).close()
            assert (f"does not list {model}" in caplog.text) is warned


def test_a_run_with_a_model_that_is_not_served_stops_before_it_sends(bench: Bench) -> None:
    bench.service.world.served_models = set(parse_models(["another"]))
    bench.prepare(seeds(2))
    done = bench.run("collect", "--advance")
    assert done.code == 2
    assert not bench.service.world.jobs_created()


# ---- the stop


@pytest.mark.fault(
    28,
    "serve: stopped in the middle of a job",
    injected="SIGTERM",
    seen="rows in flight are finished, no other is sent, status 0; the next start answers the rest, no row twice",
)
@pytest.mark.slow
def test_sigterm_finishes_what_is_in_flight_and_the_next_start_goes_on(tmp_path: Path) -> None:
    rows, at_once = 60, 4
    with Upstream(seconds=0.15) as upstream:
        with serving(tmp_path, upstream.url, "--concurrency", str(at_once)) as service:
            with Together(api_key=KEY, base_url=service.together_url, max_retries=0) as client:
                job = together_create(client, together_upload(client, jsonl(together_rows(rows))))
            upstream.until_answered(at_once)
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(20) == 0
        assert at_once <= upstream.asked.total() == upstream.answered.total() < rows
        with serving(tmp_path, upstream.url, "--concurrency", str(rows)) as service:
            upstream.until_answered(rows)
            assert len(by_key(finish(service.together_url, job), "custom_id")) == rows
        assert set(upstream.asked.values()) == {1}  # no row was asked twice


def hanging(_message: str, before: int) -> Reply:
    return Reply(hang=before == 0)


@pytest.mark.fault(
    28,
    "serve: stopped while the model server hangs",
    injected="three rows without an answer, a stop with a grace of 0.1 s",
    seen="the stop waits no longer; the rows are on disk and are answered after the next start",
)
def test_rows_that_hang_wait_on_disk_for_the_next_start(tmp_path: Path) -> None:
    said: list[str] = []
    jobs: list[str] = []
    stop = threading.Event()
    with Upstream(behaviour=hanging) as upstream:

        def ready(service: LocalService) -> None:
            with together_client(service) as client:
                jobs.append(together_job(client, 3))
            while upstream.asked.total() < 3:
                stop.wait(0.01)
            stop.set()

        first = LocalService(OpenAICompatible(upstream.url, parallel=3), data_dir=tmp_path, log=said.append)
        run_service(first, ready=ready, stop=stop, grace_seconds=0.1)
        assert said[-1] == "3 rows in flight were not finished in 0.1 s"
        second = LocalService(OpenAICompatible(upstream.url, parallel=3), data_dir=tmp_path)
        with second, together_client(second) as client:
            over(second)
            assert len(parsed(together_output(client, jobs[0]))) == 3
        upstream.shut()


def test_a_service_that_stops_takes_no_new_work_but_shows_its_results() -> None:
    with LocalService() as service, together_client(service) as client:
        job = together_job(client, 2)
        source = together_upload(client, jsonl(together_rows(1)))
        assert service.drain(5.0) == 0
        assert get(f"{service.gemini_url}/healthz").status_code == 503
        own = {"Authorization": "Bearer k"}
        body = {"input_file_id": source, "endpoint": "/v1/chat/completions"}
        question = {"model": "m", **QUESTION}
        for path, sent in {"/v1/batches": body, "/v1/chat/completions": question, "/v1/files": {}}.items():
            refused = post(service.together_url + path, json=sent, headers=own)
            assert refused.status_code == 503
            assert re.search("stopping", refused.text)
        assert len(parsed(together_output(client, job))) == 2
        assert len(service.world.jobs) == 1


def test_a_run_goes_on_after_its_service_was_restarted(bench: Bench) -> None:
    bench.configure("rounds = 2\n")
    bench.prepare(seeds(2))
    world = bench.service.world
    for number in range(12):
        world.stopping = number % 2 == 0  # each tick finds the service as it stops, and then started again
        before = len(world.posts)
        assert bench.run("collect", "--advance").code == (75 if world.stopping and len(world.jobs) < 3 else 0)
        # Refused before the create call: an unclear answer would have been looked for, for 15 minutes.
        assert len(world.posts) == before or not world.stopping
        world.advance(60)
    assert bench.status()["finished"]
    assert len(world.posts) == len(world.jobs) == 3
