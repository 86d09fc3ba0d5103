"""Run the benchmark of peak memory on processes and texts whose size is known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import peaks, throughput

BOTH = """
import subprocess, sys
mine = b"x" * 80_000_000
child = "from hashlib import sha256; held = b'x' * 120_000_000; [sha256(held) for _ in range(4)]"  # many looks long
subprocess.run([sys.executable, "-c", child], check=True)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="what several processes have is read from /proc")
@pytest.mark.slow
def test_a_peak_is_that_of_the_largest_process_and_of_all_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", peaks.WATCH, "-c", BOTH], check=True, capture_output=True, text=True
    ).stderr
    code, seconds, largest, together = map(float, done.split())
    assert code == 0
    assert seconds > 0
    assert 120_000 < largest < 160_000  # kB of the child with its interpreter
    assert 200_000 < together < 250_000


def test_a_failure_is_not_measured_as_if_it_were_none() -> None:
    done = subprocess.run(
        [sys.executable, "-c", peaks.WATCH, "-c", "raise SystemExit(3)"], check=True, capture_output=True, text=True
    )
    assert done.stderr.split()[0] == "3"


def test_texts_have_their_length_and_differ() -> None:
    texts = {peaks.longer(f"Text {number}.", peaks.LONG) for number in range(50)}
    assert len(texts) == 50
    assert all(peaks.LONG <= len(text) < peaks.LONG + 12 for text in texts)
    assert peaks.longer("Text 1.", peaks.LONG) in texts
    assert peaks.longer("x" * 500, peaks.LONG) == "x" * 500


def test_the_page_has_a_row_for_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "FIGURES", tmp_path)
    assert throughput._peaks() == []
    found = peaks.Found({"collect": peaks.Peak(1.0, 123.4, 150.6)}, ended=12)
    (tmp_path / "peaks.json").write_text(json.dumps(peaks.figures(found, 24_000)), "utf-8")
    page = throughput._peaks()
    assert page[-1] == "| collect | 123 | 151 |"
    assert "24,000 conversations in batches of 2,000; 12 batches end" in "\n".join(page)
