"""Kill commands at every step: nothing is lost and nothing is paid twice (1, 2, 32, 34; invariants I1-I8).

A signal kills a child process: no handler runs and no buffer is flushed. The next tick must continue from the disk.
"""

from __future__ import annotations

import os
import random
import re
import signal

import pytest

from batchgen.emulator.faults import CallFault, Drop
from tests.support.bench import REPOSITORY, Bench, seeds
from tests.support.fork_server import KILLED, Forks
from tests.support.invariants import ROUNDS, Make, Watch, end, undisturbed
from tests.support.provider_facts import ANSWERERS

CONVERSATIONS = 3
STEPS = 3
GRACE = 20
CONFIGURATION = f"{ROUNDS}[batches]\nreconcile_grace_seconds = {GRACE}\nhttp_timeout_seconds = 10\n"
POINTS = sorted(
    name
    for path in (REPOSITORY / "batchgen").rglob("*.py")
    for name in re.findall(r'failpoint\("(\w+)"\)', path.read_text("utf-8"))
)
MOST_KILLS = 2  # at one failpoint; after that the run is not disturbed
RANDOM_KILLS = 5  # in one run
RUNS = int(os.environ.get("SOAK_KILLS", "20")) // RANDOM_KILLS
EFFECTS = 220  # about the maximum of one tick


@pytest.fixture
def expected(make_bench: Make) -> dict[str, bytes]:
    return undisturbed(make_bench, CONVERSATIONS)


def prepared(bench: Bench, more: str = "") -> Bench:
    bench.configure(CONFIGURATION + more)
    assert bench.prepare(seeds(CONVERSATIONS)).code == 0
    return bench


def survive(bench: Bench, watch: Watch) -> None:
    """What must hold right after a kill: the state opens and `status` works."""
    result = bench.run("status", "--json")
    assert (result.code, result.err) == (0, "")
    watch.check()


@pytest.mark.fault(
    32,
    "killed at a boundary of the protocols, any of them",
    injected="SIGKILL at every crash point in the source, twice",
    seen="`status` works at once; the next tick goes on; the same files, no batch bought twice",
)
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_every_point(point: str, expected: dict[str, bytes], make_bench: Make, forks: Forks) -> None:
    """Ticks are killed at the first pass of the failpoint; the run ends as one without a fault."""
    bench = make_bench()
    # One create loses its response and one never arrives, so that adopt and abandon are reached too.
    bench.service.faults.add(
        CallFault(provider="gemini", endpoint="create", action=Drop(), after_effect=True),
        CallFault(provider="together", endpoint="create", action=Drop()),
    )
    prepared(bench)
    watch = Watch(bench)
    kills = 0
    for _ in range(20):
        outcome = forks.run(bench, crash=point) if kills < MOST_KILLS else bench.run("collect", "--advance")
        assert outcome.code in {0, 75, KILLED}, outcome
        watch.check(said=(outcome.out, outcome.err))
        if outcome.code == KILLED:
            kills += 1
            survive(bench, watch)
            bench.run("collect", "--advance")
        if bench.status()["finished"]:
            break
        bench.service.world.advance(GRACE + 1)
    assert kills, f"the crash point {point} was never passed"
    end(bench, expected, jobs=STEPS)


@pytest.mark.fault(
    34,
    "killed at a random moment, again and again",
    injected="SIGKILL or SIGTERM after a random write, commit or packet (`make soak`: 1000 times)",
    seen="the same files, no batch bought twice",
)
@pytest.mark.parametrize(("seed", "provider"), [(seed, ANSWERERS[seed % len(ANSWERERS)]) for seed in range(RUNS)])
def test_killed_at_random(seed: int, provider: str, expected: dict[str, bytes], make_bench: Make, forks: Forks) -> None:
    """Ticks are killed after any write, commit or network call, by SIGKILL or SIGTERM."""
    bench = prepared(make_bench(answerer=provider), "max_requests = 2\n")
    watch = Watch(bench)
    chance = random.Random(seed)
    kills = 0
    for _ in range(200):
        deadly = chance.choice([signal.SIGKILL, signal.SIGTERM])
        if kills < RANDOM_KILLS:
            outcome = forks.run(bench, effect=chance.randint(1, EFFECTS), signal=deadly)
        else:
            outcome = bench.run("collect", "--advance")
        kills += outcome.code < 0
        assert outcome.code in {0, 75, -deadly}, outcome
        survive(bench, watch)
        if bench.status()["finished"]:
            break
        bench.service.world.advance(chance.choice([1, GRACE, 5 * GRACE]))
    end(bench, expected)


@pytest.mark.fault(
    34,
    "`prepare` killed",
    injected="SIGKILL after a random write",
    seen="`prepare` again: round 1 is there",
)
@pytest.mark.parametrize("effect", [3, 20, 40, 60])
def test_prepare_killed_is_prepared_again(
    effect: int, expected: dict[str, bytes], make_bench: Make, forks: Forks
) -> None:
    """Round 1 is complete or does not exist."""
    bench = prepared(make_bench())
    (bench.root / "data" / "batchgen.sqlite").unlink()
    for path in (bench.root / "data").rglob("*.jsonl"):
        path.unlink()
    arguments = ("prepare", "--input", str(bench.root / "seeds.jsonl"), "--all")
    outcome = forks.run(bench, *arguments, effect=effect)
    assert outcome.code in {0, KILLED}
    assert bench.run("status").code == 0
    assert bench.run(*arguments).code == 0
    end(bench, expected, jobs=STEPS)


@pytest.mark.fault(
    2,
    "killed after the create, before its id was written",
    injected="SIGKILL of the installed command",
    seen="the next tick adopts the batch: one batch, one create call",
)
@pytest.mark.slow
def test_the_real_program_dies_where_it_is_told(expected: dict[str, bytes], make_bench: Make) -> None:
    """Without the helper process: the program as cron starts it (fault 2)."""
    bench = prepared(make_bench())
    killed = bench.spawn("submit", "--stage", "question", BATCHGEN_CRASH="created_before_recorded")
    assert killed.returncode == KILLED
    assert bench.service.world.batches_bought == 1
    assert bench.run("submit", "--stage", "question").code == 0
    assert [batch["state"] for batch in bench.status()["batches"]] == ["in_flight"]
    assert len(bench.service.world.posts) == 1
    end(bench, expected, jobs=STEPS)
