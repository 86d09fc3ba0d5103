"""Texts as bags of words: the table says what the definition says."""

from __future__ import annotations

import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sayings import SAYINGS

from batchgen import bags


def of_each(found: pl.DataFrame, texts: list[str]) -> list[set[object]]:
    return [set(found.filter(pl.col("row") == row)["word"]) for row in range(len(texts))]


def test_words_of_any_script() -> None:
    assert bags.words("the quick brown fox, 42 times; 7 is too short") == {"quick", "brown", "times", "short", "42"}
    assert bags.words("草莓酱 über") == {"草莓", "莓酱", "über"}
    assert bags.words("приветствие и ещё") == {"приветствие"}


@given(SAYINGS)
def test_words_are_those_of_the_definition(text: str) -> None:
    low = text.lower()
    runs = re.findall(f"[{bags._CJK}]+", low)
    pairs = {run[at : at + 2] for run in runs for at in range(len(run) - 1)}
    assert bags.words(text) == pairs | set(re.findall(r"[^\W\d_]{4,}|\d{2,}", re.sub(f"[{bags._CJK}]", " ", low)))


@pytest.mark.parametrize("at_once", [1, 40, bags.AT_ONCE])
@given(texts=st.lists(SAYINGS, max_size=20))
def test_a_table_has_the_words_of_each_text(at_once: int, texts: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bags, "AT_ONCE", at_once)
        found, rows = bags.spelt(texts, range(len(texts))), range(0, len(texts), 2)
        some = bags.bags(texts, rows)
    assert of_each(found, texts) == [bags.words(text) for text in texts]
    assert some.is_unique().all()
    wanted = bags.hashed(found).filter(pl.col("row").is_in(list(rows)))
    assert of_each(some, texts) == of_each(wanted, texts)
