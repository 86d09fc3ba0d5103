"""Send several batches: uploads run ahead, creates run one after another, and nothing is bought twice."""

from __future__ import annotations

import os
import random
from threading import Thread

import pytest

from batchgen.emulator.faults import ALWAYS, CallFault, Delay, Drop, Status
from batchgen.engine.submission import sender
from batchgen.runtime import concurrency
from tests.support.bench import Bench, seeds
from tests.support.during_call import PATIENCE_SECONDS, goes_on, interrupted, released
from tests.support.fork_server import KILLED, Forks
from tests.support.invariants import ROUNDS, Make, Watch, ledger
from tests.support.slow import slow

BATCHES = 5
# The commands before the provider's first batches, and the one that sends these.
UP_TO = {"gemini": [], "together": [["submit", "--stage", "question"], ["collect"]]}
SEND = {"gemini": ["submit", "--stage", "question"], "together": ["submit", "--stage", "answer"]}
BEYOND_EVERY_PAUSE = 3 * 3600.0
GRACE = "reconcile_grace_seconds = 20\nhttp_timeout_seconds = 10\n"


def ready(bench: Bench, provider: str, batches: int = BATCHES) -> Bench:
    """Each conversation is a separate batch, ready for the provider's first stage."""
    bench.configure(f"{ROUNDS}[batches]\nmax_requests = 1\n{GRACE}")
    assert bench.prepare(seeds(batches)).code == 0
    for command in UP_TO[provider]:
        assert bench.run(*command).code == 0
    return bench


def states(bench: Bench, provider: str) -> list[str]:
    return [batch["state"] for batch in ledger(bench).batches if batch["provider"] == provider]


def seen(bench: Bench, provider: str, endpoint: str) -> int:
    return len(bench.service.world.seen(provider, endpoint))


@pytest.mark.parametrize("provider", SEND)
def test_uploads_overlap(provider: str, bench: Bench) -> None:
    """The uploads from number two on are answered only after all of them have arrived."""
    ready(bench, provider)
    held = CallFault(
        provider=provider, endpoint="upload_start", nth=2, times=BATCHES - 1, action=Delay(PATIENCE_SECONDS)
    )
    bench.service.faults.add(held)
    with released(bench, lambda: seen(bench, provider, "upload_start") >= BATCHES):
        done = bench.run(*SEND[provider], "--json")
    assert (done.code, done.json["submitted"]) == (0, BATCHES)
    assert seen(bench, provider, "create") == BATCHES
    goes_on(bench)


@pytest.mark.parametrize("provider", SEND)
def test_creates_go_one_by_one(provider: str, bench: Bench) -> None:
    """Create call three waits for the response to number two, while later files are uploaded."""
    ready(bench, provider)
    bench.service.faults.add(CallFault(provider=provider, endpoint="create", nth=2, action=Delay(PATIENCE_SECONDS)))

    def both() -> bool:
        return seen(bench, provider, "create") >= 2 and seen(bench, provider, "upload_start") >= BATCHES

    asked, intended = list[int](), list[int]()

    def look() -> None:
        asked.append(seen(bench, provider, "create"))
        intended.append(states(bench, provider).count("creating"))

    with released(bench, both, look):
        assert bench.run(*SEND[provider]).code == 0
    assert (asked, intended) == ([2], [1])


@pytest.mark.parametrize("provider", SEND)
@pytest.mark.parametrize("endpoint", ["upload_start", "create"])
def test_nothing_is_ahead_of_a_provider_that_has_said_no(endpoint: str, provider: str, bench: Bench) -> None:
    """The first batch fails: no second one is planned, uploaded or created."""
    ready(bench, provider)
    bench.service.faults.add(CallFault(provider=provider, endpoint=endpoint, times=ALWAYS, action=Status(503)))
    assert bench.run(*SEND[provider]).code == 75
    assert len(states(bench, provider)) == 1


TROUBLE = {
    "quota": CallFault(endpoint="create", action=Status(429, "You exceeded your current quota.")),
    "outage": CallFault(endpoint="create", action=Status(503), times=3),
    "answer lost": CallFault(endpoint="create", action=Drop(), after_effect=True, times=2),
    "never arrived": CallFault(endpoint="create", action=Drop(), times=2),
    "upload refused": CallFault(endpoint="upload_start", action=Status(503), times=4),
    "file storage full": CallFault(endpoint="upload_start", action=Status(429, "file_storage_bytes")),
    "upload lost": CallFault(endpoint="upload_data", action=Drop(), times=3),
    "key refused": CallFault(endpoint="create", action=Status(401, "API key not valid.")),
}
# The sender does the same for every provider, so that they alternate. Only uploads differ between them.
TURNS = [(list(SEND)[at % 2], list(SEND)[1 - at % 2], trouble) for at, trouble in enumerate(TROUBLE)]
WHERE = [
    *((provider, trouble) for provider, _, trouble in TURNS[::2]),
    *(slow(provider, trouble) for provider, _, trouble in TURNS[1::2]),
    *(slow(other, trouble) for _, other, trouble in TURNS if TROUBLE[trouble].endpoint != "create"),
]


