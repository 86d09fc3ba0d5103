"""When too many conversations of a step are left behind, the step stops itself before it spends on the rest."""

from __future__ import annotations

from batchgen.dialogue import Step
from batchgen.errors import StageStopped
from batchgen.session import Session

ENOUGH = 5  # settled conversations before a share means anything; all of them in a smaller run


def stopped(session: Session, step: Step) -> StageStopped | None:
    """The reason why `step` may not go on, or None."""
    _, accepted, rejected = session.store.totals()
    left, done = rejected.get(step.position, 0), accepted.get(step.position, 0)
    settled = left + done
    limit = session.settings.stage(step.stage).max_rejected_share
    if settled < min(ENOUGH, session.conversations) or left <= limit * settled:
        return None
    return StageStopped(
        f"{step}: {left} of {settled} conversations were left behind ({_reasons(session, step)});"
        f" max_rejected_share = {limit:g} stops the step.",
        do=f"Read data/rejected.jsonl. Then raise max_rejected_share in [{step.stage}], or: batchgen retry.",
    )


def _reasons(session: Session, step: Step) -> str:
    reasons = session.store.rejection_reasons(step.position)
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
