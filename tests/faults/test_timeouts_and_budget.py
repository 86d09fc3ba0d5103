"""Test a finished run, servers that send no complete response, and the limit of money (41, 43, 44)."""

from __future__ import annotations

import pytest

from batchgen.emulator.faults import Action, CallFault, Drip, Drop, Hang
from batchgen.providers import read_deadline
from tests.support.bench import Bench
from tests.support.fork_server import KILLED, Forks
from tests.support.invariants import ROUNDS, Make, Watch, end, finished, ledger, met, start, tick
from tests.support.provider_facts import ANSWERERS

PRICES = """
[prices."gemini-2.5-flash-lite"]
input = 1.0
output = 10.0
[prices."meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo"]
input = 1.0
output = 10.0
"""


@pytest.fixture
def bench(expected: dict[str, bytes], make_bench: Make) -> Bench:
    return start(make_bench())


# ---------------------------------------------------------------- a finished run, 41


@pytest.mark.fault(
    41,
    "a finished run goes on being ticked",
    injected="ten more times every command",
    seen="no call, no write, status 0",
)
def test_41_a_finished_run_is_left_alone(bench: Bench) -> None:
    """Ten more times submit and collect: no call, no write, exit 0."""
    bench.ticks()
    finished(bench)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in bench.root.rglob("*") if path.is_file()}
    calls = len(bench.service.world.requests)
    for _ in range(10):
        for stage in ("question", "answer", "correction"):
            assert bench.run("submit", "--stage", stage).code == 0
        assert bench.run("collect", "--advance") == (0, "", "")
        assert bench.run("collect") == (0, "", "")
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in bench.root.rglob("*") if path.is_file()}
    assert after == before
    assert len(bench.service.world.requests) == calls


# ---------------------------------------------------------------- no complete response, 43

SILENT = ["probe", "upload_start", "upload_data", "create", "get", "download"]
SILENT_AT = [
    *((provider, endpoint) for provider in ("gemini", "together") for endpoint in SILENT),
    *(("deepinfra", endpoint) for endpoint in ("upload_whole", "create", "download")),
]


@pytest.mark.fault(
    43,
    "the server accepts and never answers",
    injected="hang at the probe, upload, create, poll, download",
    seen="status 75 after one time-out; the lock is free",
)
@pytest.mark.parametrize(("provider", "endpoint"), SILENT_AT)
def test_43_no_answer_at_all(provider: str, endpoint: str, expected: dict[str, bytes], make_bench: Make) -> None:
    """The server accepts and never answers: after one time-out the command ends and the lock is free."""
    bench = start(make_bench(), "http_timeout_seconds = 0.3\n")
    bench.service.faults.add(CallFault(provider=provider, endpoint=endpoint, action=Hang(600), times=0))
    assert met(bench, 1).code == 75
    assert bench.service.faults.struck() == 1, "asked again, and waited as long again"
    bench.service.faults.clear()
    bench.configure(ROUNDS)
    end(bench, expected)


DRIPPING: dict[str, Action] = {"get": Drip(8), "list": Drip(8), "download": Drip(8), "create": Drip(8)}


@pytest.mark.fault(
    43,
    "an answer that comes byte by byte, for ever",
    injected="body spread over a minute",
    seen="status 75 after ten time-outs; the lock is free",
)
@pytest.mark.parametrize(
    ("provider", "endpoint"),
    [
        *(("gemini", endpoint) for endpoint in DRIPPING),
        *((provider, endpoint) for provider in ANSWERERS for endpoint in ("create", "get", "list", "download")),
    ],
)
def test_43_an_answer_that_drips(
    provider: str, endpoint: str, expected: dict[str, bytes], make_bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No single read times out, but the whole call must end."""
    monkeypatch.setattr(read_deadline, "MAX_TIMEOUTS_PER_RESPONSE", 0.1)
    bench = start(make_bench(), "http_timeout_seconds = 5\n")
    if endpoint == "list":
        bench.service.faults.add(CallFault(provider=provider, endpoint="create", action=Drop(), after_effect=True))
    bench.service.faults.add(CallFault(provider=provider, endpoint=endpoint, action=DRIPPING[endpoint]))
    result = met(bench, 1)
    if endpoint == "list":
        bench.service.world.advance(2000)
        result = met(bench, 2)
        assert ledger(bench).batches[-1]["state"] == "creating"
    assert result.code == 75
    assert "Traceback" not in result.err
    assert bench.service.faults.struck() == 1 + (endpoint == "list")
    bench.configure(ROUNDS)
    bench.service.faults.clear()
    end(bench, expected)


# ---------------------------------------------------------------- money, 44


@pytest.mark.fault(
    44,
    "`max_usd` would be passed",
    injected="configuration",
    seen="status 3 with what is spent and reserved; nothing above the cap is sent",
)
def test_44_budget(expected: dict[str, bytes], make_bench: Make) -> None:
    """A batch that would exceed max_usd is not sent; the amounts in the message add up; a higher max_usd continues."""
    bench = start(make_bench(), "max_requests = 2\n", "max_usd = 0.004" + PRICES)
    refused = tick(bench)
    assert refused.code == 3
    cost = bench.status()["cost"]
    assert cost["spent_usd"] + cost["reserved_usd"] <= 0.004
    assert f"spent ${cost['spent_usd']:.4f}, reserved ${cost['reserved_usd']:.4f}" in refused.err
    assert "max_usd" in refused.err
    assert bench.service.world.batches_bought == 1
    watch = Watch(bench)
    for _ in range(12):
        tick(bench)
        watch.check()
        cost = bench.status()["cost"]
        assert cost["spent_usd"] + cost["reserved_usd"] <= 0.004
    start(bench, "max_requests = 2\n", "max_usd = 10" + PRICES)
    end(bench, expected)


@pytest.mark.fault(
    44,
    "killed while money is set aside, then the cap is lowered",
    injected="SIGKILL at four crash points",
    seen="what was reserved stays reserved; status 3",
)
@pytest.mark.parametrize("point", ["batch_planned", "uploaded", "intent_before_create", "created_before_recorded"])
def test_44_a_reservation_survives_a_kill(
    point: str, expected: dict[str, bytes], make_bench: Make, forks: Forks
) -> None:
    """Money that a killed command had reserved stays reserved, and a lowered max_usd applies."""
    bench = start(make_bench(), "", "max_usd = 10" + PRICES)
    assert forks.run(bench, "submit", "--stage", "question", crash=point).code == KILLED
    reserved = bench.status()["cost"]["reserved_usd"]
    assert reserved == pytest.approx(ledger(bench).batches[0]["reserved_usd"], abs=1e-6)
    assert reserved > 0
    bench.configure(f"{ROUNDS}max_usd = 0.000001\n{PRICES}[batches]\nreconcile_grace_seconds = 0\n")
    for _ in range(3):
        assert tick(bench, 60).code == (75 if point == "intent_before_create" and _ == 0 else 3)
    assert bench.service.world.batches_bought == (point == "created_before_recorded")
    bench.configure(f"{ROUNDS}max_usd = 10\n{PRICES}[batches]\n")
    end(bench, expected)
