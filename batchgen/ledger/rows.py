"""The rows of the store as Python values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import islice
from typing import Any, NamedTuple

from batchgen.core.dialogue import Step
from batchgen.core.outcomes import Reason, Usage

UNKNOWN_FINGERPRINT = "unknown"  # value of `key_fingerprint` of a batch whose end a rebuilt store does not know
JOB_DELETED = "deleted"  # value of `remote_state` of a collected batch whose job `clean` has deleted
REBUILDING_FACT = "rebuilding"  # the run fact of a store that `rebuild` has begun to fill and not finished
AUDIT_FACT = "audit"  # the run fact that says which turns the audit judges (engine/audit.py)
CANCELLATION_REQUESTED = "its cancellation was asked for"  # value of `error` until the batch has ended


class BatchState(StrEnum):
    """The state of a batch. Only a refused create call or upload leads back, to `planned` or `uploaded`."""

    PLANNED = "planned"  # its request file is on disk, nothing was sent
    UPLOADED = "uploaded"  # the provider has its file
    CREATING = "creating"  # its intent is stored; whether the create call bought a job is not known
    IN_FLIGHT = "in_flight"  # the id of its job is known
    COLLECTED = "collected"  # every request of it is settled
    REFUSED = "refused"  # it was not created, and nothing was bought
    ABANDONED = "abandoned"  # no job was found for its create call
    LOST = "lost"  # the provider has lost its job, or the results


LIVE_STATES = (BatchState.PLANNED, BatchState.UPLOADED, BatchState.CREATING, BatchState.IN_FLIGHT)
WAITING_STATES = (BatchState.PLANNED, BatchState.UPLOADED)  # not created yet
SUBMITTED_STATES = (BatchState.CREATING, BatchState.IN_FLIGHT)  # these may cost money


def echo_ignored_fact(provider: str, model: str) -> str:
    """Name the run fact that says that a model's replies did not keep to the echo of their requests."""
    return f"echo_ignored:{provider}:{model}"


class BatchIdentity(NamedTuple):
    """The name of a batch, its step and attempt, and the model that it asks."""

    name: str
    position: int
    attempt: int
    provider: str
    model: str

    @property
    def step(self) -> Step:
        return Step.at(self.position)


class BatchPlan(NamedTuple):
    """What a batch holds and what it may cost, before anything is sent.

    Sizes in bytes, money in USD (None: price unknown), times in seconds since 1970 UTC.
    """

    requests: int
    bytes: int
    sha256: str
    input_tokens: int
    output_ceiling: int
    estimated_usd: float | None
    reserved_usd: float | None
    planned_at: float
    follow_up: int = 0  #: 1: a reply brings the next round's question along, two texts in all
    echo: int = 0  #: 1: the schema of each request fixes the echo that its reply must hold


class RemoteJob(NamedTuple):
    """What is known of a batch at its provider. Times in seconds since 1970 UTC."""

    key_fingerprint: str | None
    remote_file: str | None
    uploaded_at: float | None
    intent_at: float | None
    remote_id: str | None
    submitted_at: float | None
    remote_state: str | None
    started_at: float | None
    ended_at: float | None
    collected_at: float | None
    error: str | None
    late_results_until: float | None  #: until then a batch that ended without results may still get some


class BatchCounters(NamedTuple):
    """Counts of consecutive failures of a batch, and of replies from which a <think> block was removed."""

    empty_listings: int  #: complete listings without the job of an unanswered create call
    first_empty_listing_at: float | None
    not_found_count: int  #: 404 answers to calls for the job itself
    not_found_since: float | None
    failed_uploads: int
    incomplete_downloads: int  #: ticks in which the result file had too few rows or a cut last line
    overdue_since: float | None  #: when the user was first told that the results of the ended job do not come
    replies_with_thoughts: int


