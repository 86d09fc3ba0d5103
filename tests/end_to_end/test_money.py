"""Test amounts of money: estimated, reserved, spent. All commands must report the same amounts."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import Any

import pytest

from batchgen.core.tokens import input_margin
from batchgen.emulator.faults import CallFault, Drop, LateCommit, Status
from tests.support.bench import Bench, seeds
from tests.support.invariants import ROUNDS, ledger
from tests.support.scene import HOUR, Make, Scene
from tests.support.slow import slow

LLAMA, QWEN = "meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo", "Qwen/Qwen3.5-9B"
# USD per million tokens in batch: input, cached input, output. From the providers' pages, not from the program.
PRICES = {"gemini-2.5-flash-lite": (0.05, 0.01, 0.20), LLAMA: (0.09, 0.09, 0.09), QWEN: (0.17, 0.17, 0.25)}
CENT_OF_A_CENT = 1e-6
SLUG = "https://api.together.ai/models/meta-llama/llama"
GONE = Status(400, f"Unable to access non-serverless model. Please visit {SLUG}", status="model_not_available")


def usd(model: str, line: Any) -> float:
    """The price of one raw result line, computed without the program's code."""
    fresh, cached, output = PRICES[model]
    response = line.get("response") or {}
    if "usageMetadata" in response:
        used = response["usageMetadata"]
        hits, out = used.get("cachedContentTokenCount", 0), used.get("candidatesTokenCount", 0)
        out += used.get("thoughtsTokenCount", 0)
        total = used["promptTokenCount"]
    elif "body" in response:
        used = response["body"].get("usage", {})
        hits, out, total = used.get("cached_tokens", 0), used.get("completion_tokens", 0), used.get("prompt_tokens", 0)
    else:
        return 0.0
    return float((total - hits) * fresh + hits * cached + out * output) / 1e6


def raw_bill(bench: Bench) -> dict[str, float]:
    """USD by "round N stage", from the raw result files alone."""
    found = defaultdict[str, float](float)
    models = {row["name"]: row["model"] for row in ledger(bench).batches}
    for path in (bench.root / "results").rglob("*.jsonl"):
        round_, stage = re.search(r"round(\d+)/(\w+)/", str(path)).groups()  # type: ignore[union-attr]
        lines = {line for line in path.read_bytes().split(b"\n") if line}
        found[f"{round_} {stage}"] += sum(usd(models[path.name.split(".")[0]], json.loads(line)) for line in lines)
    return found


def receipt(bench: Bench) -> Any:
    """The receipt, after a comparison of the three places that show it."""
    found = bench.run("receipt", "--json").json
    assert found == json.loads((bench.root / "data" / "receipt.json").read_bytes())
    assert found["total"]["usd"] == bench.status()["cost"]["spent_usd"]
    assert found["total"]["usd"] == pytest.approx(sum(row["usd"] for row in found["steps"]), abs=5e-6)
    assert found["total"]["usd"] == pytest.approx(sum(row["usd"] for row in found["models"]), abs=5e-6)
    for row in (*found["steps"], *found["models"], found["total"]):
        parts = row["accepted_usd"] + row["failed_usd"] + row["superseded_usd"]
        assert row["usd"] == pytest.approx(parts, abs=5e-6)
    return found


# ---------------------------------------------------------------- after


