"""Stop a step when too many of its conversations are rejected, before it spends money on the rest."""

from __future__ import annotations

from batchgen.core.dialogue import Stage, Step
from batchgen.core.errors import StageStopped
from batchgen.engine.session import Session
from batchgen.ledger.rows import LIVE_STATES

MIN_SETTLED = 5  # settled conversations before the share is checked; all of them in a smaller run


def rejection_limit_error(session: Session, step: Step) -> StageStopped | None:
    """Return the error that stops `step`, None if it may go on."""
    done, left = session.store.totals.settled_at(step.position)
    settled = left + done
    limit = session.settings.stage(step.stage).max_rejected_share
    if settled < min(MIN_SETTLED, session.conversations) or left <= limit * settled:
        return None
    came_back = settled + _pending_retries(session, step)
    if left <= limit * came_back:
        return None
    judged = step.stage is Stage.AUDIT
    return StageStopped(
        f"{step}: {left} of {came_back} {'verdicts' if judged else 'conversations'} were rejected"
        f" ({_reasons(session, step)}); max_rejected_share = {limit:g} stops the step.",
        do="Choose another judge: batchgen audit --model PROVIDER:MODEL. Then: batchgen retry --stage audit."
        if judged
        else f"Read data/rejected.jsonl. Then raise max_rejected_share in [{step.stage}], or: batchgen retry.",
    )


def _pending_retries(session: Session, step: Step) -> int:
    """Count the conversations that failed and are tried again: a temporary outage must not stop a step."""
    live = session.store.batches(*LIVE_STATES)
    return session.store.totals.pending_retries(step) + sum(
        batch.requests for batch in live if batch.step == step and batch.attempt > 1
    )


def _reasons(session: Session, step: Step) -> str:
    reasons = session.store.totals.rejection_reasons(step.position)
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
