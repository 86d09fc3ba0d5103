"""Test that `verify` names every file that was changed, lost or added, and changes nothing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batchgen.ledger.connection import PAGE_BYTES
from tests.support.invariants import ROUNDS

if TYPE_CHECKING:
    from tests.support.bench import Bench
    from tests.support.scene import Make

HISTORY = "data/round2/round2_history.jsonl"
SINGLE = "data/round2/round2_single_turn.jsonl"


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def edit(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(change(lines(path))))


def one(root: Path, pattern: str) -> Path:
    return min(root.glob(pattern))


def swapped_ids(rows: list[bytes]) -> list[bytes]:
    first, second = (json.loads(row) for row in rows[:2])
    first["id"], second["id"] = second["id"], first["id"]
    return [
        json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for row in (first, second)
    ] + rows[2:]


def without_a_round(rows: list[bytes]) -> list[bytes]:
    row = json.loads(rows[0])
    row["rounds"].pop()
    return [json.dumps(row).encode() + b"\n", *rows[1:]]


def with_a_field(rows: list[bytes]) -> list[bytes]:
    return [rows[0].replace(b'"answer"', b'"ansver"', 1), *rows[1:]]


def replaced(old: bytes, new: bytes) -> Callable[[list[bytes]], list[bytes]]:
    return lambda rows: [rows[0].replace(old, new, 1), *rows[1:]]


ANSWERS = "results/round2/answer/*.jsonl"
# (change, file, message that must be printed)
TAMPERED: list[tuple[str, Callable[[list[bytes]], list[bytes]] | None, str]] = [
    (HISTORY, replaced(b"plant", b"plants"), "round2_history.jsonl:1: differs from"),
    (HISTORY, lambda rows: rows[:-1], "round2_history.jsonl:4: a line is missing"),
    (HISTORY, lambda rows: [*rows, rows[-1]], "round2_history.jsonl:5: this line should not exist"),
    (HISTORY, lambda rows: [rows[1], rows[0], *rows[2:]], "round2_history.jsonl:1: differs from"),
    (HISTORY, swapped_ids, "round2_history.jsonl:2: differs from the store"),
    (HISTORY, without_a_round, "round2_history.jsonl:1: 1 rounds instead of 2"),
    (HISTORY, with_a_field, "round2_history.jsonl:1: "),
    (HISTORY, lambda rows: [rows[0][:40] + b"\n", *rows[1:]], "round2_history.jsonl:1: not JSON"),
    (HISTORY, lambda rows: [b"[]\n", *rows[1:]], "round2_history.jsonl:1: "),
    (HISTORY, None, "round2_history.jsonl: No such file"),
    (
        SINGLE,
        lambda rows: [rows[0].replace(b"is about", b"was about", 1), *rows[1:]],
        "round2_single_turn.jsonl:1: differs",
    ),
    ("data/round1/round1_history_seed.jsonl", lambda rows: rows[1:], "round1_history_seed.jsonl:1: differs from"),
    ("data/rejected.jsonl", lambda _: [b'{"id":"r1-000001"}\n'], "rejected.jsonl:1: this line should not exist"),
    ("data/rejected.jsonl", None, "rejected.jsonl: No such file"),
    (
        "results/round2/answer/*.jsonl",
        lambda rows: [row.replace(b"Point", b"Pint") for row in rows],
        "r1-000001 round 2",
    ),
    (ANSWERS, lambda rows: rows[1:], "its text is not in any line 'r1-00000"),
    (
        "results/round2/answer/*.jsonl",
        lambda rows: [row.replace(b"r1-", b"r2-") for row in rows],
        "r1-000004 round 2 answer",
    ),
    ("results/round2/question/*.jsonl", None, "the result file of 4 texts is missing"),
    (
        "requests/round2/question/*.jsonl",
        lambda rows: [*rows[:-1], rows[-1] + b" "],
        "differs from the file that was sent",
    ),
    ("requests/round2/correction/*.jsonl", None, "the request file is missing"),
    ("results/round2/question/*.ending.json", None, "the ending of the batch is missing"),
    ("requests/run.json", None, "rebuild needs run.json"),
    ("requests/run.json", lambda _: [b'{"run":"00000000"}'], "rebuild needs run.json"),
    ("requests/seeds.jsonl.zst", None, "rebuild needs run.json"),
]


@pytest.fixture(scope="module")
def copies() -> dict[str, bytes]:
    """The files of one finished run, for all tests of this module in this process."""
    return {}


def finished_run(make_bench: Make, copies: dict[str, bytes]) -> Bench:
    from tests.support.bench import seeds

    bench = make_bench()
    bench.configure(ROUNDS)
    if not copies:
        bench.prepare(seeds(4))
        bench.ticks()
        copies.update(
            {str(path.relative_to(bench.root)): path.read_bytes() for path in bench.root.rglob("*") if path.is_file()}
        )
    for name, data in copies.items():
        (bench.root / name).parent.mkdir(parents=True, exist_ok=True)
        (bench.root / name).write_bytes(data)
    return bench


@pytest.mark.slow
def test_whatever_was_tampered_with_is_named(make_bench: Make, copies: dict[str, bytes]) -> None:
    bench = finished_run(make_bench, copies)
    assert bench.run("verify").out == f"{bench.root / 'data'}: no problems found.\n"
    for pattern, change, words in TAMPERED:
        path = one(bench.root, pattern)
        before = path.read_bytes()
        if change is None:
            path.unlink()
        else:
            edit(path, change)
        result = bench.run("verify")
        assert result.code == 1, (pattern, words)
        assert words in result.out
        assert result.err == ""
        assert words in "\n".join(bench.run("verify", "--json").json["problems"])
        path.write_bytes(before)
        assert bench.run("verify").code == 0


def test_a_text_changed_in_the_store_is_in_no_result_line(make_bench: Make, copies: dict[str, bytes]) -> None:
    bench = finished_run(make_bench, copies)
    with closing(sqlite3.connect(bench.root / "data" / "batchgen.sqlite")) as database:
        database.execute("UPDATE texts SET text = 'Something else.' WHERE text_id = 2 * 256 + 4")
        database.commit()
    problems = bench.run("verify", "--json").json["problems"]
    assert any(problem.startswith("r1-000002 round 2 answer: its text is not in any line") for problem in problems)
    assert any("round2_history.jsonl:2: differs from the store" in problem for problem in problems)


def test_a_store_with_a_page_overwritten_is_named(make_bench: Make, copies: dict[str, bytes]) -> None:
    """Every page of this small store is used, but a check of the dataset alone does not read all of them."""
    bench = finished_run(make_bench, copies)
    path = bench.root / "data" / "batchgen.sqlite"
    whole = path.read_bytes()
    for page in range(1, len(whole) // PAGE_BYTES, 3):
        at = page * PAGE_BYTES
        path.write_bytes(whole[:at] + b"x" * PAGE_BYTES + whole[at + PAGE_BYTES :])
        result = bench.run("verify")
        assert result.code in {1, 3}, page
        assert "batchgen rebuild" in result.out + result.err
    path.write_bytes(whole)
    assert bench.run("verify").code == 0


def test_an_unfinished_run_is_named(make_bench: Make, copies: dict[str, bytes]) -> None:
    from tests.support.bench import seeds

    bench = make_bench(job_seconds=100.0)
    assert bench.run("verify").code == 2
    bench.configure(ROUNDS)
    bench.prepare(seeds(3))
    result = bench.run("verify")
    assert (result.code, result.out) == (
        1,
        "not finished: 3 conversations ready or in flight, 0 batches in flight\n",
    )
    bench.run("collect", "--advance")
    assert "3 conversations ready or in flight, 1 batch in flight" in bench.run("verify").out


def test_a_run_with_a_hundred_flaws_is_told_in_a_hundred_lines(make_bench: Make) -> None:
    from tests.support.bench import seeds

    bench = make_bench()
    bench.configure(ROUNDS)
    bench.prepare(seeds(150))
    bench.ticks()
    edit(bench.root / HISTORY, lambda rows: [row.replace(b"plant", b"plants", 1) for row in rows])
    problems = bench.run("verify", "--json").json["problems"]
    assert len(problems) == 101
    assert problems[-1] == "... and perhaps more"


def test_a_derived_file_comes_back_when_it_is_deleted(make_bench: Make, copies: dict[str, bytes]) -> None:
    """Round files are derived: after any damage they can be written again from the store."""
    bench = finished_run(make_bench, copies)
    for name in (HISTORY, SINGLE, "data/rejected.jsonl"):
        (bench.root / name).unlink()
    bench.run("collect")
    result = bench.run("verify")
    assert result.code == 0, result
