"""Rows of the ledger as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import islice
from typing import Any, NamedTuple

from batchgen.core.dialogue import Step
from batchgen.core.outcomes import Reason, Usage

UNKNOWN_FINGERPRINT = "unknown"  # stands in `key_fingerprint` of a batch whose end a rebuilt store does not know
JOB_DELETED = "deleted"  # stands in `remote_state` of a collected batch whose job `clean` has deleted
REBUILDING_FACT = "rebuilding"  # the run fact of a store that `rebuild` has begun to fill and not finished
CANCELLATION_REQUESTED = "its cancellation was asked for"  # stands in `error` until the batch has ended


class BatchState(StrEnum):
    """Where a batch stands. States only move forward."""

    PLANNED = "planned"  # its request file is on disk, nothing was sent
    UPLOADED = "uploaded"  # the provider has its file
    CREATING = "creating"  # the create call is intended; whether it bought a job is not known
    IN_FLIGHT = "in_flight"  # its job has an id
    COLLECTED = "collected"  # every request of it is settled
    REFUSED = "refused"  # a clear no: nothing was bought
    ABANDONED = "abandoned"  # its create call brought no job to light
    LOST = "lost"  # the provider has lost its job, or the results


LIVE_STATES = (BatchState.PLANNED, BatchState.UPLOADED, BatchState.CREATING, BatchState.IN_FLIGHT)
WAITING_STATES = (BatchState.PLANNED, BatchState.UPLOADED)  # not created yet
SUBMITTED_STATES = (BatchState.CREATING, BatchState.IN_FLIGHT)  # money may be owed for these


def pinned_model_fact(provider: str) -> str:
    """Name the run fact that says which model of a provider this run was found to be served by."""
    return f"model:{provider}"


def echo_ignored_fact(provider: str, model: str) -> str:
    """Name the run fact that says that a model's replies did not keep to the echo of their requests."""
    return f"echo_ignored:{provider}:{model}"


class BatchIdentity(NamedTuple):
    """What a batch is called, and who is asked for what."""

    name: str
    position: int
    attempt: int
    provider: str
    model: str

    @property
    def step(self) -> Step:
        return Step.at(self.position)


class BatchPlan(NamedTuple):
    """What a batch holds and what it may cost, before anything is sent. Sizes in bytes, money in USD (None: price
    unknown), times in seconds since 1970 UTC.
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
    late_results_until: float | None  #: the batch has ended without results; till then they may come after all


class BatchCounters(NamedTuple):
    """What was counted: tries that failed in a row, and replies that a <think> block was taken off."""

    empty_listings: int  #: complete listings in which an unanswered create was not found
    first_empty_listing_at: float | None
    not_found_count: int  #: 404 answers for the job's own address
    not_found_since: float | None
    failed_uploads: int
    incomplete_downloads: int  #: downloads that held too few results
    replies_with_thoughts: int


class Batch(NamedTuple):
    """One row of the ledger: a request file, its remote job, and what became of both."""

    number: int
    state: BatchState
    identity: BatchIdentity
    plan: BatchPlan
    job: RemoteJob
    counters: BatchCounters

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Batch:
        """Read a row that was selected by BATCH_COLUMNS."""
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
        """The row as column name -> value."""
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
        """How many texts an accepted reply brings."""
        return 1 + self.plan.follow_up


_PARTS: tuple[tuple[str, type[NamedTuple]], ...] = (
    ("identity", BatchIdentity),
    ("plan", BatchPlan),
    ("job", RemoteJob),
    ("counters", BatchCounters),
)
BATCH_COLUMNS = ("batch", "state", *(name for _, kind in _PARTS for name in kind._fields))


class BatchSummary(NamedTuple):
    """What `status` says of a batch; `since` is when it was sent, or else meant to be sent, or else planned."""

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
    """A conversation that may be asked: its position, and what its earlier attempts there came to."""

    number: int
    position: int
    attempt: int
    failed_attempts: int
    token_doublings: int


class ConversationState(NamedTuple):
    """Where a conversation stands. `batch` holds it; `reason` is why it was rejected after `failed_attempts`."""

    number: int
    position: int
    batch: int | None
    reason: str | None
    detail: str | None
    failed_attempts: int


class ReclaimedConversations(NamedTuple):
    """Conversations of a batch that ended without results, and those of them that still lack the text it asked for.

    `ended`: number -> what the end meant for it. `holders`: number -> the batch that holds it now, None: no other.
    """

    ended: dict[int, Reason]
    holders: dict[int, int | None]


class RequestOutcome(NamedTuple):
    """What became of one conversation's request; `follow_up` is the next round's question that came along."""

    number: int
    reason: Reason
    text: str
    detail: str
    follow_up: str = ""
    had_thoughts: bool = False


class Hold(NamedTuple):
    """Why something is not submitted now. `until` in seconds since 1970 UTC; None waits for a person."""

    scope: str
    until: float | None
    hits: int
    reason: str
    since: float | None = None


class UsageTotal(NamedTuple):
    """What one step's requests to one model with one reason were billed; `usd` None: no price was known."""

    position: int
    provider: str
    model: str
    reason: Reason
    requests: int
    usd: float | None
    usage: Usage


def consecutive_ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Cut ascending numbers into (first, last) of unbroken ranges: one statement serves a whole range of rows."""
    if not numbers:
        return []
    if numbers[-1] - numbers[0] + 1 == len(numbers):
        return [(numbers[0], numbers[-1])]
    breaks = [at for at in range(1, len(numbers)) if numbers[at] != numbers[at - 1] + 1]
    starts, ends = [0, *breaks], [*breaks, len(numbers)]
    return [(numbers[start], numbers[end - 1]) for start, end in zip(starts, ends, strict=True)]
