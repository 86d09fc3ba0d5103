"""Test random sequences of commands, job states, lost responses, kills, corrupt rows, clock jumps and new keys.

Hypothesis searches for a sequence after which an invariant does not hold, and shortens it. A kill is an exception here
that no handler of the program catches. test_kills.py kills real processes.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from batchgen.emulator.faults import CallFault, Drop, Html, Status
from batchgen.runtime import failpoints
from tests.support.invariants import finished
from tests.support.provider_facts import ANSWERERS, KEY_VARIABLE, UPLOAD_START
from tests.support.scene import Scene

if TYPE_CHECKING:
    from tests.support.bench import Bench

ASKED = st.sampled_from(["gemini", "answerer"])
CRASHPOINTS = st.sampled_from(
    [
        "request_file_written",
        "batch_planned",
        "uploaded_before_recorded",
        "intent_before_create",
        "created_before_recorded",
        "created",
        "result_half_written",
        "results_read",
        "store_before_commit",
        "batch_settled",
        "round_files_written",
    ]
)
ROWS = st.sampled_from(["missing", "empty", "truncated", "error", "duplicate_different", "no_key", "blocked_prompt"])
CALLS = st.sampled_from(["get", "list", "download", "upload", "create"])
TROUBLES = st.sampled_from([Status(503), Status(429), Html(), Drop()])
MOST_TICKS = 120


class Killed(BaseException):
    """Raised in place of a kill of the process."""


class Pipeline(RuleBasedStateMachine):
    """A run of two rounds with every kind of fault."""

    def __init__(self, make_scene: Callable[[str], Scene], monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.make_scene, self.monkeypatch = make_scene, monkeypatch
        self.said: list[str] = []

    @initialize(answerer=st.sampled_from(ANSWERERS))
    def begin(self, answerer: str) -> None:
        self.scene = self.make_scene(answerer)

    @property
    def bench(self) -> Bench:
        return self.scene.bench

    def name(self, provider: str) -> str:
        return self.bench.answerer if provider == "answerer" else provider

    def command(self, *arguments: str) -> None:
        result = self.bench.run(*arguments)
        assert result.code in (0, 3, 75), result
        assert "Traceback" not in result.err
        self.said += [result.out, result.err]

    @rule()
    def tick(self) -> None:
        self.command("collect", "--advance")

    @rule()
    def collect(self) -> None:
        self.command("collect")

    @rule(stage=st.sampled_from(["question", "answer", "correction"]))
    def submit(self, stage: str) -> None:
        self.command("submit", "--stage", stage)

    @rule()
    def retry(self) -> None:
        self.command("retry")

    @rule(provider=ASKED, late_seconds=st.sampled_from([300.0, 5000.0]))
    def jobs_are_cancelled_and_one_delivers(self, provider: str, late_seconds: float) -> None:
        self.bench.service.faults.job(provider=self.name(provider), times=1, cancel="late", late_seconds=late_seconds)
        self.command("cancel")

    @rule(seconds=st.sampled_from([60.0, 400.0, 1000.0, 7200.0, -1800.0]))
    def time_passes(self, seconds: float) -> None:
        self.bench.service.world.advance(seconds)

    @rule(provider=ASKED)
    def the_next_answer_to_a_create_is_lost(self, provider: str) -> None:
        lost = CallFault(provider=self.name(provider), endpoint="create", action=Drop(), after_effect=True)
        self.bench.service.faults.add(lost)

    @rule(provider=ASKED, endpoint=CALLS, action=TROUBLES)
    def a_call_goes_wrong(self, provider: str, endpoint: str, action: Any) -> None:
        name = self.name(provider)
        call = UPLOAD_START[name] if endpoint == "upload" else endpoint
        self.bench.service.faults.add(CallFault(provider=name, endpoint=call, action=action))

    @rule(outcome=ROWS)
    def a_row_goes_wrong(self, outcome: Any) -> None:
        self.bench.service.faults.rows(outcome, times=1)

    @rule(point=CRASHPOINTS)
    def a_tick_is_killed(self, point: str) -> None:
        with self.monkeypatch.context() as patch:
            patch.setenv("BATCHGEN_CRASH", point)
            patch.setattr(os, "kill", _die)
            failpoints._times_passed.clear()
            try:
                self.command("collect", "--advance")
            except Killed:
                self.said.append("killed")

    @rule(provider=ASKED)
    def a_tick_with_another_key(self, provider: str) -> None:
        with self.monkeypatch.context() as patch:
            patch.setenv(KEY_VARIABLE[self.name(provider)], "another-key-of-the-same-project")
            self.command("collect")

    @invariant()
    def what_must_hold(self) -> None:
        self.scene.watch.check(said=self.said)
        self.said.clear()

    def teardown(self) -> None:
        """Remove all faults; then ticks alone must finish the run."""
        self.bench.service.faults.clear()
        for _ in range(MOST_TICKS):
            self.command("retry")
            self.command("collect", "--advance")
            self.bench.service.world.advance(600)
            if self.bench.status()["complete"] == self.bench.status()["conversations"]:
                break
        finished(self.bench)
        assert self.bench.rows("rejected.jsonl") == []


def _die(_pid: int, _signal: int) -> None:
    raise Killed


@pytest.mark.fault(
    34,
    "everything in any order",
    injected="a state machine of commands, lost answers, kills, corrupt rows, clock jumps and other keys",
    seen="every invariant after every step; the run finishes",
)
@pytest.mark.slow
def test_no_order_of_events_breaks_an_invariant(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = itertools.count()

    def make_scene(answerer: str) -> Scene:
        return Scene.of(partial(make_bench, answerer=answerer), 4, most=2, root=f"machine{next(roots)}")

    examples = int(os.environ.get("MACHINE_EXAMPLES", "6"))
    run_state_machine_as_test(
        lambda: Pipeline(make_scene, monkeypatch),  # type: ignore[arg-type] # the documentation asks for a factory
        settings=settings(
            max_examples=examples,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
