"""Runs with own instructions: changed in mid-run, rebuilt, leaked, counted, and in the card."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from batchgen.dataset import export
from batchgen.runtime import worker_process
from tests.support.bench import Bench, seeds
from tests.support.invariants import ROUNDS
from tests.support.scene import Make, Scene, built_again

CHILD = "Ask the next question as a child of eight years would ask it."
NURSE = "Ask the next question as a nurse of the night shift would ask it."
BUILT_IN = "Speak as the user"


def recorded(bench: Bench) -> dict[str, str]:
    """The recorded texts by stage and first batch."""
    facts = json.loads((bench.root / "requests" / "run.json").read_bytes())
    return {
        name.removeprefix("instructions:"): json.loads(value)["text"]
        for name, value in facts.items()
        if name.startswith("instructions:")
    }


def sent(bench: Bench, stage: str) -> list[str]:
    """The request files of a stage."""
    return [path.read_text("utf-8") for path in sorted((bench.root / "requests").glob(f"round*/{stage}/*.jsonl"))]


def question(text: str, more: str = "") -> str:
    return f'rounds = 3\n{more}[question]\ninstructions = "{text}"\n'


def changed(make_bench: Make, most: int = 100) -> Bench:
    """A finished run: questions of round 2 were asked with the built-in instructions, those of round 3 with CHILD."""
    bench = make_bench()
    limit = f"batches.max_requests = {most}\n"
    bench.configure(f"rounds = 3\n{limit}")
    assert bench.prepare(seeds(3)).code == 0
    assert bench.run("submit", "--stage", "question").code == 0
    bench.configure(question(CHILD, limit))
    said = "".join(result.err for result in bench.ticks())
    assert said.count("question: asked with the instructions of the configuration (SHA-256 ") == 1
    assert bench.status()["finished"]
    return bench


@pytest.mark.slow
def test_instructions_that_change_in_mid_run(make_bench: Make) -> None:
    bench = changed(make_bench)
    first, second = sent(bench, "question")
    assert (BUILT_IN in first, CHILD in first) == (True, False)
    assert (BUILT_IN in second, CHILD in second) == (False, True)
    assert recorded(bench) == {"question:000000002": CHILD}
    out = bench.root.parent / "out"
    assert bench.run("export", "--format", "messages", "--output", str(out)).code == 0
    card = (out / "README.md").read_text("utf-8")
    assert "question (temperature 1; batch 1; round 2: 3 requests):" in card
    assert "question (temperature 1; batch 4; round 3: 3 requests):" in card
    assert card.index(BUILT_IN) < card.index(CHILD)
    assert card.count("answer (temperature 1):") == 1


@pytest.mark.slow
def test_the_card_names_many_batches_by_their_first_and_last(make_bench: Make) -> None:
    card = exported_card(changed(make_bench, most=1), "out")
    assert "question (temperature 1; batches 1 to 3; round 2: 3 requests):" in card
    assert re.search(r"question \(temperature 1; batches \d+ to \d+; round 3: 3 requests\):", card)


def test_without_own_instructions_nothing_is_recorded(bench: Bench) -> None:
    bench.prepare(seeds(2))
    bench.ticks()
    assert recorded(bench) == {}


def test_a_change_back_is_recorded_too(make_bench: Make) -> None:
    bench = make_bench()
    bench.configure(question(CHILD))
    assert bench.prepare(seeds(2)).code == 0
    assert bench.run("submit", "--stage", "question").code == 0
    bench.configure("rounds = 3\n")
    said = "".join(result.err for result in bench.ticks())
    assert said.count("question: asked with the built-in instructions from batch 2 on") == 1
    assert recorded(bench) == {"question:000000001": CHILD, "question:000000002": ""}


@pytest.mark.slow
def test_a_rebuild_keeps_them(make_bench: Make) -> None:
    bench = changed(make_bench)
    before, card = recorded(bench), exported_card(bench, "before")
    store = bench.root / "data" / "batchgen.sqlite"
    store.rename(store.with_suffix(".old"))
    assert bench.run("rebuild").code == 0
    assert recorded(bench) == before
    prompts = [
        text.partition("## Prompts")[2].partition("## What")[0] for text in (card, exported_card(bench, "after"))
    ]
    assert prompts[0] == prompts[1] != ""
    assert bench.run("verify").code == 0


def exported_card(bench: Bench, name: str) -> str:
    out = bench.root.parent / name
    assert bench.run("export", "--format", "messages", "--output", str(out)).code == 0
    return (out / "README.md").read_text("utf-8")


def test_the_next_question_is_asked_with_the_question_s_own_instructions(make_bench: Make) -> None:
    bench = make_bench()
    bench.configure(question(CHILD) + "[correction]\nask_next = true\n")
    assert bench.prepare(seeds(2)).code == 0
    bench.ticks()
    middle, last = sent(bench, "correction")
    assert (CHILD in middle, CHILD in last) == (True, False)
    assert exported_card(bench, "out").count(CHILD) == 2  # the questions of round 2, and the corrections of round 2


def labels(bench: Bench) -> list[Any]:
    """The flags of the exported records."""
    out = bench.root.parent / "flagged.jsonl"
    assert bench.run("export", "--format", "messages", "--output", str(out)).code == 0
    return [json.loads(line)["flags"] for line in out.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.slow
def test_a_leaked_sentence_of_one_s_own_is_flagged(
    make_bench: Make, monkeypatch: pytest.MonkeyPatch, *, own: bool
) -> None:
    """The export has six chunks, so that a second process flags the fourth."""
    monkeypatch.setattr(export, "CHUNK", 1)
    monkeypatch.setattr(worker_process, "_cpu_count", lambda: 2)
    bench = make_bench()
    bench.configure(question(CHILD) if own else "rounds = 3\n")
    assert bench.prepare(seeds(6)).code == 0
    leak = json.dumps({"question": f"What is a plant? {CHILD}"})
    for number in (2, 4):
        bench.service.faults.rows("text", key=rf"r1-00000{number}\.r2\.question", text=leak, times=1)
    bench.ticks()
    found = [str(flags) for flags in labels(bench)]
    assert ["leaked_instruction:question" in flags for flags in found] == [False, own, False, own, False, False]


@pytest.mark.slow
def test_a_leak_can_be_asked_again(make_bench: Make) -> None:
    flags = 'retry_flags = ["leaked_instruction"]\n'
    scene = Scene.of(make_bench, 4, f'[question]\ninstructions = "{NURSE}"\n{flags}')
    leak = json.dumps({"question": f"What is a plant? {NURSE}"})
    scene.bench.service.faults.rows("text", key=r"r1-000002\.r2\.question", text=leak, times=1)
    said = "".join(result.err for result in scene.finish())
    assert "3 of 4 accepted (3 accepted, 1 flagged)" in said
    assert scene.batches(3) == [(1, 4, "collected"), (2, 1, "collected")]
    scene.bench.configure(ROUNDS)  # the flag is found again with the instructions of that time
    built_again(scene)


def test_estimate_counts_them(make_bench: Make) -> None:
    bench = make_bench()
    bench.configure("rounds = 2\n")
    assert bench.prepare(seeds(4)).code == 0
    few = bench.run("estimate", "--json").json["steps"][0]["input_tokens"]
    bench.configure(question("Ask in plain words. " * 100))
    many = bench.run("estimate", "--json").json["steps"][0]["input_tokens"]
    assert many > few + 4 * 300


def test_instructions_that_look_like_a_placeholder_of_the_lines(make_bench: Make) -> None:
    text = "Ask about batchgen-mark-key- and batchgen-mark-echo- again."
    bench = make_bench()
    bench.configure(question(text))
    assert bench.prepare(seeds(3)).code == 0
    assert bench.run("submit", "--stage", "question").code == 0
    (lines,) = sent(bench, "question")
    assert lines.count(text) == 3
