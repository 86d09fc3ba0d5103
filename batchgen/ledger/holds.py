"""What is held back, and for how long: by a quota, a clear no, or a limit. The store keeps it across ticks."""

from __future__ import annotations

from batchgen.core.dialogue import Step
from batchgen.core.errors import BatchgenError, NeedsPerson, StageStopped, Temporary
from batchgen.ledger.rows import Hold
from batchgen.ledger.store import Store

FIRST_SECONDS, MOST_SECONDS = 60.0, 2 * 3600.0
CALL_SECONDS = 24 * 3600.0  # of waiting for a quota, before somebody is called
_STEP, _HALT = "step", "halt"  # no provider is called so


def model_scope(provider: str, model: str) -> str:
    """What a quota's answer or a lost model holds back."""
    return f"{provider}/{model}"


def step_scope(position: int) -> str:
    """Under what is recorded what a step's ready conversations wait for."""
    return f"{_STEP}/{position}"


def halt_scope(position: int) -> str:
    """What a refusal holds back that would come again at every tick."""
    return f"{_HALT}/{position}"


def provider_of(scope: str) -> str:
    """The provider of a `model_scope`, what is no provider's name otherwise."""
    return scope.partition("/")[0]


def in_words(scope: str) -> str:
    """What a scope holds back, for people."""
    kind, _, rest = scope.partition("/")
    return str(Step.at(int(rest))) if kind in {_STEP, _HALT} else rest


def pause(store: Store, scope: str, reason: str, now: float, wish_seconds: float | None = None) -> Hold:
    """Hold `scope` ("provider/model") back, longer at each repetition, or as long as the provider wishes.

    Attempts are not touched: nothing was bought.
    """
    from random import uniform  # here: `status` pauses nothing

    before = store.holds().get(scope)
    hits = (before.hits if before else 0) + 1
    since = before.since if before and before.since is not None else now
    jittered = FIRST_SECONDS * 2 ** min(hits - 1, 16) * uniform(0.75, 1.25)  # noqa: S311 - jitter, no secret
    seconds = min(jittered if wish_seconds is None else wish_seconds, MOST_SECONDS)
    wait = Hold(scope, now + seconds, hits, reason, since)
    store.hold(wait)
    return wait


def in_force(wait: Hold, now: float) -> bool:
    """Whether `wait` forbids a create now. A clock that jumped back cannot stretch a pause beyond the longest."""
    return wait.until is None or now < wait.until <= now + MOST_SECONDS


def trouble(wait: Hold, now: float) -> BatchgenError:
    """What a wait in force is to the user: a halt, a quota that passes, or one that has not passed for a day."""
    if wait.until is None:
        return StageStopped(wait.reason, do="Mend the cause, then: batchgen retry")
    waited = now - (now if wait.since is None else wait.since)
    if waited >= CALL_SECONDS:
        return NeedsPerson(
            f"{wait.scope} has waited for {waited / 3600:.0f} h: {wait.reason}",
            do="Ask the provider for a higher quota, or use another model: batchgen switch"
            f" {provider_of(wait.scope)} [MODEL]. Ticks go on trying; what was not submitted is kept.",
        )
    left = wait.until - now
    return Temporary(wait.reason, do=f"{wait.scope} waits {left:.0f} s; what was not submitted is kept.")
