"""All errors that batchgen raises on purpose, with the exit status of the command.

BatchgenError
├── Locked            0  another command of the same root is running
├── SetupError        2  the user can fix it, nothing was sent
│   ├── InputError       a file with the wrong content or format
│   ├── KeyRefused       a missing or refused API key
│   ├── QuotaClosed      a quota that waiting does not change
│   └── UnknownModel     no model of the configured list is served
├── NeedsPerson       3  going on costs money or rows
│   ├── BudgetReached    max_usd would be passed
│   ├── StageStopped     a model or a step was halted and waits for a decision
│   └── BatchLost        a job that cannot be found
└── Temporary        75  the next tick goes on by itself
    ├── Ambiguous        a create call without a clear answer
    ├── NotReady         what was asked for does not exist yet
    └── QuotaReached     the provider takes no more for now (429)
"""

from __future__ import annotations

from collections.abc import Iterable


class BatchgenError(Exception):
    """An error with its text for the user.

    `str(error)` says in one line what is wrong; `do` says what to do next, empty if there is nothing to do.
    """

    exit_code = 1

    def __init__(self, message: str, *, do: str = "") -> None:
        super().__init__(message)
        self.do = do


class Locked(BatchgenError):
    """Another command of the same root is running. Nothing is wrong: ticks of cron may overlap."""

    exit_code = 0


class SetupError(BatchgenError):
    """Wrong usage or configuration. The user can correct it; nothing was sent."""

    exit_code = 2


class InputError(SetupError):
    """A file does not hold what it should."""


class KeyRefused(SetupError):
    """An API key is missing or was refused."""


class QuotaClosed(SetupError):
    """A quota that waiting does not change: the plan grants nothing, or the credits are used up."""


class UnknownModel(SetupError):
    """No model of the configured list is served."""


class NeedsPerson(BatchgenError):
    """A person must decide: going on would cost money or rows."""

    exit_code = 3


class BudgetReached(NeedsPerson):
    """The next batch would pass `max_usd`."""


class StageStopped(NeedsPerson):
    """A model or a step was halted and waits for a decision."""


class BatchLost(NeedsPerson):
    """The job of a batch cannot be found any more."""


class Temporary(BatchgenError):
    """A temporary error; the next tick tries again."""

    exit_code = 75


class Ambiguous(Temporary):
    """A create call got no clear answer: the job may exist."""


class NotReady(Temporary):
    """What was asked for does not exist yet."""


class QuotaReached(Temporary):
    """The provider accepts no more for now (HTTP 429).

    `retry_after_seconds` is how long the provider asks to wait, None if it does not say.
    """

    def __init__(self, message: str, *, do: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(message, do=do)
        self.retry_after_seconds = retry_after_seconds


def note(troubles: list[BatchgenError], error: BatchgenError) -> None:
    """Add an error to `troubles`, unless an equal one is there."""
    if str(error) not in map(str, troubles):
        troubles.append(error)


def worst(troubles: Iterable[BatchgenError]) -> BatchgenError | None:
    """Return the error that decides the exit status: one that a person must fix before a temporary one."""
    return min(troubles, key=lambda error: (isinstance(error, Temporary), error.exit_code), default=None)
