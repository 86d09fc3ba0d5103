"""Compare texts: normal forms, verbatim runs, repetition, writing systems, near-duplicates. Pure, one text or pair at a
time.

What polars can express for a whole column is in `flags`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache

import zstandard
from rapidfuzz.distance import Indel, Levenshtein

from batchgen.core.text import SCRIPTS, WORD_CHARACTERS
from batchgen.dataset.quality.patterns import LETTERS_PER_CHARACTER

NEARLY_EQUAL = 0.95
SAME_QUESTION = 0.9
ECHO_RUN_BYTES = 120  # UTF-8: 120 Latin letters or 40 Chinese characters, about a sentence and a half
ECHO_WHOLE_TEXT_BYTES = 40  # a text this long that another text contains as a whole
LOOP_LEAST_BYTES = 100  # a shorter text is not checked for repetition
LOOP_RATIO = 6.0  # good prose of this length stays below 3, tables below 5
LOOP_WORDS = 8
LOOP_MIN_REPEATS = 4
LOOP_SHARE = 0.25
DRIFT_MIN_LETTERS = 12  # letters; below, a text is a name or a number
DRIFT_DISTANCE = 0.5

_NO_WORD = re.compile(r"[\W_]+")
_SHINGLE_TOKEN = re.compile(rf"[{WORD_CHARACTERS}]|[^\W_]+")
_SHINGLE_WORDS = 3
_ASCII_WORDS = bytes(code if chr(code).isalnum() else ord(" ") for code in range(128)) + bytes(range(128, 256))
_SCRIPTS = {name: re.compile(f"[{ranges}]") for name, ranges in SCRIPTS.items()}


def normalized_words(text: str) -> str:
    """Return the words without case, punctuation and spacing. A text without a word stays as it is."""
    if text.isascii():
        return " ".join(_ascii_words(text)) or text
    return _NO_WORD.sub(" ", text.casefold()).strip() or text


def nearly_equal(one: str, other: str) -> bool:
    """Return whether texts are more than 95 % alike (Levenshtein) and not equal."""
    return one != other and Levenshtein.normalized_similarity(one, other, score_cutoff=NEARLY_EQUAL) > NEARLY_EQUAL


def same_question(one: str, other: str) -> bool:
    """Return whether two questions, as `normalized_words` returns them, are equal or nearly so."""
    return Indel.normalized_similarity(one, other, score_cutoff=SAME_QUESTION) >= SAME_QUESTION


def echoes(text: bytes, source: bytes) -> bool:
    """Return whether UTF-8 `text` equals `source`, contains all of it, or has ECHO_RUN_BYTES in a row from it."""
    if len(source) >= ECHO_WHOLE_TEXT_BYTES and source in text:
        return True
    if min(len(text), len(source)) < ECHO_RUN_BYTES:
        return False
    # A common run that long covers one of these blocks completely, wherever it begins. Only few blocks are found.
    half = ECHO_RUN_BYTES // 2
    blocks = range(0, len(source) - half + 1, half)
    found = [at for at in blocks if source[at : at + half] in text]
    return any(_extends_to_run(text, source, at, half) for at in found)


def _extends_to_run(text: bytes, source: bytes, at: int, length: int) -> bool:
    """Return whether ECHO_RUN_BYTES in a row that cover `source[at:at + length]` are in `text`."""
    block, more = source[at : at + length], ECHO_RUN_BYTES - length
    before, after = source[max(at - more, 0) : at][::-1], source[at + length : at + ECHO_RUN_BYTES]
    place = text.find(block)
    while place >= 0:
        left = _common_prefix_length(before, text[max(place - more, 0) : place][::-1])
        if left + _common_prefix_length(after, text[place + length : place + ECHO_RUN_BYTES]) >= more:
            return True
        place = text.find(block, place + 1)
    return False


def _common_prefix_length(one: bytes, other: bytes) -> int:
    """Return the length of the common prefix."""
    least, most = 0, min(len(one), len(other))
    while least < most:
        middle = (least + most + 1) // 2
        if one[:middle] == other[:middle]:
            least = middle
        else:
            most = middle - 1
    return least


def is_repetitive(text: str) -> bool:
    """Return whether a text repeats itself: it compresses too well, or one eight-word run fills a quarter of it."""
    words: Sequence[str] = text.split()
    data = " ".join(words).encode()  # indented code is not repetition
    if len(data) < LOOP_LEAST_BYTES:
        return False
    if len(data) > LOOP_RATIO * len(_compressor().compress(data)):
        return True
    if len(words) * 12 < len(text):
        words = _NO_WORD.sub("", text)  # a script without spaces: runs of characters
    if len(words) < LOOP_WORDS * LOOP_MIN_REPEATS or len(set(words)) * 10 > len(words) * 9:
        return False
    least = max(LOOP_MIN_REPEATS, LOOP_SHARE * len(words) / LOOP_WORDS)
    runs = _runs(words)
    # If almost no run occurs twice, the runs need not be counted.
    return len(runs) - len(set(runs)) >= least - 1 and max(Counter(runs).values()) >= least


def _runs(words: Sequence[str]) -> Sequence[object]:
    """Return every run of LOOP_WORDS words; in a string, of as many characters."""
    if isinstance(words, str):
        return [words[start : start + LOOP_WORDS] for start in range(len(words) - LOOP_WORDS + 1)]
    return list(zip(*(words[start:] for start in range(LOOP_WORDS)), strict=False))


@cache
def _compressor() -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=1, write_content_size=False)


def scripts(text: str) -> Mapping[str, float]:
    """Return letters by writing system, ideographs and syllables weighted; {} for a text without letters."""
    if text.isascii():
        return {"latin": float(len(text))} if any(map(str.isalpha, text)) else {}
    counts = dict.fromkeys(SCRIPTS, 0.0)
    for character, times in Counter(text).items():
        for name in _SCRIPTS_OF_CHARACTER[character]:
            counts[name] += times * LETTERS_PER_CHARACTER.get(name, 1)
    return {name: count for name, count in counts.items() if count}


class _ScriptsOfCharacter(dict[str, tuple[str, ...]]):
    """The writing systems of a character, looked up once."""

    def __missing__(self, character: str) -> tuple[str, ...]:
        self[character] = tuple(name for name, pattern in _SCRIPTS.items() if pattern.match(character))
        return self[character]


_SCRIPTS_OF_CHARACTER = _ScriptsOfCharacter()


def main_script(text: str) -> str | None:
    """Return the writing system of most of a text, None for a text without letters."""
    found = scripts(text)
    return max(found, key=lambda name: found[name]) if found else None


def drifts(text: str, seed: Mapping[str, float]) -> bool:
    """Return whether more than half of a text would have to change its writing system to have the mixture of `seed`."""
    found = scripts(text)
    total, seed_total = sum(found.values()), sum(seed.values())
    if total < DRIFT_MIN_LETTERS or not seed_total:
        return False
    common = sum(min(count / total, seed.get(name, 0.0) / seed_total) for name, count in found.items())
    return 1 - common > DRIFT_DISTANCE


def shingles(text: str) -> list[str]:
    """Return runs of three words (three characters for scripts without spaces): the set that MinHash compares."""
    words = _shingle_words(text)
    if len(words) < _SHINGLE_WORDS:
        return [text]
    return list(map(" ".join, zip(words, words[1:], words[2:], strict=False)))


def _shingle_words(text: str) -> list[str]:
    """Return words in lower case; ideographs and syllables one by one."""
    if text.isascii():
        return _ascii_words(text)
    words: list[str] = []
    for line in text.split("\n"):
        words += _ascii_words(line) if line.isascii() else _SHINGLE_TOKEN.findall(line.lower())
    return words


def _ascii_words(text: str) -> list[str]:
    return text.lower().encode().translate(_ASCII_WORDS).decode().split()
