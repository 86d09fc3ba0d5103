"""Estimate what the rest of a run will cost: tokens, USD and batches by step. Makes no network calls.

Takes a sample of the conversations and fills the texts that do not exist yet with filler of the expected length. Then
builds each request and counts its tokens as `submit` does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any, NamedTuple

from batchgen.core.dialogue import STAGES, Conversation, Stage, Step, group_into_turns
from batchgen.core.outcomes import Usage
from batchgen.core.pricing import past_price, standard_rate
from batchgen.core.prompts import build_prompt
from batchgen.core.tokens import estimate_prompt_tokens
from batchgen.engine.session import Session
from batchgen.engine.submission.expected_length import asks_follow_up, expected_output_tokens, expected_text_tokens
from batchgen.ledger.receipt import cost_summary
from batchgen.ledger.rows import SUBMITTED_STATES

SAMPLE = 200  # conversations
FILLER = "word "  # about one token each


class StepEstimate(NamedTuple):
    """The remaining requests of one step, with expected batches, tokens and USD (None if the price is unknown)."""

    step: Step
    provider: str
    model: str
    requests: int
    batches: int
    input_tokens: int
    output_tokens: int
    usd: float | None
    online_usd: float | None


def estimate(session: Session) -> list[StepEstimate]:
    """Estimate the requests of each step that are not bought yet, in the order of the steps."""
    by_state, accepted, rejected = session.store.totals.counts_by_position()
    texts = {stage: expected_text_tokens(session, stage) for stage in STAGES}
    means = _mean_inputs(session, _sample(session), texts)
    found = []
    for step in session.steps():
        along = _comes_with_correction(session, step)
        flying = sum(by_state.get((step.position, state), 0) for state in SUBMITTED_STATES)
        alive = session.conversations - sum(count for at, count in rejected.items() if at <= step.position)
        requests = 0 if along else max(alive - accepted.get(step.position, 0) - flying, 0)
        found.append(_estimate_step(session, step, requests, means.get(step.position, 0.0)))
    return found


def _estimate_step(session: Session, step: Step, requests: int, mean_input: float) -> StepEstimate:
    provider = session.provider(step.stage)
    model = session.model(provider)
    used = Usage(input=round(mean_input * requests), output=round(expected_output_tokens(session, step) * requests))
    batch, online = session.rate(model), standard_rate(model)
    limits = session.settings.batches
    return StepEstimate(
        step=step,
        provider=provider.name,
        model=model,
        requests=requests,
        batches=ceil(requests / min(limits.max_requests, provider.max_file_requests)),
        input_tokens=used.input,
        output_tokens=used.output,
        usd=batch.usd(used) if batch else None,
        online_usd=online.usd(used) if online else None,
    )


def _comes_with_correction(session: Session, step: Step) -> bool:
    """Whether the step's question comes with the correction before it (`ask_next`) and needs no request."""
    return step.stage is Stage.QUESTION and asks_follow_up(session, Step(step.round - 1, Stage.CORRECTION))


def _sample(session: Session) -> Iterable[Conversation]:
    """Read about SAMPLE conversations, evenly spread over the run."""
    total = session.conversations
    return session.store.dialogues.read(list(range(1, total + 1, max(-(-total // SAMPLE), 1))))


def _mean_inputs(session: Session, sample: Iterable[Conversation], replies: Mapping[Stage, float]) -> dict[int, float]:
    """Return the mean input tokens of a request by position. `replies` are the expected tokens of each stage's text."""
    sums: dict[int, int] = defaultdict(int)
    size = 0
    for conversation in sample:
        size += 1
        texts = [text for turn in conversation.turns for text in turn if text]
        for step in session.steps():
            if step.position > len(texts):
                break
            cut = Conversation(conversation.number, tuple(group_into_turns(texts[: step.position])))
            sums[step.position] += _input_tokens(session, cut, step)
            if step.position == len(texts):
                texts.append(FILLER * max(round(replies[step.stage]), 1))
    return {position: total / size for position, total in sums.items()} if size else {}


def _input_tokens(session: Session, conversation: Conversation, step: Step) -> int:
    wanted = session.settings.stage(step.stage)
    asked = build_prompt(
        conversation,
        step.stage,
        target_characters=wanted.target_characters,
        history_messages=session.settings.history_messages,
        shows=session.settings.history.shows,
        follow_up=asks_follow_up(session, step),
    )
    return estimate_prompt_tokens(asked, session.provider(step.stage).tokens)


def describe(session: Session, found: list[StepEstimate]) -> tuple[dict[str, Any], str]:
    """Return (JSON value, text) of an estimate; the text lists the rates and the dates on which they were read."""
    paid = cost_summary(session.store, session.settings)
    least = "at least " if paid.unpriced else ""
    total, online = _sum(one.usd for one in found), _sum(one.online_usd for one in found)
    models = list(dict.fromkeys(one.model for one in found))
    value = {
        "steps": [
            {
                "round": one.step.round,
                "stage": str(one.step.stage),
                **{k: v for k, v in one._asdict().items() if k != "step"},
            }
            for one in found
        ],
        "usd": total,
        "online_usd": online,
        "spent_usd": paid.spent_usd,
        "reserved_usd": paid.reserved_usd,
        "unpriced_requests": paid.unpriced,
        "past_prices": [model for model in models if (rate := session.rate(model)) and rate.is_past(session.now())],
    }
    lines = [
        f"{'step':<18}{'requests':>10}{'batches':>8}{'tokens in':>13}{'tokens out':>12}{'batch $':>10}{'online $':>9}"
    ]
    lines += [
        f"{one.step!s:<18}{one.requests:>10,}{one.batches:>8,}{one.input_tokens:>13,}{one.output_tokens:>12,}"
        f"{_usd(one.usd):>10}{_usd(one.online_usd):>9}"
        for one in found
    ]
    lines += [f"{'still to buy':<61}{_usd(total):>10}{_usd(online):>9}", ""]
    lines += [_rate_line(session, model) for model in models]
    lines.append(
        f"spent so far {least}${paid.spent_usd:,.4f}, reserved for what is in flight {least}${paid.reserved_usd:,.4f}"
    )
    return value, "\n".join(lines)


def _sum(values: Iterable[float | None]) -> float | None:
    """Add up the values; None if one of them is None."""
    known = list(values)
    return None if any(value is None for value in known) else sum(value for value in known if value is not None)


def _usd(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.4f}" if value < 100 else f"{value:,.2f}"  # noqa: PLR2004


def _rate_line(session: Session, model: str) -> str:
    rate = session.rate(model)
    if rate is None:
        return f'{model}: price unknown; set it in batchgen.toml: [prices."{model}"] input = ..., output = ...'
    seen = f", seen {rate.read_on}" if rate.read_on else ""
    past = f"; {past_price(model, rate)}" if rate.is_past(session.now()) else ""
    return f"{model}: ${rate.input:g} in, ${rate.output:g} out per million tokens ({rate.source}{seen}){past}"
