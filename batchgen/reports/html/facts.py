"""The facts about a run that the report shows, from the ledger alone. No conversation is read."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from batchgen.core.dialogue import Stage, Step
from batchgen.core.outcomes import Reason
from batchgen.engine.session import Session
from batchgen.ledger.rows import Batch, BatchState
from batchgen.ledger.status import status
from batchgen.reports.html.timeline_bars import Timeline, TimelineBuilder

SENT_STATES = (BatchState.CREATING, BatchState.IN_FLIGHT, BatchState.COLLECTED, BatchState.LOST)
TOKENS = ("input_tokens", "cached_tokens", "output_tokens", "thought_tokens")
MAX_NEWEST_BATCHES = 200  # rows in the page's table of batches


class StepFacts(NamedTuple):
    """Counts of one step.

    Conversations: `entered` = `done` + `rejected` + `in_flight` + `ready`; `left` counts the rejected ones by reason.
    Requests: `requests` were sent, `accepted` have a usable text, `failed` counts the others by reason. The rest have
    no reply yet. `had_thoughts` of the replies began with a <think> block, which was removed. `brought` texts came
    with the replies of the step before (`ask_next`) and needed no request. `models` were sent requests, `writers` are
    those with accepted texts. `waited` and `ran` are in seconds.
    """

    step: Step
    entered: int
    done: int
    in_flight: int
    ready: int
    rejected: int
    left: Mapping[str, int]
    requests: int
    accepted: int
    brought: int
    failed: Mapping[str, int]
    models: Sequence[str]
    writers: Sequence[str]
    batches: int
    had_thoughts: int
    waited: Sequence[float]
    ran: Sequence[float]

    @property
    def name(self) -> str:
        return str(self.step)

    @property
    def yielded(self) -> float | None:
        """Return accepted / (accepted + failed) requests; None before the first reply."""
        answered = self.accepted + sum(self.failed.values())
        return self.accepted / answered if answered else None


class RunFacts(NamedTuple):
    """A run as the ledger shows it.

    `answer` is the record of `status`. `batches` counts all batches, `newest` holds the last of them. Times are seconds
    since 1970 UTC: `began` is the first submission, `last` is when the newest results were collected.
    """

    answer: Mapping[str, Any]
    steps: Sequence[StepFacts]
    timeline: Timeline
    batches: int
    newest: Sequence[Batch]
    began: float | None
    last: float | None
    now: float


def collect_facts(session: Session) -> RunFacts:
    """Read the facts of a run from its ledger."""
    now = session.now()
    answer = status(session.store, session.settings, now)
    seen = _LedgerTotals(now)
    for batch in session.store.each_batch():
        seen.learn(batch)
    failed, writers = defaultdict[int, Counter[str]](Counter), defaultdict[int, set[str]](set)
    for bill in session.store.totals.usage():
        if bill.reason is Reason.ACCEPTED:
            writers[bill.position].add(f"{bill.model} ({bill.provider})")
        else:
            failed[bill.position][bill.reason] += bill.requests
    rows = []
    for row in answer["steps"]:
        at = Step(row["round"], Stage(row["stage"])).position
        brought, _ = session.store.totals.output_of_accepted([at - 1], follow_up=True)
        left = session.store.totals.rejection_reasons(at)
        wrote = writers[at] | (writers[at - 1] if brought else set())
        rows.append(_step_facts(row, seen, left, failed[at], brought, wrote))
    return RunFacts(answer, rows, seen.spans.timeline(), seen.batches, [*seen.newest], seen.began, seen.last, now)


class _StepTotals:
    """Counts of the batches of one step. Keeps two durations of each batch, in seconds."""

    def __init__(self) -> None:
        self.requests, self.batches = 0, 0
        self.had_thoughts = 0
        self.waited, self.ran = array("d"), array("d")

    def learn(self, batch: Batch) -> None:
        self.batches += 1
        self.requests += batch.requests
        self.had_thoughts += batch.counters.replies_with_thoughts
        if batch.job.started_at and batch.job.submitted_at:
            self.waited.append(batch.job.started_at - batch.job.submitted_at)
        if batch.job.ended_at and batch.job.started_at:
            self.ran.append(batch.job.ended_at - batch.job.started_at)


class _LedgerTotals:
    """Totals over all batches, which are added one by one in the order of planning."""

    def __init__(self, now: float) -> None:
        self._now, self.spans = now, TimelineBuilder()
        self.batches, self.newest = 0, deque[Batch](maxlen=MAX_NEWEST_BATCHES)
        self.began: float | None = None
        self.last: float | None = None
        self.sent, self.models = defaultdict[int, _StepTotals](_StepTotals), defaultdict[int, set[str]](set)

    def learn(self, batch: Batch) -> None:
        self.batches += 1
        self.newest.append(batch)
        self.spans.learn(batch, self._now)
        if batch.job.submitted_at:
            self.began = min(self.began or batch.job.submitted_at, batch.job.submitted_at)
        if batch.job.collected_at:
            self.last = max(self.last or batch.job.collected_at, batch.job.collected_at)
        if batch.state in SENT_STATES:
            self.sent[batch.position].learn(batch)
            for position in range(batch.position, batch.position + batch.texts):
                self.models[position].add(
                    f"{batch.model} ({batch.provider})"
                )  # the batch of a correction may also bring the next question


def _step_facts(
    row: Mapping[str, Any],
    seen: _LedgerTotals,
    left: Mapping[str, int],
    failed: Mapping[str, int],
    brought: int,
    writers: Collection[str],
) -> StepFacts:
    step = Step(row["round"], Stage(row["stage"]))
    sent = seen.sent[step.position]
    return StepFacts(
        step=step,
        entered=row["done"] + row["rejected"] + row["in_flight"] + row["ready"],
        done=row["done"],
        in_flight=row["in_flight"],
        ready=row["ready"],
        rejected=row["rejected"],
        left=most_frequent_first(left),
        requests=sent.requests,
        accepted=row["done"] - brought,
        brought=brought,
        failed=most_frequent_first(failed),
        models=sorted(seen.models[step.position]),
        writers=sorted(writers),
        batches=sent.batches,
        had_thoughts=sent.had_thoughts,
        waited=sent.waited,
        ran=sent.ran,
    )


def most_frequent_first(counts: Mapping[str, int]) -> dict[str, int]:
    """Sort counts by frequency, equal ones in the order of `Reason`."""
    order = [str(reason) for reason in Reason]
    return dict(sorted(counts.items(), key=lambda item: (-item[1], order.index(item[0]))))


def median_and_maximum(seconds: Sequence[float]) -> tuple[float, float] | None:
    """Return (median, maximum), None if there are no values."""
    return (median(seconds), max(seconds)) if seconds else None


def receipt_table(receipt: Mapping[str, Any]) -> dict[str, Any]:
    """Return the page's cost table from a receipt (`ledger.receipt.receipt`). `paid`: whether anything was billed."""
    rows = [_bill_row(str(Step(step["round"], Stage(step["stage"]))), step) for step in receipt["steps"]]
    unpriced = [model["model"] for model in receipt["models"] if model["rate"] is None]
    return {
        "rows": rows,
        "total": _bill_row("All", receipt["total"]),
        "paid": any(row["usd"] for row in rows),
        "unpriced": unpriced,
    }


def _bill_row(name: str, part: Mapping[str, Any]) -> dict[str, Any]:
    """Return one row in USD and tokens. `wasted` was billed for failed and superseded replies."""
    return {
        "step": name,
        "estimated": part["estimated_usd"],
        "usd": part["usd"],
        "accepted": part["accepted_usd"],
        "wasted": part["failed_usd"] + part["superseded_usd"],
        "at_least": "≥ " if part["at_least"] else "",
        **{name: part[name] for name in TOKENS},
    }
