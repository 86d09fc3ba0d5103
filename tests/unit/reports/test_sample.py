"""Test which conversations the HTML report shows: every class is there, in any order of reading."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.reports.html.sample import PER_CLASS, Sample
from tests.support.bench import Bench
from tests.support.report_page import (
    BLOCKED_ID,
    COUNT,
    EQUAL_ID,
    Page,
    written,
)

pytestmark = pytest.mark.usefixtures("drawn_here")


def drawn(most: int, offers: Iterable[tuple[int, set[str]]], each: int = PER_CLASS) -> list[int]:
    sample = Sample[None](most, each)
    for number, classes in offers:
        sample.offer(number, classes, None)
    return [number for number, _ in sample.chosen()]


@given(st.dictionaries(st.integers(1, 10_000), st.sets(st.sampled_from("abcd"))), st.integers(1, 30), st.randoms())
def test_a_sample_does_not_depend_on_the_order(offers: dict[int, set[str]], most: int, random: Any) -> None:
    mixed = list(offers.items())
    random.shuffle(mixed)
    found = drawn(most, mixed, each=2)
    assert found == drawn(most, offers.items(), each=2)
    assert len(found) == len(set(found)) == min(most, len(offers))
    if most >= 4:
        assert {name for number in found for name in offers[number]} == set().union(*offers.values())


def test_rare_classes_are_in_a_sample() -> None:
    offers = [(number, {"rare"} if number % 2500 == 0 else set()) for number in range(1, 10_001)]
    found = drawn(100, offers)
    assert {2500, 5000, 7500, 10_000} < set(found)
    assert len(found) == 100


@given(st.dictionaries(st.integers(1, 10_000), st.sets(st.sampled_from("abcdef")), min_size=1))
def test_the_first_of_a_sample_have_every_class_without_need_of_another(offers: dict[int, set[str]]) -> None:
    classes = set().union(*offers.values())
    found = drawn(10, offers.items(), each=1)
    covered: list[set[str]] = []
    while set().union(*covered) != classes:
        covered.append(offers[found[len(covered)]])
    assert all(one - set().union(*covered[:at]) for at, one in enumerate(covered))


def test_a_page_of_a_sample_says_so(finished: Bench, page: Page) -> None:
    value, sample = written(finished, "--conversations", "6")
    assert value["shown"] == 6
    identities = [item["i"] for item in sample.unpacked()["items"]]
    assert BLOCKED_ID in identities
    assert EQUAL_ID in identities
    assert identities == sorted(identities)
    assert any(text.startswith(f"This page shows 6 of {COUNT} conversations") for text in sample.texts("p"))
    assert not any(text.startswith("This page shows") for text in page.texts("p"))