class Batch(NamedTuple):
    """One row of the ledger: a request file, its remote job, and the state of both."""

    number: int
    state: BatchState
    identity: BatchIdentity
    plan: BatchPlan
    job: RemoteJob
    counters: BatchCounters

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Batch:
        """Make a batch from a row with the columns BATCH_COLUMNS."""
        values = iter(row)
        number, state = next(values), BatchState(next(values))
        parts = {part: kind(*islice(values, len(kind._fields))) for part, kind in _PARTS}
        return cls(number, state, **parts)  # type: ignore[arg-type] # each part is of its own kind

    def with_changes(self, changes: Mapping[str, Any]) -> Batch:
        """Return a copy with other values in some columns."""
        parts = {
            part: getattr(self, part)._replace(**own)
            for part, kind in _PARTS
            if (own := {name: value for name, value in changes.items() if name in kind._fields})
        }
        return self._replace(state=BatchState(changes.get("state", self.state)), **parts)

    def columns(self) -> dict[str, Any]:
        """Return the row as a map of column names to values, without the number."""
        parts = (self.identity, self.plan, self.job, self.counters)
        return {"state": self.state, **{name: value for part in parts for name, value in part._asdict().items()}}

    @property
    def name(self) -> str:
        return self.identity.name

    @property
    def position(self) -> int:
        return self.identity.position

    @property
    def step(self) -> Step:
        return self.identity.step

    @property
    def attempt(self) -> int:
        return self.identity.attempt

    @property
    def provider(self) -> str:
        return self.identity.provider

    @property
    def model(self) -> str:
        return self.identity.model

    @property
    def requests(self) -> int:
        return self.plan.requests

    @property
    def texts(self) -> int:
        """The number of texts in an accepted reply."""
        return 1 + self.plan.follow_up


_PARTS: tuple[tuple[str, type[NamedTuple]], ...] = (
    ("identity", BatchIdentity),
    ("plan", BatchPlan),
    ("job", RemoteJob),
    ("counters", BatchCounters),
)
BATCH_COLUMNS = ("batch", "state", *(name for _, kind in _PARTS for name in kind._fields))


class BatchSummary(NamedTuple):
    """What `status` shows of a batch. `since` is the time of its submission, or else intent, or else planning."""

    number: int
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


class ReadyConversation(NamedTuple):
    """A conversation that is ready for a batch: its position, and its earlier attempts there."""

    number: int
    position: int
    attempt: int
    failed_attempts: int
    token_doublings: int


class ConversationState(NamedTuple):
    """The state of a conversation. `batch` holds it; `reason` is why it was rejected after `failed_attempts`."""

    number: int
    position: int
    batch: int | None
    reason: str | None
    detail: str | None
    failed_attempts: int


class ReclaimedConversations(NamedTuple):
    """The conversations of a batch that ended without results.

    `ended` maps each of them to the reason that the end gave it. `holders` maps those that still lack the text to the
    batch that holds them now, None if no batch does.
    """

    ended: dict[int, Reason]
    holders: dict[int, int | None]


class Hold(NamedTuple):
    """Why something is not submitted now. `until` and `since` in seconds since 1970 UTC; `until` None: a halt."""

    scope: str
    until: float | None
    hits: int
    reason: str
    since: float | None = None


class UsageTotal(NamedTuple):
    """Tokens and USD billed for the requests of one step, model and reason; `usd` None: no price was known."""

    position: int
    provider: str
    model: str
    reason: Reason
    requests: int
    usd: float | None
    usage: Usage


def consecutive_ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return the ranges (first, last) of consecutive numbers, so that one statement can update a whole range of rows.

    `numbers` must ascend.
    """
    if not numbers:
        return []
    if numbers[-1] - numbers[0] + 1 == len(numbers):
        return [(numbers[0], numbers[-1])]
    breaks = [at for at in range(1, len(numbers)) if numbers[at] != numbers[at - 1] + 1]
    starts, ends = [0, *breaks], [*breaks, len(numbers)]
    return [(numbers[start], numbers[end - 1]) for start, end in zip(starts, ends, strict=True)]