@pytest.mark.parametrize(("provider", "trouble"), WHERE)
def test_trouble_among_several(provider: str, trouble: str, bench: Bench) -> None:
    """After any fault of one of several batches, the others count and the run finishes."""
    ready(bench, provider)
    watch = Watch(bench)
    fault = TROUBLE[trouble]
    bench.service.faults.add(
        CallFault(
            provider=provider,
            endpoint=fault.endpoint,
            nth=3,
            times=fault.times,
            action=fault.action,
            after_effect=fault.after_effect,
        )
    )
    done = bench.run(*SEND[provider])
    assert done.code in ({2} if trouble == "key refused" else {0, 75}), done
    assert "Traceback" not in done.err
    watch.check(said=(done.out, done.err))
    assert states(bench, provider).count("in_flight") >= 1
    bench.service.faults.clear()
    bench.configure(f"{ROUNDS}[batches]\n{GRACE}")
    bench.service.world.advance(BEYOND_EVERY_PAUSE)
    bench.run("collect", "--advance")
    watch.check()
    goes_on(bench, BEYOND_EVERY_PAUSE)
    watch.check()


@pytest.mark.parametrize("provider", SEND)
@pytest.mark.parametrize(
    ("refusal", "code", "hits"),
    [
        pytest.param(Status(429, "You exceeded your current quota."), 75, [1], id="quota"),
        pytest.param(Status(401, "API key not valid."), 2, [], id="key"),
    ],
)
def test_what_was_uploaded_ahead_of_a_refusal_is_not_uploaded_again(
    provider: str, refusal: Status, code: int, hits: list[int], bench: Bench
) -> None:
    """The second create is refused while later files are uploaded. The ledger keeps these for the next tick."""
    ready(bench, provider)
    refused = CallFault(provider=provider, endpoint="create", nth=2, times=ALWAYS, action=refusal)
    bench.service.faults.add(refused)
    assert bench.run(*SEND[provider]).code == code
    assert (seen(bench, provider, "create"), seen(bench, provider, "upload_start")) == (2, BATCHES)
    assert states(bench, provider) == ["in_flight", *["uploaded"] * (BATCHES - 1)]
    assert [wait["hits"] for wait in ledger(bench).waits if wait["scope"].startswith(provider)] == hits
    bench.service.faults.clear()
    bench.service.world.advance(BEYOND_EVERY_PAUSE)
    assert bench.run(*SEND[provider]).code == 0
    assert seen(bench, provider, "upload_start") == BATCHES
    goes_on(bench)


def test_a_machine_that_has_no_threads_left(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that cannot be uploaded in a thread are uploaded without one."""
    ready(bench, "gemini")

    class Refused(Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(concurrency, "Thread", Refused)
    done = bench.run(*SEND["gemini"], "--json")
    assert (done.code, done.json["submitted"]) == (0, BATCHES)


def test_uploads_under_way_are_bounded_in_bytes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files exceed the limit: no upload begins before the previous batch is created."""
    monkeypatch.setattr(sender, "MAX_UPLOAD_AHEAD_BYTES", 1)
    ready(bench, "gemini")
    assert bench.run(*SEND["gemini"]).code == 0
    order = [
        call.endpoint for call in bench.service.world.seen("gemini") if call.endpoint in {"upload_start", "create"}
    ]
    assert order == ["upload_start", "create"] * BATCHES


@pytest.mark.parametrize("endpoint", ["create", slow("upload_data")])
@pytest.mark.slow
def test_ctrl_c_does_not_wait(endpoint: str, bench: Bench) -> None:
    """Calls hang; the program ends at once, and later ticks find out the result of the calls."""
    ready(bench, "gemini")
    bench.service.faults.add(CallFault(endpoint=endpoint, nth=2, times=ALWAYS, action=Delay(PATIENCE_SECONDS)))
    interrupted(bench, SEND["gemini"], lambda: seen(bench, "gemini", endpoint) >= 2)
    goes_on(bench)


KILLS = 6  # in one run
RUNS = int(os.environ.get("SOAK_KILLS", "12")) // KILLS
EFFECTS = 400  # about the maximum of a tick with five batches ...
FEW_EFFECTS = 60  # ... and its minimum
POINTS = ("intent_before_create", "created_before_recorded", "created", "uploaded_before_recorded", "uploaded")


@pytest.mark.parametrize("point", [*POINTS[:3], *map(slow, POINTS[3:])])
def test_killed_among_several(point: str, make_bench: Make, forks: Forks) -> None:
    """A kill at a failpoint while several batches are being sent: each is found again, none is bought twice."""
    bench = ready(make_bench(), "gemini")
    watch = Watch(bench)
    for _ in range(2):
        assert forks.run(bench, crash=point).code in {0, 75, KILLED}
        watch.check()
        bench.service.world.advance(30.0)
    goes_on(bench)


@pytest.mark.parametrize("seed", range(RUNS))
def test_killed_at_random_among_several(seed: int, make_bench: Make, forks: Forks) -> None:
    """A kill after any effect of any thread."""
    bench = ready(make_bench(), "gemini")
    watch, chance = Watch(bench), random.Random(seed)
    for turn in range(KILLS):
        outcome = forks.run(bench, effect=chance.randrange(1, EFFECTS if turn else FEW_EFFECTS))
        assert outcome.code in ({0, 75, KILLED} if turn else {KILLED}), outcome
        watch.check(said=(outcome.out, outcome.err))
        bench.service.world.advance(30.0)
    goes_on(bench)
