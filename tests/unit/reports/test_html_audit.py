"""Test what the report shows of an audit: figures reckoned by hand, verdicts of turns, and their filter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from batchgen.core.judging import ORDERS, Winner, winner
from batchgen.dataset.audit.figures import audit_record
from batchgen.dataset.audit.verdicts import JudgedTurn
from batchgen.engine.session import Session
from batchgen.ledger.receipt import receipt
from batchgen.ledger.store import Store
from batchgen.reports.html.audit_values import ALL_PAIRS, LIKE_LENGTH, audit_values, verdict_record, win_rates
from batchgen.reports.html.charts import RenderedChart, RenderedCharts, win_rate_chart
from batchgen.reports.html.conversations import read_texts
from batchgen.reports.html.facts import collect_facts, receipt_table
from batchgen.reports.html.page import render_page
from batchgen.runtime.files import Layout
from batchgen.runtime.settings import load_settings
from tests.support.audited_run import COUNT, winner_of
from tests.support.bench import Bench, seeds
from tests.support.report_page import SCRIPT, Page

NO_CHART = RenderedChart("", "", "", {})
SEEDS = "75 % (47 % to 91 %) of 12"  # Wilson's interval for 9 of 12, reckoned by hand: 0.4677 to 0.9111
LATER = "50 % (25 % to 75 %) of 12"  # for 6 of 12: 0.2538 to 0.7462
ALIKE = "25 % (5 % to 70 %) of 4"  # for 1 of 4: 0.0456 to 0.6994


@contextmanager
def session_of(root: Path) -> Iterator[Session]:
    layout = Layout(root)
    store = Store.read(layout.store)
    assert store is not None
    with closing(Session(layout, load_settings(root), store, {})) as one:
        yield one


@pytest.fixture
def session(audited_root: Path) -> Iterator[Session]:
    with session_of(audited_root) as one:
        yield one


def page_of(session: Session) -> Page:
    """The report without its charts, which take longer to draw than all the rest."""
    facts, texts, audit = collect_facts(session), read_texts(session, 2000), audit_values(audit_record(session))
    bill = receipt_table(receipt(session.store, session.settings))
    drawings = RenderedCharts(NO_CHART, None, {}, None, NO_CHART)
    return Page(b"".join(render_page(facts, texts, bill, drawings, audit)).decode())


@pytest.fixture(scope="module")
def page(audited_root: Path) -> Page:
    with session_of(audited_root) as one:
        return page_of(one)


def test_the_table_has_the_figures_reckoned_by_hand(session: Session) -> None:
    found = audit_values(audit_record(session))
    assert found is not None
    first, second = found["rows"]
    assert first == ("round 1, seeds", "12", "9", "1", "1", "1 (8 %)", SEEDS, ALIKE)
    assert second[:-1] == ("round 2", "12", "6", "2", "1", "3 (25 %)", LATER)
    assert (found["seeds"], found["rate"]) == (SEEDS, LATER)
    assert found["winners"] == {"correction": 15, "answer": 3, "tie": 2, "inconsistent": 4}
    (note,) = found["notes"]
    assert "in 17 % of the turns (4 times for the first reply, 0 for the second)" in note


def test_the_chart_has_the_interval_of_each_round(session: Session) -> None:
    points = win_rates(audit_record(session))
    assert points[0] == {
        "turns": "round 1, seeds", "kind": ALL_PAIRS, "rate": 0.75, "low": 0.4677, "high": 0.9111,
    }  # fmt: skip
    assert points[1] == {
        "turns": "round 1, seeds", "kind": LIKE_LENGTH, "rate": 0.25, "low": 0.0456, "high": 0.6994,
    }  # fmt: skip
    drawing = win_rate_chart(points)
    assert "round 1, seeds, all pairs: 75%, 47% to 91%" in drawing.label
    assert list(drawing.legend) == [ALL_PAIRS, LIKE_LENGTH]
    for svg in (drawing.wide, drawing.narrow):
        assert svg.count("round 1, seeds") == 1


def test_the_page_begins_with_the_win_rate(page: Page) -> None:
    assert page.texts("dt")[:4] == ["Cost", "Models", "Judged", "Flagged"]
    assert LATER in page.texts("strong")
    chips = [found["data-verdict"] for _, found, _ in page.elements if found.get("data-verdict")]
    assert chips == [str(won) for won in Winner]
    assert {SEEDS, LATER, ALIKE} <= {*page.texts("td")}


def test_every_judged_turn_has_its_verdict(page: Page) -> None:
    data = page.unpacked()
    assert [name for name, _ in data["winners"]] == [str(won) for won in Winner]
    items = data["items"]
    assert len(items) == COUNT
    for number, item in enumerate(items, start=1):
        for at, turn in enumerate(item["t"], start=1):
            won, judge, said = turn[5]
            assert (won, judge) == (winner_of(number, at), "zai-org/GLM-5.3-Flash")
            assert all(f"Plant {number}, {SCRIPT}" in reason for _, _, reason in said)
    _, _, said = items[3]["t"][1][5]  # the answer won
    assert [row[:2] for row in said] == [
        ["answer shown first", "prefers the first, the answer"],
        ["correction shown first", "prefers the second, the answer"],
    ]


def test_the_conversations_to_read_first_have_every_verdict(page: Page) -> None:
    words = [text for text in page.texts("li") if text.startswith("verdict: ")]
    assert {text.removeprefix("verdict: ") for text in words} == {*map(str, Winner)}
    assert any("and each verdict of the judge occurs once" in text for text in page.texts("p"))


def test_reasons_are_no_markup(page: Page) -> None:
    assert any(SCRIPT in text for text in page.texts("dd"))
    assert [tag for tag in page.tags if tag in {"script", "img"}] == ["script", "script"]


@pytest.mark.parametrize("verdicts", [("first", "second"), ("second", "first"), ("tie", "tie"), ("first", "tie")])
def test_a_verdict_says_which_reply_each_place_held(verdicts: tuple[str, str]) -> None:
    turn = JudgedTurn(1, 2, winner(verdicts), "m", verdicts, ("a", "b"))
    won, _, said = verdict_record(turn)
    assert won == winner(verdicts)
    for order, verdict, (shown, named, _) in zip(ORDERS, verdicts, said, strict=True):
        first, second = ("answer", "correction") if order == 1 else ("correction", "answer")
        assert shown == f"{first} shown first"
        place = {"first": first, "second": second}.get(verdict)
        assert named == (f"prefers the {verdict}, the {place}" if place else "finds neither better")


def test_without_an_audit_one_quiet_line_says_so(bench: Bench) -> None:
    assert bench.prepare(seeds(3)).code == 0
    with session_of(bench.root) as one:
        page = page_of(one)
    assert audit_values(None) is None
    assert win_rates(None) == []
    assert [text for text in page.texts("p") if text.startswith("No turn was judged.")]
    assert "Judged" not in page.texts("dt")
    assert all(len(turn) == 4 for item in page.unpacked()["items"] for turn in item["t"])
    assert bench.run("audit").code == 0
    with session_of(bench.root) as one:
        page = page_of(one)
    begun = "The audit has begun; no turn has verdicts in both orders yet (0 of 3 turns of 3 conversations)."
    assert begun in page.texts("p")


def flagged(item: Any, labels: list[list[str]]) -> list[set[str]]:
    return [{labels[at][0] for at in turn[3]} & {"correction_not_better", "answer_not_worse"} for turn in item["t"]]


def test_the_flags_of_the_page_follow_from_the_winners(page: Page) -> None:
    data = page.unpacked()
    for number, item in enumerate(data["items"], start=1):
        for at, found in enumerate(flagged(item, data["labels"]), start=1):
            won = winner_of(number, at)
            assert ("correction_not_better" in found) is (won is not Winner.CORRECTION)
            assert ("answer_not_worse" in found) is (won in {Winner.ANSWER, Winner.TIE})