@pytest.mark.slow
def test_a_receipt_with_thoughts_cache_and_failures(make_bench: Make) -> None:
    """Each line is billed by its usage: cached input at its price, thoughts as output, failures in a separate row."""
    scene = Scene.of(make_bench, 12, "question.max_rejected_share = 1.0\n", most=6)
    rows = scene.bench.service.faults.rows
    rows("thoughts_and_cache", key=r"r1-00000[1-4]\.")
    rows("truncated", key=r"r1-000005\.r2\.question", times=1)
    rows("safety", key=r"r1-000006\.r2\.correction")
    rows("error", provider="together", key=r"r1-000007\.r2\.answer", times=1)
    for _ in range(30):
        scene.tick(300)
        if scene.bench.status()["finished"]:
            break
    assert scene.bench.status()["complete"] == 11
    found = receipt(scene.bench)
    bills = raw_bill(scene.bench)
    assert len(found["steps"]) == 3
    for row in found["steps"]:
        assert row["usd"] == pytest.approx(bills[f"{row['round']} {row['stage']}"], abs=CENT_OF_A_CENT)
        assert row["thought_tokens"] == 4 * 7
        assert row["cached_tokens"] > 0
    question, answer, correction = found["steps"]
    assert (question["accepted"], question["failed"]) == (12, 1)
    assert question["failed_usd"] > 0  # a truncated text is paid
    assert (answer["accepted"], answer["failed"], answer["failed_usd"]) == (12, 1, 0)  # an error row names no usage
    assert (correction["accepted"], correction["failed"]) == (11, 1)
    assert 0 < correction["failed_usd"] < correction["accepted_usd"]
    assert found["total"]["at_least"] is False
    shown = scene.bench.run("receipt").out
    assert f"{found['total']['usd']:.4f}" in shown
    assert all(f"{row['usd']:.4f}" in shown for row in found["steps"])


def test_a_late_job_is_paid_and_booked_apart(make_bench: Make) -> None:
    """The cost of an abandoned job is booked as superseded, in the receipt and after `rebuild`."""
    scene = Scene.of(make_bench, 4)
    scene.bench.service.faults.add(CallFault(endpoint="create", action=LateCommit(seconds=2 * HOUR, then=Drop())))
    scene.tick()
    scene.duplicates = 1
    for _ in range(8):
        scene.bench.run("-q", "collect", "--advance")
        scene.bench.service.world.advance(1200)
    found = receipt(scene.bench)
    assert found["steps"][0]["superseded_usd"] > 0
    assert found["steps"][0]["usd"] == pytest.approx(raw_bill(scene.bench)["2 question"], abs=CENT_OF_A_CENT)
    store = scene.bench.root / "data" / "batchgen.sqlite"
    store.rename(store.with_suffix(".old"))
    assert scene.bench.run("rebuild").code == 0
    again = receipt(scene.bench)["steps"][0]
    for name in ("usd", "accepted_usd", "superseded_usd", "superseded", "input_tokens", "output_tokens"):
        assert again[name] == found["steps"][0][name], name


@pytest.mark.parametrize(("follower", "priced_as"), [("collect", ""), ("verify", "together:")])
def test_an_unknown_price_is_a_lower_bound_until_it_is_set(make_bench: Make, follower: str, priced_as: str) -> None:
    """Unknown is not nothing: status and receipt say "at least", and count again when the price is set."""
    scene = Scene.of(make_bench, 4, 'together.models = ["nobody/knows-1B"]\n')
    scene.bench.ticks()
    found = receipt(scene.bench)
    assert found["total"]["at_least"] is True
    assert found["steps"][1]["unpriced_requests"] == 4
    assert found["steps"][1]["usd"] == 0
    status = scene.bench.run("status")
    assert "spent at least $" in status.out
    assert "4 requests to nobody/knows-1B have no known price" in status.out
    assert "0 rejected, at least $" in scene.bench.run("run").out
    assert ">= " in scene.bench.run("receipt").out
    own = f'[prices."{priced_as}nobody/knows-1B"]\ninput = 1.0\noutput = 2.0\n'
    scene.bench.configure(f'{ROUNDS}together.models = ["nobody/knows-1B"]\n{own}')
    assert scene.bench.run(follower).code == 0  # this command updates the receipt file
    priced = receipt(scene.bench)
    assert scene.bench.run("verify").code == 0
    row = priced["steps"][1]
    assert row["usd"] == pytest.approx((row["input_tokens"] * 1.0 + row["output_tokens"] * 2.0) / 1e6, abs=1e-6)
    assert priced["total"]["at_least"] is False
    assert "at least" not in scene.bench.run("status").out


# ---------------------------------------------------------------- during


