"""Ready conversations -> the lines of one request file, cut to every limit. Pure but for reading the store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from batchgen.costs import FORMULAS, input_margin, prompt_tokens
from batchgen.dialogue import Step
from batchgen.forecast import follow_up, output_tokens
from batchgen.outcomes import Usage
from batchgen.prompts import prompt
from batchgen.providers.base import Parameters
from batchgen.records import Row
from batchgen.session import Session

MOST_HALVINGS = 3  # of a batch for further attempts
MOST_DOUBLINGS = 3  # of the output ceiling: beyond a model's maximum the whole batch would be refused


class Limits(NamedTuple):
    """What one request file may hold: requests, bytes as encoded, estimated input tokens."""

    requests: int
    bytes: int
    tokens: int
    line_bytes: int


class Shard(NamedTuple):
    """The content of one request file, and what it is expected to cost (USD; None: price unknown).

    `reserved_usd` is the most it can cost: every reply as long as its ceiling, the input by its margin more than
    estimated.
    """

    step: Step
    attempt: int
    rows: tuple[Row, ...]
    lines: tuple[bytes, ...]
    too_large: tuple[Row, ...]
    input_tokens: int
    output_ceiling: int
    estimated_usd: float | None
    reserved_usd: float | None
    follow_up: bool

    @property
    def size(self) -> int:
        return sum(map(len, self.lines))


class Line(NamedTuple):
    """One request, encoded, with its line feed."""

    row: Row
    line: bytes
    input_tokens: int
    output_ceiling: int


def limits(session: Session, step: Step) -> Limits:
    """The provider's limits and the configured ones."""
    provider = session.provider(step.stage)
    batches = session.settings.batches
    return Limits(
        requests=min(batches.max_requests, provider.max_file_requests),
        bytes=min(batches.max_bytes, provider.max_file_bytes),
        tokens=session.settings.provider(provider.name).enqueued_tokens,
        line_bytes=min(provider.max_line_bytes, batches.max_bytes, provider.max_file_bytes),
    )


def shard(session: Session, step: Step, tried: int, *, after: int = 0) -> Shard | None:
    """The next request file of `step` for conversations tried `tried` times, or None when none is ready.

    Only conversations behind number `after` are looked at. Those whose single request exceeds a limit are named
    in `too_large` and left out.
    """
    attempt = tried + 1
    bounds = limits(session, step)
    rows = _fewer(session.store.ready(step, tried, after=after, limit=bounds.requests), bounds.requests)
    taken: list[Line] = []
    too_large: list[Row] = []
    size = tokens = 0
    for line in lines(session, step, rows, attempt):
        if len(line.line) > bounds.line_bytes or line.input_tokens > bounds.tokens:
            too_large.append(line.row)
            continue
        if size + len(line.line) > bounds.bytes or tokens + line.input_tokens > bounds.tokens:
            break
        taken.append(line)
        size += len(line.line)
        tokens += line.input_tokens
    return _shard(session, step, attempt, taken, too_large) if taken or too_large else None


def _fewer(rows: list[Row], most: int) -> list[Row]:
    """Half as many for each time they failed: a batch is the unit of loss, and large jobs expire more.

    What was never bought (a refusal, a create that was given up) is no failure.
    """
    return rows[: max(most >> min(rows[0].strikes, MOST_HALVINGS), 1)] if rows else rows


def lines(session: Session, step: Step, rows: list[Row], attempt: int) -> Iterator[Line]:
    """The request of each row, in order, encoded for the stage's provider."""
    provider = session.provider(step.stage)
    wanted = session.settings.stage(step.stage)
    model = session.model(provider)
    formula = FORMULAS.get(provider.name, FORMULAS["gemini"])
    conversations = session.store.conversations([row.number for row in rows])
    names, along = session.names(), follow_up(session, step)
    most = wanted.max_output_tokens + (session.settings.question.max_output_tokens if along else 0)
    for row, conversation in zip(rows, conversations, strict=True):
        asked = prompt(
            conversation,
            step.stage,
            target_characters=wanted.target_characters,
            history_messages=session.settings.history_messages,
            follow_up=along,
        )
        ceiling = most << min(row.ceiling, MOST_DOUBLINGS)
        encoded = provider.line(
            names.key(row.number, step, attempt), asked, Parameters(model, ceiling, wanted.temperature)
        )
        yield Line(row, encoded + b"\n", prompt_tokens(asked, formula), ceiling)


def _shard(session: Session, step: Step, attempt: int, taken: list[Line], too_large: list[Row]) -> Shard:
    rate = session.rate(session.model(session.provider(step.stage)))
    tokens = sum(line.input_tokens for line in taken)
    ceiling = sum(line.output_ceiling for line in taken)
    expected = Usage(input=tokens, output=round(output_tokens(session, step) * len(taken)))
    most = Usage(input=round(tokens * (1 + input_margin(len(taken)))), output=ceiling)
    return Shard(
        step=step,
        attempt=attempt,
        rows=tuple(line.row for line in taken),
        lines=tuple(line.line for line in taken),
        too_large=tuple(too_large),
        input_tokens=tokens,
        output_ceiling=ceiling,
        estimated_usd=rate.usd(expected) if rate else None,
        reserved_usd=rate.usd(most) if rate else None,
        follow_up=follow_up(session, step),
    )
