"""Test batches that a quota left unsent: changes made before the next tick must still apply to them."""

from __future__ import annotations

import pytest

from batchgen.emulator.faults import ALWAYS, CallFault, Status
from batchgen.engine.submission import sender
from batchgen.providers.http_errors import READ_ATTEMPTS
from tests.support.bench import Bench, seeds
from tests.support.invariants import ROUNDS, finished, ledger
from tests.support.scene import HOUR, Make, Scene
from tests.support.slow import slow

BATCHES = 8
SUBMIT = ["submit", "--stage", "question"]


@pytest.fixture(autouse=True)
def far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """All batches are planned and uploaded ahead."""
    monkeypatch.setattr(sender, "MAX_UPLOADS_AHEAD", BATCHES)


def left_over(bench: Bench, *, granted: int = 1, more: str = "") -> Bench:
    """`granted` batches of one conversation are in flight, a quota refused the next, the others were uploaded ahead."""
    bench.configure(f"{ROUNDS}[batches]\nmax_requests = 1\n{more}")
    assert bench.prepare(seeds(BATCHES)).code == 0
    no = Status(429, "You exceeded your current quota.")
    bench.service.faults.add(CallFault(provider="gemini", endpoint="create", nth=granted + 1, times=ALWAYS, action=no))
    assert bench.run(*SUBMIT).code == 75
    assert [batch["state"] for batch in ledger(bench).batches][granted:] == ["uploaded"] * (BATCHES - granted)
    bench.service.faults.clear()
    bench.service.world.advance(3 * 3600.0)
    return bench


def flying(bench: Bench) -> int:
    return sum(batch["state"] == "in_flight" for batch in ledger(bench).batches)


@pytest.mark.slow
def test_a_limit_below_what_is_planned_lets_one_batch_through_at_a_time(bench: Bench) -> None:
    """Otherwise nothing could ever be sent."""
    left_over(bench)
    bench.configure(f"{ROUNDS}[batches]\nmax_requests = 1\n[gemini]\nenqueued_tokens = 1\n")
    for _ in range(3):
        assert bench.run("collect").code == 0
        bench.run(*SUBMIT)
        assert flying(bench) == 1
    bench.configure(f"{ROUNDS}[batches]\nmax_requests = 1\n")
    bench.ticks()
    finished(bench)


def test_batches_of_all_models_of_a_provider_count_together(make_bench: Make) -> None:
    """Google limits the batches of a project, not of a model: one writes the questions, another the corrections."""
    bench = make_bench(job_seconds=50.0)
    models = '[correction]\nmodels = ["gemini:gemini-2.5-flash"]\n'
    bench.configure(f"{ROUNDS}batches.max_requests = 2\ngemini.concurrent_batches = 1\n{models}")
    assert bench.prepare(seeds(BATCHES)).code == 0
    seen = set[str]()
    while not bench.is_finished():
        assert bench.run("collect", "--advance").code == 0
        bench.service.world.advance(60)
        at_gemini = [
            one for one in ledger(bench).batches if one["provider"] == "gemini" and one["state"] == "in_flight"
        ]
        assert len(at_gemini) <= 1
        seen.update(batch["model"] for batch in at_gemini)
    assert seen == {"gemini-2.5-flash-lite", "gemini-2.5-flash"}
    finished(bench)


def test_a_price_became_known_that_passes_the_cap(bench: Bench) -> None:
    """Batches planned without a price now count against max_usd with the price and the longest replies."""
    unknown = '[gemini]\nmodels = ["gemini-9-nobody"]\n'
    left_over(bench, more=unknown)
    price = '[prices."gemini-9-nobody"]\ninput = 0.0\noutput = 1000.0\n'
    bench.configure(f"{ROUNDS}max_usd = 0.3\n[batches]\nmax_requests = 1\n{unknown}{price}")
    done = bench.run(*SUBMIT)
    assert (done.code, flying(bench)) == (3, 2)  # with 128 tokens each, two of them are within max_usd
    assert "max_usd" in done.err


@pytest.mark.parametrize(("limit", "room"), [("concurrent_batches = 3", 3), ("enqueued_tokens = {tokens}", 2)])
@pytest.mark.slow
def test_a_limit_was_lowered(limit: str, room: int, bench: Bench) -> None:
    left_over(bench)
    tokens = round(ledger(bench).batches[0]["input_tokens"] * 2.5)
    bench.configure(f"{ROUNDS}[batches]\nmax_requests = 1\n[gemini]\n{limit.format(tokens=tokens)}\n")
    bench.run(*SUBMIT)
    assert flying(bench) == room
    (wait,) = bench.status()["waiting"]
    assert (wait["for"], limit.split(maxsplit=1)[0] in wait["reason"]) == ("round 2 question", True)
    bench.ticks()
    finished(bench)
    assert bench.status()["waiting"] == []


