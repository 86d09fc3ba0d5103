"""Test that benchmarks/cost.py counts the requests that settings ask for, and the prices of its models."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchgen.core.dialogue import STAGES, Conversation, Stage, Turn
from batchgen.core.errors import SetupError
from batchgen.core.outcomes import Usage
from benchmarks import cost
from tests.support.bench import seeds

CONVERSATIONS = [
    Conversation(number, tuple(Turn(**{name: f"{text} {part}" for name, text in seed.items()}) for part in "abc"))
    for number, seed in enumerate(seeds(3), start=1)
]


def measured(toml: str) -> dict[Stage, Usage]:
    return cost.measure(CONVERSATIONS, toml)[0]


@pytest.mark.parametrize("toml", cost.VARIANTS.values(), ids=list(cost.VARIANTS))
def test_every_variant_can_be_measured_and_priced(toml: str) -> None:
    totals, estimated = cost.measure(CONVERSATIONS, toml)
    for stage in STAGES:
        assert totals[stage].input > 0
        assert totals[stage].output > 0
        assert estimated[stage] == pytest.approx(totals[stage].input, rel=0.1)
    for gemini in cost.GEMINI:
        for answers in cost.ANSWERS.values():
            batch, online = (cost.usd(totals, gemini, answers, batch=way) for way in (True, False))
            assert 0 < batch < online


def test_requests_are_those_of_the_settings() -> None:
    """Six requests a conversation; `ask_next` saves the question of round 3 and lengthens the correction of round 2."""
    counts = {}
    for name, toml in (("default", ""), ("ask_next", "correction.ask_next = true"), ("short", "rounds = 2")):
        with cost.configured(toml) as session:
            counts[name] = [str(step) for step, _, _ in cost.exchanges(session, CONVERSATIONS[:1])]
    stages = [f"round {number} {stage}" for number in (2, 3) for stage in STAGES]
    assert counts["default"] == stages
    assert counts["ask_next"] == [name for name in stages if name != "round 3 question"]
    assert counts["short"] == stages[:3]
    whole, along = measured(""), measured("correction.ask_next = true")
    assert along[Stage.QUESTION].input < whole[Stage.QUESTION].input / 2
    assert along[Stage.CORRECTION].output > whole[Stage.CORRECTION].output
    assert along[Stage.ANSWER] == whole[Stage.ANSWER]
    plain = measured("batches.echo = false")
    assert plain[Stage.QUESTION].input == whole[Stage.QUESTION].input
    echoes = whole[Stage.QUESTION].output - plain[Stage.QUESTION].output
    assert 2 <= echoes / (2 * len(CONVERSATIONS)) <= 8  # tokens a reply
    everything = measured('history.shows = "everything"')
    assert everything[Stage.CORRECTION].input > whole[Stage.CORRECTION].input
    assert everything[Stage.CORRECTION].output == whole[Stage.CORRECTION].output
    assert everything[Stage.ANSWER] == whole[Stage.ANSWER]


def test_a_request_has_the_size_that_its_settings_give_it() -> None:
    sizes = cost.request_sizes(CONVERSATIONS, "")
    assert [(size.step.round, size.provider) for size in sizes] == [
        (number, provider) for number in (2, 3) for provider in ("gemini", "together", "gemini")
    ]
    counted = sum(size.tokens for size in sizes) * len(CONVERSATIONS)
    assert counted >= sum(used.input for used in measured("").values())  # with the allowance for chat templates
    assert all(size.bytes > size.tokens > 0 for size in sizes)
    everything = cost.request_sizes(CONVERSATIONS, 'history.shows = "everything"')
    assert all(longer.bytes >= size.bytes for longer, size in zip(everything, sizes, strict=True))
    assert cost.request_sizes(CONVERSATIONS, 'answer.models = ["deepinfra:M"]')[1].provider == "deepinfra"


def test_settings_are_read_as_a_user_writes_them() -> None:
    assert measured("history_messages = 2")[Stage.CORRECTION].input < measured("")[Stage.CORRECTION].input
    with pytest.raises(SetupError):
        measured("histori_messages = 2")


def test_a_gpu_is_paid_by_the_hour_that_the_output_takes() -> None:
    hour = Usage(input=5, output=3_600_000)
    assert cost.OwnGpu(2.5, 1000.0).usd(hour, batch=True) == pytest.approx(2.5)
    assert cost.OwnGpu(2.5, 500.0).usd(hour, batch=False) == pytest.approx(5.0)


def test_shorter_texts_leave_the_seed_and_the_questions_as_they_are() -> None:
    (first, *_) = cost.shortened(CONVERSATIONS, 0.5)
    assert first.turns[0] == CONVERSATIONS[0].turns[0]
    for turn, whole in zip(first.turns[1:], CONVERSATIONS[0].turns[1:], strict=True):
        assert turn.question == whole.question
        assert whole.answer.startswith(turn.answer)
        assert len(turn.correction) == pytest.approx(len(whole.correction) / 2, abs=1)


def test_shipped_examples_stand_in_for_a_history_file(tmp_path: Path) -> None:
    found = cost.read_conversations(tmp_path / "none.jsonl")
    assert len(found) > 20
    assert all(len(conversation.turns) == 3 for conversation in found)
