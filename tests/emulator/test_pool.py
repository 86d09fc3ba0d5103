"""Test several model servers as one backend: load, rests after errors, rows that go to another server."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.cli.serving import make_backend
from batchgen.core.errors import SetupError
from batchgen.emulator.backends.builtin import Answer, BackendBusy, BackendError, Message, Prompt
from batchgen.emulator.backends.openai_chat import OpenAICompatible
from batchgen.emulator.backends.pool import Pool
from batchgen.emulator.backends.throttle import DOWN_AFTER, MAX_DELAY_SECONDS
from batchgen.emulator.server import LocalService
from benchmarks.upstream import Reply, Upstream
from tests.emulator.test_upstream import over
from tests.support.sdk_calls import by_key, parsed, raw, together_client, together_job, together_output, together_text

HELLO = Prompt((Message("user", "How do tides work?"),))


class Written:
    """A server that answers as it is told: with its name, or an error."""

    instant = False

    def __init__(self, name: str, parallel: int = 4) -> None:
        self.name, self.parallel = name, parallel
        self.error: BackendError | None = None
        self.asked = 0
        self.gate: threading.Barrier | None = None

    def answer(self, prompt: Prompt) -> Answer:  # noqa: ARG002 - the interface
        self.asked += 1
        if self.gate:
            self.gate.wait(10)
        if self.error:
            raise self.error
        return Answer(self.name)

    def close(self) -> None:
        self.asked = -1


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def pool_of(*servers: Written) -> tuple[Pool, Clock, list[str]]:
    clock, said = Clock(), list[str]()
    return Pool({server.name: server for server in servers}, clock=clock, log=said.append), clock, said


def test_a_row_goes_to_the_server_with_the_fewest_in_flight() -> None:
    servers = [Written(name) for name in "abc"]
    gate = threading.Barrier(7)  # six rows, and this test
    for server in servers:
        server.gate = gate
    pool, _, _ = pool_of(*servers)
    threads = [threading.Thread(target=pool.answer, args=(HELLO,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    gate.wait(10)
    for thread in threads:
        thread.join()
    assert [server.asked for server in servers] == [2, 2, 2]
    assert [server.throttle.asked for server in pool.servers] == [0, 0, 0]


def test_a_server_that_is_down_costs_no_row_and_rests_longer_and_longer() -> None:
    bad, good = Written("bad"), Written("good")
    bad.error = BackendBusy("refused")
    pool, clock, said = pool_of(bad, good)
    for _ in range(100):
        assert pool.answer(HELLO).text == "good"
    assert bad.asked == DOWN_AFTER
    assert said == ["bad rests, its rows go to the other servers: refused"]
    assert pool.parallel == good.parallel
    pauses = []
    for _ in range(9):
        start, before = clock.now, bad.asked
        while bad.asked == before:
            clock.now += 0.25
            assert pool.answer(HELLO).text == "good"
        pauses.append(clock.now - start)
    assert pauses[0] <= 1
    assert 16 < pauses[-1] <= MAX_DELAY_SECONDS
    bad.error = None
    clock.now += MAX_DELAY_SECONDS
    assert pool.answer(HELLO).text == "bad"
    assert said[1:] == ["bad answers again"]


def test_while_all_rest_no_row_is_taken() -> None:
    servers = [Written("a"), Written("b")]
    for server in servers:
        server.error = BackendBusy("503", 7.0)
    pool, clock, _ = pool_of(*servers)
    for _ in range(DOWN_AFTER):
        with pytest.raises(BackendBusy, match="b: 503") as caught:
            pool.answer(HELLO)
        assert (caught.value.after_seconds, caught.value.affects_all_rows) == (7.0, False)
    assert pool.parallel == 0
    with pytest.raises(BackendBusy, match="rest"):
        pool.answer(HELLO)
    clock.now += MAX_DELAY_SECONDS
    assert pool.parallel == 2  # one row each, to see whether they answer again


def test_a_row_that_is_wrong_is_wrong_everywhere() -> None:
    first, second = Written("first"), Written("second")
    first.error = BackendError("400")
    pool, _, said = pool_of(first, second)
    for _ in range(DOWN_AFTER + 1):
        with pytest.raises(BackendError, match="400"):
            pool.answer(HELLO)
    assert (second.asked, said) == (0, [])


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.floats(0, 40)), max_size=60))
def test_one_server_that_answers_is_enough(events: list[tuple[int, bool, float]]) -> None:
    """Whatever the others do, a row is answered as long as one server has never failed."""
    servers = [Written(name) for name in "abcd"]
    pool, clock, _ = pool_of(*servers)
    for number, fails, seconds in events:
        servers[number].error = BackendBusy("503") if fails else None
        clock.now += seconds
        assert pool.answer(HELLO).text in "abcd"
        assert pool.parallel >= servers[3].parallel
    assert [server.throttle.asked for server in pool.servers] == [0] * 4
    pool.close()
    assert {server.asked for server in servers} == {-1}


@pytest.mark.fault(
    28,
    "serve: one of several model servers breaks",
    injected="status 500 to every request after the twentieth",
    seen="its rows go to the other server; it rests after eight failures; no row is lost",
)
def test_one_of_two_servers_breaks_and_no_row_is_lost() -> None:
    def breaks(_message: str, _before: int) -> Reply:
        return Reply(500) if first.asked.total() > 20 else Reply()

    with Upstream(behaviour=breaks, text="first ") as first, Upstream(text="second ") as second:
        servers = {one.url: OpenAICompatible(one.url, parallel=4) for one in (first, second)}
        pool = Pool(servers, clock=lambda: 0.0)  # a rest does not end
        with LocalService(pool) as service, together_client(service) as client:
            job = together_job(client, 120)
            over(service)
            rows = by_key(together_output(client, job), "custom_id")
        assert len(rows) == 120
        answered = Counter(together_text(row).partition(" ")[0] for row in rows.values())
        assert answered["first"] == 20
        assert first.peak <= 4
        # And not once for each row: it rested. Of the rows in flight, some may have been answered after the first
        # failure, so that the count began again, and some were sent before the last one.
        assert first.asked.total() <= 20 + DOWN_AFTER + 2 * 4


@pytest.mark.fault(
    28,
    "serve: all of several model servers are down, then one comes back",
    injected="refused connections",
    seen="no row is taken until a rest is over; then all rows are answered",
)
def test_rows_wait_while_every_server_is_down() -> None:
    clock = Clock()
    with Upstream() as first, Upstream() as second:
        servers = {one.url: OpenAICompatible(one.url, parallel=2) for one in (first, second)}
        pool = Pool(servers, clock=clock)
        with LocalService(pool) as service, together_client(service) as client, raw(service) as plain:
            first.shut()
            second.shut()
            body = {"contents": [{"parts": [{"text": "hi"}]}]}
            while pool.parallel:
                assert plain.post("/v1/models/gemini-x:generateContent", json=body).status_code == 503
            job = together_job(client, 10)
            assert not service.world.counts.in_flight
            second.open()
            clock.now += MAX_DELAY_SECONDS
            over(service, seconds=5.0)
            assert len(parsed(together_output(client, job))) == 10
        assert not first.answered
        assert second.answered.total() == 10


def test_several_addresses_on_the_command_line() -> None:
    with Upstream() as first, Upstream() as second:
        with closing(make_backend([first.url, second.url, first.url], 3)) as pool:
            assert isinstance(pool, Pool)
            assert [server.name for server in pool.servers] == [first.url, second.url]
            assert pool.parallel == 6
        for other in ("smollm", "scripted", "nonsense"):
            with pytest.raises(SetupError, match=other):
                make_backend([first.url, other])
    with pytest.raises(SetupError, match="one model only"):
        make_backend(["scripted"], models={"a": "b"})
