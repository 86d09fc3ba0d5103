"""Holds: what is not submitted now, why, and for how long (a quota, a refusal, or a limit). Stored across ticks."""

from __future__ import annotations

import sqlite3
from random import uniform

from batchgen.core.dialogue import Stage, Step
from batchgen.core.errors import BatchgenError, NeedsPerson, StageStopped, Temporary
from batchgen.ledger import queries
from batchgen.ledger.rows import Hold

FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 60.0, 2 * 3600.0
NEEDS_PERSON_SECONDS = 24 * 3600.0  # after so long, a quota will probably go on refusing, and the user must act
_STEP_KIND, _HALT_KIND = "step", "halt"  # no provider has such a name


def model_scope(provider: str, model: str) -> str:
    """Name the scope of a model that is paused for a quota, or halted because it is no longer served."""
    return f"{provider}/{model}"


def step_scope(position: int) -> str:
    """Name the scope of a hold that says for which limit the ready conversations of a step wait."""
    return f"{_STEP_KIND}/{position}"


def halt_scope(position: int) -> str:
    """Name the scope of a halted step: the provider would refuse its requests again at every tick."""
    return f"{_HALT_KIND}/{position}"


def provider_of(scope: str) -> str:
    """Return the provider of a model's scope. For any other scope the result is not a provider's name."""
    return scope.partition("/")[0]


def describe_scope(scope: str) -> str:
    """Return the step or model that a scope holds back, as text for the user."""
    kind, _, rest = scope.partition("/")
    return str(Step.at(int(rest))) if kind in {_STEP_KIND, _HALT_KIND} else rest


def is_in_force(hold: Hold, now: float) -> bool:
    """Whether `hold` forbids create calls now. If the clock jumps back, a pause ends instead of growing too long."""
    return hold.until is None or now < hold.until <= now + MAX_PAUSE_SECONDS


def model_gone_error(reason: str, stage: Stage) -> StageStopped:
    """Return the error for `stage` if its pinned model is halted because it is no longer served."""
    return StageStopped(
        reason,
        do=f"Choose another: batchgen switch {stage} (or change the list of models in batchgen.toml)."
        " If the model is served again: batchgen retry",
    )


def hold_error(hold: Hold, now: float, stage: Stage | None = None) -> BatchgenError:
    """Return the error for a hold in force: StageStopped for a halt, Temporary for a pause, NeedsPerson after a day.

    `stage` is the one that a halted model writes.
    """
    if hold.until is None and stage and hold.scope.partition("/")[0] != _HALT_KIND:
        return model_gone_error(hold.reason, stage)
    if hold.until is None:
        return StageStopped(hold.reason, do="Fix the cause, then: batchgen retry")
    held_seconds = now - (now if hold.since is None else hold.since)
    if held_seconds >= NEEDS_PERSON_SECONDS:
        return NeedsPerson(
            f"{hold.scope} has waited for {held_seconds / 3600:.0f} h: {hold.reason}",
            do="Ask the provider for a higher quota, or use another model: batchgen switch"
            f" {provider_of(hold.scope)} [MODEL]. Ticks go on trying; planned batches are kept.",
        )
    left = hold.until - now
    return Temporary(hold.reason, do=f"{hold.scope} waits {left:.0f} s; planned batches are kept.")


class Holds:
    """Reads and changes the holds in the store."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def all(self) -> dict[str, Hold]:
        """Map each scope to its hold."""
        return {row[0]: Hold(*row) for row in self._connection.execute(queries.HOLDS)}

    def put(self, hold: Hold) -> None:
        """Store a hold, in place of an earlier one of the same scope. Writes only if it is new."""
        if self.all().get(hold.scope) != hold:
            self._connection.execute("INSERT OR REPLACE INTO holds VALUES (?, ?, ?, ?, ?)", hold)

    def end(self, scope: str) -> None:
        """Delete the hold of `scope`, if there is one."""
        if scope in self.all():
            self._connection.execute("DELETE FROM holds WHERE scope = ?", (scope,))

    def pause(self, scope: str, reason: str, now: float, asked_seconds: float | None = None) -> Hold:
        """Hold a model back: for `asked_seconds` if the provider named a time, or else longer at each repetition.

        This does not count as an attempt, because nothing was bought.
        """
        before = self.all().get(scope)
        hits = (before.hits if before else 0) + 1
        since = before.since if before and before.since is not None else now
        jittered = FIRST_PAUSE_SECONDS * 2 ** min(hits - 1, 16) * uniform(0.75, 1.25)  # noqa: S311 - jitter, no secret
        seconds = min(jittered if asked_seconds is None else asked_seconds, MAX_PAUSE_SECONDS)
        hold = Hold(scope, now + seconds, hits, reason, since)
        self.put(hold)
        return hold
