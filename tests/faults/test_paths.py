"""Paths that few programs expect: names that are not UTF-8, `~`, loops of links, a folder for a file (faults H 37)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from tests.support.bench import REPOSITORY, Bench, Result, seeds
from tests.support.invariants import ROUNDS, Make, undisturbed

GBK = os.fsdecode("种子".encode("gbk"))  # as unzip leaves the names in an archive made on Windows in China
COUNT = 2


@pytest.fixture
def expected(make_bench: Make) -> dict[str, bytes]:
    return undisturbed(make_bench, COUNT)


def spawned(*arguments: str, cwd: Path = REPOSITORY, **variables: str) -> Result:
    """A command in a process of its own, in a UTF-8 locale: its output is read as bytes."""
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "cli.py"), *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "PYTHONUTF8": "1", **variables},
        cwd=cwd,
        capture_output=True,
        check=False,
        timeout=60,
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


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
def test_37_an_input_whose_name_is_not_utf8(suffix: str, tmp_path: Path) -> None:
    source = seed_file(tmp_path / f"{GBK}{suffix}")
    command = ["--root", str(tmp_path / "run"), "prepare", "--input", str(source), "--all"]
    done = spawned(*command)
    assert (done.code, done.err) == (0, "")
    assert f"2 conversations prepared from {tmp_path}/\\udcd6\\udcd6" in done.out
    again = spawned(*command, "--json")
    assert (again.code, again.json["source"]) == (0, str(source))
    facts = json.loads((tmp_path / "run" / "requests" / "run.json").read_text("utf-8"))
    assert facts["source"].endswith(f"\\xd6\\xd6\\xd7\\xd3{suffix}")


def test_37_a_root_whose_name_is_not_utf8(expected: dict[str, bytes], make_bench: Make) -> None:
    bench = make_bench(root=GBK)
    bench.configure(ROUNDS)
    assert bench.prepare(seeds(COUNT)).code == 0
    bench.ticks()
    assert bench.files() == expected
    for command in (["status"], ["verify"], ["report"], ["rebuild"]):
        if command == ["rebuild"]:
            (bench.root / "data" / "batchgen.sqlite").unlink()
        done = spawned("--root", str(bench.root), *command)
        assert (done.code, "Traceback" in done.err) == (0, False), done


def test_an_export_whose_name_is_a_pattern_is_verified(finished: Bench, tmp_path: Path) -> None:
    output = tmp_path / "set[1].parquet"
    assert finished.run("export", "--format", "parquet", "--output", str(output)).code == 0
    assert finished.run("verify").code == 0


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ""])
def test_37_an_export_whose_name_is_not_utf8_is_verified(suffix: str, finished: Bench, tmp_path: Path) -> None:
    output = tmp_path / f"{GBK}{suffix}"
    root = ("--root", str(finished.root))
    done = spawned(*root, "export", "--format", "messages", "--output", str(output), "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json["output"] == str(output)
    assert spawned(*root, "verify").code == 0
    written = output if suffix else output / "train.jsonl"
    written.write_bytes(b"{}\n")
    found = spawned(*root, "verify")
    assert (found.code, "\\udcd6" in found.out) == (1, True)


def test_37_a_report_and_settings_whose_names_are_not_utf8(finished: Bench, tmp_path: Path) -> None:
    config = tmp_path / f"{GBK}.toml"
    config.write_text("rounds = 3\n", "utf-8")
    page = tmp_path / f"{GBK}.html"
    done = spawned("--root", str(finished.root), "--config", str(config), "report", "--output", str(page))
    assert (done.code, done.err, page.exists()) == (0, "", True)
