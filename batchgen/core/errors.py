"""Everything batchgen raises on purpose, and the exit status it leaves.

BatchgenError
├── Locked            0  another command of the same root is at work
├── SetupError        2  the user can fix it, nothing was sent
│   ├── InputError       a file that cannot be read as what it should be
│   ├── KeyRefused       a missing or refused API key
│   ├── QuotaClosed      a quota that no waiting mends
│   └── UnknownModel     no model of the configured list is served
├── NeedsPerson       3  going on costs money or rows
│   ├── BudgetReached    max_usd would be passed
│   ├── StageStopped     a model or a step was halted and waits for a decision
│   └── BatchLost        a job nobody can find
└── Temporary        75  the next tick goes on by itself
    ├── Ambiguous        a create call without a clear answer
    ├── NotReady         what was asked for does not exist yet
    └── QuotaReached     the provider takes no more for now (429)
"""


class BatchgenError(Exception):
    """What went wrong in one line, and what to do next.

    `str(error)` is the fact; `do` is the next command or edit, empty when there is none.
    """

    exit_code = 1

    def __init__(self, message: str, *, do: str = "") -> None:
        super().__init__(message)
        self.do = do


class Locked(BatchgenError):
    """Another command of the same root is at work. Nothing is wrong: cron overlaps."""

    exit_code = 0


class SetupError(BatchgenError):
    """Usage or configuration: the user can fix it, nothing was sent."""

    exit_code = 2


class InputError(SetupError):
    """A file that cannot be read as what it should be."""


class KeyRefused(SetupError):
    """A missing or refused API key."""


class QuotaClosed(SetupError):
    """A quota that no waiting mends: the plan grants none of it, or the credits are used up."""


class UnknownModel(SetupError):
    """No model of the configured list is served."""


class NeedsPerson(BatchgenError):
    """Going on by itself would cost money or rows."""

    exit_code = 3


class BudgetReached(NeedsPerson):
    """`max_usd` would be passed."""


class StageStopped(NeedsPerson):
    """A model or a step was halted and waits for a decision."""


class BatchLost(NeedsPerson):
    """A job nobody can find."""


class Temporary(BatchgenError):
    """The next tick goes on by itself."""

    exit_code = 75


class Ambiguous(Temporary):
    """A create call without a clear answer: the job may exist."""


class NotReady(Temporary):
    """What was asked for does not exist yet."""


class QuotaReached(Temporary):
    """The provider takes no more for now (HTTP 429).

    `retry_after_seconds` is the provider's own wish, None when it said nothing.
    """

    def __init__(self, message: str, *, do: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(message, do=do)
        self.retry_after_seconds = retry_after_seconds


def heed_interrupt(error: BaseException) -> None:
    """Raise the Ctrl-C that `error` hides, if it does: Python before 3.12 makes a RuntimeError of what interrupts a
    class that is being made (`__set_name__`), and every import of an SDK makes hundreds.
    """
    cause = error.__cause__
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        cause = cause.__cause__
