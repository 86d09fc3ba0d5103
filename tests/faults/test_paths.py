"""Test unusual paths (37): names that are not UTF-8, `~`, links in a circle, a folder where a file should be."""

from __future__ import annotations

import json
import os
from pathlib import Path

import polars as pl
import pytest

from tests.support.bench import Bench, Result, seeds
from tests.support.fork_server import Forks
from tests.support.invariants import ROUNDS, Make, undisturbed

GBK = os.fsdecode("种子".encode("gbk"))  # file names as unzip writes them from an archive made on a Chinese Windows
COUNT = 2


@pytest.fixture
def expected(make_bench: Make) -> dict[str, bytes]:
    return undisturbed(make_bench, COUNT)


def seed_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        with path.open("wb") as stream:
            pl.DataFrame(seeds(COUNT)).write_parquet(stream)
    else:
        path.write_text("".join(json.dumps(seed) + "\n" for seed in seeds(COUNT)), "utf-8")
    return path


# ---------------------------------------------------------------- names that are not UTF-8


@pytest.mark.fault(
    37,
    "a path that is not UTF-8 (an archive from a Windows machine in China)",
    injected="`--input`, `--root` and `--output` named in GBK",
    seen="all of them work; such a name is printed with its bytes escaped (`\\udcd6`), which JSON reads back",
)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_37_an_input_whose_name_is_not_utf8(suffix: str, tmp_path: Path, forks: Forks) -> None:
    source = seed_file(tmp_path / f"{GBK}{suffix}")
    command = ["--root", str(tmp_path / "run"), "prepare", "--input", str(source), "--all"]
    done = forks.command(*command)
    assert (done.code, done.err.count("\n")) == (0, 3)  # the preview
    assert f"2 conversations prepared from {tmp_path}/\\udcd6\\udcd6" in done.out
    again = forks.command(*command, "--json")
    assert (again.code, again.json["source"]) == (0, str(source))
    facts = json.loads((tmp_path / "run" / "requests" / "run.json").read_text("utf-8"))
    assert facts["source"].endswith(f"\\xd6\\xd6\\xd7\\xd3{suffix}")


def test_37_a_root_whose_name_is_not_utf8(
    expected: dict[str, bytes], make_bench: Make, tmp_path: Path, forks: Forks
) -> None:
    """Nor those of the settings and the report."""
    bench = make_bench(root=GBK)
    bench.configure(ROUNDS)
    assert bench.prepare(seeds(COUNT)).code == 0
    bench.ticks()
    assert bench.files() == expected
    config, page = tmp_path / f"{GBK}.toml", tmp_path / f"{GBK}.html"
    config.write_text(ROUNDS, "utf-8")
    for command in (["status"], ["verify"], ["--config", str(config), "report", "--output", str(page)], ["rebuild"]):
        if command == ["rebuild"]:
            (bench.root / "data" / "batchgen.sqlite").unlink()
        done = forks.command("--root", str(bench.root), *command)
        assert (done.code, "Traceback" in done.err) == (0, False), done
    assert page.exists()


