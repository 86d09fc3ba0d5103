"""The judge's prompt, the winner of two verdicts, and the figures."""

from __future__ import annotations

import json
from itertools import pairwise
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.core.dialogue import (
    FIRST_JUDGEMENT,
    MAX_ROUNDS,
    STAGES,
    Judgement,
    Stage,
    Step,
    Turn,
    conversation_of,
    parse_key,
    steps,
)
from batchgen.core.judging import Winner, WinRate, audit_figures, build_audit_prompt, of_like_length, winner
from batchgen.core.outcomes import VERDICTS, Reason, Reply, split_verdict, validate_text
from batchgen.ledger.run import Names
from tests.support.bench import REPOSITORY

TURNS = [Turn("q1", "a1", "c1"), Turn("q2", "the answer", "the correction")]
JUDGEMENTS = st.builds(Judgement, st.integers(1, 10**9), st.integers(1, MAX_ROUNDS), st.sampled_from([1, 2]))


@given(JUDGEMENTS)
def test_a_judgement_is_known_by_its_number_and_by_its_key(judged: Judgement) -> None:
    assert Judgement.at(judged.number) == judged
    assert judged.number >= FIRST_JUDGEMENT
    assert conversation_of(judged.number) == judged.conversation
    step = Step(judged.round, Stage.AUDIT)
    key = Names("0a1b2c3d", 6).key(judged.number, step, 3)
    assert parse_key(key) == (judged.number, step, 3)
    assert Names("0a1b2c3d", 6).id(judged.number) in key


@given(st.lists(JUDGEMENTS, unique=True))
def test_no_two_judgements_have_the_same_number(judged: list[Judgement]) -> None:
    assert len({one.number for one in judged}) == len(judged)


def test_positions_of_the_audit_meet_no_position_of_a_dialogue() -> None:
    audits = [Step(number, Stage.AUDIT).position for number in range(1, MAX_ROUNDS + 1)]
    dialogues = [step.position for step in steps(MAX_ROUNDS)]
    assert min(audits) > max(dialogues) + 1
    assert max(audits) + 1 < 256  # a text's id has room for so many positions
    assert all(two - one > 1 for one, two in pairwise(audits))  # a judged one moves on by 1
    assert [Step.at(position).stage for position in audits] == [Stage.AUDIT] * MAX_ROUNDS


@pytest.mark.parametrize("order", [1, 2])
def test_the_judge_is_shown_both_replies_and_the_dialogue_as_the_user_saw_it(order: int) -> None:
    asked = build_audit_prompt(TURNS, order, 16)
    shown = json.loads(asked.messages[0].text)
    replies = ["the answer", "the correction"][:: 1 if order == 1 else -1]
    assert shown == {
        "dialogue": [{"user": "q1", "assistant": "c1"}],
        "question": "q2",
        "first": replies[0],
        "second": replies[1],
    }
    assert (asked.fields, asked.choices) == (("reason", "verdict"), VERDICTS)
    assert asked.system == build_audit_prompt(TURNS, 3 - order, 16).system


def test_the_documentation_has_the_judge_s_instructions() -> None:
    assert build_audit_prompt(TURNS, 1, 16).system in (REPOSITORY / "docs" / "audit.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("verdicts", "won"),
    [
        (("second", "first"), Winner.CORRECTION),
        (("first", "second"), Winner.ANSWER),
        (("tie", "tie"), Winner.TIE),
        (("first", "first"), Winner.INCONSISTENT),
        (("second", "second"), Winner.INCONSISTENT),
        (("tie", "first"), Winner.INCONSISTENT),
        (("second", "tie"), Winner.INCONSISTENT),
    ],
)
def test_only_orders_that_agree_have_a_winner(verdicts: tuple[str, str], won: Winner) -> None:
    assert winner(verdicts) is won


@pytest.mark.parametrize(
    ("won", "judged", "interval"),
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_wilson_s_interval_is_that_of_the_published_table(won: int, judged: int, interval: tuple[float, float]) -> None:
    assert WinRate(judged, won).interval == pytest.approx(interval, abs=5e-5)


@given(st.integers(1, 60).flatmap(lambda judged: st.tuples(st.just(judged), st.integers(0, judged))))
def test_wilson_s_interval_holds_the_rate_and_stays_within_0_and_1(counts: tuple[int, int]) -> None:
    found = WinRate(*counts)
    assert found.rate is not None
    assert found.interval is not None
    low, high = found.interval
    assert 0 <= low <= found.rate + 1e-12
    assert found.rate - 1e-12 <= high <= 1


@pytest.mark.parametrize("rate", [0.5, 0.8])
def test_wilson_s_interval_holds_the_truth_in_about_95_of_100_samples(rate: float) -> None:
    """Reckoned exactly: the chance of each number of wins among 100, and whether its interval holds the rate."""
    covered = 0.0
    for won in range(101):
        low, high = WinRate(100, won).interval or (0.0, 0.0)
        covered += (low <= rate <= high) * comb(100, won) * rate**won * (1 - rate) ** (100 - won)
    assert covered == pytest.approx(0.95, abs=0.02)


def test_figures_of_no_turn_at_all() -> None:
    found = audit_figures([])
    assert (found.all.rate, found.all.interval, found.inconsistent_share) == (None, None, None)
    assert set(found.winners.values()) == {0}


def test_figures_of_a_few_turns() -> None:
    found = audit_figures(
        [
            (Winner.CORRECTION, True),
            (Winner.CORRECTION, False),
            (Winner.ANSWER, True),
            (Winner.TIE, True),
            (Winner.INCONSISTENT, False),
        ]
    )
    assert found.winners == {
        Winner.CORRECTION: 2,
        Winner.ANSWER: 1,
        Winner.TIE: 1,
        Winner.INCONSISTENT: 1,
    }
    assert (found.all, found.like_length) == (WinRate(5, 2), WinRate(3, 1))
    assert found.inconsistent_share == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("lengths", "like"), [((100, 100), True), ((80, 100), True), ((100, 79), False), ((0, 0), True), ((0, 1), False)]
)
def test_like_length_is_within_a_fifth(lengths: tuple[int, int], like: bool) -> None:  # noqa: FBT001
    assert of_like_length("x" * lengths[0], "x" * lengths[1]) is like


@pytest.mark.parametrize(
    ("reason", "verdict", "text"),
    [
        ("It is exact.", "first", "first: It is exact."),
        ("  Two\nlines. ", " Second ", "second: Two lines."),
        ("a: b", "tie", "tie: a: b"),
    ],
)
def test_a_verdict_is_stored_with_its_reason(reason: str, verdict: str, text: str) -> None:
    found = validate_text(Stage.AUDIT, Reply("k", Reason.ACCEPTED, reason, follow_up=verdict))
    assert (found.reason, found.text, found.follow_up) == (Reason.ACCEPTED, text, "")
    assert split_verdict(found.text) == (verdict.strip().lower(), " ".join(reason.split()))


@pytest.mark.parametrize(("reason", "verdict"), [("It is exact.", "both"), ("It is exact.", ""), (" . ", "first")])
def test_a_reply_without_a_verdict_or_a_reason_is_malformed(reason: str, verdict: str) -> None:
    found = validate_text(Stage.AUDIT, Reply("k", Reason.ACCEPTED, reason, follow_up=verdict))
    assert (found.reason, found.text) == (Reason.MALFORMED, "")
    assert found.detail


def test_the_stages_of_a_dialogue_have_no_audit() -> None:
    assert Stage.AUDIT not in STAGES
