"""Test the reasons of outcomes: the policy of each, the acceptance of a reply, several lines for one request."""

from __future__ import annotations

from itertools import permutations
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.core.dialogue import STAGES, Stage, Step, conversation_id, parse_key, request_key, steps
from batchgen.core.outcomes import POLICY, Reason, Reply, Usage, one_per_key, total_usage, validate_text

# ---------------------------------------------------------------- policy


def test_every_reason_has_a_policy() -> None:
    assert set(POLICY) == set(Reason)


def test_the_policy_never_loops() -> None:
    """A retry counts as an attempt, unless nothing was bought."""
    free = {reason for reason, policy in POLICY.items() if policy.retry and not policy.counts_as_attempt}
    assert free == {Reason.NOT_SENT}
    assert [reason for reason, policy in POLICY.items() if policy.raise_token_limit] == [Reason.TRUNCATED]
    blocks = {Reason.BLOCKED_PROMPT, Reason.BLOCKED_OUTPUT, Reason.REFUSED}  # paying again buys the same block
    assert not any(POLICY[reason].retry for reason in blocks)


# ---------------------------------------------------------------- text


@pytest.mark.parametrize("text", ["ok", "7", "好", "\U0001f44d", "¿?a", "❤️", "é", "\u0e01"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_text_with_a_word_is_accepted(text: str, stage: Stage) -> None:
    for said in (text, f"{text} ", f" {text}\r\n"):
        assert validate_text(stage, Reply("k", Reason.ACCEPTED, said)) == Reply("k", Reason.ACCEPTED, text)


@pytest.mark.parametrize(
    "text", ["", " \n", "...", "?!", "……", "。。。", "\u200b\u200d", "\ufeff", "\ufffd", "\x00", "\u3000"]
)
def test_a_text_without_a_word_is_empty(text: str) -> None:
    usage = Usage(3, 0, 1, 0)
    reply = validate_text(Stage.ANSWER, Reply("k", Reason.ACCEPTED, text, usage=usage, model="m"))
    assert reply == Reply("k", Reason.EMPTY, "", "no word in the answer", usage, "m")


@pytest.mark.parametrize("follow_up", ["...?!", " \u200b", "\ufffd"])
def test_a_correction_whose_question_says_nothing_is_empty(follow_up: str) -> None:
    reply = validate_text(Stage.CORRECTION, Reply("k", Reason.ACCEPTED, "Two days.", follow_up=follow_up))
    assert (reply.reason, reply.text, reply.follow_up) == (Reason.EMPTY, "", "")


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("<think>\n\n</think>\n\nTwo days.", "Two days."),
        ("<think></think>Two days.", "Two days."),
        ("\n <think>\nThe user wants\r\nsoup.\n</think>\n\nTwo days. ", "Two days."),
        ("<think>One.</think> <think>\u3000</think>\u3000Two days.", "Two days."),
        ("<think>A <think> within.</think>Two days.", "Two days."),
    ],
)
def test_thoughts_in_front_are_no_text(said: str, text: str) -> None:
    assert validate_text(Stage.ANSWER, Reply("k", Reason.ACCEPTED, said)) == Reply(
        "k", Reason.ACCEPTED, text, had_thoughts=True
    )
    reply = validate_text(Stage.CORRECTION, Reply("k", Reason.ACCEPTED, said, follow_up=said))
    assert (reply.text, reply.follow_up) == (text, text)


@pytest.mark.parametrize(
    "text", ["Say <think>Hm.</think> aloud.", "</think> ends it.", "<thinking>a</thinking>", "<p>a"]
)
def test_thoughts_elsewhere_are_text(text: str) -> None:
    assert validate_text(Stage.ANSWER, Reply("k", Reason.ACCEPTED, text)) == Reply("k", Reason.ACCEPTED, text)


@pytest.mark.parametrize(
    "said", ["<think>Two days.", "<think>", "<think>a</think><think>Two days.</think", "<think> a"]
)
def test_thoughts_without_an_end_are_malformed(said: str) -> None:
    usage = Usage(3, 0, 1, 0)
    reply = validate_text(Stage.ANSWER, Reply("k", Reason.ACCEPTED, said, usage=usage))
    assert reply == Reply("k", Reason.MALFORMED, "", "a <think> block without </think>", usage)


def test_thoughts_alone_are_empty() -> None:
    assert validate_text(Stage.ANSWER, Reply("k", Reason.ACCEPTED, "<think>Two days.</think>\n")).reason is Reason.EMPTY


def test_a_reply_of_nothing_but_blocks_is_read_quickly() -> None:
    start = monotonic()
    assert validate_text(Stage.ANSWER, Reply("k", Reason.ACCEPTED, "<think></think>" * 200_000)).reason is Reason.EMPTY
    assert validate_text(Stage.ANSWER, Reply("k", Reason.ACCEPTED, "<think>" * 400_000)).reason is Reason.MALFORMED
    assert monotonic() - start < 2


