"""What became of one request, and what follows from it: the vocabulary, the policy, the one door for a text.

A provider's codec reads a result line into a `Reply`: by finish reason first, never by luck. `judge` decides whether a
text may stand in a conversation. Everything that is not recognised is a failure with a name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from batchgen.core.dialogue import Stage
from batchgen.core.text import clean, says


class Reason(StrEnum):
    """How one request ended."""

    ACCEPTED = "accepted"
    TRUNCATED = "truncated"  # the output ceiling was reached; never accepted, even with text
    BLOCKED_PROMPT = "blocked_prompt"
    BLOCKED_OUTPUT = "blocked_output"
    REFUSED = "refused"  # the provider marked the reply as a refusal
    EMPTY = "empty"
    MALFORMED = (
        "malformed"  # not the JSON that was asked for, no text (a tool call, an image), or thoughts without an end
    )
    UNREADABLE = "unreadable"  # the result line is broken, or holds nothing that the protocol knows
    UNKNOWN_FINISH = "unknown_finish"
    INVALID_REQUEST = "invalid_request"  # the provider says the request itself is wrong
    PROVIDER_ERROR = "provider_error"
    CANCELLED = "cancelled"
    MISSING = "missing"  # no line came back
    CONFLICT = "conflict"  # several different lines came back
    MISPLACED = "misplaced"  # the text answers another request of the same batch
    FLAGGED = "flagged"  # the text raises a quality flag that the configuration makes a reason to ask again
    TOO_LARGE = "too_large"  # does not fit the provider's limits; never sent
    NOT_SENT = "not_sent"  # the batch was refused or given up; nothing was bought
    LOST = "lost"  # the provider lost the job
    SUPERSEDED = "superseded"  # a text that came after another one was accepted


class Verdict(NamedTuple):
    """What follows: ask `again`? does it count (`counts`) towards max_attempts? with a larger ceiling (`larger`)?"""

    again: bool
    counts: bool = True
    larger: bool = False


# test: POLICY.keys() == set(Reason). Paying again
# for a block buys the same block; paying again for an accident buys another chance.
POLICY: Mapping[Reason, Verdict] = {
    Reason.ACCEPTED: Verdict(again=False, counts=False),
    Reason.TRUNCATED: Verdict(again=True, larger=True),
    Reason.BLOCKED_PROMPT: Verdict(again=False),
    Reason.BLOCKED_OUTPUT: Verdict(again=False),
    Reason.REFUSED: Verdict(again=False),
    Reason.EMPTY: Verdict(again=True),
    Reason.MALFORMED: Verdict(again=True),
    Reason.UNREADABLE: Verdict(again=True),
    Reason.UNKNOWN_FINISH: Verdict(again=True),
    Reason.INVALID_REQUEST: Verdict(again=False),
    Reason.PROVIDER_ERROR: Verdict(again=True),
    Reason.CANCELLED: Verdict(again=True),
    Reason.MISSING: Verdict(again=True),
    Reason.CONFLICT: Verdict(again=True),
    Reason.MISPLACED: Verdict(again=True),
    Reason.FLAGGED: Verdict(again=True),
    Reason.TOO_LARGE: Verdict(again=False),
    Reason.NOT_SENT: Verdict(again=True, counts=False),
    Reason.LOST: Verdict(again=True),
    Reason.SUPERSEDED: Verdict(again=False, counts=False),
}


class Usage(NamedTuple):
    """Billed tokens of one request. `input` includes `cached`; `output` includes thinking tokens (`thoughts`)."""

    input: int = 0
    cached: int = 0
    output: int = 0
    thoughts: int = 0


class Reply(NamedTuple):
    """One result line, read: its key ("" when it has none), how it ended, its text or a detail for people."""

    key: str
    reason: Reason
    text: str = ""
    detail: str = ""
    usage: Usage = Usage()
    model: str = ""  # the model version that wrote it, as the provider says
    follow_up: str = ""  # the next round's question, where a correction was asked to bring it along
    had_thoughts: bool = False  # a <think> block was taken off its beginning


# Models that reason may put their thoughts in front of the text, or an empty block where they were told not to reason.
THINK, THINK_END = "<think>", "</think>"


def accept(stage: Stage, reply: Reply) -> Reply:
    """The one door: a reply that claims to be accepted, judged by what a turn of `stage` may be.

    The <think> blocks that a text begins with are taken off; where one has no end, the reply is MALFORMED. A text that
    says nothing is EMPTY. Fields of JSON replies were validated by the codec.
    """
    if reply.reason is not Reason.ACCEPTED:
        return reply
    if reply.text.isprintable() and reply.text[:1].isalnum() and reply.text[-1] != " " and not reply.follow_up:
        return reply  # most are: one line, and nothing to clean
    text, follow_up = clean(reply.text), clean(reply.follow_up)
    had_thoughts = text.startswith(THINK) or follow_up.startswith(THINK)
    if had_thoughts:
        try:
            text, follow_up = without_thoughts(text), without_thoughts(follow_up)
        except ValueError as error:
            return reply._replace(reason=Reason.MALFORMED, text="", follow_up="", detail=str(error))
    silent = "" if says(text) else str(stage)
    if reply.follow_up and not silent and not says(follow_up):
        silent = "next question"
    if silent:
        return reply._replace(reason=Reason.EMPTY, text="", follow_up="", detail=f"no word in the {silent}")
    if (text, follow_up) == (reply.text, reply.follow_up):
        return reply
    return reply._replace(text=text, follow_up=follow_up, had_thoughts=had_thoughts or reply.had_thoughts)


def without_thoughts(text: str) -> str:
    """The text without blank space and <think> blocks, empty ones included, at its beginning.

    Raises ValueError where a block has no end.
    """
    start = _first_letter(text, 0)
    while text.startswith(THINK, start):
        end = text.find(THINK_END, start)
        if end < 0:
            raise ValueError(f"a {THINK} block without {THINK_END}")
        start = _first_letter(text, end + len(THINK_END))
    return text[start:]


def _first_letter(text: str, start: int) -> int:
    """The first place from `start` on that is no blank space."""
    while text[start : start + 1].isspace():
        start += 1
    return start


def one_per_key(replies: Sequence[Reply]) -> dict[str, Reply]:
    """One reply per key, whatever the order of the lines. Equal copies are one; different texts make a CONFLICT.

    A text beside an error row of the same request (Together's two files) stays: it was paid for and nothing
    contradicts it. The billed usage of all different copies is kept.
    """
    settled: dict[str, Reply] = {}
    copies: dict[str, set[Reply]] = {}
    for reply in replies:
        before = settled.setdefault(reply.key, reply)
        if before is not reply:
            copies.setdefault(reply.key, {before}).add(reply)
    for key, different in copies.items():
        settled[key] = _agree(different)
    return settled


def accepted_keys(replies: Sequence[Reply]) -> set[str]:
    """The keys under which an accepted text stands, whatever else stands there."""
    return {key for key, reply in one_per_key(replies).items() if reply.reason is Reason.ACCEPTED}


def _agree(copies: Collection[Reply]) -> Reply:
    """What different lines for one request come to: its text, or the failure that stands first in Reason."""
    usage = total(reply.usage for reply in copies)
    if len({(reply.text, reply.follow_up) for reply in copies if reply.reason is Reason.ACCEPTED}) > 1:
        detail = "several different lines for one request"
        return Reply(min(copies).key, Reason.CONFLICT, detail=detail, usage=usage)
    order = list(Reason)  # ACCEPTED is its first
    return min(copies, key=lambda reply: (order.index(reply.reason), reply))._replace(usage=usage)


def total(usages: Iterable[Usage]) -> Usage:
    """Token counts added up."""
    return Usage(*map(sum, zip(*usages, strict=True)))
