"""Delete the store and rebuild it from the request files and the result files."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from batchgen.emulator.faults import CallFault, Status
from tests.support.bench import Bench, seeds
from tests.support.invariants import ROUNDS
from tests.support.slow import slow


def troubled(bench: Bench) -> None:
    """A finished run with failures of several kinds in it."""
    faults = bench.service.faults
    faults.rows("blocked_prompt", key=r"r1-000002\.r2\.question")
    faults.rows("truncated", key=r"r1-000003\.r2\.answer\.a1")
    faults.rows("missing", key=r"r1-000004\.r3\.correction\.a1")
    faults.rows("error", key=r"r1-000005\.r3\.question", code=13)
    bench.prepare(seeds(8))
    bench.ticks()
    assert bench.status()["finished"]


@pytest.mark.slow
def test_a_lost_store_is_built_again_without_network(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    troubled(bench)
    before, files = bench.status(), bench.files()
    for path in (bench.root / "data").rglob("*"):
        if path.is_file():
            path.unlink()
    monkeypatch.delenv("GEMINI_API_KEY")
    monkeypatch.delenv("TOGETHER_API_KEY")
    calls = len(bench.service.world.seen())
    rebuilt = bench.run("rebuild", "--json")
    assert rebuilt.code == 0, rebuilt.err
    assert rebuilt.json["conversations"] == 8
    assert bench.files() == files
    assert {row["reason"] for row in bench.rows("rejected.jsonl")} == {"blocked_prompt", "provider_error"}
    after = bench.status()
    assert after["steps"] == before["steps"]
    assert after["models"] == before["models"]
    assert after["cost"] == before["cost"]
    assert bench.run("verify").code == 0
    assert len(bench.service.world.seen()) == calls


def earlier_answers_shown(bench: Bench, number: int, stage: str) -> set[bool]:
    """Whether the requests of a step show the answers of earlier turns: one value if all do the same."""
    found = set()
    for path in (bench.root / f"requests/round{number}/{stage}").glob("*.jsonl"):
        for line in path.read_bytes().splitlines():
            (content,) = json.loads(line)["request"]["contents"]
            turns = json.loads(content["parts"][0]["text"])
            assert stage == "question" or list(turns[-1]) == ["question", "answer"]
            found.add(any("answer" in turn for turn in turns[: number - 1]))
    return found


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("corrections", "corrections"),
        slow("everything", "everything"),
        ("everything", "corrections"),
        slow("corrections", "everything"),
    ],
)
def test_a_store_is_built_again_whatever_the_history_showed(bench: Bench, before: str, after: str) -> None:
    """Texts come from results/: a later request need not show them. The setting changes after round 2."""
    bench.configure(f'[history]\nshows = "{before}"\n')
    bench.service.faults.rows("truncated", key=r"r1-000003\.r2\.answer\.a1")
    bench.prepare(seeds(4))
    for stage in ("question", "answer", "answer", "correction"):
        assert bench.run("submit", "--stage", stage, "--round", "2").code == 0
        bench.run("collect")
    bench.configure(f'[history]\nshows = "{after}"\n')
    bench.ticks()
    assert bench.status()["complete"] == 4
    for number, shows in ((2, before), (3, after)):
        for stage in ("question", "correction"):
            assert earlier_answers_shown(bench, number, stage) == {shows == "everything"}
    files, was = bench.files(), bench.status()
    forget(bench)
    assert bench.run("rebuild").code == 0
    assert bench.files() == files
    assert bench.status()["steps"] == was["steps"]
    assert bench.status()["cost"] == was["cost"]
    assert bench.run("verify").code == 0


def forget(bench: Bench) -> None:
    (bench.root / "data" / "batchgen.sqlite").unlink()


def test_a_batch_whose_end_is_not_known_is_looked_for_and_adopted(bench: Bench) -> None:
    bench.prepare(seeds(3))
    bench.run("submit", "--stage", "question")
    forget(bench)
    assert bench.run("rebuild", "--json").json["open"] == 1
    posts = len(bench.service.world.posts)
    assert bench.run("collect").code == 0
    assert bench.status()["steps"][0]["done"] == 3
    assert len(bench.service.world.posts) == posts


@pytest.mark.parametrize("stages", [["question"], ["question", "answer"]])
def test_what_is_in_flight_is_reserved_again_and_has_its_price(bench: Bench, stages: list[str]) -> None:
    """Otherwise `max_usd` would not count it, and would stop the run because its model is unknown."""
    bench.configure(f"{ROUNDS}max_usd = 10\n")
    bench.prepare(seeds(3))
    for stage in stages:
        bench.run("collect")
        bench.run("submit", "--stage", stage)
    before = bench.status()["cost"]
    forget(bench)
    assert bench.run("rebuild", "--json").json["open"] == 1
    after = bench.status()["cost"]
    assert after["reserved_usd"] == pytest.approx(before["reserved_usd"], rel=0.02)
    assert after["unpriced_requests"] == 0
    if stages == ["question"]:
        bench.ticks()
        assert bench.status()["finished"]
        assert bench.status()["cost"]["unpriced_requests"] == 0


def forget_an_answer_in_flight(bench: Bench) -> None:
    bench.configure(ROUNDS)
    bench.prepare(seeds(3))
    bench.run("submit", "--stage", "question")
    bench.run("collect")
    bench.run("submit", "--stage", "answer")
    forget(bench)
    assert bench.run("rebuild", "--json").json["open"] == 1


def test_at_together_a_batch_is_found_by_the_name_of_its_file(bench: Bench) -> None:
    """Its jobs have no name of ours, but the id of an uploaded file that has one."""
    forget_an_answer_in_flight(bench)
    bench.ticks()
    assert bench.status()["complete"] == 3
    assert len(bench.service.world.jobs_created("together")) == 1
    assert bench.run("verify").code == 0


def test_at_together_a_listing_that_fails_is_asked_for_again(bench: Bench) -> None:
    forget_an_answer_in_flight(bench)
    bench.service.faults.add(CallFault(provider="together", endpoint="file_list", action=Status(503), times=9))
    assert bench.run("collect", "--advance").code == 75
    bench.service.faults.clear()
    bench.ticks()
    assert bench.status()["complete"] == 3
    assert len(bench.service.world.jobs_created("together")) == 1


def test_at_together_somebody_must_look_where_the_file_is_gone(bench: Bench) -> None:
    forget_an_answer_in_flight(bench)
    bench.service.faults.add(CallFault(provider="together", endpoint="file_list", action=Status(404), times=9))
    posts = len(bench.service.world.posts)
    asked = bench.run("collect", "--advance")
    assert asked.code == 3
    assert "batchgen retry" in asked.err
    assert len(bench.service.world.posts) == posts
    bench.run("retry")
    bench.ticks()
    assert bench.status()["complete"] == 3


@pytest.mark.parametrize("provider", ["gemini", "together"])
def test_retry_gives_up_nothing_that_nobody_has_looked_for(bench: Bench, provider: str) -> None:
    """`retry` is for rejected conversations, and a rebuilt store knows its jobs only after the first tick."""
    if provider == "together":
        forget_an_answer_in_flight(bench)
    else:
        bench.configure(ROUNDS)
        bench.prepare(seeds(3))
        bench.run("submit", "--stage", "question")
        forget(bench)
        assert bench.run("rebuild", "--json").json["open"] == 1
    bench.run("retry")
    bench.ticks()
    assert bench.status()["complete"] == 3
    assert len(bench.service.world.jobs_created()) == 3


def test_what_a_person_gave_up_is_not_looked_for_when_the_store_is_built_again(bench: Bench) -> None:
    forget_an_answer_in_flight(bench)
    gone = CallFault(provider="together", endpoint="file_list", action=Status(404), times=1)
    bench.service.faults.add(gone)
    assert "batchgen retry" in bench.run("collect").err
    bench.run("retry")
    (bench.root / "data" / "batchgen.sqlite").unlink()
    assert "how it ended is not known" not in bench.run("rebuild").err
    bench.ticks()
    assert bench.status()["complete"] == 3
    assert bench.run("verify").code == 0


def test_lines_that_were_refused_are_remembered(bench: Bench) -> None:
    bench.service.faults.add(
        CallFault(provider="gemini", endpoint="create", action=Status(400, "Error on line 2: invalid JSON"))
    )
    bench.prepare(seeds(4))
    bench.ticks()
    files = bench.files()
    assert [row["reason"] for row in bench.rows("rejected.jsonl")] == ["invalid_request"]
    forget(bench)
    assert bench.run("rebuild").code == 0
    assert bench.files() == files


@pytest.mark.slow
def test_an_interrupted_rebuild_is_worked_with_by_nobody(bench: Bench) -> None:
    troubled(bench)
    files = bench.files()
    forget(bench)
    assert bench.spawn("rebuild", BATCHGEN_CRASH="batch_settled:2").returncode < 0
    refused = bench.run("collect", "--advance")
    assert (refused.code, "half rebuilt" in refused.err) == (2, True)
    shown = bench.run("status")
    assert (shown.code, "half rebuilt. Finish it: batchgen rebuild" in shown.err) == (0, True)
    assert bench.run("rebuild").code == 0
    assert bench.files() == files


def test_a_store_that_holds_a_run_is_left_alone(bench: Bench) -> None:
    bench.prepare(seeds(2))
    refused = bench.run("rebuild")
    assert refused.code == 2
    assert "Move it away first" in refused.err


def test_without_the_files_nothing_is_built(bench: Bench) -> None:
    refused = bench.run("rebuild")
    assert refused.code == 2
    assert "run.json" in refused.err
    assert bench.status()["conversations"] == 0


def test_where_no_run_was_nothing_is_left_behind(bench: Bench) -> None:
    assert bench.run("rebuild").code == 2
    assert not bench.root.exists()


def test_a_file_that_was_never_sent_is_passed_over(bench: Bench) -> None:
    """A kill between request file and ledger leaves a file without a batch; a later batch has its number."""
    bench.configure(ROUNDS)
    bench.prepare(seeds(4))
    bench.ticks()
    files = bench.files()
    (sent,) = (bench.root / "requests" / "round2" / "answer").glob("*.jsonl")
    orphan = bench.root / "requests" / "round2" / "correction" / sent.name.replace("answer", "correction")
    orphan.write_bytes(sent.read_bytes().replace(b".answer.", b".correction."))
    (bench.root / "data" / "batchgen.sqlite").unlink()
    result = bench.run("rebuild")
    assert result.code == 0
    assert f"{orphan}: was never sent" in result.err
    assert bench.files() == files
    assert bench.run("verify").code == 0


def test_a_torn_request_file_is_named(bench: Bench) -> None:
    bench.configure(ROUNDS)
    bench.prepare(seeds(4))
    bench.ticks()
    (sent,) = (bench.root / "requests" / "round2" / "answer").glob("*.jsonl")
    sent.write_bytes(sent.read_bytes()[:-40])
    (bench.root / "data" / "batchgen.sqlite").unlink()
    result = bench.run("rebuild")
    assert result.code == 2
    assert f"{sent}:4: not valid JSON" in result.err


def test_a_request_file_of_another_run_is_named(bench: Bench) -> None:
    bench.configure(ROUNDS)
    bench.prepare(seeds(4))
    bench.ticks()
    (sent,) = (bench.root / "requests" / "round2" / "answer").glob("*.jsonl")
    sent.write_bytes(sent.read_bytes().replace(b"r1-000003", b"r1-000009"))
    (bench.root / "data" / "batchgen.sqlite").unlink()
    result = bench.run("rebuild")
    assert result.code == 2
    assert f"{sent}: asks for conversation 9, but the run has only 4" in result.err


@pytest.mark.parametrize(
    "arguments", [["prepare", "--input", "seeds.jsonl", "--all"], slow(["status"]), slow(["collect"])]
)
@pytest.mark.slow
def test_a_lost_store_is_never_bought_again(bench: Bench, arguments: list[str]) -> None:
    """`prepare` would begin a second run and overwrite files of the first that `rebuild` needs."""
    troubled(bench)
    files = bench.files()
    forget(bench)
    refused = bench.run(*[str(bench.root / one) if one == "seeds.jsonl" else one for one in arguments])
    assert (refused.code, "batchgen rebuild" in refused.err) == (3, True)
    assert bench.run("rebuild").code == 0
    assert bench.files() == files


def test_a_damaged_store_names_the_way_out(bench: Bench) -> None:
    bench.prepare(seeds(2))
    (bench.root / "data" / "batchgen.sqlite").write_bytes(b"no database" * 999)
    refused = bench.run("verify")
    assert (refused.code, "batchgen rebuild" in refused.err) == (3, True)


def test_a_lost_ending_is_made_up_for_by_the_results(bench: Bench) -> None:
    bench.configure(ROUNDS)
    bench.prepare(seeds(4))
    bench.ticks()
    files = bench.files()
    (ending,) = (bench.root / "results" / "round2" / "answer").glob("*.ending.json")
    ending.unlink()
    forget(bench)
    rebuilt = bench.run("rebuild")
    assert (rebuilt.code, "its ending file is missing" in rebuilt.err) == (0, True)
    assert bench.files() == files


def test_files_that_contradict_each_other_are_named(bench: Bench) -> None:
    bench.configure(ROUNDS)
    bench.prepare(seeds(4))
    bench.ticks()
    for path in (bench.root / "results" / "round2" / "answer").iterdir():
        path.unlink()
    forget(bench)
    refused = bench.run("rebuild")
    assert (refused.code, "an earlier batch" in refused.err) == (2, True)
    assert bench.run("prepare", "--input", str(bench.root / "seeds.jsonl")).code == 2


@pytest.mark.fault(
    33,
    "an older copy of the store is put back",
    injected="the file as it was some ticks ago",
    seen="status 3, nothing is sent; `rebuild` brings the store up to date",
)
@pytest.mark.parametrize(("then", "since"), [(0, 4), (1, 2), slow(0, 3), slow(1, 3)])
def test_an_older_store_buys_nothing_again(make_bench: Callable[..., Bench], then: int, since: int) -> None:
    bench = make_bench()
    bench.configure(ROUNDS)
    bench.prepare(seeds(3))
    older = put_back(bench, then, since)
    refused = bench.run("collect", "--advance")
    assert refused.code == 3
    assert "is older than the files beside it" in refused.err
    store = bench.root / "data" / "batchgen.sqlite"
    assert f"mv {store} {store}.old && batchgen rebuild" in refused.err, "it works in any folder"
    assert len(bench.service.world.jobs_created("")) == older
    forget(bench)
    assert bench.run("rebuild").code == 0
    bench.ticks()
    assert bench.status()["complete"] == 3
    assert len(bench.service.world.jobs_created("")) == 3
    assert bench.run("verify").code == 0


@pytest.mark.parametrize("then", [0, 1, 2])
def test_the_one_batch_that_an_older_store_does_not_know_is_adopted(
    make_bench: Callable[..., Bench], then: int
) -> None:
    bench = make_bench()
    bench.configure(ROUNDS)
    bench.prepare(seeds(3))
    put_back(bench, then, 1)
    bench.ticks()
    assert bench.status()["complete"] == 3
    assert len(bench.service.world.jobs_created("")) == 3
    assert bench.run("verify").code == 0


def test_other_seeds_do_not_take_the_place_of_those_that_an_older_store_forgot(bench: Bench) -> None:
    bench.prepare(seeds(3))
    put_back(bench, 0, 3)
    refused = bench.prepare(seeds(2))
    assert refused.code == 3
    assert "is older than the files beside it" in refused.err
    forget(bench)
    assert bench.run("rebuild", "--json").json["conversations"] == 3


def put_back(bench: Bench, then: int, since: int) -> int:
    """Run `then` ticks, copy the store, run `since` more ticks, restore the copy. Returns the number of jobs."""
    store = bench.root / "data" / "batchgen.sqlite"
    for _ in range(then):
        bench.run("collect", "--advance")
    copy = store.read_bytes()
    for _ in range(since):
        bench.run("collect", "--advance")
    store.write_bytes(copy)
    return len(bench.service.world.jobs_created(""))
