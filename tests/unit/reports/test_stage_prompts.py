"""Test the command `prompts`, and run the examples of docs/prompts.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchgen.runtime.files import Layout, exclusive_lock
from tests.support.bench import REPOSITORY, Bench, seeds
from tests.support.scene import Make

PAGE = REPOSITORY / "docs" / "prompts.md"
FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def examples() -> Iterator[tuple[str, dict[str, str], str]]:
    """Yield (title, files, command and its output) of the examples of the page."""
    for section in PAGE.read_text("utf-8").split("\n## ")[1:]:
        blocks = FENCE.findall(section)
        files = {name or "batchgen.toml": text for kind, name, text in blocks if kind in ("toml", "text")}
        (shown,) = [text for kind, _, text in blocks if kind == "console"]
        yield section.split("\n")[0], files, shown


@pytest.mark.parametrize(("files", "shown"), [pytest.param(*rest, id=title) for title, *rest in examples()])
def test_the_examples_of_the_page(files: dict[str, str], shown: str, bench: Bench) -> None:
    bench.root.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (bench.root / name).write_text(text, "utf-8")
    command, _, output = shown.partition("\n")
    result = bench.run(*command.split()[2:])
    assert (result.code, result.err) == (0, "")
    assert result.out == output


def test_there_are_three_examples() -> None:
    assert len(list(examples())) == 3


def everything_in(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_without_a_run_an_example_is_shown_and_nothing_is_written(bench: Bench) -> None:
    bench.root.mkdir(parents=True, exist_ok=True)
    before = everything_in(bench.root)
    shown = bench.run("prompts", "--json").json
    assert shown["id"] == "example"
    assert [one["stage"] for one in shown["prompts"]] == ["question", "answer", "correction"]
    assert everything_in(bench.root) == before
    assert bench.run("prompts", "--id", "r1-000001").code == 2


def test_the_prompts_are_those_of_the_requests(make_bench: Make) -> None:
    """The question that `prompts` shows is the one in the request file, also beside a command with the lock."""
    bench = make_bench()
    bench.configure('[question]\ninstructions = "Ask {length} {like} this."\ntarget_characters = 70\n')
    assert bench.prepare(seeds(3)).code == 0
    before = everything_in(bench.root)
    with exclusive_lock(Layout(bench.root)):
        (shown,) = bench.run("prompts", "--id", "r1-000002", "--stage", "question", "--json").json["prompts"]
    assert {name: text for name, text in everything_in(bench.root).items() if name in before} == before
    assert shown["own_instructions"] is True
    assert shown["system"].endswith("Ask 70 {like} this.")
    assert shown["built_in_instructions"].startswith("Write the user's next message")
    assert bench.run("submit", "--stage", "question").code == 0
    (sent,) = (bench.root / "requests" / "round2" / "question").glob("*.jsonl")
    line = sent.read_text("utf-8").split("\n")[1]
    assert "Ask 70 {like} this." in line
    for message in shown["messages"]:
        assert message["text"].replace("\\", "\\\\").replace('"', '\\"') in line


def test_the_round_that_is_written_next_is_shown(bench: Bench) -> None:
    assert bench.prepare(seeds(3)).code == 0
    assert [one["round"] for one in bench.run("prompts", "--json").json["prompts"]] == [2, 2, 2]
    bench.ticks()
    shown = bench.run("prompts", "--json").json["prompts"]
    assert [one["round"] for one in shown] == [3, 3, 3]
    assert "[QUESTION]" not in str(shown)


def test_a_lost_store_is_no_reason_for_an_example(bench: Bench) -> None:
    assert bench.prepare(seeds(3)).code == 0
    assert bench.run("submit", "--stage", "question").code == 0
    (bench.root / "data" / "batchgen.sqlite").unlink()
    result = bench.run("prompts")
    assert (result.code, result.out) == (3, "")
    assert "rebuild" in result.err


@pytest.mark.parametrize("wanted", ["r1-000004", "r1-0", "r1-x", "", "-1", "9" * 5000])
def test_an_id_that_the_run_does_not_have(wanted: str, bench: Bench) -> None:
    assert bench.prepare(seeds(3)).code == 0
    result = bench.run("prompts", f"--id={wanted}")
    assert result.code == 2
    assert "r1-000001 to r1-000003" in result.err
