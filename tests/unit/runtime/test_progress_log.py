"""Test the log lines of long work, and that the commands that read everything have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchgen.runtime import progress_log
from batchgen.runtime.logging_setup import configure
from batchgen.runtime.progress_log import log_progress
from tests.support.slow import slow

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.bench import Bench


def test_lines_are_logged_at_intervals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    moments = iter([0.0, 4.0, 11.0, 12.0, 19.0, 23.0, 24.0])
    monkeypatch.setattr(progress_log, "monotonic", lambda: next(moments))
    configure(verbose=False, quiet=False)
    assert list(log_progress(["ab", "cde", "f", "gh"], "of 8 letters read", len)) == ["ab", "cde", "f", "gh"]
    assert capsys.readouterr().err.splitlines() == ["5 of 8 letters read", "8 of 8 letters read"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["verify"], "lines of round3_history.jsonl checked"),
        slow(["report"], "conversations measured"),
        slow(["export", "--format", "aligner", "--output", "{}/aligner.jsonl"], "conversations written"),
    ],
)
def test_long_commands_say_how_far_they_are(
    command: list[str], said: str, finished: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = [word.format(tmp_path) for word in command]
    assert said not in finished.run(*words).err
    monkeypatch.setattr(progress_log, "PROGRESS_SECONDS", 0.0)
    assert said in finished.run(*words).err
    assert said not in finished.run("-q", *words).err
