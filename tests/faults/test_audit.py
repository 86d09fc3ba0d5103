"""The audit under faults: verdicts are bought once, and none is lost, as for every other step."""

from __future__ import annotations

import re
from typing import Any

import pytest

from batchgen.emulator.backends.builtin import Scripted
from batchgen.emulator.faults import AnyFault, CallFault, Drop, JobFault, RowFault
from tests.end_to_end.test_audit import Judge, prefers_longer
from tests.support.bench import REPOSITORY, Bench, seeds
from tests.support.fork_server import KILLED, Forks
from tests.support.invariants import Make, Watch

GRACE = 20
POINTS = sorted(
    name
    for path in (REPOSITORY / "batchgen" / "engine").rglob("*.py")
    for name in re.findall(r'failpoint\("(\w+)"\)', path.read_text("utf-8"))
)[::2]  # half of them: tests/faults/test_kills.py has all, for the steps of a dialogue


def judged_bench(make_bench: Make, conversations: int = 4, root: str = "run") -> Bench:
    """A prepared run of two rounds with a judge."""
    bench = make_bench(backend=Scripted(Judge(prefers_longer)), root=root)
    bench.configure(f"rounds = 2\n[batches]\nreconcile_grace_seconds = {GRACE}\n")
    assert bench.prepare(seeds(conversations)).code == 0
    return bench


def end(bench: Bench, turns: int) -> list[Any]:
    """Run ticks until every turn is judged. Returns the verdicts."""
    watch = Watch(bench)
    for _ in range(30):
        bench.service.world.advance(600)
        bench.run("collect", "--advance")
        watch.check()
        if bench.status()["finished"] and bench.run("audit", "--json").json["judged"] == turns:
            break
    rows = bench.rows("audit.jsonl")
    assert len(rows) == turns
    assert bench.run("verify").code == 0
    return rows


def assert_verdicts_bought(bench: Bench, count: int) -> None:
    """Check that so many verdicts were asked for."""
    assert sum(".audit" in key for key in bench.service.world.bought_keys) == count


@pytest.mark.fault(
    32,
    "killed at a boundary of the protocols, while an audit runs",
    injected="SIGKILL at every second crash point of the engine, one after the other, in one audit that grows",
    seen="no verdict is bought twice, none is lost",
)
@pytest.mark.slow
def test_an_audit_is_killed_at_crash_points(make_bench: Make, forks: Forks) -> None:
    bench = judged_bench(make_bench, conversations=len(POINTS))
    killed = set()
    for size, point in enumerate(POINTS, start=1):
        outcome = forks.run(bench, "audit", "--sample", str(size), crash=point)
        killed |= {point} if outcome.code == KILLED else set()
        bench.service.world.advance(GRACE + 1)
        outcome = forks.run(bench, "collect", crash=point)
        killed |= {point} if outcome.code == KILLED else set()
        Watch(bench).check()
    assert len(killed) >= len(POINTS) // 2
    end(bench, turns=2 * len(POINTS))
    assert_verdicts_bought(bench, 4 * len(POINTS))


# The fault, and how many requests must be sent again because of it.
FAULTS: dict[str, tuple[AnyFault, int]] = {
    "create_answer_lost": (CallFault(provider="together", endpoint="create", action=Drop(), after_effect=True), 0),
    "rows_missing": (RowFault(outcome="missing", key=r"audit1", times=3), 3),
    "rows_failed": (RowFault(outcome="status", code=500, key=r"audit2", times=3), 3),
    "job_failed": (JobFault(key=r"audit", end="FAILED", times=1), 8),
}


def test_an_audit_ends_with_the_same_verdicts_after_a_fault(make_bench: Make) -> None:
    calm = judged_bench(make_bench, root="calm")
    assert calm.run("audit").code == 0
    wanted = end(calm, turns=8)
    for name, (fault, again) in FAULTS.items():
        bench = judged_bench(make_bench, root=name)
        bench.service.faults.add(fault)
        assert bench.run("audit").code in {0, 75}
        assert end(bench, turns=8) == wanted, name
        assert_verdicts_bought(bench, 16 + again)
