"""Estimate what the rest of a run will cost: tokens, USD and batches by step. Makes no network calls.

Takes a sample of the conversations and fills the texts that do not exist yet with filler of the expected length. Then
builds each request and counts its tokens as `submit` does. `estimate --models` is in `model_comparison`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from math import ceil
from typing import Any, NamedTuple

from batchgen.core.dialogue import FIRST_ROUND, STAGES, Conversation, Stage, Step, group_into_turns
from batchgen.core.outcomes import Usage
from batchgen.core.pricing import past_price, standard_rate
from batchgen.core.prompts import Prompt
from batchgen.core.tokens import estimate_prompt_tokens
from batchgen.engine.session import Session
from batchgen.engine.submission.expected_length import asks_follow_up, expected_output_tokens, expected_text_tokens
from batchgen.engine.submission.request_files import prompt_builder
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
    means = mean_input_tokens(
        session, lambda step, asked: estimate_prompt_tokens(asked, session.provider(step.stage).tokens)
    )
    return [
        estimate_step(session, step, requests, means.get(step.position, 0.0))
        for step, requests in remaining_requests(session).items()
    ]


def remaining_requests(session: Session) -> dict[Step, int]:
    """Return the number of requests of each step that are not bought yet, in the order of the steps."""
    by_state, accepted, rejected = session.store.totals.counts_by_position()
    found = {}
    for step in session.steps():
        flying = sum(by_state.get((step.position, state), 0) for state in SUBMITTED_STATES)
        alive = session.conversations - sum(count for at, count in rejected.items() if at <= step.position)
        missing = max(alive - accepted.get(step.position, 0) - flying, 0)
        found[step] = 0 if comes_with_correction(session, step) else missing
    return found


def estimate_step(session: Session, step: Step, requests: int, mean_input: float) -> StepEstimate:
    """Estimate so many requests of a step, each with `mean_input` tokens."""
    provider = session.provider(step.stage)
    model = session.model(step.stage)
    used = Usage(input=round(mean_input * requests), output=round(expected_output_tokens(session, step) * requests))
    batch, online = session.rate(provider.name, model), standard_rate(provider.name, model)
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


def comes_with_correction(session: Session, step: Step) -> bool:
    """Whether the step's question comes with the correction before it (`ask_next`) and needs no request.

    The first question never does: the correction before it is the seed's.
    """
    if step.stage is not Stage.QUESTION or step.round == FIRST_ROUND:
        return False
    return asks_follow_up(session, Step(step.round - 1, Stage.CORRECTION))


def sample_conversations(session: Session) -> Iterable[Conversation]:
    """Read about SAMPLE conversations, evenly spread over the run."""
    total = session.conversations
    return session.store.dialogues.read(list(range(1, total + 1, max(-(-total // SAMPLE), 1))))


def mean_input_tokens(session: Session, count: Callable[[Step, Prompt], int]) -> dict[int, float]:
    """Return the mean input tokens of a request by position. `count` returns those of one prompt."""
    replies = {stage: expected_text_tokens(session, stage) for stage in STAGES}
    builders = {step: prompt_builder(session, step) for step in session.steps()}
    sums: dict[int, int] = defaultdict(int)
    size = 0
    for conversation in sample_conversations(session):
        size += 1
        texts = [text for turn in conversation.turns for text in turn if text]
        for step, ask in builders.items():
            if step.position > len(texts):
                break
            cut = Conversation(conversation.number, tuple(group_into_turns(texts[: step.position])))
            sums[step.position] += count(step, ask(cut))
            if step.position == len(texts):
                texts.append(FILLER * max(round(replies[step.stage]), 1))
    return {position: total / size for position, total in sums.items()} if size else {}


def describe(session: Session, found: list[StepEstimate]) -> tuple[dict[str, Any], str]:
    """Return (JSON value, text) of an estimate; the text lists the rates and the dates on which they were read."""
    paid = cost_summary(session.store, session.settings)
    least = "at least " if paid.unpriced else ""
    total, online = sum_known(one.usd for one in found), sum_known(one.online_usd for one in found)
    models = list(dict.fromkeys((one.provider, one.model) for one in found))
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
        "past_prices": [
            model for name, model in models if (rate := session.rate(name, model)) and rate.is_past(session.now())
        ],
    }
    lines = [
        f"{'step':<18}{'requests':>10}{'batches':>8}{'tokens in':>13}{'tokens out':>12}{'batch $':>10}{'online $':>9}"
    ]
    lines += [
        f"{one.step!s:<18}{one.requests:>10,}{one.batches:>8,}{one.input_tokens:>13,}{one.output_tokens:>12,}"
        f"{usd_text(one.usd):>10}{usd_text(one.online_usd):>9}"
        for one in found
    ]
    lines += [f"{'still to buy':<61}{usd_text(total):>10}{usd_text(online):>9}", ""]
    lines += [_rate_line(session, *one) for one in models]
    lines.append(
        f"spent so far {least}${paid.spent_usd:,.4f}, reserved for what is in flight {least}${paid.reserved_usd:,.4f}"
    )
    return value, "\n".join(lines)


def sum_known(values: Iterable[float | None]) -> float | None:
    """Add up the values; None if one of them is None."""
    known = list(values)
    return None if any(value is None for value in known) else sum(value for value in known if value is not None)


def usd_text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.4f}" if value < 100 else f"{value:,.2f}"  # noqa: PLR2004


def _rate_line(session: Session, provider: str, model: str) -> str:
    rate = session.rate(provider, model)
    if rate is None:
        return (
            f'{model}: price unknown; set it in batchgen.toml: [prices."{provider}:{model}"] input = ..., output = ...'
        )
    seen = f", seen {rate.read_on}" if rate.read_on else ""
    past = f"; {past_price(provider, model, rate)}" if rate.is_past(session.now()) else ""
    return f"{model}: ${rate.input:g} in, ${rate.output:g} out per million tokens ({rate.source}{seen}){past}"
