"""Test flags that are configured to cause a new request. Other flags are only recorded."""

from __future__ import annotations

import pytest

from batchgen.dataset.quality.flags import FLAGS, JUDGED_FLAGS
from batchgen.runtime.settings import RETRY_FLAGS, Settings, load_settings
from tests.support.bench import Bench, seeds
from tests.support.invariants import ROUNDS, ledger
from tests.support.scene import Make, Scene

WHOLE_DATASET = {"length_outlier", "near_duplicate", *JUDGED_FLAGS}  # these need more than one dialogue
STATEMENT = '{"question": "That is a nice plant."}'
LABELLED = '{"correction": "Here is the corrected answer: water it when the soil of plant 2 is dry."}'


def test_every_flag_of_a_text_can_be_a_reason() -> None:
    """The settings, which must not load polars, list the flags by the stage of the text."""
    assert {name for names in RETRY_FLAGS.values() for name in names} == FLAGS.keys() - WHOLE_DATASET
    assert all(flag.fields for flag in FLAGS.values())
    assert Settings().question.retry_flags == ()


def reasons(scene: Scene) -> list[tuple[str, int]]:
    """(state, requests) of every batch."""
    return [(row["state"], row["requests"]) for row in ledger(scene.bench).batches]


@pytest.mark.slow
def test_without_configuration_a_flag_rejects_nothing(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 4)
    scene.bench.service.faults.rows("text", key=r"r1-000002\.r2\.question", text=STATEMENT, times=1)
    scene.finish()
    assert len(reasons(scene)) == 3
    assert scene.bench.rows("round2/round2_single_turn.jsonl")[1]["question"] == "That is a nice plant."


@pytest.mark.slow
def test_a_flagged_question_is_asked_again(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 4, 'question.retry_flags = ["question_asks_nothing"]\n')
    scene.bench.service.faults.rows("text", key=r"r1-000002\.r2\.question", text=STATEMENT, times=1)
    said = "".join(result.err for result in scene.finish())
    assert "3 of 4 accepted (3 accepted, 1 flagged)" in said
    assert scene.batches(3) == [(1, 4, "collected"), (2, 1, "collected")]
    assert scene.bench.rows("round2/round2_single_turn.jsonl")[1]["question"] != "That is a nice plant."
    receipt = scene.bench.run("receipt", "--json").json["steps"][0]
    assert (receipt["accepted"], receipt["failed"]) == (4, 1)
    assert receipt["failed_usd"] > 0


def test_who_is_flagged_at_every_attempt_is_left_behind(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 4, 'correction.retry_flags = ["template_artefact", "refusal"]\n')
    scene.bench.service.faults.rows("text", key=r"r1-000002\.r2\.correction", text=LABELLED)
    scene.finish()
    left = scene.bench.rows("rejected.jsonl")
    assert [(row["id"], row["stage"], row["reason"], row["detail"], row["attempts"]) for row in left] == [
        ("r1-000002", "correction", "flagged", "template_artefact", 3)
    ]
    assert scene.bench.run("verify").code == 0


@pytest.mark.slow
def test_a_question_that_comes_along_is_judged_too(make_bench: Make) -> None:
    """With ask_next the question is part of the reply with the correction: the whole reply is requested again."""
    bench = make_bench()
    bench.configure('rounds = 3\n[correction]\nask_next = true\nretry_flags = ["template_artefact"]\n')
    bench.prepare(seeds(3))
    both = '{"correction": "Keep plant 2 cool and bright.", "question": "User: what about plant 2?"}'
    bench.service.faults.rows("text", key=r"r1-000002\.r2\.correction", text=both, times=1)
    bench.ticks()
    assert bench.status()["complete"] == 3
    assert "User:" not in bench.rows("round3/round3_single_turn.jsonl")[1]["question"]
    assert sorted(row["requests"] for row in ledger(bench).batches if row["position"] == 5) == [1, 3]


@pytest.mark.slow
def test_rebuild_judges_as_it_was_judged(make_bench: Make) -> None:
    """A later change of the configuration does not change which texts were accepted and which were retried."""
    scene = Scene.of(make_bench, 4, 'question.retry_flags = ["question_asks_nothing"]\n')
    scene.bench.service.faults.rows("text", key=r"r1-000002\.r2\.question", text=STATEMENT, times=1)
    scene.finish()
    files = scene.bench.files()
    store = scene.bench.root / "data" / "batchgen.sqlite"
    for change in ("", 'correction.retry_flags = ["language_drift", "prompt_echo"]\n'):
        store.unlink()
        scene.bench.configure(ROUNDS + change)
        assert scene.bench.run("rebuild").code == 0
        assert scene.bench.files() == files
        assert scene.bench.run("verify").code == 0


@pytest.mark.parametrize(
    ("toml", "named"),
    [
        ('question.retry_flags = ["refusal"]', "question.retry_flags: refusal cannot be a reason"),
        (
            'answer.retry_flags = ["near_duplicate"]',
            "answer.retry_flags: near_duplicate cannot be a reason",
        ),
        ('correction.retry_flags = ["no_such_flag"]', "no_such_flag"),
    ],
)
def test_a_flag_that_cannot_be_asked(bench: Bench, toml: str, named: str) -> None:
    bench.configure(toml)
    result = bench.run("status")
    assert result.code == 2
    assert named in result.err
    assert "Flags that can: " in result.err


def test_the_default_file_still_loads(bench: Bench) -> None:
    bench.configure('[question]\nretry_flags = ["question_asks_nothing", "degenerate_repetition"]\n')
    assert load_settings(bench.root).question.retry_flags == ("question_asks_nothing", "degenerate_repetition")
