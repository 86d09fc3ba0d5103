"""What the ledger says about a run, step by step, as plain values. Reads totals only, never a conversation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from batchgen.dialogue import Stage, Step
from batchgen.outcomes import Reason
from batchgen.records import Batch
from batchgen.session import Session
from batchgen.status import status

SENT = ("creating", "in_flight", "collected", "lost")


class StepFacts(NamedTuple):
    """One step. Conversations: `entered` = `done` + `rejected` + `in_flight` + `ready`, and `left` is `rejected` by
    reason. Requests: `requests` were sent, `accepted` brought a text, `failed` did not, by reason; what is missing
    has not come back. `brought` texts came along with the step before (`ask_next`) and had no request of their own.
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
    batches: int
    waited: Sequence[float]
    ran: Sequence[float]

    @property
    def name(self) -> str:
        return str(self.step)

    @property
    def yielded(self) -> float | None:
        """The share of answered requests that brought a text; None before the first answer."""
        answered = self.accepted + sum(self.failed.values())
        return self.accepted / answered if answered else None


class Facts(NamedTuple):
    """A run as its ledger tells it. `answer` is that of `status`; times are seconds since 1970 UTC."""

    answer: Mapping[str, Any]
    steps: Sequence[StepFacts]
    batches: Sequence[Batch]
    now: float

    @property
    def began(self) -> float | None:
        return min((batch.submitted_at for batch in self.batches if batch.submitted_at), default=None)

    @property
    def last(self) -> float | None:
        """When the newest result was read."""
        return max((batch.collected_at for batch in self.batches if batch.collected_at), default=None)


def facts(session: Session) -> Facts:
    """Ask the ledger."""
    now = session.now()
    answer = status(session.store, session.settings, now)
    batches = session.store.batches()
    failed: dict[int, Counter[str]] = {}
    for bill in session.store.bills():
        if bill.reason is not Reason.ACCEPTED:
            failed.setdefault(bill.position, Counter())[bill.reason] += bill.requests
    rows = []
    for row in answer["steps"]:
        at = Step(row["round"], Stage(row["stage"])).position
        brought, _ = session.store.output_of([at - 1], follow_up=True)
        rows.append(_step(row, batches, session.store.rejection_reasons(at), failed.get(at, {}), brought))
    return Facts(answer, rows, batches, now)


def _step(
    row: Mapping[str, Any], batches: Iterable[Batch], left: Mapping[str, int], failed: Mapping[str, int], brought: int
) -> StepFacts:
    step = Step(row["round"], Stage(row["stage"]))
    sent = [batch for batch in batches if batch.position == step.position and batch.state in SENT]
    # A question may have come along with the correction before it.
    writers = [batch for batch in batches if batch.position <= step.position < batch.position + batch.texts]
    return StepFacts(
        step=step,
        entered=row["done"] + row["rejected"] + row["in_flight"] + row["ready"],
        done=row["done"],
        in_flight=row["in_flight"],
        ready=row["ready"],
        rejected=row["rejected"],
        left=_ordered(left),
        requests=sum(batch.requests for batch in sent),
        accepted=row["done"] - brought,
        brought=brought,
        failed=_ordered(failed),
        models=sorted({batch.model for batch in writers if batch.state in SENT}),
        batches=len(sent),
        waited=[batch.started_at - batch.submitted_at for batch in sent if batch.started_at and batch.submitted_at],
        ran=[batch.ended_at - batch.started_at for batch in sent if batch.ended_at and batch.started_at],
    )


def _ordered(counts: Mapping[str, int]) -> dict[str, int]:
    """Most frequent first; equal ones in the vocabulary's order."""
    order = [str(reason) for reason in Reason]
    return dict(sorted(counts.items(), key=lambda item: (-item[1], order.index(item[0]))))


def middle_and_most(seconds: Sequence[float]) -> tuple[float, float] | None:
    """(median, maximum), None of nothing."""
    return (median(seconds), max(seconds)) if seconds else None
