"""Estimate what an audit will cost, for `estimate`. Makes no network calls."""

from __future__ import annotations

from typing import Any

from batchgen.core.dialogue import STAGES, Stage, Step, audit_steps, group_into_turns
from batchgen.core.judging import ORDERS, build_audit_prompt
from batchgen.core.tokens import estimate_prompt_tokens
from batchgen.core.wording import pluralize
from batchgen.engine.audit import DEFAULT_SAMPLE, sample_of
from batchgen.engine.session import Session
from batchgen.engine.submission.expected_length import expected_text_tokens
from batchgen.ledger.rows import SUBMITTED_STATES
from batchgen.reports.estimate import FILLER, StepEstimate, estimate_step, sample_conversations, sum_known, usd_text


def describe_audit(session: Session) -> tuple[dict[str, Any], str]:
    """Return (JSON value, sentence) of what the audit will still cost; one of DEFAULT_SAMPLE if none was begun."""
    begun = sample_of(session)
    size = min(begun.size if begun else DEFAULT_SAMPLE, session.conversations)
    found = estimate_audit(session, size)
    requests, usd, judge = sum(one.requests for one in found), sum_known(one.usd for one in found), found[0]
    value = {
        "conversations": size,
        "provider": judge.provider,
        "model": judge.model,
        "requests": requests,
        "usd": usd,
    }
    what = "the audit, which was begun," if begun else "an audit"
    text = (
        f"not in the sum: {what} of {pluralize(size, 'conversation')} by {judge.model} has"
        f" {pluralize(requests, 'request')} to buy for ${usd_text(usd)} (batchgen audit)"
    )
    return value, text


def estimate_audit(session: Session, conversations: int) -> list[StepEstimate]:
    """Estimate the requests that an audit of so many conversations still has to buy, round by round."""
    by_state, accepted, _ = session.store.totals.counts_by_position()
    found = []
    for step, mean in _mean_input_tokens(session).items():
        bought = accepted.get(step.position, 0)
        bought += sum(by_state.get((step.position, state), 0) for state in SUBMITTED_STATES)
        found.append(estimate_step(session, step, max(len(ORDERS) * conversations - bought, 0), mean))
    return found


def _mean_input_tokens(session: Session) -> dict[Step, float]:
    """Return the mean input tokens of one request of each round's audit. Texts that do not exist yet are filler."""
    replies = [FILLER * max(round(expected_text_tokens(session, stage)), 1) for stage in STAGES]
    steps, formula = audit_steps(session.settings.rounds), session.provider(Stage.AUDIT).tokens
    sums, size = dict.fromkeys(steps, 0), 0
    for conversation in sample_conversations(session):
        size += 1
        texts = [text for turn in conversation.turns for text in turn if text]
        texts += [replies[place % len(STAGES)] for place in range(len(texts), session.settings.rounds * len(STAGES))]
        turns = list(group_into_turns(texts))
        for step in steps:
            asked = build_audit_prompt(turns[: step.round], ORDERS[0], session.settings.history_messages)
            sums[step] += estimate_prompt_tokens(asked, formula)
    return {step: total / max(size, 1) for step, total in sums.items()}
