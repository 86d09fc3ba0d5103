"""Test the search for near-duplicate conversations, in parts of any size. A split keeps them together."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rensa import RMinHash, RMinHashDeduplicator

from batchgen.core.dialogue import Conversation, Turn
from batchgen.dataset.quality import near_duplicates as near_copies
from batchgen.dataset.quality import similarity
from batchgen.dataset.quality.flags import turns_frame
from batchgen.dataset.quality.near_duplicates import BANDS, PERMUTATIONS, BandIndex, band_hashes, find_near_duplicates
from batchgen.dataset.quality.survey import choose_test_conversations, survey
from batchgen.runtime import worker_process
from tests.support.slow import slow

if TYPE_CHECKING:
    import polars as pl


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use no second process, because its start takes time; one test compares the results of two processes."""
    monkeypatch.setattr(worker_process, "_cpu_count", lambda: 1)


def related(chance: Random) -> list[Conversation]:
    """Dialogues of all degrees of similarity: each differs by a few words from one of a few."""
    themes = [[f"word{chance.randrange(2000)}" for _ in range(90)] for _ in range(5)]
    dialogues = []
    for number in range(1, 61):
        words = list(chance.choice(themes))
        for _ in range(chance.randrange(12)):
            words[chance.randrange(len(words))] = f"word{chance.randrange(2000)}"
        dialogues.append(Conversation(number, (Turn(*(" ".join(words[at::3]) for at in range(3))),)))
    return dialogues


def pairs(found: pl.DataFrame) -> dict[int, int]:
    """copy -> the first conversation that it nearly copies."""
    return dict(found.iter_rows())


@pytest.mark.parametrize("seed", [0, slow(1), slow(2)])
@pytest.mark.slow
def test_looking_again_at_few_finds_what_comparing_all_finds(seed: int) -> None:
    dialogues = related(Random(seed))
    chunks = [turns_frame(dialogues[at : at + 11]) for at in range(0, len(dialogues), 11)]
    expected = pairs(find_near_duplicates(chunks))
    assert expected
    looked: list[int] = []

    def again(numbers: pl.Series) -> list[pl.DataFrame]:
        looked.extend(numbers)
        return [turns_frame(dialogues[number - 1] for number in numbers)]

    assert pairs(survey(chunks).copies) == pairs(survey(iter(chunks), again).copies) == expected
    assert {*expected, *expected.values()} <= {*looked}
    assert len(looked) < len(dialogues)


def test_little_is_kept_of_a_conversation() -> None:
    """For texts of any length: its number and four bytes for each band."""
    kept = BandIndex()
    kept.learn(
        band_hashes(turns_frame(Conversation(n, (Turn(f"{n} " * 2000, "s" * 1000, "c"),)) for n in range(1, 101)))
    )
    assert sum(frame.estimated_size() for frame in kept._recent) <= 100 * (8 + 4 * BANDS)


@pytest.mark.usefixtures("one_core")
def test_comparisons_do_not_grow_with_the_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    """All dialogues share a run of words without being near-duplicates, but the last one, which copies the first."""
    chance, shared = Random(0), " ".join(f"common{at}" for at in range(120))
    own = [" ".join(f"word{chance.randrange(5000)}" for _ in range(60)) for _ in range(300)]
    said = [Turn(shared, words, "yes") for words in (*own, own[0])]
    turns = turns_frame(Conversation(number, (turn,)) for number, turn in enumerate(said, start=1))
    compared: list[int] = []
    differing = near_copies._differing

    def counted(one: int, other: int) -> int:
        compared.append(one)
        return differing(one, other)

    monkeypatch.setattr(near_copies, "_differing", counted)
    monkeypatch.setattr(near_copies, "BAND_ORIGINALS", 2)
    assert pairs(find_near_duplicates([turns])) == {301: 1}
    assert max(Counter(compared).values()) <= BANDS * near_copies.BAND_ORIGINALS
    compared.clear()
    monkeypatch.setattr(near_copies, "BAND_ORIGINALS", 1_000)
    find_near_duplicates([turns])
    assert max(Counter(compared).values()) > 2 * BANDS


@pytest.mark.parametrize("joined", [1, 25, 1000])
@pytest.mark.slow
def test_copies_do_not_depend_on_how_the_work_is_cut(monkeypatch: pytest.MonkeyPatch, joined: int) -> None:
    dialogues = related(Random(7))
    chunks = [turns_frame(dialogues[at : at + 11]) for at in range(0, len(dialogues), 11)]
    expected = pairs(survey(chunks).copies)
    assert expected
    monkeypatch.setattr(near_copies, "JOINED", joined)
    monkeypatch.setattr(near_copies, "PARTS", 3)
    monkeypatch.setattr(near_copies, "CACHED_SIGNATURES", 2)
    monkeypatch.setattr(near_copies, "_CHUNK", 7)
    assert pairs(survey(chunks).copies) == expected


@pytest.mark.parametrize("seed", range(3))
def test_copies_are_those_that_the_library_finds(seed: int) -> None:
    """rensa's own search, which keeps every signature in memory."""
    turns = turns_frame(related(Random(seed)))
    found: dict[int, int] = {}
    originals = RMinHashDeduplicator(
        near_copies.MIN_JACCARD, PERMUTATIONS, use_lsh=True, num_bands=BANDS, seed=near_copies.SIGNATURE_SEED
    )
    words = [similarity.shingles(text) for text in near_copies._all_texts(turns)["text"]]
    for number, signature in enumerate(
        RMinHash.from_token_sets(words, PERMUTATIONS, near_copies.SIGNATURE_SEED), start=1
    ):
        if alike := originals.get_duplicates(signature):
            found[number] = min(map(int, alike))
        else:
            originals.add(str(number), signature)
    assert len({*found.values()}) > 1
    assert pairs(find_near_duplicates([turns])) == found


@given(st.lists(st.tuples(*[st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1])] * 2), max_size=PERMUTATIONS))
def test_places_that_differ_are_counted(places: list[tuple[int, int]]) -> None:
    filled = [*places, *[(0, 0)] * (PERMUTATIONS - len(places))]
    one, other = (int.from_bytes(near_copies._SIGNATURE.pack(*side), "little") for side in zip(*filled, strict=True))
    assert near_copies._differing(one, other) == sum(left != right for left, right in places)


def test_the_split_keeps_together_what_belongs_together() -> None:
    dialogues = [
        Conversation(n, (Turn(f"What is {n // 4} times 2?", "I do not know.", f"It is {n // 4 * 2}."),))
        for n in range(1, 401)
    ]
    found = survey([turns_frame(dialogues)])
    test = choose_test_conversations(found.together, 0.1, 42)
    assert 40 <= len(test) < 44
    assert test == choose_test_conversations(found.together.sample(fraction=1, shuffle=True, seed=1), 0.1, 42)
    assert test != choose_test_conversations(found.together, 0.1, 43)
    assert {n // 4 for n in test}.isdisjoint(n // 4 for n in range(1, 401) if n not in test)
    assert choose_test_conversations(found.together.head(2), 0.5, 1) == frozenset()  # one group cannot be split
