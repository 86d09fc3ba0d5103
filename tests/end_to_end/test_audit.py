"""`audit`: a judge of known bias judges a run; the figures are those that follow from its rule."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from batchgen.core.dialogue import FIRST_JUDGEMENT
from batchgen.emulator.backends.builtin import Prompt, Scripted, default_text
from batchgen.emulator.faults import RowFault
from tests.support.bench import SHARED, Bench, seeds
from tests.support.invariants import Watch, ledger, no_key_anywhere

Make = Callable[..., Bench]
JUDGE = "together:zai-org/GLM-5.3-Flash"
CONVERSATIONS = 6


class Judge:
    """Answers the audit by a rule, and everything else by the default script. Remembers what it was shown."""

    def __init__(self, rule: Callable[[dict[str, Any]], str]) -> None:
        self.rule, self.shown, self.systems = rule, list[dict[str, Any]](), set[str]()

    def __call__(self, prompt: Prompt) -> str:
        if "verdict" not in (prompt.schema or {}).get("properties", {}):
            return default_text(prompt)
        pair = json.loads(prompt.messages[-1].content)
        self.shown.append(pair)
        self.systems.add(prompt.messages[0].content)
        assert prompt.schema is not None
        return json.dumps(
            self.fixed(prompt.schema) | {"reason": f"Because {pair['first'][:20]}.", "verdict": self.rule(pair)}
        )

    @staticmethod
    def fixed(schema: Any) -> dict[str, str]:
        """The echo, if the schema has one."""
        parts = schema["properties"].items()
        return {name: part["enum"][0] for name, part in parts if name not in ("reason", "verdict")}


def prefers_longer(pair: dict[str, Any]) -> str:
    first, second = len(pair["first"]), len(pair["second"])
    return "tie" if first == second else "first" if first > second else "second"


def run_with(make_bench: Make, judge: Judge, toml: str = "", conversations: int = CONVERSATIONS) -> Bench:
    """A finished run of two rounds, not audited yet."""
    bench = make_bench(backend=Scripted(judge))
    bench.configure(f"rounds = 2\n{toml}")
    assert bench.prepare(seeds(conversations)).code == 0
    bench.ticks()
    return bench


def audited(bench: Bench, *options: str) -> dict[str, Any]:
    """The figures, after `audit` and as many ticks as it needs."""
    watch = Watch(bench)
    assert bench.run("audit", *options).code == 0
    record: dict[str, Any] = {}
    for _ in range(12):
        bench.service.world.advance(60)
        assert bench.run("collect", "--advance").code == 0
        watch.check()
        record = bench.run("audit", "--json").json
        if record["judged"] == record["turns"]:
            return record
    raise AssertionError(record)


def test_the_judge_sees_each_pair_in_both_orders_and_not_which_is_which(make_bench: Make) -> None:
    judge = Judge(prefers_longer)
    bench = run_with(make_bench, judge)
    record = audited(bench)
    assert (record["turns"], record["judged"], record["judge"]) == (12, 12, JUDGE)
    pairs = {(pair["question"], pair["first"], pair["second"]) for pair in judge.shown}
    assert len(judge.shown) == len(pairs) == 24
    assert all((question, second, first) in pairs for question, first, second in pairs)
    said = json.dumps([*judge.systems, *(list(pair) for pair in judge.shown)])
    assert "correct" not in said.replace("correct, complete", "")  # its criteria may say `correct`
    assert all(turn.keys() == {"user", "assistant"} for pair in judge.shown for turn in pair["dialogue"])
    assert {len(pair["dialogue"]) for pair in judge.shown} == {0, 1}


def test_a_judge_without_position_bias_gives_the_figures_of_its_rule(make_bench: Make) -> None:
    bench = run_with(make_bench, Judge(prefers_longer))
    record = audited(bench)
    turns = [(row["id"], row["round"], row) for row in bench.rows("audit.jsonl")]
    wanted = {
        (row["id"], number): prefers_longer({"first": row["answer"], "second": row["correction"]})
        for number in (1, 2)
        for row in bench.rows(f"round{number}/round{number}_single_turn.jsonl")
    }
    names = {"first": "answer", "second": "correction", "tie": "tie"}
    assert {(identity, number): row["winner"] for identity, number, row in turns} == {
        key: names[word] for key, word in wanted.items()
    }
    for one in record["rounds"]:
        mine = [word for (_, number), word in wanted.items() if number == one["round"]]
        assert one["correction"] == mine.count("second")
        assert one["win_rate"] == pytest.approx(mine.count("second") / len(mine), abs=1e-4)
        assert one["inconsistent"] == 0


def test_position_bias_shows_as_inconsistent(make_bench: Make) -> None:
    record = audited(run_with(make_bench, Judge(lambda _: "first")))
    assert record["preferred_place"] == {"first": 12, "second": 0}
    for one in record["rounds"]:
        assert (one["inconsistent"], one["win_rate"], one["inconsistent_share"]) == (6, 0.0, 1.0)


def test_a_known_share_of_bias_and_its_interval_reckoned_by_hand(make_bench: Make) -> None:
    """Corrections of seeds with an even number win; of the others the judge always names the second reply."""

    def rule(pair: dict[str, Any]) -> str:
        number = int(pair["question"].split("plant number ")[1].split()[0]) if not pair["dialogue"] else 1
        if number % 2:
            return "second"
        return "first" if pair["first"].startswith("Keep plant") else "second"

    record = audited(run_with(make_bench, Judge(rule), conversations=10))
    first = record["rounds"][0]
    assert (first["correction"], first["inconsistent"], first["judged"], first["win_rate"]) == (5, 5, 10, 0.5)
    assert first["win_rate_95"] == [0.2366, 0.7634]  # Wilson's interval for 5 of 10, from a table
    assert record["later"]["inconsistent"] == 10
    assert record["preferred_place"] == {"first": 0, "second": 15}


@pytest.mark.slow
def test_audit_json_lines_verify_and_rebuild(make_bench: Make) -> None:
    bench = run_with(make_bench, Judge(prefers_longer))
    assert bench.run("audit").code == 0
    assert bench.run("verify").code == 0  # receipt.json too, which lists the audit before anything of it is billed
    audited(bench)
    assert bench.run("verify").code == 0
    path, store = bench.root / "data" / "audit.jsonl", bench.root / "data" / "batchgen.sqlite"
    before, record = path.read_bytes(), bench.run("audit", "--json").json
    path.unlink()
    store.rename(store.with_suffix(".old"))
    assert bench.run("rebuild").code == 0
    assert path.read_bytes() == before
    assert bench.run("verify").code == 0
    jobs = len(bench.service.world.jobs)
    assert bench.run("collect", "--advance").code == 0
    assert len(bench.service.world.jobs) == jobs  # nothing is bought again
    assert bench.run("audit", "--json").json == record
    path.write_bytes(before.replace(b'"winner":"', b'"winner":"x', 1))
    done = bench.run("verify")
    assert done.code == 1
    assert "audit.jsonl:1: differs from the store" in done.out


def test_a_store_lost_in_the_middle_of_an_audit_finds_its_jobs(make_bench: Make) -> None:
    bench = run_with(make_bench, Judge(prefers_longer))
    assert bench.run("audit").code == 0
    jobs = len(bench.service.world.jobs)
    store = bench.root / "data" / "batchgen.sqlite"
    store.rename(store.with_suffix(".old"))
    assert bench.run("rebuild").code == 0
    for _ in range(6):
        bench.service.world.advance(600)
        assert bench.run("collect", "--advance").code in {0, 75}
    assert bench.run("audit", "--json").json["judged"] == 12
    assert len(bench.service.world.jobs) == jobs


def test_the_dataset_does_not_wait_for_the_audit_and_new_turns_join_it(make_bench: Make) -> None:
    judge = Judge(prefers_longer)
    bench = make_bench(backend=Scripted(judge))
    bench.configure("rounds = 2")
    assert bench.prepare(seeds(4)).code == 0
    record = bench.run("audit", "--json").json  # the seeds are there before anything is bought
    assert (record["turns"], record["submitted"]) == (4, 1)
    bench.ticks()
    status = bench.status()
    assert status["finished"]
    bench.service.world.advance(60)
    for _ in range(4):
        bench.run("collect", "--advance")
        bench.service.world.advance(60)
    record = bench.run("audit", "--json").json
    assert (record["turns"], record["judged"]) == (8, 8)
    assert bench.status()["audit"] == {"requests": 16, "ready": 0, "in_flight": 0, "done": 16, "rejected": 0}
    assert bench.status()["conversations"] == bench.status()["complete"] == 4


@pytest.mark.slow
def test_a_sample_grows_and_keeps_its_first_conversations(make_bench: Make) -> None:
    bench = run_with(make_bench, Judge(prefers_longer), conversations=9)
    small = audited(bench, "--sample", "3")
    assert small["turns"] == 6
    before = {(row["id"], row["round"]) for row in bench.rows("audit.jsonl")}
    larger = audited(bench, "--sample", "5")
    assert larger["turns"] == 10
    assert before < {(row["id"], row["round"]) for row in bench.rows("audit.jsonl")}
    assert audited(bench)["turns"] == 10
    assert audited(bench, "--sample", "2")["turns"] == 10  # paid verdicts stay


def test_a_rejected_conversation_is_replaced_in_the_rounds_that_it_lacks(make_bench: Make) -> None:
    bench = make_bench(backend=Scripted(Judge(prefers_longer)))
    bench.configure("rounds = 2\nquestion.max_rejected_share = 1.0")
    assert bench.prepare(seeds(8)).code == 0
    bench.service.faults.add(RowFault(key="r1-000003.r2.question", outcome="safety"))
    bench.ticks()
    record = audited(bench, "--sample", "7")
    assert [one["judged"] for one in record["rounds"]] == [7, 7]


def test_a_failed_verdict_is_asked_again_and_a_bad_one_is_never_counted(make_bench: Make) -> None:
    calls = {"n": 0}

    def sometimes_bad(pair: dict[str, Any]) -> str:
        calls["n"] += 1
        return "the first one, I think" if calls["n"] <= 5 else prefers_longer(pair)

    bench = run_with(make_bench, Judge(sometimes_bad))
    assert audited(bench)["judged"] == 12
    assert calls["n"] == 24 + 5
    assert bench.run("receipt", "--json").json["total"]["failed_usd"] > 0


def test_a_verdict_that_cannot_be_had_is_said_and_can_be_asked_for_again(make_bench: Make) -> None:
    bench = run_with(make_bench, Judge(prefers_longer))
    bench.service.faults.rows("safety", key=r"r1-000002\.r1\.audit1")
    bench.service.faults.rows("safety", key=r"r1-000002\.r2\.audit2")
    assert bench.run("audit").code == 0
    bench.service.world.advance(60)
    bench.run("collect", "--advance")
    record = bench.run("audit", "--json").json
    assert (record["turns"], record["judged"], record["open"], record["failed"]) == (12, 10, 0, 2)
    said = bench.run("audit").out
    assert "2 verdicts could not be had. To ask again:" in said
    assert "next ticks" not in said
    assert bench.rows("rejected.jsonl") == []
    assert bench.run("verify").code == 0
    bench.service.faults.clear()
    assert bench.run("retry", "--stage", "audit", "--json").json["conversations"] == 2
    assert audited(bench)["judged"] == 12


def test_an_earlier_judge_that_was_the_corrector_is_warned_of(make_bench: Make) -> None:
    bench = run_with(make_bench, Judge(prefers_longer))
    corrector = bench.status()["stage_models"]["correction"]
    audited(bench, "--sample", "2", "--model", f"{corrector['provider']}:{corrector['model']}")
    assert audited(bench, "--sample", "4", "--model", JUDGE)["judge_is_corrector"]


def test_verdicts_count_against_max_usd_and_stand_in_the_receipt(make_bench: Make) -> None:
    bench = run_with(make_bench, Judge(prefers_longer))
    spent = bench.status()["cost"]["spent_usd"]
    bench.configure(f"rounds = 2\nmax_usd = {spent + 1e-6}")
    done = bench.run("audit")
    assert done.code == 3
    assert "max_usd" in done.err
    bench.configure("rounds = 2")
    audited(bench)
    steps = bench.run("receipt", "--json").json["steps"]
    assert [(row["round"], row["stage"], row["accepted"]) for row in steps[-2:]] == [(1, "audit", 12), (2, "audit", 12)]
    assert all(row["usd"] > 0 for row in steps[-2:])


def test_the_corrector_as_its_own_judge_is_warned_of(make_bench: Make) -> None:
    bench = run_with(make_bench, Judge(prefers_longer))
    corrector = bench.status()["stage_models"]["correction"]
    done = bench.run("audit", "--model", f"{corrector['provider']}:{corrector['model']}")
    assert done.code == 0
    assert "prefer its own texts" in done.out
    assert audited(bench)["judge_is_corrector"]


def test_gemini_judges_with_an_echo(make_bench: Make) -> None:
    bench = run_with(make_bench, Judge(prefers_longer))
    record = audited(bench, "--model", "gemini:gemini-3.6-flash")
    assert record["models"] == ["gemini-3.6-flash"]
    assert [row["echo"] for row in ledger(bench).batches if row["position"] > 150] == [1, 1]


@pytest.mark.parametrize("name", ["nobody:model", "together", "gemini:"])
def test_a_judge_that_is_no_model_is_refused(make_bench: Make, name: str) -> None:
    bench = make_bench()
    assert bench.prepare(seeds(2)).code == 0
    done = bench.run("audit", "--model", name)
    assert done.code == 2
    assert "PROVIDER:MODEL" in done.err
    assert not [row for row in ledger(bench).conversations if row["number"] >= FIRST_JUDGEMENT]


def test_estimate_prices_the_audit(make_bench: Make) -> None:
    bench = make_bench()
    assert bench.prepare(seeds(5)).code == 0
    value = bench.run("estimate", "--json").json
    assert value["audit"]["requests"] == 2 * 3 * 5
    assert value["audit"]["usd"] > 0
    assert value["usd"] == pytest.approx(sum(step["usd"] for step in value["steps"]))
    assert "batchgen audit" in bench.run("estimate").out.replace("python cli.py --root", "batchgen")


def test_real_rows_are_judged(make_bench: Make) -> None:
    if not SHARED.is_dir():
        pytest.skip("no real rows beside this repository")
    bench = make_bench(backend=Scripted(Judge(prefers_longer)))
    bench.configure("rounds = 2")
    source = SHARED / "aligner20k" / "train.sample200.jsonl.xz"
    assert bench.run("prepare", "--input", str(source), "--limit", "30").code == 0
    record = bench.run("audit", "--json").json
    bench.service.world.advance(600)
    bench.run("collect")
    record = bench.run("audit", "--json").json
    rows = bench.rows("round1/round1_single_turn.jsonl")
    longer = sum(len(row["correction"]) > len(row["answer"]) for row in rows)
    assert record["rounds"][0]["correction"] == longer
    no_key_anywhere(bench, [])
