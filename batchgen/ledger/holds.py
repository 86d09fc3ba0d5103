"""What is not submitted now, why, and for how long: because of a quota, a refusal, or a limit. Kept across ticks."""

from __future__ import annotations

import sqlite3
from random import uniform

from batchgen.core.dialogue import Step
from batchgen.core.errors import BatchgenError, NeedsPerson, StageStopped, Temporary
from batchgen.ledger import queries
from batchgen.ledger.rows import Hold

FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 60.0, 2 * 3600.0
NEEDS_PERSON_SECONDS = 24 * 3600.0  # a quota that has refused for so long does not pass by itself
_STEP_KIND, _HALT_KIND = "step", "halt"  # no provider has such a name


def model_scope(provider: str, model: str) -> str:
    """Name the scope that a quota or a lost model holds back."""
    return f"{provider}/{model}"


def step_scope(position: int) -> str:
    """Name the scope under which it is noted what a step's ready conversations wait for."""
    return f"{_STEP_KIND}/{position}"


def halt_scope(position: int) -> str:
    """Name the scope of a step that is halted: its requests would be refused again at every tick."""
    return f"{_HALT_KIND}/{position}"


def provider_of(scope: str) -> str:
    """The provider of a model's scope. For any other scope the result is no provider's name."""
    return scope.partition("/")[0]


def describe_scope(scope: str) -> str:
    """What a scope holds back, for people."""
    kind, _, rest = scope.partition("/")
    return str(Step.at(int(rest))) if kind in {_STEP_KIND, _HALT_KIND} else rest


def is_in_force(hold: Hold, now: float) -> bool:
    """Whether `hold` forbids a create now. A clock that jumped back cannot stretch a pause beyond the longest."""
    return hold.until is None or now < hold.until <= now + MAX_PAUSE_SECONDS


def hold_error(hold: Hold, now: float) -> BatchgenError:
    """What a hold in force is to the user: a halt, a quota that passes, or one that has not passed for a day."""
    if hold.until is None:
        return StageStopped(hold.reason, do="Mend the cause, then: batchgen retry")
    held_seconds = now - (now if hold.since is None else hold.since)
    if held_seconds >= NEEDS_PERSON_SECONDS:
        return NeedsPerson(
            f"{hold.scope} has waited for {held_seconds / 3600:.0f} h: {hold.reason}",
            do="Ask the provider for a higher quota, or use another model: batchgen switch"
            f" {provider_of(hold.scope)} [MODEL]. Ticks go on trying; what was not submitted is kept.",
        )
    left = hold.until - now
    return Temporary(hold.reason, do=f"{hold.scope} waits {left:.0f} s; what was not submitted is kept.")


class Holds:
    """The part of the store that says what is held back."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def all(self) -> dict[str, Hold]:
        """Every hold by its scope."""
        return {row[0]: Hold(*row) for row in self._connection.execute(queries.HOLDS)}

    def put(self, hold: Hold) -> None:
        """Note a hold in place of an earlier one of the same scope. One write, and only if it is new."""
        if self.all().get(hold.scope) != hold:
            self._connection.execute("INSERT OR REPLACE INTO holds VALUES (?, ?, ?, ?, ?)", hold)

    def end(self, scope: str) -> None:
        """Forget the hold of `scope`, if there is one."""
        if scope in self.all():
            self._connection.execute("DELETE FROM holds WHERE scope = ?", (scope,))

    def pause(self, scope: str, reason: str, now: float, asked_seconds: float | None = None) -> Hold:
        """Hold a model back, longer at each repetition, or as long as the provider asked for.

        Attempts are not counted: nothing was bought.
        """
        before = self.all().get(scope)
        hits = (before.hits if before else 0) + 1
        since = before.since if before and before.since is not None else now
        jittered = FIRST_PAUSE_SECONDS * 2 ** min(hits - 1, 16) * uniform(0.75, 1.25)  # noqa: S311 - jitter, no secret
        seconds = min(jittered if asked_seconds is None else asked_seconds, MAX_PAUSE_SECONDS)
        hold = Hold(scope, now + seconds, hits, reason, since)
        self.put(hold)
        return hold
