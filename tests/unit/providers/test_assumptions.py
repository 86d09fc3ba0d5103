"""The tables of assumptions: their rows, and the page that explains them."""

from __future__ import annotations

import re

import pytest

from batchgen.providers import PROVIDERS
from batchgen.providers.assumptions import rehearsed
from batchgen.providers.assumptions.assumption import Seen, State
from batchgen.providers.assumptions.evidence import Evidence, JobNotes
from batchgen.providers.assumptions.job_checks import job_is_listed, seconds_text, upload_is_kept
from tests.support.bench import REPOSITORY

PAGE = (REPOSITORY / "docs" / "rehearsal.md").read_text("utf-8")


def seen(notes: Evidence, provider: str = "gemini") -> Seen:
    return Seen(PROVIDERS[provider], notes, rows=(), models=(), rates={}, grace_seconds=900.0)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_table_has_sentences_and_sources(provider: str) -> None:
    rows = rehearsed(provider).rows
    assert len({row.name for row in rows}) == len(rows)
    assert sorted(rows, key=lambda row: row.rare) == list(rows)
    for row in rows:
        assert re.fullmatch(r"[A-Z].*[a-z0-9]\.", row.assumes), row.name
        assert any(word in row.source for word in ("documented", "reported by users", "unverified")), row.name


@pytest.mark.parametrize("provider", PROVIDERS)
def test_nothing_is_concluded_from_nothing(provider: str) -> None:
    assert {row.look(seen(Evidence(), provider)).state for row in rehearsed(provider).rows} == {State.UNSEEN}


def test_the_page_explains_each_check_and_no_other() -> None:
    listed = dict(re.findall(r"^\| `([a-z]+\.[a-z]+)` \|[^|]*\| (yes|no) \|", PAGE, re.MULTILINE))
    needed = {row.name: "yes" if row.needed else "no" for name in PROVIDERS for row in rehearsed(name).rows}
    assert listed == needed


@pytest.mark.parametrize(
    ("missing_at", "listed_at", "state"),
    [
        (None, 0.5, State.HELD),
        (60.0, 120.0, State.HELD),
        (900.0, None, State.BROKEN),
        (900.0, 2000.0, State.BROKEN),
        (60.0, None, State.UNSEEN),
        (None, 5000.0, State.UNSEEN),  # nobody looked before
        (60.0, 5000.0, State.UNSEEN),
    ],
)
def test_a_late_look_at_a_listing_proves_nothing(
    missing_at: float | None, listed_at: float | None, state: State
) -> None:
    notes = Evidence(jobs={"a": JobNotes(create_seconds=0.1, missing_at=missing_at, listed_at=listed_at)})
    assert job_is_listed(seen(notes)).state is state


def test_times_for_people() -> None:
    assert [seconds_text(value) for value in (0.4, 119, 120, 7199, 7200)] == ["0 s", "119 s", "2 min", "120 min", "2 h"]
    assert upload_is_kept(seen(Evidence())).state is State.UNSEEN
