"""The result of one request, and what is done next.

A provider's codec decodes a result line into a `Reply`. It reads the finish reason before the text. `validate_text`
checks and cleans the text, and POLICY says what is done for each reason. An unknown result has its own reason.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from batchgen.core.dialogue import Stage
from batchgen.core.text import clean_text, has_words, one_line


class Reason(StrEnum):
    """How one request ended."""

    ACCEPTED = "accepted"
    TRUNCATED = "truncated"  # the limit of output tokens was reached; never accepted, even with text
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
    FLAGGED = "flagged"  # the text raises a quality flag that is listed in `retry_flags`
    TOO_LARGE = "too_large"  # does not fit the provider's limits; never sent
    NOT_SENT = "not_sent"  # the batch was refused or abandoned; nothing was bought
    LOST = "lost"  # the provider lost the job
    SUPERSEDED = "superseded"  # a text that came after another one was accepted


class RetryPolicy(NamedTuple):
    """What is done for a reason: whether the request is retried, whether it counts as one of max_attempts, and
    whether the next attempt may use twice as many output tokens.
    """

    retry: bool
    counts_as_attempt: bool = True
    raise_token_limit: bool = False


# A blocked request would be blocked again, so it is not retried. After a temporary error another attempt may succeed.
POLICY: Mapping[Reason, RetryPolicy] = {
    Reason.ACCEPTED: RetryPolicy(retry=False, counts_as_attempt=False),
    Reason.TRUNCATED: RetryPolicy(retry=True, raise_token_limit=True),
    Reason.BLOCKED_PROMPT: RetryPolicy(retry=False),
    Reason.BLOCKED_OUTPUT: RetryPolicy(retry=False),
    Reason.REFUSED: RetryPolicy(retry=False),
    Reason.EMPTY: RetryPolicy(retry=True),
    Reason.MALFORMED: RetryPolicy(retry=True),
    Reason.UNREADABLE: RetryPolicy(retry=True),
    Reason.UNKNOWN_FINISH: RetryPolicy(retry=True),
    Reason.INVALID_REQUEST: RetryPolicy(retry=False),
    Reason.PROVIDER_ERROR: RetryPolicy(retry=True),
    Reason.CANCELLED: RetryPolicy(retry=True),
    Reason.MISSING: RetryPolicy(retry=True),
    Reason.CONFLICT: RetryPolicy(retry=True),
    Reason.MISPLACED: RetryPolicy(retry=True),
    Reason.FLAGGED: RetryPolicy(retry=True),
    Reason.TOO_LARGE: RetryPolicy(retry=False),
    Reason.NOT_SENT: RetryPolicy(retry=True, counts_as_attempt=False),
    Reason.LOST: RetryPolicy(retry=True),
    Reason.SUPERSEDED: RetryPolicy(retry=False, counts_as_attempt=False),
}


class Usage(NamedTuple):
    """Billed tokens of one request. `input` includes `cached`; `output` includes thinking tokens (`thoughts`)."""

    input: int = 0
    cached: int = 0
    output: int = 0
    thoughts: int = 0


class Reply(NamedTuple):
    """One decoded result line: its key ("" if it has none), its reason, and its text or a detail for people."""

    key: str
    reason: Reason
    text: str = ""
    detail: str = ""
    usage: Usage = Usage()
    model: str = ""  # the model version that wrote it, as the provider says
    follow_up: str = ""  # the next round's question, where a correction was asked to bring it along
    had_thoughts: bool = False  # a <think> block was taken off its beginning
    echo: str = ""  # what a JSON reply holds in ECHO_FIELD; never part of the text


VERDICTS = ("first", "second", "tie")  # of the audit: which of two replies is better

# Reasoning models may write their thoughts before the text, or an empty block if they were told not to reason.
THINK, THINK_END = "<think>", "</think>"


def validate_text(stage: Stage, reply: Reply) -> Reply:
    """Clean the text of an accepted reply.

    <think> blocks at its beginning are removed; if one has no end, the reply is MALFORMED. A text without any word is
    EMPTY. Other replies are returned as they are. The codec has validated the fields of JSON replies.
    """
    if reply.reason is not Reason.ACCEPTED:
        return reply
    return _validate_verdict(reply) if stage is Stage.AUDIT else _validate_dialogue_text(stage, reply)


def _validate_dialogue_text(stage: Stage, reply: Reply) -> Reply:
    said = reply.text
    if said.isprintable() and said[:1].isalnum() and said[-1] != " " and not reply.follow_up:
        return reply  # most texts are one line with nothing to clean
    text, follow_up = clean_text(reply.text), clean_text(reply.follow_up)
    had_thoughts = text.startswith(THINK) or follow_up.startswith(THINK)
    if had_thoughts:
        try:
            text, follow_up = without_thoughts(text), without_thoughts(follow_up)
        except ValueError as error:
            return reply._replace(reason=Reason.MALFORMED, text="", follow_up="", detail=str(error))
    silent = "" if has_words(text) else str(stage)
    if reply.follow_up and not silent and not has_words(follow_up):
        silent = "next question"
    if silent:
        return reply._replace(reason=Reason.EMPTY, text="", follow_up="", detail=f"no word in the {silent}")
    if (text, follow_up) == (reply.text, reply.follow_up):
        return reply
    return reply._replace(text=text, follow_up=follow_up, had_thoughts=had_thoughts or reply.had_thoughts)


def _validate_verdict(reply: Reply) -> Reply:
    """Join the verdict and the reason of an accepted audit reply to one text; MALFORMED if either is missing."""
    verdict, reason = reply.follow_up.strip().lower(), one_line(reply.text)
    if verdict not in VERDICTS or not has_words(reason):
        why = f"the verdict is {one_line(reply.follow_up) or 'missing'}" if has_words(reason) else "no reason"
        return reply._replace(reason=Reason.MALFORMED, text="", follow_up="", detail=why)
    return reply._replace(text=f"{verdict}: {reason}", follow_up="")


def split_verdict(text: str) -> tuple[str, str]:
    """Return (verdict, reason) of an accepted audit reply."""
    verdict, _, reason = text.partition(": ")
    return verdict, reason


def without_thoughts(text: str) -> str:
    """Remove white space and <think> blocks, also empty ones, from the beginning of a text.

    Raises ValueError if a block has no end.
    """
    start = _skip_white_space(text, 0)
    while text.startswith(THINK, start):
        end = text.find(THINK_END, start)
        if end < 0:
            raise ValueError(f"a {THINK} block without {THINK_END}")
        start = _skip_white_space(text, end + len(THINK_END))
    return text[start:]


def _skip_white_space(text: str, start: int) -> int:
    """Return the first index from `start` on that is not white space."""
    while text[start : start + 1].isspace():
        start += 1
    return start


def one_per_key(replies: Sequence[Reply]) -> dict[str, Reply]:
    """Return one reply for each key, whatever the order of the lines.

    Equal copies count as one; different texts for one key are a CONFLICT. A text beside an error row of the same
    request (Together's two files) is kept: it was paid for, and nothing contradicts it. The usage of all different
    copies is added up.
    """
    settled: dict[str, Reply] = {}
    copies: dict[str, set[Reply]] = {}
    for reply in replies:
        before = settled.setdefault(reply.key, reply)
        if before is not reply:
            copies.setdefault(reply.key, {before}).add(reply)
    for key, different in copies.items():
        settled[key] = _merge_duplicates(different)
    return settled


def accepted_keys(replies: Sequence[Reply]) -> set[str]:
    """Return the keys that have an accepted text."""
    return {key for key, reply in one_per_key(replies).items() if reply.reason is Reason.ACCEPTED}


def _merge_duplicates(copies: Collection[Reply]) -> Reply:
    """Merge different lines for one request: into its text, or into the failure that comes first in Reason."""
    usage = total_usage(reply.usage for reply in copies)
    if len({(reply.text, reply.follow_up) for reply in copies if reply.reason is Reason.ACCEPTED}) > 1:
        detail = "several different lines for one request"
        return Reply(min(copies).key, Reason.CONFLICT, detail=detail, usage=usage)
    order = list(Reason)  # ACCEPTED is the first
    return min(copies, key=lambda reply: (order.index(reply.reason), reply))._replace(usage=usage)


def total_usage(usages: Iterable[Usage]) -> Usage:
    """Add up token counts."""
    return Usage(*map(sum, zip(*usages, strict=True)))
