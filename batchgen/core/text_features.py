"""Counts of words, letters and other kinds of characters, from which tokens are estimated.

The counts of texts that are joined by blanks are the sums of the texts' counts, so that a whole request file can be
counted at once. It must be fast: every request is counted.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from functools import cache
from typing import NamedTuple

from batchgen.core.text import WEIGHED_CJK, WEIGHED_CJK_LETTERS


class TextFeatures(NamedTuple):
    """Numbers of CJK characters, Latin words and their letters, digits, punctuation, runs of line ends, and letters of
    every other script.
    """

    cjk: int = 0
    words: int = 0
    letters: int = 0
    digits: int = 0
    punctuation: int = 0
    newline_runs: int = 0
    other_letters: int = 0

    def plus(self, other: TextFeatures, times: int = 1) -> TextFeatures:
        """Add `times` the counts of `other`."""
        return TextFeatures(*(mine + times * more for mine, more in zip(self, other, strict=True)))


# Runs of these are counted at once.
_CJK_RUN = f"[{WEIGHED_CJK_LETTERS}]+"

_LETTERS = string.ascii_letters.encode()
_DIGITS = string.digits.encode()
_NOT_PUNCTUATION = (string.ascii_letters + string.digits + string.whitespace + "\x1c\x1d\x1e\x1f").encode()
_NOT_CAPITALS = bytes(byte for byte in range(256) if byte not in string.ascii_uppercase.encode())

# UTF-8: a character beyond ASCII is a lead byte and its continuations. Leads C3 to C8 begin only Latin letters,
# C9 begins some of them, and other leads begin none.
_ASCII = bytes(range(0x80))
_CONTINUATIONS = bytes(range(0x80, 0xC0))
_LATIN_LEADS = range(0xC3, 0xC9)
_LATIN_AFTER_C9 = rb"\xc9[\x80-\x8f]"
_TO_ASCII = bytes(byte if byte in _ASCII else ord("x" if byte in _LATIN_LEADS else " ") for byte in range(256))


def count_features(text: str) -> TextFeatures:
    """Count the features of a text."""
    return count_utf8_features(text.encode())


def count_utf8_features(encoded: bytes) -> TextFeatures:
    """Count the features of a text that is encoded in UTF-8."""
    if encoded.isascii():
        return _ascii_features(encoded)
    beyond = encoded.translate(None, _ASCII).decode()
    rest = re.sub(_CJK_RUN, "", beyond)
    counted = TextFeatures(cjk=len(beyond) - len(rest))
    for character, count in Counter(rest).items():
        counted = counted.plus(_character_features(character), count)
    if b"\xc9" in encoded:
        encoded = re.sub(_LATIN_AFTER_C9, b"x", encoded)
    # A Latin letter may stand within a word. Every other character ends a word, as a blank does.
    return counted.plus(_ascii_features(encoded.translate(_TO_ASCII, _CONTINUATIONS)))


def _ascii_features(text: bytes) -> TextFeatures:
    """Count the features of ASCII text.

    A class of bytes is counted by deleting it and comparing lengths: much faster than a regular expression.
    """
    no_letters = text.translate(None, _LETTERS)
    return TextFeatures(
        words=_count_words(text),
        letters=len(text) - len(no_letters),
        digits=len(no_letters) - len(no_letters.translate(None, _DIGITS)),
        punctuation=len(no_letters.translate(None, _NOT_PUNCTUATION)),
        newline_runs=_count_newline_runs(text),
    )


def _count_words(text: bytes) -> int:
    """Count the runs of letters: in title case each has one capital."""
    return len(text.title().translate(None, _NOT_CAPITALS))


def _count_newline_runs(text: bytes) -> int:
    """Count the runs of newlines. Adjacent newlines split the text into empty pieces, which are not new runs."""
    if b"\n" not in text:
        return 0
    pieces = text.split(b"\n")
    return len(pieces) - 1 - pieces[1:-1].count(b"")


@cache
def _character_features(character: str) -> TextFeatures:
    """Count one character beyond ASCII. Latin letters count with their words instead."""
    cjk = re.match(f"[{WEIGHED_CJK}]", character) is not None
    letter = character.isalnum() and not character.isdecimal()
    return TextFeatures(
        cjk=int(cjk),
        digits=int(character.isdecimal()),
        punctuation=int(not character.isalnum() and not character.isspace()),
        other_letters=int(letter and not cjk and not _is_latin_letter(character)),
    )


def _is_latin_letter(character: str) -> bool:
    """Whether a character beyond ASCII is a Latin letter."""
    return "\u00c0" <= character <= "\u024f"
