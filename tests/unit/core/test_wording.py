"""Test how numbers, amounts and times are written for people, at any size."""

from __future__ import annotations

import re
from itertools import permutations
from typing import Any

import pytest

from batchgen.core.dialogue import Step, steps
from batchgen.core.wording import pluralize
from batchgen.ledger.receipt import round_usd
from batchgen.reports import estimate
from batchgen.reports.estimate import StepEstimate
from batchgen.reports.status_text import headline, receipt_text, status_text
from batchgen.runtime.settings import Settings
from tests.support.bench import Bench, seeds
from tests.support.fork_server import Forks

TERMINAL = 80  # columns
MILLION = 1_000_000


@pytest.mark.parametrize(
    ("number", "noun", "words"),
    [
        (0, "request", "0 requests"),
        (1, "batch", "1 batch"),
        (2, "batch", "2 batches"),
        (MILLION, "conversation", "1,000,000 conversations"),
    ],
)
def test_counted(number: int, noun: str, words: str) -> None:
    assert pluralize(number, noun) == words


def answer(total: int, complete: int, rejected: int) -> dict[str, Any]:
    step = {"ready": total, "in_flight": total, "done": total, "rejected": rejected}
    return {
        "conversations": total,
        "complete": complete,
        "rejected": rejected,
        "rounds": 3,
        "finished": False,
        "steps": [{"round": one.round, "stage": str(one.stage), **step} for one in steps(3)],
        "batches": [],
        "waiting": [],
        "stage_models": {},
        "audit": None,
        "cost": {"spent_usd": 0.0, "reserved_usd": 0.0, "estimated_usd": 1234.5, "unpriced_requests": 0},
    }


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((1, 0, 1), "0 of 1 conversation has 3 rounds, 1 was rejected."),
        ((8, 6, 2), "6 of 8 conversations have 3 rounds, 2 were rejected."),
        ((MILLION, 999_000, 1_000), "999,000 of 1,000,000 conversations have 3 rounds, 1,000 were rejected."),
    ],
)
def test_where_a_run_is(counts: tuple[int, int, int], words: str) -> None:
    assert headline(answer(*counts)) == words


def test_a_status_of_a_million_keeps_its_columns_apart() -> None:
    text = status_text(answer(MILLION, 0, 10_000))
    rows = [line for line in text.split("\n") if line.startswith("round ")]
    assert [line.split()[3:] for line in rows] == [["1,000,000"] * 3 + ["10,000"]] * 6
    assert max(map(len, rows)) <= TERMINAL
    assert "$1,234.5000" in text


def test_an_estimate_of_a_million_keeps_its_columns_apart(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench.prepare(seeds(1)).code == 0
    model = Settings().gemini.models[0]

    def found(_: object) -> list[StepEstimate]:
        return [
            StepEstimate(step, "gemini", model, MILLION, 500, 671_730_000, 124_000_000, 58.3865, 116.773)
            for step in steps(3)
        ]

    monkeypatch.setattr(estimate, "estimate", found)
    lines = bench.run("estimate").out.split("\n")
    row = ["1,000,000", "500", "671,730,000", "124,000,000", "58.3865", "116.77"]
    assert [line.split()[3:] for line in lines[1:7]] == [row] * 6
    assert lines[7].split()[-2:] == ["350.32", "700.64"]
    assert max(map(len, lines[:8])) <= TERMINAL


def bill(usd: float, **more: Any) -> dict[str, Any]:
    tokens = {"input_tokens": 2_316_835_000, "cached_tokens": 0, "output_tokens": 442_750_000, "thought_tokens": 0}
    sums = {"estimated_usd": usd, "usd": usd, "failed_usd": 0.0, "superseded_usd": 0.0, "at_least": False}
    return {**sums, **tokens, **more}


def paid(**more: Any) -> list[str]:
    rows = [
        {"round": step.round, "stage": str(step.stage), "models": [], **bill(31.5, **more)}
        for step in (Step.at(3), Step.at(8))
    ]
    return receipt_text({"steps": rows, "models": [], "total": bill(1183.25, **more)}).split("\n")


def test_a_receipt_leaves_out_what_nothing_stands_in() -> None:
    lines = paid()
    assert re.split("  +", lines[0]) == ["step", "estimated $", "paid $", "tokens in", "tokens out"]
    assert lines[3].split() == ["all", "1,183.2500", "1,183.2500", "2,316,835,000", "442,750,000"]
    assert max(map(len, lines)) <= TERMINAL
    lines = paid(superseded_usd=0.5, thought_tokens=7)
    assert re.split("  +", lines[0]) == [
        "step",
        "estimated $",
        "paid $",
        "late $",
        "tokens in",
        "tokens out",
        "thoughts",
    ]
    assert lines[2].split()[3:] == ["31.5000", "31.5000", "0.5000", "2,316,835,000", "442,750,000", "7"]


def test_log_lines_name_the_zone_of_their_times(bench: Bench, forks: Forks) -> None:
    bench.prepare(seeds(1))
    here = {**bench.environment, "TZ": "Asia/Shanghai"}
    said = forks.command("--root", str(bench.root), "-v", "collect", "--advance", variables=here).err
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0800 INFO ", said)


def test_the_order_of_a_sum_does_not_decide_its_rounding() -> None:
    orders = list(permutations([4.485e-05, 9.62e-05, 5.08e-05, 5.665e-05]))  # the sum ends in half a millionth
    assert len({round(sum(terms), 6) for terms in orders}) == 2
    assert len({round_usd(sum(terms)) for terms in orders}) == 1
    assert round_usd(1 / 3) == 0.333333