def test_a_cap_cannot_be_kept_without_prices(make_bench: Make) -> None:
    """With max_usd set, nothing is sent to a model without a price, nor after a batch of one."""
    unknown = 'together.models = ["nobody/knows-1B"]\n'
    scene = Scene.of(make_bench, 4, unknown + "max_usd = 5\n")
    scene.tick()
    said = [scene.tick(60) for _ in range(2)]
    assert [result.code for result in said] == [3, 3]
    assert '[prices."nobody/knows-1B"]' in said[-1].err
    assert scene.jobs("together") == 0
    scene.bench.configure(f"{ROUNDS}{unknown}max_usd = 0\n")
    scene.tick(60)
    assert scene.jobs("together") == 1
    scene.bench.configure(f"{ROUNDS}{unknown}max_usd = 5\n")
    before = scene.jobs()
    assert scene.tick(60).code == 3  # now the amount spent is unknown
    assert scene.jobs() == before
    scene.bench.configure(f'{ROUNDS}{unknown}max_usd = 5\n[prices."nobody/knows-1B"]\ninput = 1.0\noutput = 1.0\n')
    scene.bench.ticks()
    assert scene.bench.status()["complete"] == 4


@pytest.mark.slow
def test_a_budget_crossed_in_the_middle_of_a_stage(make_bench: Make) -> None:
    """Whole batches are sent while they fit; the rest waits with a reason and status 3; nothing exceeds max_usd."""
    scene = Scene.of(make_bench, 8, most=2, job_seconds=600.0)
    shards = scene.bench.run("submit", "--stage", "question", "--dry-run", "--json").json["batches"]
    assert len(shards) == 4
    scene.bench.configure(f"{ROUNDS}batches.max_requests = 2\nmax_usd = 0.00017\n")
    result = scene.run("submit", "--stage", "question")
    cost = scene.bench.status()["cost"]
    assert result.code == 3
    assert 0 < scene.jobs() < 4
    assert cost["spent_usd"] + cost["reserved_usd"] <= 0.00017
    waiting = scene.bench.status()["waiting"]
    assert waiting == [{"for": "round 2 question", "reason": "max_usd = 0.00017 would be exceeded"}]
    ready = scene.bench.status()["steps"][0]["ready"]
    assert ready == 8 - 2 * scene.jobs()
    scene.bench.configure(f"{ROUNDS}batches.max_requests = 2\n")
    scene.finish(every=700)


@pytest.mark.slow
def test_what_is_reserved_covers_what_is_paid(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 6, most=2)
    scene.finish()
    paid = defaultdict[str, float](float)
    models = {row["name"]: row["model"] for row in ledger(scene.bench).batches}
    for path in (scene.bench.root / "results").rglob("*.jsonl"):
        name = path.name.split(".")[0]
        paid[name] += sum(usd(models[name], json.loads(line)) for line in path.read_bytes().splitlines())
    assert len(paid) == 9
    for row in ledger(scene.bench).batches:
        assert paid[row["name"]] <= row["reserved_usd"]


def test_the_margin_of_a_reservation_shrinks_with_the_batch() -> None:
    assert input_margin(1) == pytest.approx(0.28)
    assert input_margin(100) == pytest.approx(0.055)
    assert 0.03 < input_margin(1_000_000) < 0.031
    assert all(input_margin(n) > input_margin(n + 1) for n in range(1, 200))


# ---------------------------------------------------------------- before


def test_dry_run_ledger_and_estimate_say_the_same(make_bench: Make) -> None:
    """For a stage that is ready, `submit --dry-run`, the ledger and `estimate` state the same amounts."""
    scene = Scene.of(make_bench, 8)
    for stage in ("question", "answer", "correction"):
        step = next(row for row in scene.bench.run("estimate", "--json").json["steps"] if row["stage"] == stage)
        dry = scene.bench.run("submit", "--stage", stage, "--dry-run", "--json").json
        # The estimate rounds each request to whole tokens, the dry run a whole file: half a token a request.
        assert dry["estimated_usd"] == pytest.approx(step["usd"], rel=0.003)
        counted = sum(batch["input_tokens"] for batch in dry["batches"])
        assert counted == pytest.approx(step["input_tokens"], abs=4)  # rounded per file here, per request there
        scene.run("submit", "--stage", stage)
        assert ledger(scene.bench).batches[-1]["estimated_usd"] == pytest.approx(dry["estimated_usd"])
        scene.run("collect")


