"""Word differences between an answer and its correction, as segments of both texts. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rapidfuzz.distance import LCSseq

from batchgen.core.text import WORD_CHARACTERS

# A token is a word, one character of a script without spaces (for example Chinese), or any other single character,
# each with the blanks before it. Blanks at the end of a text are a token of their own.
_TOKEN = re.compile(rf"\s*(?:[{WORD_CHARACTERS}]|(?:(?![{WORD_CHARACTERS}])[^\W_])+|\S)|\s+\Z")
_LEADING = re.compile(r"\s+")
LONE_WORDS = 1  # so few common words between two changes count as changed: one long change is easier to read


class WordDiff(NamedTuple):
    """Both texts in segments: those at even indices are in both texts, at odd indices in this one only."""

    answer: list[str]
    correction: list[str]


class _Run(NamedTuple):
    """Adjacent tokens of both texts; `same` if they are the same words."""

    same: bool
    answer: Sequence[str]
    correction: Sequence[str]


def diff_words(answer: str, correction: str) -> WordDiff:
    """Compare word by word: return what is only in `answer` and what is only in `correction`."""
    ours, theirs = _TOKEN.findall(answer), _TOKEN.findall(correction)
    runs = _without_lone_words(_runs(ours, theirs))
    return WordDiff(
        _segments((run.same, run.answer) for run in runs),
        _segments((run.same, run.correction) for run in runs),
    )


def _runs(ours: Sequence[str], theirs: Sequence[str]) -> list[_Run]:
    codes = LCSseq.opcodes([token.strip() for token in ours], [token.strip() for token in theirs])
    return [
        _Run(code.tag == "equal", ours[code.src_start : code.src_end], theirs[code.dest_start : code.dest_end])
        for code in codes
    ]


def _without_lone_words(runs: Sequence[_Run]) -> list[_Run]:
    """Mark common runs of at most LONE_WORDS words between two changes as changed."""
    last = len(runs) - 1
    return [
        run._replace(same=False) if run.same and 0 < at < last and _count_words(run.answer) <= LONE_WORDS else run
        for at, run in enumerate(runs)
    ]


def _count_words(tokens: Iterable[str]) -> int:
    return sum(token.strip()[:1].isalnum() for token in tokens)


def _segments(parts: Iterable[tuple[bool, Sequence[str]]]) -> list[str]:
    """Join tokens to alternating segments, common ones first. Blanks before a change go to the common segment."""
    segments = [""]
    for same, tokens in parts:
        if same != bool(len(segments) % 2):
            segments.append("")
        segments[-1] += "".join(tokens)
    for at in range(1, len(segments), 2):
        if blanks := _LEADING.match(segments[at]):
            segments[at - 1] += blanks[0]
            segments[at] = segments[at][blanks.end() :]
    return _drop_empty_changes(segments)


def _drop_empty_changes(segments: Sequence[str]) -> list[str]:
    """Remove changes that are empty because they had only blanks."""
    found = [segments[0]]
    for at in range(1, len(segments), 2):
        after = segments[at + 1] if at + 1 < len(segments) else ""
        if segments[at]:
            found += [segments[at], after]
        else:
            found[-1] += after
    return found[:-1] if len(found) > 1 and not found[-1] else found