@pytest.mark.parametrize("reason", sorted(set(Reason) - {Reason.ACCEPTED}))
def test_a_failure_passes_the_door_unchanged(reason: Reason) -> None:
    reply = Reply("k", reason, "half a", "why")
    assert validate_text(Stage.QUESTION, reply) is reply


# ---------------------------------------------------------------- several lines for one request


USED = Usage(10, 2, 5, 1)
TEXT = Reply("k", Reason.ACCEPTED, "one", usage=USED)
OTHER = Reply("k", Reason.ACCEPTED, "two", usage=USED)
ERROR = Reply("k", Reason.PROVIDER_ERROR, detail="code 13")
CUT = Reply("k", Reason.TRUNCATED, usage=USED)


@pytest.mark.parametrize(
    ("lines", "reason", "text", "requests_paid"),
    [
        ([TEXT], Reason.ACCEPTED, "one", 1),
        ([TEXT, TEXT, TEXT], Reason.ACCEPTED, "one", 1),
        ([TEXT, TEXT._replace(usage=Usage(20, 4, 10, 2))], Reason.ACCEPTED, "one", 3),
        ([TEXT, OTHER], Reason.CONFLICT, "", 2),
        ([TEXT, OTHER, TEXT], Reason.CONFLICT, "", 2),
        ([TEXT, OTHER, ERROR], Reason.CONFLICT, "", 2),
        ([TEXT, ERROR], Reason.ACCEPTED, "one", 1),
        ([TEXT, CUT, ERROR], Reason.ACCEPTED, "one", 2),
        ([ERROR, CUT], Reason.TRUNCATED, "", 1),
        ([ERROR, ERROR._replace(detail="code 8")], Reason.PROVIDER_ERROR, "", 0),
    ],
)
def test_what_several_lines_for_one_request_come_to(
    lines: list[Reply], reason: Reason, text: str, requests_paid: int
) -> None:
    for order in permutations(lines):
        (settled,) = one_per_key(order).values()
        assert (settled.key, settled.reason, settled.text) == ("k", reason, text)
        assert settled.usage == total_usage([USED] * requests_paid) if requests_paid else not any(settled.usage)


USAGES = st.builds(Usage, *[st.integers(0, 100)] * 4)
REPLIES = st.builds(
    Reply,
    key=st.sampled_from("abc"),
    reason=st.sampled_from([Reason.ACCEPTED, Reason.TRUNCATED, Reason.PROVIDER_ERROR, Reason.CONFLICT]),
    text=st.sampled_from(["", "x", "y"]),
    detail=st.sampled_from(["", "d"]),
    usage=USAGES,
)


@settings(deadline=None)
@given(st.lists(REPLIES, max_size=8), st.randoms(use_true_random=False))
def test_neither_order_nor_copies_matter(lines: list[Reply], random: st.DataObject) -> None:
    settled = one_per_key(lines)
    shuffled = lines + lines
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert one_per_key(shuffled) == settled
    assert set(settled) == {reply.key for reply in lines}
    assert one_per_key(list(settled.values())) == settled
    assert total_usage(reply.usage for reply in settled.values()) == total_usage(reply.usage for reply in set(lines))
    for key, reply in settled.items():
        accepted = [line for line in lines if line.key == key and line.reason is Reason.ACCEPTED]
        texts = {(line.text, line.follow_up) for line in accepted}
        assert (reply.reason is Reason.ACCEPTED) is (len(texts) == 1)


def test_nothing_adds_up_to_nothing() -> None:
    assert total_usage([]) == Usage()
    assert one_per_key([]) == {}


# ---------------------------------------------------------------- keys


@settings(deadline=None)
@given(
    number=st.integers(1, 10**12),
    digits=st.integers(6, 12),
    position=st.integers(0, 149),
    attempt=st.integers(1, 999),
    run=st.from_regex(r"[0-9a-f]{8}", fullmatch=True),
)
def test_a_key_says_what_it_was_made_of(number: int, digits: int, position: int, attempt: int, run: str) -> None:
    step = Step.at(position)
    assert step.position == position
    key = request_key(conversation_id(number, digits), step, attempt, run)
    assert len(key) <= 64
    assert set(key) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert conversation_id(number, digits) in key
    assert parse_key(key) == (number, step, attempt)


@pytest.mark.parametrize(
    "key",
    [
        *("", "r1-1", "r1-000001.r2.answer.a1", "r1-000001.r2.summary.a1.x", "r1-000001.r2.answer.a1.x\n", "x.r1-1"),
        f"r1-{'9' * 5000}.r2.answer.a1.x",  # more digits than int() accepts
    ],
)
def test_a_stranger_is_no_key_of_ours(key: str) -> None:
    assert parse_key(key) is None


def test_steps_are_bought_in_order() -> None:
    bought = steps(3)
    assert [str(step) for step in bought] == [
        f"round {n} {s}" for n in (2, 3) for s in ("question", "answer", "correction")
    ]
    assert [step.position for step in bought] == list(range(3, 9))
