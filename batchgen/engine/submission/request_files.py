"""Build the lines of one request file from ready conversations, within every limit. Pure except for reading the store.

All lines of a file are encoded and counted at once. If the result exceeds a limit, they are encoded one by one instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from batchgen.core.dialogue import Conversation, Judgement, Stage, Step, echo_of, group_into_turns
from batchgen.core.json_template import PLACEHOLDER_PREFIX
from batchgen.core.judging import build_audit_prompt
from batchgen.core.outcomes import Usage
from batchgen.core.prompts import Prompt, build_prompt
from batchgen.core.text_features import TextFeatures
from batchgen.core.tokens import estimate_prompt_tokens, estimate_request_tokens, input_margin
from batchgen.engine.session import Session
from batchgen.engine.submission.expected_length import ECHO_TOKENS, asks_echo, asks_follow_up, expected_output_tokens
from batchgen.engine.submission.line_templates import make_request_template, render_requests
from batchgen.ledger.rows import ReadyConversation
from batchgen.providers.base import Parameters

MAX_HALVINGS = 3  # of the size of a batch, after failed attempts
MAX_DOUBLINGS = 3  # of the output token limit: above the model's maximum, the provider would refuse the whole batch


class Limits(NamedTuple):
    """The limits of one request file: requests, encoded bytes, estimated input tokens, and bytes of one line."""

    requests: int
    bytes: int
    tokens: int
    line_bytes: int


class BatchDraft(NamedTuple):
    """The content of one request file, and its expected cost (USD; None: price unknown).

    `reserved_usd` is the most it can cost: every reply as long as its token limit, and the estimated input tokens plus
    a margin.
    """

    step: Step
    attempt: int
    rows: tuple[ReadyConversation, ...]
    body: bytes
    too_large: tuple[ReadyConversation, ...]
    input_tokens: int
    output_ceiling: int
    estimated_usd: float | None
    reserved_usd: float | None
    follow_up: bool
    echo: bool

    @property
    def size(self) -> int:
        return len(self.body)

    @property
    def first_line(self) -> bytes:
        return self.body[: self.body.find(b"\n") + 1]


class RequestLine(NamedTuple):
    """One encoded request, with its line feed."""

    row: ReadyConversation
    line: bytes
    input_tokens: int


class _RequestLines(NamedTuple):
    """Request lines as one block of bytes, and their estimated input tokens."""

    rows: list[ReadyConversation]
    body: bytes
    input_tokens: int
    too_large: list[ReadyConversation]


def limits(session: Session, step: Step) -> Limits:
    """Return the smaller of the provider's limits and the configured ones."""
    provider = session.provider(step.stage)
    batches = session.settings.batches
    return Limits(
        requests=min(batches.max_requests, provider.max_file_requests),
        bytes=min(batches.max_bytes, provider.max_file_bytes),
        tokens=session.settings.provider(provider.name).enqueued_tokens,
        line_bytes=min(provider.max_line_bytes, batches.max_bytes, provider.max_file_bytes),
    )


def draft_batch(session: Session, step: Step, tried: int, *, after: int = 0) -> BatchDraft | None:
    """Return the next batch of `step` for conversations that were tried `tried` times, None if none is ready.

    Only conversations with a number above `after` are used. Those whose own request exceeds a limit are only in
    `too_large`.
    """
    attempt = tried + 1
    bounds = limits(session, step)
    rows = _halve_after_failures(session.store.ready(step, tried, after=after, limit=bounds.requests), bounds.requests)
    if not rows:
        return None
    found = _encode_in_bulk(session, step, rows, attempt)
    if not _fits_limits(found, bounds):
        found = _encode_up_to_limits(session, step, rows, attempt, bounds)
    return _make_draft(session, step, attempt, found)


def _fits_limits(found: _RequestLines, bounds: Limits) -> bool:
    """Return whether lines that were encoded as one block are within every limit."""
    if found.input_tokens > bounds.tokens or len(found.body) > bounds.bytes or not found.rows:
        return False
    return len(found.body) <= bounds.line_bytes or max(map(len, found.body.split(b"\n"))) < bounds.line_bytes


def _encode_up_to_limits(
    session: Session, step: Step, rows: list[ReadyConversation], attempt: int, bounds: Limits
) -> _RequestLines:
    """Encode requests one by one, as many as the limits allow."""
    taken: list[RequestLine] = []
    too_large: list[ReadyConversation] = []
    size = tokens = 0
    for line in encode_requests(session, step, rows, attempt):
        if len(line.line) > bounds.line_bytes or line.input_tokens > bounds.tokens:
            too_large.append(line.row)
            continue
        if size + len(line.line) > bounds.bytes or tokens + line.input_tokens > bounds.tokens:
            break
        taken.append(line)
        size += len(line.line)
        tokens += line.input_tokens
    return _RequestLines([line.row for line in taken], b"".join(line.line for line in taken), tokens, too_large)


def _halve_after_failures(rows: list[ReadyConversation], most: int) -> list[ReadyConversation]:
    """Keep at most `most` rows, halved for each failed attempt.

    A batch may fail as a whole, and large jobs expire more often. A refused or abandoned batch bought nothing and does
    not count.
    """
    return rows[: max(most >> min(rows[0].failed_attempts, MAX_HALVINGS), 1)] if rows else rows


