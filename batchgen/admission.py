"""Whether a batch may be sent now: what is held back, the provider's limits as configured, and the budget.

What may not go is said in `session.troubles`, or recorded as what its step waits for.
"""

from __future__ import annotations

from collections.abc import Sequence

from batchgen.build import Shard
from batchgen.dialogue import Step
from batchgen.errors import BudgetReached, StageStopped, Temporary
from batchgen.guard import stopped
from batchgen.logs import log
from batchgen.outcomes import Usage
from batchgen.receipt import Money, money
from batchgen.records import Batch, Wait
from batchgen.session import Session
from batchgen.waits import in_force


def model_scope(batch: Batch) -> str:
    """What a quota's answer or a lost model holds back."""
    return f"{batch.provider}/{batch.model}"


def step_scope(step: Step) -> str:
    """Under what is recorded what a step's ready conversations wait for."""
    return f"step/{step.position}"


def halt_scope(position: int) -> str:
    """What a refusal holds back that would come again at every tick."""
    return f"halt/{position}"


def held_back(session: Session, scope: str, step: Step) -> bool:
    """Whether a quota's back-off or a halt forbids creating batches of this model or step now."""
    waits = session.store.waits()
    for wait in (waits.get(scope), waits.get(halt_scope(step.position))):
        if wait is None or not in_force(wait, session.now()):
            continue
        if wait.until is None:
            session.trouble(StageStopped(wait.reason, do="Mend the cause, then: batchgen retry"))
        else:
            session.trouble(Temporary(wait.reason, do="What was not submitted waits; a later tick goes on."))
        return True
    return False


def admitted(session: Session, shard: Shard, halted: set[str]) -> bool:
    """Whether `shard` may go now; why not is recorded for `status`. `halted`: models that stopped in this command."""
    provider = session.provider(shard.step.stage)
    scope = f"{provider.name}/{session.model(provider)}"
    if scope in halted or held_back(session, scope, shard.step):
        return False
    reason = _full(session, shard)
    if reason:
        session.store.wait(Wait(step_scope(shard.step), None, 0, reason))
        log.info("%s waits: %s", shard.step, reason)
    return not reason


def _full(session: Session, shard: Shard) -> str:
    """Why there is no room for `shard`, "" when there is."""
    provider = session.provider(shard.step.stage)
    if stop := stopped(session, shard.step):
        session.trouble(stop)
        return str(stop)
    enqueued = session.store.enqueued(provider.name, session.model(provider))
    if reason := _no_room(session, provider.name, enqueued, shard.input_tokens):
        return reason
    if not _affordable(session, shard.step, shard.reserved_usd):
        return f"max_usd = {session.settings.max_usd:g} would be passed"
    return ""


def _no_room(session: Session, provider: str, enqueued: tuple[int, int], need_tokens: int) -> str:
    """Why the provider's limits as configured allow no further batch of `need_tokens`, "" when they do."""
    bounds, (batches, tokens) = session.settings.provider(provider), enqueued
    if batches >= bounds.concurrent_batches:
        return f"{batches} batches are in flight at {provider}; concurrent_batches allows no more"
    if batches and tokens + need_tokens > bounds.enqueued_tokens:
        return (
            f"{tokens} tokens are enqueued at {provider} and the next batch has {need_tokens};"
            f" enqueued_tokens allows {bounds.enqueued_tokens}"
        )
    return ""


def still_admitted(session: Session, batch: Batch, behind: Sequence[Batch]) -> bool:
    """Whether a batch that was planned in an earlier command may go: limits, budget and share of rejections may say
    otherwise since. It goes before those `behind` it, so what they will take is not held against it.
    """
    if stop := stopped(session, batch.step):
        session.trouble(stop)
        return False
    enqueued = session.store.enqueued(batch.provider, batch.model, before=batch.batch)
    if reason := _no_room(session, batch.provider, enqueued, batch.input_tokens):
        log.info("%s waits: %s", session.describe(batch), reason)
        return False
    later = sum(_need(session, one) or 0 for one in (batch, *behind))
    return _affordable(session, batch.step, _need(session, batch), later_usd=later)


def _affordable(session: Session, step: Step, need_usd: float | None, *, later_usd: float = 0.0) -> bool:
    """Whether `max_usd` allows a batch that costs at most `need_usd`. `later_usd` of what is reserved is for itself and
    for what comes behind it.
    """
    cap = session.settings.max_usd
    if not cap:
        return True
    held = money(session.store, session.settings)
    left = cap - held.spent - (held.reserved - later_usd)
    if need_usd is not None and need_usd <= left and not held.unpriced:
        return True
    session.trouble(_over_budget(session, step, need_usd, left, held))
    return False


def _need(session: Session, batch: Batch) -> float | None:
    """The most that a planned batch can cost, by a price that may have become known since."""
    if batch.reserved_usd is not None:
        return batch.reserved_usd
    rate = session.rate(batch.model)
    return rate.usd(Usage(input=batch.input_tokens, output=batch.output_ceiling)) if rate else None


def _over_budget(session: Session, step: Step, need_usd: float | None, left: float, held: Money) -> BudgetReached:
    if need_usd is None or held.unpriced:
        models = held.unpriced_models or (session.model(session.provider(step.stage)),)
        return BudgetReached(
            f"{step}: it was not sent, because max_usd = {session.settings.max_usd:g} cannot be kept: the price of"
            f" {', '.join(models)} is unknown.",
            do=f'Set it in batchgen.toml: [prices."{models[0]}"] input = ..., output = ... (USD per million tokens).',
        )
    return BudgetReached(
        f"{step}: the next batch costs up to ${need_usd:.4f}; ${max(left, 0):.4f} of max_usd ="
        f" {session.settings.max_usd:g} is left (spent ${held.spent:.4f}, reserved ${held.reserved:.4f})."
        " It was not sent.",
        do="Raise max_usd in batchgen.toml, or let what is in flight come back first.",
    )
