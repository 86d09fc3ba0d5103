"""Test each measure that keeps the memory of a command small. `make bench-peaks` measures whole commands."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import sys
import tracemalloc
from pathlib import Path
from random import Random

import polars as pl
import pytest

from batchgen.cli.main import main
from batchgen.core.dialogue import STAGES, Step, Turn, conversation_id, request_key
from batchgen.core.outcomes import Reason, Reply
from batchgen.dataset.export import ROW_GROUP
from batchgen.engine.recovery.request_reader import LastRequestIndex, RequestFile, request_files
from batchgen.engine.settlement.swap_detection import COMPARED_CHARACTERS, _RequestIndex
from batchgen.ledger import connection
from batchgen.ledger.migrations import TEXT_IDS
from batchgen.ledger.rows import BatchIdentity, BatchPlan
from batchgen.ledger.store import Store
from batchgen.runtime import memory
from batchgen.runtime.files import Layout
from batchgen.runtime.settings import Settings
from tests.support.bench import REPOSITORY

NAME, VALUE = memory.JEMALLOC_OPTIONS
PARQUET = """
import sys
from pathlib import Path
import polars as pl
from batchgen.dataset.export import _parquet
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
schema = pl.Schema({"id": pl.String, "texts": pl.List(pl.String)})
before = peak()
with _parquet(Path(sys.argv[1]), schema) as sink:
    for number in range(20_000):
        sink({"id": str(number), "texts": [f"{number} {place} " * 100 for place in range(9)]})
print(peak() - before)
"""


HOLES = """
from pathlib import Path
from batchgen.runtime.memory import set_mmap_threshold
def now():
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024
set_mmap_threshold()
before = now()
del (first := [bytes(30_000_000)])[:]  # from here on glibc would take blocks of up to 30 MB from its heap
kept = [(bytes(2_000_000), bytes(5_000))[at % 2] for at in range(50)]
del kept[::2]
print(now() - before)
"""


@pytest.mark.slow
def test_the_allocator_of_polars_reads_what_it_is_told() -> None:
    """It prints a warning for an unknown option, and none for ours."""
    for value, silent in ((VALUE, True), ("no_such_option:1", False)):
        said = subprocess.run(
            [sys.executable, "-c", "import polars"],
            env={**os.environ, NAME: value},
            check=True,
            capture_output=True,
            text=True,
        ).stderr
        assert ("jemalloc" not in said) == silent, said


@pytest.mark.parametrize(("own", "then"), [(None, VALUE), ("narenas:1", "narenas:1")])
def test_every_command_tells_it_unless_the_user_did(
    own: str | None, then: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(NAME, own or "")
    if own is None:
        monkeypatch.delenv(NAME)
    main(["--version"])
    assert capsys.readouterr().out
    assert os.environ[NAME] == then


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the knob is glibc's")
def test_large_blocks_are_the_system_s_again_when_they_are_freed() -> None:
    """Blocks of 2 MB with small ones between them: by default glibc keeps the 47 MB of the freed large blocks."""
    said = subprocess.run(
        [sys.executable, "-c", HOLES],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert float(said) < 15


def test_the_words_of_requests_are_kept_once() -> None:
    """A whole batch may have to be compared: 2,000 requests with separate sets of words took 30 MB."""
    chance = Random(1)
    vocabulary = ["".join(chance.choices("abcdefghij", k=7)) for _ in range(2000)]
    texts = {str(number): " ".join(chance.choices(vocabulary, k=250))[-COMPARED_CHARACTERS:] for number in range(500)}
    tracemalloc.start()
    try:
        found = _RequestIndex(texts)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found._asked) == len(texts)
    assert held < 3_000_000


def test_a_batch_s_transaction_does_not_lock_readers_out_before_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New texts of long dialogues are written all over the file, between older ones: their pages must fit the cache."""
    most, text = Settings().batches.max_requests, "x" * 400
    written = Store.open(tmp_path / "store.sqlite")
    written.replace_seeds([Turn(text, text, text)] * most, {"run": "r", "prepared": "now"})
    last = 3 * len(STAGES) - 1
    for place in range(len(STAGES), last):
        rows = [(number * TEXT_IDS + place, None, text) for number in range(1, most + 1)]
        with written.transaction():
            written._connection.executemany("INSERT INTO texts VALUES (?, ?, ?)", rows)
    written._connection.execute("UPDATE conversations SET position = ?", (last,))
    identity = BatchIdentity("b", last, 1, "gemini", "m")
    plan = BatchPlan(most, 1, "", 1, 1, None, None, 0.0)
    batch = written.plan(identity, plan, written.ready(Step.at(last), 0, after=0, limit=most))
    reader = sqlite3.connect(tmp_path / "store.sqlite", timeout=0)
    seen = []

    def look(name: str) -> None:
        if name == "store_before_commit":
            seen.append(reader.execute("SELECT count(*) FROM texts").fetchone()[0])

    monkeypatch.setattr(connection, "failpoint", look)
    settled = {number: Reply("", Reason.ACCEPTED, text) for number in range(1, most + 1)}
    written.settle(batch, settled, {}, max_attempts=3)
    assert seen == [most * last]
    assert reader.execute("SELECT count(*) FROM texts").fetchone() == (most * (last + 1),)
    reader.close()
    written.close()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")
@pytest.mark.slow
def test_a_parquet_file_is_written_in_pieces(tmp_path: Path) -> None:
    """polars holds several row groups at once: with groups of 5,000 rows this took twice the memory."""
    path = tmp_path / "out.parquet"
    command = [sys.executable, "-c", PARQUET, str(path)]
    # Freed memory is returned at once, so that the peak does not depend on timing.
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), NAME: "dirty_decay_ms:0,muzzy_decay_ms:0"}
    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert pl.scan_parquet(path).select(pl.len()).collect().item() == 20_000 > ROW_GROUP
    assert float(said) < 75


def sent(layout: Layout, conversations: int) -> list[RequestFile]:
    """The request files of a run's first two steps, 50 conversations each."""
    serial = 0
    for step in (Step.at(3), Step.at(4)):
        for first in range(1, conversations + 1, 50):
            serial += 1
            keys = [request_key(conversation_id(number), step, 1, "run") for number in range(first, first + 50)]
            path = layout.requests(step, f"run-r{step.round}-{step.stage}-{serial:06d}-a1")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f'{{"key": "{key}", "request": {{}}}}\n' for key in keys), "utf-8")
    return request_files(layout)


@pytest.mark.slow
def test_who_was_asked_last_takes_a_few_bytes_a_text(tmp_path: Path) -> None:
    held = []
    for conversations in (50, 500, 5_000):  # the first one includes imports
        layout = Layout(tmp_path / str(conversations))
        files = sent(layout, conversations)
        tracemalloc.start()
        latest = LastRequestIndex(layout, files, conversations)
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert latest.asked_anything_later(files[0], [1])
        assert not latest.asked_anything_later(files[-1], [conversations])
        assert not latest.asked_again(files[0], range(1, 51))
    assert held[2] - held[1] < 6 * 2 * (5_000 - 500)
