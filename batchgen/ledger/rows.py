"""The store's rows as values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from batchgen.core.dialogue import Step
from batchgen.core.outcomes import Reason, Usage

KEY_UNKNOWN = "unknown"  # stands in `key_fingerprint` of a batch whose end a rebuilt store does not know
LIVE_STATES = ("planned", "uploaded", "creating", "in_flight")
FLYING = ("creating", "in_flight")  # money may be owed for these
JOB_DELETED = "deleted"  # stands in `remote_state` of a collected batch whose job `clean` has removed
REBUILDING = "rebuilding"  # the fact of a store that `rebuild` has begun to fill, and not ended
CANCEL_ASKED = "its cancellation was asked for"  # stands in `error` until the batch has ended


def pin(provider: str) -> str:
    """The fact that says which model of a provider this run was found to be served by."""
    return f"model:{provider}"


class Batch(NamedTuple):
    """One row of the ledger. Times are seconds since 1970 UTC, money is USD (None: price unknown).

    `follow_up` is 1 when its replies bring the next round's question along: they are two texts each. `awaited_until`
    is set where a batch has ended, and its results may come after all. `blanks` counts complete listings in which an
    unanswered create was not found, `missing` consecutive 404 answers for the job's own address, `short_looks` looks at
    results that came and were too few; `upload_failed` tries in which its file was not taken, `had_thoughts` accepted
    replies that a <think> block was taken off.
    """

    batch: int
    name: str
    position: int
    attempt: int
    provider: str
    model: str
    state: str
    requests: int
    bytes: int
    sha256: str
    input_tokens: int
    output_ceiling: int
    estimated_usd: float | None
    reserved_usd: float | None
    planned_at: float
    follow_up: int
    key_fingerprint: str | None
    remote_file: str | None
    uploaded_at: float | None
    intent_at: float | None
    blanks: int
    first_blank_at: float | None
    remote_id: str | None
    submitted_at: float | None
    remote_state: str | None
    started_at: float | None
    missing: int
    missing_since: float | None
    ended_at: float | None
    collected_at: float | None
    error: str | None
    awaited_until: float | None
    upload_failed: int
    short_looks: int
    had_thoughts: int

    @property
    def texts(self) -> int:
        """How many texts an accepted reply brings."""
        return 1 + self.follow_up

    @property
    def step(self) -> Step:
        return Step.at(self.position)


class Shown(NamedTuple):
    """What `status` says of a batch; `since` is when it was sent, or else meant to be sent, or else planned."""

    batch: int
    name: str
    position: int
    attempt: int
    provider: str
    model: str
    state: str
    remote_state: str | None
    remote_id: str | None
    requests: int
    submitted_at: float | None
    since: float


class Plan(NamedTuple):
    """A batch about to enter the ledger: its file is durable, nothing was sent."""

    name: str
    position: int
    attempt: int
    provider: str
    model: str
    requests: int
    bytes: int
    sha256: str
    input_tokens: int
    output_ceiling: int
    estimated_usd: float | None
    reserved_usd: float | None
    planned_at: float
    follow_up: int = 0


class Row(NamedTuple):
    """A conversation as the scheduler sees it."""

    number: int
    at: int
    attempt: int
    strikes: int
    ceiling: int


class Standing(NamedTuple):
    """Where a conversation stands: `batch` holds it, `reason` is why it was left behind after `strikes` failures."""

    number: int
    at: int
    batch: int | None
    reason: str | None
    detail: str | None
    strikes: int


class Borrowed(NamedTuple):
    """Conversations of a batch that ended without results, and those of them that still lack the text it asked for.

    `ended`: number -> what the end meant for it; `lent`: number -> the batch that holds it meanwhile, None: no other.
    """

    ended: dict[int, Reason]
    lent: dict[int, int | None]


class Settled(NamedTuple):
    """What became of one conversation's request; `follow_up` is the next round's question that came along.

    `had_thoughts`: a <think> block was taken off the text.
    """

    number: int
    reason: Reason
    text: str
    detail: str
    follow_up: str = ""
    had_thoughts: bool = False


class Wait(NamedTuple):
    """Why something is not submitted now; `until` None waits for a person. `since`: when a quota first said no."""

    scope: str
    until: float | None
    hits: int
    reason: str
    since: float | None = None


class Bill(NamedTuple):
    """What one step's requests to one model with one reason were billed; `usd` None: no price was known."""

    position: int
    provider: str
    model: str
    reason: Reason
    requests: int
    usd: float | None
    usage: Usage


def runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending numbers as (first, last) of unbroken runs: one statement serves a whole run of rows."""
    if not numbers:
        return []
    if numbers[-1] - numbers[0] + 1 == len(numbers):
        return [(numbers[0], numbers[-1])]
    breaks = [at for at in range(1, len(numbers)) if numbers[at] != numbers[at - 1] + 1]
    starts, ends = [0, *breaks], [*breaks, len(numbers)]
    return [(numbers[start], numbers[end - 1]) for start, end in zip(starts, ends, strict=True)]
