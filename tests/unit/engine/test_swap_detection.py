"""Test the check of contents: replies under a wrong key are found, replies under the right key are not suspected."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from hashlib import sha256
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.core.text import PAIRED_CHARACTERS
from batchgen.emulator.backends.builtin import Message, Prompt, default_text
from batchgen.engine.settlement import swap_detection
from batchgen.engine.settlement.swap_detection import (
    OUT_OF_ORDER_LEAST,
    WHOLE_BATCH_SHARE,
    find_swapped_replies,
    word_set,
)
from tests.support.bench import SHARED

Pairs = tuple[dict[str, str], dict[str, str]]  # requests and replies, by key

SYLLABLES = ("ba", "co", "du", "fe", "gi", "ho", "ju", "ka", "lo", "mi", "nu", "pe", "ra", "so", "ti", "vu", "we", "zo")


def made_up(count: int, *, own_words: int = 6, seed: int = 1) -> Pairs:
    """Dialogues with some unique words in common sentences."""
    chance = Random(seed)
    requests, replies = {}, {}
    for number in range(count):
        own = ["".join(chance.choices(SYLLABLES, k=4)) for _ in range(own_words)]
        key = f"r1-{number:06d}"
        requests[key] = f"Could you tell me more about {' and '.join(own)} before winter begins?"
        replies[key] = f"There is much to say about {' and '.join(own[: own_words - 1])}, before winter and after it."
    return requests, replies


def shuffled(replies: dict[str, str], seed: int = 1) -> dict[str, str]:
    keys = list(replies)
    Random(seed).shuffle(keys)
    return dict(zip(replies, (replies[key] for key in keys), strict=True))


def swapped(replies: dict[str, str], *pairs: tuple[str, str]) -> dict[str, str]:
    changed = dict(replies)
    for one, other in pairs:
        changed[one], changed[other] = replies[other], replies[one]
    return changed


@pytest.mark.parametrize("count", [1, 2, 3, 10, 300])
def test_replies_in_their_place_are_left_alone(count: int) -> None:
    assert find_swapped_replies(*made_up(count)) == {}


@pytest.mark.parametrize("count", [3, 10, 300])
def test_two_swapped_replies_name_each_other(count: int) -> None:
    requests, replies = made_up(count)
    one, other = "r1-000000", "r1-000001"
    assert find_swapped_replies(requests, swapped(replies, (one, other))) == {one: other, other: one}


def test_three_replies_that_went_round() -> None:
    requests, replies = made_up(50)
    a, b, c = "r1-000003", "r1-000007", "r1-000011"
    turned = {**replies, a: replies[b], b: replies[c], c: replies[a]}
    assert find_swapped_replies(requests, turned) == {a: b, b: c, c: a}


def test_a_batch_in_random_order() -> None:
    requests, replies = made_up(200)
    mixed = shuffled(replies)
    moved = sum(mixed[key] != replies[key] for key in replies)
    assert len(find_swapped_replies(requests, mixed)) == moved > WHOLE_BATCH_SHARE * len(replies)


def test_a_reply_that_fits_another_request_which_has_its_own_is_left_alone() -> None:
    """Two requests are nearly equal, and one of them got a strange reply."""
    requests, replies = made_up(50)
    strange = {**replies, "r1-000003": replies["r1-000007"]}
    assert find_swapped_replies(requests, strange) == {}


def test_a_reply_that_fits_nobody_is_left_alone() -> None:
    requests, replies = made_up(50)
    assert (
        find_swapped_replies(requests, {**replies, "r1-000003": "Quite another matter altogether, utterly irrelevant."})
        == {}
    )


def test_swapped_replies_of_nearly_the_same_request_are_left_alone() -> None:
    requests, replies = made_up(50)
    one, other = "r1-000000", "r1-000001"
    requests[one] = requests[other] = f"{requests[one]} {requests[other]}"
    assert find_swapped_replies(requests, swapped(replies, (one, other))) == {}


def test_replies_that_are_missing_or_strange_do_not_disturb() -> None:
    requests, replies = made_up(50)
    one, other = "r1-000000", "r1-000001"
    some = {key: text for key, text in swapped(replies, (one, other)).items() if key < "r1-000020"}
    assert find_swapped_replies(requests, {**some, "nobody": replies["r1-000030"]}) == {one: other, other: one}
    assert find_swapped_replies(requests, {}) == {}
    assert find_swapped_replies({}, replies) == {}


GENERIC: dict[str, Callable[[str, str], str]] = {
    "nothing": lambda *_: "",
    "yes": lambda *_: "Yes.",
    "the same": lambda *_: "I am sorry, but I cannot help with that particular request. Please ask something else.",
    "its id": lambda key, _: key,
    "its number": lambda key, _: f"Reply {key[-6:]}",
    "another's number": lambda key, _: f"Reply number {(int(key[-6:]) * 7 + 1) % 100:06d} of {int(key[-6:]) % 13}",
    "a hash": lambda key, _: sha256(key.encode()).hexdigest(),
    "many hashes": lambda key, _: " ".join(sha256(f"{key}{i}".encode()).hexdigest() for i in range(20)),
    "random letters": lambda key, _: " ".join("".join(Random(f"{key}{i}").choices("abcdefgh", k=5)) for i in range(30)),
    "the script": lambda _, asked: default_text(Prompt((Message("user", asked),))),
    "the first request, for all": lambda *_: made_up(1)[0]["r1-000000"],
}


@pytest.mark.parametrize("kind", GENERIC)
@pytest.mark.parametrize("count", [5, 100])
def test_texts_that_say_nothing_of_their_request_are_left_alone(kind: str, count: int) -> None:
    requests, _ = made_up(count)
    numbered = {
        key: f"{text} Plant number {int(key[-6:])}, {int(key[-6:]) * 3} leaves." for key, text in requests.items()
    }
    for asked in (requests, numbered):
        assert find_swapped_replies(asked, {key: GENERIC[kind](key, text) for key, text in asked.items()}) == {}


def named(count: int, text: Callable[[str], str]) -> Pairs:
    keys = [f"r1-{number:06d}.r2.question.a1.ab12" for number in range(count)]
    return dict.fromkeys(keys, "What is to be done?"), {key: text(key) for key in keys}


@pytest.mark.parametrize("count", [2, 12, 60])
def test_replies_that_name_their_request_are_known_by_it(count: int) -> None:
    requests, replies = named(count, lambda key: f"Reply to {key}: go on.")
    assert find_swapped_replies(requests, replies) == {}
    one, other = list(requests)[:2]
    assert find_swapped_replies(requests, swapped(replies, (one, other))) == {one: other, other: one}


def test_where_most_replies_name_their_request_one_that_names_another_is_not_believed() -> None:
    requests, replies = named(10, lambda key: f"Reply to {key}: go on.")
    one, other, *_ = requests
    assert find_swapped_replies(
        requests, {key: replies[key] for key in requests if key != other} | {one: replies[other]}
    ) == {one: other}


@pytest.mark.parametrize(
    "text",
    [
        lambda _: "As r1-000003 said.",
        lambda key: f"After r1-{int(key[3:9]) // 3:06d}.",
        lambda key: f"Between r1-{int(key[3:9]) - 1:06d} and r1-{int(key[3:9]) + 1:06d}.",
        lambda key: f"Not r1-{int(key[3:9]) + 1:06d}, but {key}.",
        lambda key: f"Before r1-{int(key[3:9]) + 1:06d}.",
    ],
)
def test_replies_that_just_speak_of_ids_are_left_alone(text: Callable[[str], str]) -> None:
    requests, replies = named(5, text)
    assert find_swapped_replies(requests, replies) == {}


def test_words_of_any_script() -> None:
    assert word_set("the quick brown fox, 42 times; 7 is too short") == {"quick", "brown", "times", "short", "42"}
    assert word_set("草莓酱 über") == {"草莓", "莓酱", "über"}
    assert word_set("приветствие и ещё") == {"приветствие"}


PLAIN = ["moss", "Moss", "mossy", "fern", "FERN", "ivy", "12", "1", "x7", "42nd", "_", ",", "-", "\n"]
OTHER = [
    "草莓",
    "草莓酱",
    "・",
    "über",
    "Straße",
    "’",
    "\u0130stanbul",
    "\u212aelvin",
    "\u0663\u0664",
    "\U0001f642",
    "\xff",
    "e\u0301",
]
SNIPPETS = st.sampled_from(PLAIN + OTHER)
SAYINGS = st.lists(st.tuples(SNIPPETS, st.sampled_from(["", " "])), max_size=12).map(
    lambda parts: "".join(map("".join, parts))
)


@given(st.lists(st.tuples(SAYINGS, SAYINGS), max_size=30), st.sampled_from([5, 500]))
def test_away_are_those_without_enough_words_of_their_own_requests_that_few_replies_have(
    pairs: list[tuple[str, str]], sample: int
) -> None:
    asked, said = ({f"k{at}": pair[side] for at, pair in enumerate(pairs)} for side in (0, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(swap_detection, "SAMPLE", sample)
        found = swap_detection._unlike_own_request(said, asked)
    some = [word_set(text) for text in list(said.values())[:: -(-len(said) // sample) or 1]]
    most = max(min(swap_detection.COMMON_LEAST, len(some) // 2), swap_detection.COMMON_SHARE * len(some))
    least = swap_detection.ENOUGH_OWN_WORDS if len(said) >= swap_detection.SMALL_BATCH else 1
    for key, text in said.items():
        own = [word for word in word_set(text) if word in asked[key] or word in asked[key].lower()]
        distinctive = [word for word in own if sum(word in each for each in some) <= most]
        assert (key in found) == (len(distinctive) < least)
        assert found.get(key, word_set(text)) == word_set(text)


@given(SAYINGS)
def test_words_are_those_of_the_definition(text: str) -> None:
    low = text.lower()
    runs = re.findall(f"[{PAIRED_CHARACTERS}]+", low)
    pairs = {run[at : at + 2] for run in runs for at in range(len(run) - 1)}
    assert word_set(text) == pairs | set(re.findall(r"[^\W\d_]{4,}|\d{2,}", re.sub(f"[{PAIRED_CHARACTERS}]", " ", low)))


@given(st.dictionaries(st.integers(0, 9).map(str), SAYINGS), st.dictionaries(st.integers(0, 9).map(str), SAYINGS))
def test_any_texts_can_be_compared(requests: dict[str, str], replies: dict[str, str]) -> None:
    found = find_swapped_replies(requests, replies)
    assert found.keys() <= requests.keys() & replies.keys()
    assert all(fits in requests and fits != key for key, fits in found.items())


def test_long_texts_cost_little() -> None:
    requests, replies = made_up(4)
    long = {key: "lorem ipsum dolor 12 " * 50_000 + text for key, text in requests.items()}
    one, other = "r1-000000", "r1-000001"
    assert find_swapped_replies(long, swapped(replies, (one, other))) == {one: other, other: one}


# ---------------------------------------------------------------- real rows, if they exist


def real() -> Iterator[tuple[str, Pairs]]:
    """Pairs (request, reply) of real dialogues; skips the test if the real rows are missing."""
    source = SHARED / "aligner20k" / "round3_history.jsonl"
    rows = [json.loads(line) for line in source.read_bytes().splitlines()] if source.exists() else []
    for number in range(3) if rows else ():
        for position, stage in enumerate(("question", "answer", "correction")):
            before = [[text for turn in row["rounds"][:number] for text in turn.values()] for row in rows]
            turns = [list(row["rounds"][number].values()) for row in rows]
            asked = [" ".join([*old, *turn[:position]]) for old, turn in zip(before, turns, strict=True)]
            if all(asked):
                yield f"round {number + 1} {stage}", pairs(asked, [turn[position] for turn in turns])
    source = SHARED / "oasst1_rm_zh_triples.jsonl"
    rows = [json.loads(line) for line in source.read_bytes().splitlines()] if source.exists() else []
    if rows:
        yield "zh answer", pairs([row["question"] for row in rows], [row["answer"] for row in rows])
        asked = [f"{row['question']} {row['answer']}" for row in rows]
        yield "zh correction", pairs(asked, [row["correction"] for row in rows])


def pairs(asked: list[str], answered: list[str]) -> Pairs:
    keys = [f"r1-{number:06d}" for number in range(len(asked))]
    return dict(zip(keys, asked, strict=True)), dict(zip(keys, answered, strict=True))


REAL = list(real())
NO_ROWS = pytest.param([], marks=pytest.mark.skip("the real rows are not beside the repository"), id="none")
on_real_rows = pytest.mark.parametrize("pairs", [pytest.param(pair, id=name) for name, pair in REAL] or [NO_ROWS])


@on_real_rows
def test_no_real_reply_in_its_place_is_suspected(pairs: Pairs) -> None:
    requests, replies = pairs
    assert find_swapped_replies(requests, replies) == {}


@on_real_rows
def test_in_small_batches_next_to_none_is_suspected(pairs: Pairs) -> None:
    """A few requests show little about which words are common; two questions like "who are you" may be confused."""
    requests, replies = pairs
    looked_at = suspected = 0
    for size in (2, 5, 10, 25, 60):
        for seed in range(4):
            some = Random(seed).sample(list(requests), size)
            suspected += len(
                find_swapped_replies({key: requests[key] for key in some}, {key: replies[key] for key in some})
            )
            looked_at += size
    assert suspected <= 0.005 * looked_at


@on_real_rows
@pytest.mark.slow
def test_real_replies_in_random_order_are_noticed(pairs: Pairs) -> None:
    requests, replies = pairs
    found = find_swapped_replies(requests, shuffled(replies))
    assert len(found) >= max(OUT_OF_ORDER_LEAST, 3, WHOLE_BATCH_SHARE * len(replies))


@on_real_rows
@pytest.mark.slow
def test_when_real_replies_are_swapped_no_other_is_suspected(pairs: Pairs) -> None:
    requests, replies = pairs
    for seed in range(5):
        one, other = Random(seed).sample(list(requests), 2)
        assert find_swapped_replies(requests, swapped(replies, (one, other))).keys() <= {one, other}
