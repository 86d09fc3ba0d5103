"""Test wrong options and arguments: status 2, and no file or call is made."""

from __future__ import annotations

import pytest

from tests.support.bench import Bench, seeds


def test_every_row_and_some_rows_is_a_contradiction(bench: Bench) -> None:
    source = bench.root.with_name("seeds.jsonl")
    for arguments in (["--limit", "5", "--all"], ["--all", "--limit", "200"]):
        result = bench.run("prepare", "--input", str(source), *arguments)
        assert (result.code, result.out) == (2, "")
        assert "leave one of them out" in result.err
        assert not bench.root.exists()


@pytest.mark.parametrize("command", [["retry"], ["submit", "--stage", "question"]], ids=lambda words: words[0])
def test_a_round_that_the_run_has_not(bench: Bench, command: list[str]) -> None:
    assert bench.prepare(seeds(2)).code == 0
    before = bench.status()
    result = bench.run(*command, "--round", "4")
    assert (result.code, result.out) == (2, "")
    assert "--round 4: this run has 3 rounds" in result.err
    assert bench.status() == before
    assert bench.run(*command, "--round", "3").code == 0


@pytest.mark.parametrize("what", ["no such file", "no usable row"])
def test_a_prepare_that_fails_leaves_no_store(bench: Bench, what: str) -> None:
    bench.root.mkdir()
    source = bench.root / "mine.jsonl"
    if what == "no usable row":
        source.write_text("{}\n")
    result = bench.run("prepare", "--input", str(source))
    assert result.code == 2
    assert what in result.err
    assert not (bench.root / "data" / "batchgen.sqlite").exists()
    assert bench.prepare(seeds(2)).code == 0
    assert bench.run("prepare", "--input", str(source)).code == 2
    assert bench.status()["conversations"] == 2  # an existing store is kept


@pytest.mark.parametrize("option", ["--root PATH", "--config PATH", "-q", "--verbose"])
def test_an_option_behind_the_command_is_told_its_place(bench: Bench, option: str) -> None:
    result = bench.run("retry", *option.split())
    assert (result.code, result.out) == (2, "")
    assert f"Write it before the command: batchgen {option} retry" in result.err
    assert "before the command" not in bench.run("retry", "--rout").err


@pytest.mark.parametrize(
    "arguments", [["rehearse", "--max-usd"], ["serve", "--job-seconds"]], ids=lambda words: words[0]
)
def test_nan_is_no_number(bench: Bench, arguments: list[str]) -> None:
    """A limit that is NaN would allow everything."""
    result = bench.run(*arguments, "nan")
    assert result.code == 2
    assert "nan is not a number" in result.err
    assert not bench.root.exists()
