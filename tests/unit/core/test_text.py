"""Test which characters of a text may be stored, and the named ranges of characters."""

from __future__ import annotations

import re
from unicodedata import category

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.core import text as texts
from batchgen.core.text import (
    MAX_DETAIL_CHARACTERS,
    SCRIPTS,
    clean_text,
    count_lone_surrogates,
    one_line,
    replace_surrogates,
)

ANY_TEXT = st.text(st.characters())  # including lone surrogates and control characters


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  a\tb\nc \n", "a\tb\nc"),
        ("a\r\nb\rc\r\r\nd", "a\nb\nc\n\nd"),
        ("a\x00\x07\x1b[0m\x7fb\x9b", "a[0mb"),
        ("a\u0085b\u2028c", "a\u0085b\u2028c"),
        ("\ud800a\udfff", "\ufffda\ufffd"),
        ("\ud83d\ude00", "\ufffd\ufffd"),  # two surrogate characters are not joined to a pair
        ("\U0001f600", "\U0001f600"),
        ("\x00 \x00", ""),
        ("", ""),
    ],
)
def test_clean(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


@settings(deadline=None)
@given(ANY_TEXT)
def test_clean_text_is_clean_and_stays_so(text: str) -> None:
    cleaned = clean_text(text)
    assert clean_text(cleaned) == cleaned == cleaned.strip()
    assert cleaned.encode().decode() == cleaned
    assert {character for character in cleaned if category(character) == "Cc"} <= set("\t\n\u0085")


@settings(deadline=None)
@given(st.recursive(ANY_TEXT | st.integers() | st.none(), st.lists))
def test_a_detail_is_one_short_line(detail: object) -> None:
    told = one_line(detail)
    assert len(told) <= MAX_DETAIL_CHARACTERS
    assert told.splitlines() in ([], [told])
    assert told == told.strip()
    told.encode()


@settings(deadline=None)
@given(ANY_TEXT)
def test_every_lone_surrogate_is_counted(text: str) -> None:
    assert count_lone_surrogates(text) == sum(
        one != other for one, other in zip(text, replace_surrogates(text), strict=True)
    )


def test_a_character_is_of_one_writing_system() -> None:
    every = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x30000))))
    ranges = list(SCRIPTS.values())
    assert sum(len(re.findall(f"[{one}]", every)) for one in ranges) == len(re.findall(f"[{''.join(ranges)}]", every))


def test_the_ranges_of_cjk_lie_within_each_other() -> None:
    """They differ only at the ends of the blocks, and all contain the usual letters."""
    every = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x10000))))
    ranges = (texts.WEIGHED_CJK_LETTERS, texts.PAIRED_CHARACTERS, texts.WORD_CHARACTERS, texts.WEIGHED_CJK)
    letters, paired, words, weighed = (set(re.findall(f"[{one}]", every)) for one in ranges)
    assert letters < paired < weighed
    assert letters < words < weighed
    assert len(weighed - letters) < 1000
