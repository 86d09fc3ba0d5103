"""Test the lengths of texts: quantiles, and how long ones are rounded."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from batchgen.reports.html.lengths import DIGITS, EXACT_UP_TO, QUANTILES, has_rounded_lengths, quantile, rounded_length


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=200), st.sampled_from(QUANTILES))
def test_quantiles_are_exact(lengths: list[int], part: float) -> None:
    counts = Counter(map(rounded_length, lengths))
    found = quantile(counts, part)
    assert sum(length <= found for length in lengths) >= part * len(lengths)
    assert all(sum(length <= less for length in lengths) < part * len(lengths) for less in counts if less < found)


@given(st.integers(1, 10**7))
def test_only_long_lengths_are_rounded_and_by_little(length: int) -> None:
    assert abs(rounded_length(length) - length) <= (0 if length <= EXACT_UP_TO else length * 0.005)
    assert rounded_length(rounded_length(length)) == rounded_length(length)
    assert (
        length <= EXACT_UP_TO or str(rounded_length(length))[DIGITS:].strip("0") == ""
    )  # at most 900 values per power of ten, for any number of texts


@given(st.one_of(st.integers(1, 10**7), st.integers(EXACT_UP_TO - 60, EXACT_UP_TO + 60)))
def test_whatever_length_is_rounded_is_said_to_be(length: int) -> None:
    said = has_rounded_lengths({(2, "answer"): {rounded_length(length): 1}})
    assert said == (length >= EXACT_UP_TO)
    assert said or rounded_length(length) == length
