"""Where the time of building and collecting goes: milliseconds a request file, part by part, on this machine.

A part includes the parts that it calls, and every call is timed, which costs a little itself: for comparing parts,
not for rates, which benchmarks/throughput.py takes.

    python benchmarks/parts.py [--rows 40000]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from batchgen.engine.session import Session
from batchgen.engine.settlement import match, settle
from batchgen.engine.submission import line_templates, request_files, submit
from batchgen.ledger.dialogues import Dialogues
from batchgen.ledger.store import Store
from batchgen.runtime.settings import Settings
from benchmarks import throughput

PARTS: dict[str, list[tuple[Any, str, str]]] = {
    "build": [
        (request_files, "draft_batch", "a request file's content"),
        (Store, "ready", "  rows read from the store"),
        (Dialogues, "ready_texts", "  texts read from the store"),
        (request_files, "render_requests", "  lines, counted and escaped"),
        (line_templates, "count_utf8_features", "    counting"),
        (submit, "plan_batch", "what is durable"),
        (submit, "write_durably", "  hash, write and sync of the file"),
        (Store, "plan", "  the ledger's transaction"),
        (os, "fsync", "  all syncs but SQLite's"),
    ],
    "collect": [
        (settle, "parse_results", "replies read and judged"),
        (settle, "_reject_misplaced", "  their places"),
        (settle, "check_echoes", "    echoes compared"),
        (settle, "settle", "what is durable"),
        (settle, "write_ending", "  the ending's file"),
        (match, "match_results", "  replies matched with requests"),
        (Store, "settle", "  the store's transaction"),
        (Store, "_advance_conversations", "    texts and rows entered"),
        (Session, "keys", "keys"),
        (throughput, "write_due_files", "derived files"),
        (os, "fsync", "all syncs but SQLite's"),
    ],
    "collect without echo": [
        (settle, "parse_results", "replies read and judged"),
        (settle, "_reject_misplaced", "  their places"),
        (settle, "_requests", "    texts read from the store"),
        (settle, "find_swapped_replies", "    words compared"),
    ],
}

MEASURES: dict[str, Callable[[int, Path], list[float]]] = {
    **throughput.MEASURES,
    "collect without echo": partial(throughput.measure_collect, echo=False),
}


def timed(place: Any, name: str, seconds: list[float]) -> None:
    """Note in `seconds` how long each call of a function takes from now on."""
    function: Callable[..., Any] = getattr(place, name)

    @wraps(function)
    def measured(*values: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*values, **named)
        finally:
            seconds.append(time.perf_counter() - start)

    setattr(place, name, measured)


def parts(what: str, rows: int) -> dict[str, float]:
    """Median milliseconds a file of each part of `what`; the store is in a process's own temporary folder."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for place, name, label in PARTS[what]:
        timed(place, name, seconds[label])
    with tempfile.TemporaryDirectory() as folder:
        files = MEASURES[what](rows, Path(folder) / "root")
    found = {"in all": statistics.median(files) * 1000}
    for label, each in seconds.items():
        calls = max(1, round(len(each) / len(files)))
        found[label] = statistics.median(each) * calls * 1000 if each else 0.0
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40_000)
    options = parser.parse_args()
    for what in PARTS:
        print(f"{what}, ms a request file of {Settings().batches.max_requests}")
        for label, milliseconds in parts(what, options.rows).items():
            print(f"  {label:<40}{milliseconds:>8.1f}")


if __name__ == "__main__":
    main()
