"""Decide whether a batch may be sent now: holds, the configured limits of the provider, and the budget (`max_usd`).

Reasons against it are recorded in `session.troubles`, or as the hold of the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from batchgen.core.dialogue import Step
from batchgen.core.errors import BudgetReached
from batchgen.core.outcomes import Usage
from batchgen.engine.session import Session
from batchgen.engine.submission.rejection_limit import rejection_limit_error
from batchgen.engine.submission.request_files import BatchDraft
from batchgen.ledger.holds import halt_scope, hold_error, is_in_force, model_scope, step_scope
from batchgen.ledger.receipt import CostSummary, cost_summary
from batchgen.ledger.rows import Batch, Hold
from batchgen.ledger.totals import BEYOND_LAST_BATCH
from batchgen.runtime.logging_setup import log


def hold_reason(session: Session, scope: str, step: Step) -> str:
    """Return why a pause or a halt forbids batches of this model or step now, "" if none does. Record a trouble."""
    holds = session.store.holds.all()
    for hold in (holds.get(scope), holds.get(halt_scope(step.position))):
        if hold is None or not is_in_force(hold, session.now()):
            continue
        session.trouble(hold_error(hold, session.now(), step.stage))
        return hold.reason
    return ""


def may_submit_draft(session: Session, draft: BatchDraft, halted: set[str], reasons: dict[Step, str]) -> bool:
    """Return whether `draft` may be sent now; otherwise add the reason to `reasons`.

    `halted` are the models that stopped in this command.
    """
    choice = session.choice(draft.step.stage)
    scope = model_scope(*choice)
    if scope in halted or hold_reason(session, scope, draft.step):
        return False
    wanted = _BatchNeeds(draft.step, *choice, draft.input_tokens, draft.reserved_usd)
    return _has_room(session, wanted, reasons)


def may_submit_planned(session: Session, batch: Batch, behind: Sequence[Batch], reasons: dict[Step, str]) -> bool:
    """Return whether a batch that an earlier command planned may be sent: limits may have changed since.

    It is sent before the batches `behind` it, so their reserved amounts do not count against it.
    """
    need = _max_cost_usd(session, batch)
    later = sum(_max_cost_usd(session, one) or 0 for one in (batch, *behind))
    wanted = _BatchNeeds(batch.step, batch.provider, batch.model, batch.plan.input_tokens, need, batch.number, later)
    return _has_room(session, wanted, reasons)


def record_hold(session: Session, step: Step, reason: str) -> None:
    """Record for `status` why a limit holds back conversations at `step`, "" if none does."""
    if reason:
        session.store.holds.put(Hold(step_scope(step.position), None, 0, reason))
    else:
        session.store.holds.end(step_scope(step.position))


class _BatchNeeds(NamedTuple):
    """What a batch needs: estimated input `tokens`, and at most `usd` (None: the price is unknown).

    Of the planned batches only those with a number below `before` count against the limits. `later_usd` of the reserved
    amount is for this batch and those behind it, and does not count.
    """

    step: Step
    provider: str
    model: str
    tokens: int
    usd: float | None
    before: int = BEYOND_LAST_BATCH
    later_usd: float = 0.0


def _has_room(session: Session, wanted: _BatchNeeds, reasons: dict[Step, str]) -> bool:
    """Return whether a batch fits the limits; otherwise add the reason to `reasons`, if its step has none yet."""
    reason = _why_no_room(session, wanted)
    if reason:
        log.info("%s waits: %s", wanted.step, reason)
        reasons.setdefault(wanted.step, reason)
    return not reason


def _why_no_room(session: Session, wanted: _BatchNeeds) -> str:
    """Return why a batch does not fit the limits, "" if it does."""
    if stop := rejection_limit_error(session, wanted.step):
        session.trouble(stop)
        return str(stop)
    enqueued = session.store.totals.enqueued(wanted.provider, wanted.model, before=wanted.before)
    if reason := _why_over_provider_limits(session, wanted.provider, enqueued, wanted.tokens):
        return reason
    return _why_not_affordable(session, wanted)


def _why_over_provider_limits(session: Session, provider: str, enqueued: tuple[int, int], need_tokens: int) -> str:
    """Return why the configured limits allow no further batch of `need_tokens`, "" if they do."""
    bounds, (batches, tokens) = session.settings.provider(provider), enqueued
    if batches >= bounds.concurrent_batches:
        return f"{batches} batches are in flight at {provider}; concurrent_batches allows no more"
    if tokens and tokens + need_tokens > bounds.enqueued_tokens:  # the first batch goes, however large it is
        return (
            f"{tokens} tokens are enqueued at {provider} and the next batch has {need_tokens};"
            f" enqueued_tokens allows {bounds.enqueued_tokens}"
        )
    return ""


def _why_not_affordable(session: Session, wanted: _BatchNeeds) -> str:
    """Return why `max_usd` does not allow the batch, and record a trouble; "" if it does."""
    cap = session.settings.max_usd
    if not cap:
        return ""
    held = cost_summary(session.store, session.settings)
    left = cap - held.spent_usd - (held.reserved_usd - wanted.later_usd)
    unknown = wanted.usd is None or held.unpriced
    if wanted.usd is not None and wanted.usd <= left and not unknown:
        return ""
    session.trouble(_budget_error(session, wanted.step, wanted.usd, left, held))
    return f"max_usd = {cap:g} {'cannot be checked: a price is unknown' if unknown else 'would be exceeded'}"


def _max_cost_usd(session: Session, batch: Batch) -> float | None:
    """Return the most that a planned batch can cost in USD, None if the price is still unknown."""
    if batch.plan.reserved_usd is not None:
        return batch.plan.reserved_usd
    rate = session.rate(batch.provider, batch.model)
    return rate.usd(Usage(input=batch.plan.input_tokens, output=batch.plan.output_ceiling)) if rate else None


def _budget_error(
    session: Session, step: Step, need_usd: float | None, left: float, held: CostSummary
) -> BudgetReached:
    if need_usd is None or held.unpriced:
        models = held.unpriced_models or (session.model(step.stage),)
        return BudgetReached(
            f"{step}: the next batch was not sent, because max_usd = {session.settings.max_usd:g} cannot be checked:"
            f" the price of {', '.join(models)} is unknown.",
            do=f'Set it in batchgen.toml: [prices."{models[0]}"] input = ..., output = ... (USD per million tokens).',
        )
    return BudgetReached(
        f"{step}: the next batch costs up to ${need_usd:.4f}; ${max(left, 0):.4f} of max_usd ="
        f" {session.settings.max_usd:g} is left (spent ${held.spent_usd:.4f}, reserved ${held.reserved_usd:.4f})."
        " It was not sent.",
        do="Raise max_usd in batchgen.toml, or wait until batches in flight have ended: they may cost less.",
    )