def test_an_export_whose_name_is_a_pattern_is_verified(finished: Bench, tmp_path: Path) -> None:
    output = tmp_path / "set[1].parquet"
    assert finished.run("export", "--format", "parquet", "--output", str(output)).code == 0
    assert finished.run("verify").code == 0


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ""])
def test_37_an_export_whose_name_is_not_utf8_is_verified(
    suffix: str, finished: Bench, tmp_path: Path, forks: Forks
) -> None:
    output = tmp_path / f"{GBK}{suffix}"
    root = ("--root", str(finished.root))
    done = forks.command(*root, "export", "--format", "messages", "--output", str(output), "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json["output"] == str(output)
    assert forks.command(*root, "verify").code == 0
    written = output if suffix else output / "train.jsonl"
    written.write_bytes(b"{}\n")
    found = forks.command(*root, "verify")
    assert (found.code, "\\udcd6" in found.out) == (1, True)


# ---------------------------------------------------------------- the home folder


def test_a_tilde_is_the_home_folder(tmp_path: Path, forks: Forks) -> None:
    """Also where no shell expands it: after an equals sign, in quotes, in a variable of a crontab."""
    home = tmp_path / "home"
    seed_file(home / "mine.jsonl")
    (home / "my.toml").write_text("rounds = 2\n", "utf-8")
    command = ["prepare", "--input", "~/mine.jsonl", "--all"]
    for line, variables in (
        (["--root=~/run", "--config=~/my.toml", *command], {}),
        (command, {"BATCHGEN_ROOT": "~/run"}),
        (["--root", "~/run", "report", "--output=~/page.html"], {}),
    ):
        assert forks.command(*line, folder=tmp_path, variables={"HOME": str(home), **variables}).code == 0
    assert (home / "run" / "data" / "batchgen.sqlite").exists()
    assert (home / "page.html").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("option", ["--root", "--config", "--input", "--output"])
def test_a_home_folder_that_nobody_has(
    option: str, finished: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = with_path(finished, option, "~no-such-user/x.html")
    assert (done.code, done.out) == (2, "")
    assert "~no-such-user/x.html" in done.err
    assert "write ./~" in done.err


def test_a_file_whose_name_begins_with_a_tilde(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seed_file(tmp_path / "~mine.jsonl")
    assert bench.run("prepare", "--input", "~mine.jsonl").code == 0


def with_path(bench: Bench, option: str, path: str) -> Result:
    """A command line with `path` as the value of `option`."""
    if option == "--input":
        return bench.run("prepare", option, path)
    return bench.run(
        *([option, path] if option in {"--root", "--config"} else []),
        "report",
        *([option, path] if option == "--output" else []),
    )


# ---------------------------------------------------------------- loops of links, folders, nothing at all


@pytest.mark.fault(
    37,
    "a loop of symbolic links",
    injected="`--root`, `--config`, `--input`, `--output`, or `data` in the root, a link to itself",
    seen="status 2, one line with the path; nothing is written",
)
@pytest.mark.parametrize("option", ["--root", "--config", "--input", "--output"])
@pytest.mark.parametrize("below", ["", "/x.html"])
def test_37_a_loop_of_links(option: str, below: str, finished: Bench, tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    done = with_path(finished, option, f"{loop}{below}")
    assert (done.code, done.out) == (2, "")
    assert f"{loop}{below}" in done.err
    assert "symbolic links" in done.err


@pytest.mark.parametrize("command", ["status", "receipt", "verify", "report", "estimate", "collect"])
@pytest.mark.parametrize("name", ["data", "data/batchgen.sqlite"])
def test_37_a_loop_of_links_in_a_root(command: str, name: str, finished: Bench) -> None:
    loop = finished.root / name
    loop.rename(finished.root / "before")
    loop.symlink_to(loop)
    done = finished.run(command)
    assert (done.code, done.out, "symbolic links" in done.err) == (2, "", True), done


@pytest.mark.parametrize("command", ["status", "receipt", "verify", "estimate", "collect"])
def test_a_root_that_is_a_file_and_a_store_that_is_a_folder(command: str, bench: Bench) -> None:
    bench.root.touch()
    done = bench.run(command)
    assert (done.code, done.out, "Not a directory" in done.err) == (2, "", True), done
    bench.root.unlink()
    (bench.root / "data" / "batchgen.sqlite").mkdir(parents=True)
    done = bench.run(command)
    assert (done.code, done.out, "Is a directory" in done.err) == (2, "", True), done


def test_a_loop_of_links_is_no_place_for_an_export(finished: Bench, tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    done = finished.run("export", "--format", "messages", "--output", str(loop / "set.jsonl"))
    assert (done.code, "symbolic links" in done.err) == (2, True)


@pytest.mark.parametrize("option", ["--root", "--config", "--input", "--output"])
def test_an_empty_path_is_a_variable_that_was_not_set(option: str, finished: Bench) -> None:
    done = with_path(finished, option, "")
    assert (done.code, done.out, "empty" in done.err) == (2, "", True), done


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["train.jsonl.xz", "README.md"], "Name the file: --input '{}/my seeds/train.jsonl.xz'"),
        (["train.csv", "test.csv"], "Name the file: --input '{}/my seeds/train.csv'"),
        (["seeds.json", "notes.txt"], "Name the file: --input '{}/my seeds/seeds.json'"),
        (["train-1.parquet", "train-2.parquet"], "Name one of its files: train-1.parquet, train-2.parquet."),
        (["README.md"], "Use .jsonl, .json or .csv"),
    ],
)
def test_a_folder_as_input_says_which_file_to_name(names: list[str], words: str, bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "my seeds"
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    done = bench.run("prepare", "--input", str(folder))
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 2), done
    assert words.format(tmp_path) in done.err
    assert not bench.root.exists() or not (bench.root / "data" / "batchgen.sqlite").exists()
