"""The values that `status` shows. They come from totals in the store; no conversation is read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

from batchgen.core.dialogue import Stage, Step, steps
from batchgen.ledger.holds import describe_scope, is_in_force, model_scope, provider_of
from batchgen.ledger.pins import pinned_choices
from batchgen.ledger.receipt import CostSummary, cost_summary, round_usd
from batchgen.ledger.rows import LIVE_STATES, SUBMITTED_STATES, BatchSummary
from batchgen.ledger.store import Store
from batchgen.runtime.settings import ModelChoice, Settings


def status(store: Store | None, settings: Settings, now: float, *, ended: bool = False) -> dict[str, Any]:
    """Return the record that `status --json` prints. `store` is None if the root was never prepared.

    `batches` lists the batches in flight, which are few in a run of any size; with `ended`, the ended batches, too.
    """
    wanted = steps(settings.rounds)
    if store is None:
        return _status_record(
            0,
            settings,
            [_step_record(step, 0, 0, 0, 0) for step in wanted],
            [],
            CostSummary(0.0, 0.0, 0.0, 0, ()),
            {},
            {},
        ) | {"audit": None}
    total = int(store.fact("conversations") or 0)
    by_state, accepted, rejected = store.totals.counts_by_position()
    rows, entered = [], total
    for step in wanted:
        at = step.position
        in_flight = sum(by_state.get((at, state), 0) for state in SUBMITTED_STATES)
        done, left = accepted.get(at, 0), rejected.get(at, 0)
        rows.append(_step_record(step, entered - in_flight - done - left, in_flight, done, left))
        entered = done
    batches = _batch_records(store.batch_summaries() if ended else store.batch_summaries(*LIVE_STATES), now)
    pinned = pinned_choices(store, settings)
    holds = {
        hold.scope: hold.reason
        for hold in store.holds.all().values()
        if is_in_force(hold, now) and not _is_about_other_model(hold.scope, pinned.values())
    }
    record = _status_record(total, settings, rows, batches, cost_summary(store, settings), pinned, holds)
    return record | {"audit": _audit_record(store, settings, by_state, accepted, rejected)}


def _audit_record(
    store: Store,
    settings: Settings,
    by_state: Mapping[tuple[int, str], int],
    accepted: Mapping[int, int],
    rejected: Mapping[int, int],
) -> dict[str, int] | None:
    """Return how far the audit is, counted in verdicts; None if no audit was begun."""
    places = [step.position for step in store.bought_steps(settings.rounds) if step.stage is Stage.AUDIT]
    if not places:
        return None
    done, failed = (sum(found.get(place, 0) for place in places) for found in (accepted, rejected))
    in_flight = sum(by_state.get((place, state), 0) for place in places for state in SUBMITTED_STATES)
    total = len(store.dialogues.judgements())
    return {
        "requests": total,
        "ready": total - in_flight - done - failed,
        "in_flight": in_flight,
        "done": done,
        "rejected": failed,
    }


def _step_record(step: Step, ready: int, in_flight: int, done: int, rejected: int) -> dict[str, Any]:
    return {
        "round": step.round,
        "stage": str(step.stage),
        "ready": ready,
        "in_flight": in_flight,
        "done": done,
        "rejected": rejected,
    }


def _batch_records(shown: Iterable[BatchSummary], now: float) -> list[dict[str, Any]]:
    at = cache(Step.at)
    return [
        {
            "batch": batch.name,
            "round": at(batch.position).round,
            "stage": at(batch.position).stage.value,
            "provider": batch.provider,
            "model": batch.model,
            "attempt": batch.attempt,
            "state": batch.state,
            "remote_state": batch.remote_state,
            "remote_id": batch.remote_id,
            "requests": batch.requests,
            "submitted_at": timestamp(batch.submitted_at),
            "age_seconds": max(round(now - batch.since), 0),  # a clock may have jumped back
        }
        for batch in shown
    ]


def timestamp(seconds: float | None) -> str | None:
    """Format seconds since 1970 as RFC 3339 in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _status_record(  # noqa: PLR0913, PLR0917 - the parts of one record
    total: int,
    settings: Settings,
    rows: list[dict[str, Any]],
    batches: list[dict[str, Any]],
    amounts: CostSummary,
    pinned: Mapping[Stage, ModelChoice],
    holds: Mapping[str, str],
) -> dict[str, Any]:
    complete = rows[-1]["done"]
    rejected = sum(row["rejected"] for row in rows)
    return {
        "conversations": total,
        "rounds": settings.rounds,
        "finished": bool(total) and complete + rejected == total,
        "complete": complete,
        "rejected": rejected,
        "models": _models_by_provider(pinned),
        "stage_models": {stage.value: choice._asdict() for stage, choice in pinned.items()},
        "steps": rows,
        "batches": batches,
        "waiting": [{"for": describe_scope(scope), "reason": reason} for scope, reason in holds.items()],
        "cost": {
            "estimated_usd": round_usd(amounts.estimated_usd),
            "reserved_usd": round_usd(amounts.reserved_usd),
            "spent_usd": round_usd(amounts.spent_usd),
            "unpriced_requests": amounts.unpriced,
            "unpriced_models": list(amounts.unpriced_models),
        },
    }


def _models_by_provider(pinned: Mapping[Stage, ModelChoice]) -> dict[str, str | None]:
    """Return the pinned model of each provider; of several, that of the first stage."""
    found: dict[str, str | None] = {"gemini": None, "together": None}
    for choice in pinned.values():
        found[choice.provider] = found.get(choice.provider) or choice.model
    return found


def _is_about_other_model(scope: str, pinned: Collection[ModelChoice]) -> bool:
    """Whether a hold is for a model that the run no longer uses, so that it holds nothing back."""
    used = {choice.provider for choice in pinned}
    return provider_of(scope) in used and scope not in {model_scope(*choice) for choice in pinned}
