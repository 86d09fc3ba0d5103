"""Test the signs for invisible characters: no text is lost, and no invisible character is left without a sign."""

from __future__ import annotations

from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.reports.html.visible_text import is_invisible, visible
from tests.support.report_page import INVISIBLE, Page

TEXTS = st.text(
    st.one_of(
        st.sampled_from(INVISIBLE),
        st.sampled_from("ab <&>\"'\n\t\u00a0\u3000é中\ufe0f😀"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=40,
)


@given(TEXTS)
def test_no_text_is_lost_and_nothing_invisible_is_left_without_a_sign(text: str) -> None:
    page = Page(f"<p>{visible(text)}</p>")
    assert page.texts("p") == [text.replace("\0", "")]  # HTML cannot hold this one: its sign says what was there
    assert page.signs == [f"U+{ord(character):04X}" for character in text if is_invisible(character)]
    hidden = [character for character in text if category(character) in {"Cc", "Cf"} and character not in "\n\t"]
    assert all(map(is_invisible, hidden))
    assert page.tags == ["p"]


@pytest.mark.parametrize("character", INVISIBLE)
def test_each_invisible_character_has_a_sign(character: str) -> None:
    assert f'title="U+{ord(character):04X}"' in visible(f"a{character}b")


@pytest.mark.parametrize("text", ["", "plain", "a\tb\nc", "\u00a0\u3000", "❤\ufe0f", "中文 é 😀", "Straße"])
def test_what_can_be_seen_has_no_sign(text: str) -> None:
    assert visible(text) == text