@pytest.mark.parametrize("ask_next", ["false", "true"])
def test_the_estimate_of_later_rounds_learns_from_earlier_ones(make_bench: Make, ask_next: str) -> None:
    """After round 2 the projection of round 3 is close to what round 3 then really costs."""
    bench = make_bench()
    bench.configure(f"rounds = 3\ncorrection.ask_next = {ask_next}\n")
    bench.prepare(seeds(20))
    first = bench.run("estimate", "--json").json["steps"][0]
    assert (first["stage"], first["requests"]) == ("question", 20)  # no correction of this run comes before it
    for stage in ("question", "answer", "correction"):
        bench.run("submit", "--stage", stage)
        bench.run("collect")
    before = bench.run("estimate", "--json").json
    spent = bench.status()["cost"]["spent_usd"]
    bench.ticks()
    assert before["usd"] == pytest.approx(bench.status()["cost"]["spent_usd"] - spent, rel=0.15)


# ---------------------------------------------------------------- models


def test_the_first_served_model_is_pinned_by_a_real_call(make_bench: Make) -> None:
    """A listing proves nothing: a model that is gone is skipped before any question is paid."""
    scene = Scene.of(make_bench, 4)
    scene.bench.service.world.gone_models.add(LLAMA)
    assert "does not serve" in scene.tick().err
    assert scene.bench.status()["models"]["together"] == QWEN
    scene.finish()


def test_no_model_of_the_list_is_served(make_bench: Make) -> None:
    """Status 2 before anything is spent there, with model names and prices to set; the other provider continues."""
    scene = Scene.of(make_bench, 4, f'together.models = ["{LLAMA}"]\n')
    scene.bench.service.world.gone_models.add(LLAMA)
    result = scene.tick()
    assert result.code == 2
    assert " Qwen/Qwen3.5-9B ($0.17 in, $0.25 out)" in result.err
    assert f"{LLAMA} ($" not in result.err, "it was just refused"
    assert (scene.jobs("gemini"), scene.jobs("together")) == (1, 0)


@pytest.mark.parametrize("way", ["command", slow("named"), slow("configuration")])
def test_the_pinned_model_disappears_between_rounds(make_bench: Make, way: str) -> None:
    """The stage halts with exit status 3 after one failed job; a person switches; each turn records its model."""
    bench = make_bench()
    bench.configure(f'rounds = 3\ntogether.models = ["{LLAMA}", "{QWEN}"]\n')
    bench.prepare(seeds(5))
    while not bench.status()["steps"][2]["done"]:
        assert bench.run("collect", "--advance").code == 0
    assert bench.status()["models"]["together"] == LLAMA
    bench.service.world.gone_models.add(LLAMA)
    said = [bench.run("collect", "--advance") for _ in range(6)]
    assert [result.code for result in said[-3:]] == [3, 3, 3]
    assert "does not serve" in said[-1].err
    assert all("Choose another: batchgen switch answer " in result.err for result in said[-3:])
    jobs = len(bench.service.world.jobs_created("together"))
    assert jobs <= 2  # round 2, and at most one failed job
    assert bench.status()["steps"][4]["ready"] == 5
    if way == "configuration":
        bench.configure(f'rounds = 3\ntogether.models = ["{QWEN}"]\n')
    else:
        switched = bench.run("switch", "together", *([QWEN] if way == "named" else []))
        assert switched == (0, f"answer: {QWEN} of together from now on.\n", switched.err)
    bench.ticks()
    assert bench.status()["finished"]
    assert bench.status()["waiting"] == []
    assert bench.rows("rejected.jsonl") == []
    assert bench.run("verify").code == 0
    now = ledger(bench)
    by_number = {row["batch"]: row["model"] for row in now.batches}
    written = {place % 256: by_number[batch] for place, (batch, _) in now.texts.items() if batch}
    assert (written[4], written[7]) == (LLAMA, QWEN)
    assert {row["model"] for row in receipt(bench)["models"]} == {"gemini-2.5-flash-lite", LLAMA, QWEN}


