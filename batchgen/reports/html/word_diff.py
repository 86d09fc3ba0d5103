"""Word differences between an answer and its correction, as segments of both texts. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rapidfuzz.distance import LCSseq

from batchgen.core.text import WORD_CHARACTERS

# A word of a script with spaces, one ideograph or syllable of a script without, or any other character; with the
# blanks in front of it. Blanks at the end of a text are a token of their own.
_TOKEN = re.compile(rf"\s*(?:[{WORD_CHARACTERS}]|(?:(?![{WORD_CHARACTERS}])[^\W_])+|\S)|\s+\Z")
_LEADING = re.compile(r"\s+")
LONE_WORDS = 1  # so few words in common between two changes are chance, and read worse than one longer change


class WordDiff(NamedTuple):
    """Both texts in segments: even ones stand in both texts, odd ones only in this. Joined they are the text."""

    answer: list[str]
    correction: list[str]


class _Run(NamedTuple):
    """Tokens of both texts; `same` when they are the same words."""

    same: bool
    answer: Sequence[str]
    correction: Sequence[str]


def diff_words(answer: str, correction: str) -> WordDiff:
    """What was taken from `answer` and what is new in `correction`, word by word."""
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
    """Runs in common that are too short to be meant, between two changes, as changes."""
    last = len(runs) - 1
    return [
        run._replace(same=False) if run.same and 0 < at < last and _count_words(run.answer) <= LONE_WORDS else run
        for at, run in enumerate(runs)
    ]


def _count_words(tokens: Iterable[str]) -> int:
    return sum(token.strip()[:1].isalnum() for token in tokens)


def _segments(parts: Iterable[tuple[bool, Sequence[str]]]) -> list[str]:
    """Alternating segments, the first one in common; blanks in front of a change belong to what is in common."""
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
    """The same without empty changes (a change of blanks only is none)."""
    found = [segments[0]]
    for at in range(1, len(segments), 2):
        after = segments[at + 1] if at + 1 < len(segments) else ""
        if segments[at]:
            found += [segments[at], after]
        else:
            found[-1] += after
    return found[:-1] if len(found) > 1 and not found[-1] else found
