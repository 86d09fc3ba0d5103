"""Run the main job: seeds in, three rounds out, with the real SDKs and the local service."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from batchgen.emulator.faults import CallFault, Status
from tests.support.bench import SHARED, Bench, seeds

STAGES = ("question", "answer", "correction")


def shape(bench: Bench) -> tuple[int, set[tuple[int, int]]]:
    """(conversations, the different (rounds, fields) shapes) of the finished dataset."""
    rows = bench.rows("round3/round3_history.jsonl")
    return len(rows), {(len(row["rounds"]), len(turn)) for row in rows for turn in row["rounds"]}


def snapshot(root: Path) -> dict[str, tuple[str, int]]:
    """Content and modification time of every file of a root."""
    return {
        str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


def test_ticks_alone_finish_the_dataset(bench: Bench) -> None:
    assert bench.prepare(seeds(12)).code == 0
    assert bench.run("submit", "--stage", "question").code == 0
    assert {result.code for result in bench.ticks()} == {0}
    assert shape(bench) == (12, {(3, 3)})
    assert bench.rows("rejected.jsonl") == []
    assert bench.run("verify").code == 0
    before, posts = snapshot(bench.root), len(bench.service.world.posts)
    for _ in range(3):
        assert bench.run("collect", "--advance") == (0, "", "")
        assert bench.run("submit", "--stage", "question").code == 0
    assert snapshot(bench.root) == before
    assert len(bench.service.world.posts) == posts


def test_no_question_or_correction_request_shows_an_earlier_flawed_answer(bench: Bench) -> None:
    bench.configure("[batches]\nmax_requests = 4\n")
    bench.prepare(seeds(10))
    bench.service.faults.rows("truncated", key=r"r1-000003\.r3\.correction\.a1")  # a second attempt shows none either
    bench.ticks()
    truth = {row["id"]: row["rounds"] for row in bench.rows("round3/round3_history.jsonl")}
    looked_at = 0
    for number in (2, 3):
        for stage in ("question", "correction"):
            for path in (bench.root / f"requests/round{number}/{stage}").glob("*.jsonl"):
                for line in map(json.loads, path.read_bytes().splitlines()):
                    rounds = truth[line["key"].partition(".")[0]]
                    (content,) = line["request"]["contents"]
                    shown = [{key: turn[key] for key in ("question", "correction")} for turn in rounds[: number - 1]]
                    current = {key: rounds[number - 1][key] for key in ("question", "answer")}
                    expected = [*shown, current] if stage == "correction" else shown
                    assert json.loads(content["parts"][0]["text"]) == expected
                    assert not any(turn["answer"] in json.dumps(line) for turn in rounds[: number - 1])
                    looked_at += 1
    assert looked_at == 4 * 10 + 1


def test_stage_by_stage_by_hand_gives_the_same_files(make_bench: Callable[..., Bench]) -> None:
    ticked = make_bench(root="ticked")
    ticked.prepare(seeds(5))
    ticked.ticks()
    by_hand = make_bench(root="by_hand")
    by_hand.prepare(seeds(5))
    for number in (2, 3):
        for stage in STAGES:
            assert by_hand.run("submit", "--stage", stage, "--round", str(number)).code == 0
            assert by_hand.run("collect").code == 0
    assert by_hand.files() == ticked.files()


def test_run_finishes_in_the_foreground(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(job_seconds=100.0)
    bench.prepare(seeds(4))
    result = bench.run("run")
    assert result.code == 0
    assert "4/4 complete" in result.out
    assert bench.run("verify").code == 0


@pytest.mark.slow
def test_rows_flow_in_several_batches_and_steps_at_once(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(job_seconds=30.0)
    bench.configure("[batches]\nmax_requests = 3\n")
    bench.prepare(seeds(10))
    bench.run("submit", "--stage", "question")
    assert [batch["requests"] for batch in bench.status()["batches"]] == [3, 3, 3, 1]
    bench.ticks(seconds=10.0)
    assert shape(bench) == (10, {(3, 3)})


def test_waiting_ends_when_nothing_can_be_learnt(bench: Bench) -> None:
    """`--wait` does not wait for uploaded batches without --advance, nor with it for those that max_usd forbids."""
    bench.prepare(seeds(3))
    bench.service.faults.add(CallFault(provider="gemini", endpoint="create", action=Status(429, "quota"), times=1))
    assert bench.run("submit", "--stage", "question").code == 75
    assert bench.run("collect", "--wait").code == 0
    bench.configure("max_usd = 0.0000001\n")
    bench.service.world.advance(3 * 3600)
    assert bench.run("run").code == 3


def test_one_refused_key_does_not_hold_back_the_other_provider(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.configure("[batches]\nmax_requests = 2\n")
    bench.prepare(seeds(4))
    bench.run("submit", "--stage", "question")
    bench.run("collect")
    bench.run("submit", "--stage", "answer")
    monkeypatch.delenv("GEMINI_API_KEY")
    assert bench.run("collect").code == 0
    assert bench.status()["steps"][1]["done"] == 4


def test_real_rows(bench: Bench) -> None:
    source = SHARED / "aligner20k" / "train.sample200.jsonl.xz"
    if not source.exists():
        return
    assert bench.run("prepare", "--input", str(source)).code == 0
    bench.ticks()
    assert shape(bench) == (200, {(3, 3)})
    assert bench.run("verify").code == 0


def asked_fields(folder: Path) -> set[tuple[str, ...]]:
    """The JSON fields that Gemini's requests in a folder ask for; the first is the echo."""
    rows = [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_bytes().splitlines()]
    return {tuple(row["request"]["generationConfig"]["responseSchema"]["required"]) for row in rows}


def test_a_correction_brings_the_next_question_along(bench: Bench) -> None:
    """`ask_next` saves a batch per round and changes nothing else: shape, verify, rebuild, the counts of each step."""
    bench.configure("[correction]\nask_next = true\n")
    bench.prepare(seeds(4))
    bench.service.faults.rows("empty", key=r"r1-000002\.r2\.correction\.a1")
    bench.ticks()
    assert shape(bench) == (4, {(3, 3)})
    status = bench.status()
    assert [step["done"] for step in status["steps"]] == [4] * 6
    sent = [(batch["round"], batch["stage"], batch["attempt"]) for batch in status["batches"]]
    assert (2, "correction", 2) in sent  # a reply without its question is retried as a whole
    assert (3, "question", 1) not in sent
    fields = [asked_fields(bench.root / f"requests/round{number}/correction") for number in (2, 3)]
    assert [list(map(len, found)) for found in fields] == [[3], [2]]  # nobody pays for a question of a fourth round
    assert bench.run("verify").code == 0
    questions = [row["rounds"][2]["question"] for row in bench.rows("round3/round3_history.jsonl")]
    assert len(set(questions)) == 4
    files = bench.files()
    (bench.root / "data" / "batchgen.sqlite").unlink()
    assert bench.run("rebuild").code == 0
    assert bench.files() == files