def test_what_was_asked_before_may_go_where_the_first_ones_may_not(bench: Bench) -> None:
    """A retry of one request is within the limit, a file of many is not: `status` still shows why the many wait."""
    bench.configure(f"{ROUNDS}[batches]\nmax_requests = 1\n")
    assert bench.prepare(seeds(BATCHES)).code == 0
    bench.service.faults.job(provider="gemini", key="r1-000002", states=[("JOB_STATE_RUNNING", 1e9)])
    bench.service.faults.rows("truncated", key="r1-000001.*a1")
    bench.configure(f"{ROUNDS}[batches]\nmax_requests = 1\n[gemini]\nconcurrent_batches = 2\n")
    assert bench.run(*SUBMIT).code == 0
    assert bench.run("collect").code == 0
    one = ledger(bench).batches[0]["input_tokens"]
    limit = f"[gemini]\nenqueued_tokens = {one * 3}\n"
    bench.configure(f"{ROUNDS}[batches]\nmax_requests = {BATCHES}\n{limit}")
    assert bench.run(*SUBMIT).code == 0
    assert [batch["attempt"] for batch in ledger(bench).batches] == [1, 1, 2]
    (wait,) = bench.status()["waiting"]
    assert (wait["for"], "enqueued_tokens" in wait["reason"]) == ("round 2 question", True)


def test_max_usd_was_lowered(bench: Bench) -> None:
    """The rest of max_usd is spent, and no more."""
    left_over(bench)
    one = ledger(bench).batches[0]["reserved_usd"]
    bench.configure(f"max_usd = {one * 4.5:.9f}\n{ROUNDS}[batches]\nmax_requests = 1\n")
    assert bench.run(*SUBMIT).code == 3
    assert flying(bench) == 4
    assert bench.run(*SUBMIT).code == 3
    assert flying(bench) == 4


def test_the_step_was_stopped(bench: Bench) -> None:
    """Too many of the results were rejected: nothing more is spent on the step."""
    bench.service.faults.rows("blocked_prompt", key=r"question")
    left_over(bench, granted=6)
    assert [done.code for done in (bench.run("collect", "--advance"), bench.run(*SUBMIT))] == [3, 3]
    assert len(bench.service.world.jobs_created()) == 6


def test_no_file_is_sent_ahead_to_a_provider_that_has_not_said_yes(bench: Bench) -> None:
    """Batches of both providers are unsent; one provider accepts them, the other one is down."""
    bench.configure(f"{ROUNDS}[batches]\nmax_requests = 1\n")
    assert bench.prepare(seeds(6)).code == 0
    bench.service.faults.job(provider="gemini", key="r1-00000[456]", states=[("JOB_STATE_RUNNING", 1e9)])
    no = Status(429, "You exceeded your current quota.")
    bench.service.faults.add(CallFault(provider="gemini", endpoint="create", nth=4, times=ALWAYS, action=no))
    bench.service.faults.add(CallFault(provider="together", endpoint="create", nth=2, times=ALWAYS, action=no))
    assert bench.run(*SUBMIT).code == 75
    assert bench.run("collect", "--advance").code == 75
    waiting = [batch["provider"] for batch in ledger(bench).batches if batch["state"] == "uploaded"]
    assert waiting == ["gemini"] * 3 + ["together"] * 2
    bench.service.faults.clear()
    bench.service.world.advance(3 * 3600.0)
    bench.service.faults.add(CallFault(provider="together", endpoint="file_get", times=ALWAYS, action=Status(503)))
    before = len(bench.service.world.seen("together", "file_get"))
    assert bench.run("collect", "--advance").code == 75
    assert {batch["provider"] for batch in ledger(bench).batches if batch["state"] == "uploaded"} == {"together"}
    assert len(bench.service.world.seen("together", "file_get")) - before == READ_ATTEMPTS


@pytest.mark.parametrize(
    ("provider", "change"),
    [
        ("gemini", "edited"),
        ("together", "deleted"),
        slow("gemini", "deleted"),
        slow("together", "edited"),
    ],
)
def test_a_request_file_changed_after_its_upload_buys_nothing(make_bench: Make, provider: str, change: str) -> None:
    """It proves what was bought: without it `verify` and `rebuild` would fail."""
    scene = Scene.of(make_bench, 4)
    refused = Status(429, "You exceeded your current quota")
    scene.bench.service.faults.add(CallFault(provider=provider, endpoint="create", action=refused))
    while scene.tick().code == 0:
        pass
    stage = {"gemini": "question", "together": "answer"}[provider]
    (path,) = (scene.bench.root / "requests" / "round2" / stage).glob("*.jsonl")
    if change == "deleted":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes().replace(b"temperature", b"temperatura"))
    jobs = scene.jobs()
    result = scene.tick(3 * HOUR)
    assert (result.code, "not the file that was planned" in result.err, scene.jobs()) == (75, True, jobs)
    scene.finish()
    assert scene.jobs() == 3
    assert scene.bench.run("verify").code == 0
