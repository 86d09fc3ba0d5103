"""Test the marks of words that a correction changed."""

from __future__ import annotations

from hypothesis import given

from batchgen.reports.html.word_diff import diff_words
from tests.support.report_page import (
    CHINESE,
    WORDS,
)


@given(WORDS, WORDS)
def test_marked_texts_are_the_texts(answer: str, correction: str) -> None:
    found = diff_words(answer, correction)
    assert ("".join(found.answer), "".join(found.correction)) == (answer, correction)
    same = ["".join("".join(segments[::2]).split()) for segments in found]
    assert same[0] == same[1]
    assert not [segment for segments in found for segment in segments[1::2] if not segment.strip()]


def test_marks_name_the_words_that_changed() -> None:
    found = diff_words("Boil it for 15 minutes, then cool it.", "Boil it for 7 minutes, then cool it well.")
    assert found.answer[1::2] == ["15"]
    assert found.correction[1::2] == ["7", "well"]
    chinese = diff_words(CHINESE["answer"], CHINESE["correction"])
    assert chinese.answer[1::2] == ["十五"]
    assert chinese.correction[1::2] == ["七", "即可"]
    assert diff_words("same", "same") == (["same"], ["same"])