def prompt_builder(session: Session, step: Step) -> Callable[[Conversation], Prompt]:
    """Return the function that builds the configured prompt of `step` for a conversation.

    For an audit the conversation has the number of a judgement, and the turns up to the judged one.
    """
    settings, follow_up = session.settings, asks_follow_up(session, step)
    echo, own = asks_echo(session, step.stage), settings.own_instructions()

    def ask(conversation: Conversation) -> Prompt:
        asked = build(conversation)
        return asked._replace(echo=echo_of(conversation.number)) if echo else asked

    def build(conversation: Conversation) -> Prompt:
        if step.stage is Stage.AUDIT:
            order = Judgement.at(conversation.number).order
            return build_audit_prompt(conversation.turns, order, settings.history_messages)
        return build_prompt(
            conversation,
            step.stage,
            target_characters=settings.stage(step.stage).target_characters,
            history_messages=settings.history_messages,
            shows=settings.history.shows,
            follow_up=follow_up,
            own=own,
        )

    return ask


def _parameters(session: Session, step: Step, doublings: int) -> Parameters:
    """Return the generation parameters of a request whose token limit was doubled `doublings` times."""
    wanted = session.settings.stage(step.stage)
    most = wanted.max_output_tokens
    if asks_follow_up(session, step):
        most += session.settings.question.max_output_tokens
    if asks_echo(session, step.stage):
        most += ECHO_TOKENS
    model = session.model(step.stage)
    return Parameters(model, most << min(doublings, MAX_DOUBLINGS), wanted.temperature)


def encode_requests(session: Session, step: Step, rows: list[ReadyConversation], attempt: int) -> Iterator[RequestLine]:
    """Encode the request of each row, in order, for the stage's provider."""
    encode, ask, formula = (
        session.provider(step.stage).line,
        prompt_builder(session, step),
        session.provider(step.stage).tokens,
    )
    dialogues = session.store.dialogues
    conversations = (dialogues.judged if step.stage is Stage.AUDIT else dialogues.read)([row.number for row in rows])
    names = session.names()
    parameters = {
        doublings: _parameters(session, step, doublings) for doublings in {row.token_doublings for row in rows}
    }
    for row, conversation in zip(rows, conversations, strict=True):
        asked = ask(conversation)
        line = encode(names.key(row.number, step, attempt), asked, parameters[row.token_doublings])
        yield RequestLine(row, line + b"\n", estimate_prompt_tokens(asked, formula))


def _encode_in_bulk(session: Session, step: Step, rows: list[ReadyConversation], attempt: int) -> _RequestLines:
    """Encode the same lines as one block, which is many times faster. Returns no rows if it cannot be done."""
    if step.stage is Stage.AUDIT:  # few requests; their texts are those of other positions
        return _RequestLines([], b"", 0, [])
    encode, ask, key_format = (
        session.provider(step.stage).line,
        prompt_builder(session, step),
        session.names().key_format(step, attempt),
    )
    bodies, said, system = list[bytes](), TextFeatures(), ""
    for doublings, alike in groupby(rows, key=attrgetter("token_doublings")):
        group, parameters = list(alike), _parameters(session, step, doublings)
        template = make_request_template(
            step.position,
            lambda texts: ask(Conversation(0, tuple(group_into_turns(texts)))),
            lambda key, asked, parameters=parameters: encode(key, asked, parameters),  # type: ignore[misc]
        )
        if PLACEHOLDER_PREFIX in template.system:  # instructions of the configuration may be any text
            return _RequestLines([], b"", 0, [])
        texts = session.store.dialogues.ready_texts(group, template.line_template.shown)
        if "" in texts or len(texts) != len(group) * len(template.line_template.shown):
            return _RequestLines([], b"", 0, [])
        echoes = [echo_of(row.number).encode() for row in group]
        body, counted = render_requests(template, [key_format % row.number for row in group], texts, echoes)
        bodies.append(body)
        said, system = said.plus(counted), template.system
    tokens = estimate_request_tokens(system, said, len(rows), session.provider(step.stage).tokens)
    return _RequestLines(rows, b"".join(bodies), tokens, [])


def _make_draft(session: Session, step: Step, attempt: int, found: _RequestLines) -> BatchDraft:
    rate = session.rate(*session.choice(step.stage))
    tokens = found.input_tokens
    doublings = Counter(map(attrgetter("token_doublings"), found.rows))
    ceiling = sum(count * _parameters(session, step, doubled).max_output_tokens for doubled, count in doublings.items())
    expected = Usage(input=tokens, output=round(expected_output_tokens(session, step) * len(found.rows)))
    most = Usage(input=round(tokens * (1 + input_margin(len(found.rows)))), output=ceiling)
    return BatchDraft(
        step=step,
        attempt=attempt,
        rows=tuple(found.rows),
        body=found.body,
        too_large=tuple(found.too_large),
        input_tokens=tokens,
        output_ceiling=ceiling,
        estimated_usd=rate.usd(expected) if rate else None,
        reserved_usd=rate.usd(most) if rate else None,
        follow_up=asks_follow_up(session, step),
        echo=asks_echo(session, step.stage),
    )
