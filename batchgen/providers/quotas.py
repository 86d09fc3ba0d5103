"""Read a provider's message about a quota: which quota it is, and whether it resets. Pure.

The limits of a file are in each codec (`Provider.max_file_bytes`, ...).
"""

from __future__ import annotations

import re

from batchgen.core.text import MAX_DETAIL_CHARACTERS, one_line

PLAN_ADVICE = (
    "This quota does not reset by itself. Check the plan, the billing and the credits of the key's project, use another"
    " key, or name a model that the plan includes in batchgen.toml. Then ticks go on."
)

# Words of Google and of Together, as reported by their users; "check your plan and billing details" is in every
# quota error of Google, also for quotas that reset.
_NO_USE = re.compile(
    r"\blimit(?::| of| is| =|=) ?0\b(?![.,]\d)"
    r"|\bcredits?\b[^.\n]{0,60}\b(?:used up|depleted|exhausted|run out|ran out)"
    r"|\b(?:insufficient|not enough|out of|no) (?:\w+ )?(?:credits?|funds|balance)\b|\binsufficient_(?:quota|funds)\b"
    r"|\b(?:credit|spend(?:ing)?) (?:cap|limit)\b[^.\n]{0,60}\b(?:exceeded|reached)"
    r"|\b(?:exceeded|reached)\b[^.\n]{0,40}\bspend(?:ing)? (?:cap|limit)"
    r"|\bbilling\b[^.\n]{0,40}\b(?:disabled|not enabled|not active|inactive|closed)|\benable billing\b",
    re.IGNORECASE,
)
_NAMED = re.compile(
    r"\blimit(?::| of| is| =|=) ?\d|\bquota exceeded for\b|\b[a-z]+_[a-z_]*(?:requests|tokens?|bytes|count)\b"
    r"|\bPer(?:Minute|Day|Project)\w*\b|\bquotaId\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"\s*\n\s*(?:\* )?|(?<=[.!?;]) +(?=[A-Z*])")


def is_quota_error(message: str) -> bool:
    """Return whether a job's own error says that a quota was exceeded (google.rpc code 8, OpenAI's codes)."""
    words = ("RESOURCE_EXHAUSTED", "token_limit_exceeded", "rate_limit_exceeded", "insufficient_quota")
    return message.startswith("code 8:") or any(word in message for word in words)


def is_permanent_quota(message: str) -> bool:
    """Return whether a message says that a quota does not reset: a limit of 0, no credits, no billing."""
    return bool(_NO_USE.search(message))


def names_a_quota(message: str) -> bool:
    """Return whether a message says which quota is meant."""
    return bool(_NAMED.search(message))


def quota_sentence(message: object) -> str:
    """Return `message` as one line of limited length.

    If it is too long, sentences that name a quota come first: Google writes them last, behind general advice.
    """
    if not isinstance(message, str) or len(message) <= MAX_DETAIL_CHARACTERS:
        return one_line(message)
    sentences = [sentence for sentence in _SENTENCE_END.split(message) if sentence]
    return one_line(" ".join(sorted(sentences, key=lambda one: (not is_permanent_quota(one), not names_a_quota(one)))))
