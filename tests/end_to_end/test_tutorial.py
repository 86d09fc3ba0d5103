"""Run the commands and the Python of the tutorial, and compare the output with the page."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
from pathlib import Path

import pytest

from batchgen.cli.main import main
from tests.support.bench import REPOSITORY, Bench

PAGE = (REPOSITORY / "docs" / "tutorial.md").read_text("utf-8")
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def shell(line: str, capture: pytest.CaptureFixture[str]) -> str:
    """Run one command of the page in this process. `serve` is running already and the variables are set."""
    words = shlex.split(line)
    if words[:2] != ["python", "cli.py"] or "serve" in words:
        assert words[0] in {".", "export", "python"}, line
        return ""
    main(words[2:])  # a status other than 0 raises
    return capture.readouterr().out


def python(code: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        exec(compile(code, "tutorial.md", "exec"), {})  # noqa: S102 - our own page
    return said.getvalue()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.slow
def test_the_tutorial(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import datasets  # imported here, because it takes a second to load

    (tmp_path / "batchgen").mkdir()
    shutil.copy(REPOSITORY / "batchgen" / "examples.jsonl", tmp_path / "batchgen" / "examples.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert bench.service.gemini_url
    said, compared = "", 0
    for kind, text in BLOCK.findall(PAGE):
        if kind == "sh":
            said = "".join(shell(line, capsys) for line in text.splitlines())
        elif kind == "python":
            said = python(text)
        else:
            assert text == said
            compared += 1
    assert compared == 3
    assert (tmp_path / "tutorial" / "data" / "round3" / "round3_history.jsonl").read_bytes().count(b"\n") == 36