def test_nothing_waits_for_a_model_that_was_switched_away_while_its_batch_was_in_flight(make_bench: Make) -> None:
    bench = make_bench(job_seconds=600.0)
    bench.configure(f'rounds = 2\ntogether.models = ["{LLAMA}", "{QWEN}"]\n')
    bench.prepare(seeds(5))
    while not bench.run("collect", "--advance").code and not bench.status()["steps"][1]["in_flight"]:
        bench.service.world.advance(300)
    assert bench.run("switch", "together", QWEN).code == 0
    bench.service.world.gone_models.add(LLAMA)
    bench.ticks(seconds=300)
    status = bench.status()
    assert [batch["remote_state"] for batch in status["batches"]][1] == "FAILED"
    assert status["finished"]
    assert status["waiting"] == []


def test_switch_to_what_is_not_listed_or_not_served(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 4)
    refused = scene.run("switch", "together", "some/other")
    assert refused.code == 2
    assert "Add it in batchgen.toml first" in refused.err
    scene.bench.service.world.gone_models.add(QWEN)
    assert scene.run("switch", "together", QWEN).code == 2
    assert scene.bench.status()["models"]["together"] is None
    assert scene.run("switch", "together", LLAMA).code == 0
    assert scene.bench.status()["models"]["together"] == LLAMA


def test_switch_without_another_model_says_so_of_the_list_and_not_of_the_provider(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 4, f'together.models = ["{LLAMA}"]\n')
    assert scene.run("switch", "together").code == 0
    refused = scene.run("switch", "together")
    assert refused.code == 2
    assert "The list of together has no other model." in refused.err
    assert scene.bench.status()["models"]["together"] == LLAMA


def test_a_model_that_could_not_be_asked_falls_through_when_its_job_fails(make_bench: Make) -> None:
    """If the probe is inconclusive, the failed job decides: the next model of the list is tried without a person."""
    scene = Scene.of(make_bench, 4, f'together.models = ["{LLAMA}", "{QWEN}"]\n')
    scene.bench.service.faults.add(
        CallFault(provider="together", endpoint="probe", action=Status(404, "Not found."), times=1)
    )
    scene.bench.service.world.gone_models.add(LLAMA)
    scene.finish()
    assert scene.bench.status()["models"]["together"] == QWEN
    assert scene.bench.rows("rejected.jsonl") == []


# ---------------------------------------------------------------- clean


def test_clean_deletes_finished_jobs_where_that_is_possible(make_bench: Make) -> None:
    """Gemini's collected jobs are deleted once; files, jobs in flight and Together's jobs stay; nothing is lost."""
    scene = Scene.of(make_bench, 4)
    scene.finish()
    files = scene.bench.files()
    assert scene.run("clean", "--json").json == {"deleted": 3, "jobs": 2}
    jobs = scene.bench.service.world.jobs.values()
    assert {job.provider for job in jobs if job.deleted} == {"gemini"}
    calls = len(scene.bench.service.world.requests)
    assert scene.run("clean", "--json").json == {"deleted": 0, "jobs": 0}
    assert len(scene.bench.service.world.requests) == calls
    assert scene.run("verify").code == 0
    assert scene.tick() == (0, "", "")
    assert scene.bench.files() == files


@pytest.mark.parametrize(("status", "code", "jobs"), [(404, 0, 2), (405, 0, 0), (503, 75, 0)])
def test_a_job_that_cannot_be_deleted(make_bench: Make, status: int, code: int, jobs: int) -> None:
    scene = Scene.of(make_bench, 4)
    scene.finish()
    refusal = Status(status, "Requested entity was not found." if status == 404 else "No.")
    scene.bench.service.faults.add(CallFault(provider="gemini", endpoint="delete", action=refusal, times=0))
    result = scene.run("clean", "--json")
    assert (result.code, result.json["jobs"]) == (code, jobs)
    scene.bench.service.faults.clear()
    assert scene.run("clean", "--json").json["jobs"] == 2 - jobs


def test_what_used_nothing_needs_no_price(make_bench: Make) -> None:
    """Requests that failed before any token was billed cost nothing at any price."""
    scene = Scene.of(make_bench, 4, 'together.models = ["nobody/knows-1B"]\n')
    scene.bench.service.faults.rows("error", provider="together")
    for _ in range(8):
        scene.bench.run("collect", "--advance")
        scene.bench.service.world.advance(60)
    found = receipt(scene.bench)["total"]
    assert (found["unpriced_requests"], found["at_least"]) == (0, False)
    assert scene.bench.status()["cost"]["unpriced_requests"] == 0
