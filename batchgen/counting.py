"""What the token estimate weighs: words, letters, characters of a kind. Pure, and fast: every request is counted.

All counts but the runs (words, line ends) add up character by character, and a run ends at a blank: the features of
texts joined by blanks are the sums of theirs, so a whole request file is counted in one go.
"""

from __future__ import annotations

import string
from collections import Counter
from functools import cache
from typing import NamedTuple


class Features(NamedTuple):
    """Characters of CJK, runs of Latin letters and letters in them, digits, punctuation, runs of line ends, and
    letters of every other script.
    """

    cjk: int = 0
    words: int = 0
    letters: int = 0
    digits: int = 0
    punctuation: int = 0
    newline_runs: int = 0
    other_letters: int = 0

    def plus(self, other: Features, times: int = 1) -> Features:
        """These and `times` the others."""
        return Features(*(mine + times * more for mine, more in zip(self, other, strict=True)))


_CJK = ((0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x3040, 0x30FF), (0xAC00, 0xD7AF))

_LETTERS = string.ascii_letters.encode()
_DIGITS = string.digits.encode()
_NO_PUNCTUATION = (string.ascii_letters + string.digits + string.whitespace + "\x1c\x1d\x1e\x1f").encode()
_WORDS = bytes(ord("x") if byte in _LETTERS else ord(" ") for byte in range(256))
_LINE_ENDS = bytes(ord("x") if byte == ord("\n") else ord(" ") for byte in range(256))

# UTF-8: what is no lead byte of a character beyond ASCII; leads whose every character is CJK by the pattern above ...
_NO_LEADS = bytes(byte for byte in range(256) if byte < 0xC0)  # noqa: PLR2004 - UTF-8's own numbers
_SURE = bytes([*range(0xE4, 0xEA), 0xEB, 0xEC])
_HEXAGRAMS = b"\xe4\xb7"  # ... U+4DC0 to U+4DFF among them, which are punctuation besides
_LONGER = (0xE0, 0xF0)  # the first leads of three and of four bytes


def features(text: str) -> Features:
    """Count `text`, without network and tokenizer."""
    if text.isascii():
        return _ascii(text.encode())
    encoded = text.encode()
    leads = encoded.translate(None, _NO_LEADS)
    open_leads = leads.translate(None, _SURE)
    characters = len(leads)
    counted = Features(cjk=characters - len(open_leads), punctuation=encoded.count(_HEXAGRAMS))
    for character, count in _open_characters(encoded, open_leads).items():
        if _latin(character):
            text = text.replace(character, "x")  # it may stand within a word
            characters -= count
        counted = counted.plus(_alone(character), count)
    basic = _ascii(text.encode("ascii", "replace"))  # every other character as a question mark
    return counted.plus(basic._replace(punctuation=basic.punctuation - characters))


def _ascii(text: bytes) -> Features:
    """Deleting a class of bytes and comparing lengths counts it, many times as fast as a regular expression."""
    no_letters = text.translate(None, _LETTERS)
    return Features(
        words=_runs(text.translate(_WORDS)),
        letters=len(text) - len(no_letters),
        digits=len(no_letters) - len(no_letters.translate(None, _DIGITS)),
        punctuation=len(no_letters.translate(None, _NO_PUNCTUATION)),
        newline_runs=_runs(text.translate(_LINE_ENDS)) if b"\n" in no_letters else 0,
    )


def _runs(text: bytes) -> int:
    """The runs of x in a text of x and blanks: each ends before a blank, or at the end."""
    return text.count(b"x ") + text.endswith(b"x")


def _open_characters(encoded: bytes, leads: bytes) -> Counter[str]:
    """How often each character occurs whose first byte does not tell what it is."""
    found = Counter[str]()
    for lead in set(leads):
        follow = 1 + sum(lead >= longer for longer in _LONGER)
        first = bytes([lead])
        rest = Counter([piece[:follow] for piece in encoded.split(first)[1:]])
        found.update({(first + tail).decode(): count for tail, count in rest.items()})
    return found


@cache
def _alone(character: str) -> Features:
    """The features of one character beyond ASCII, but for a Latin letter's, which belong to its word."""
    cjk = any(first <= ord(character) <= last for first, last in _CJK)
    letter = character.isalnum() and not character.isdecimal()
    return Features(
        cjk=int(cjk),
        digits=int(character.isdecimal()),
        punctuation=int(not character.isalnum() and not character.isspace()),
        other_letters=int(letter and not cjk and not _latin(character)),
    )


def _latin(character: str) -> bool:
    """Whether a character beyond ASCII is a Latin letter."""
    return "\u00c0" <= character <= "\u024f"
