"""How much CPU time and memory `export` and `report` take, by the number of conversations.

Each runs in a process of its own. CPU time, because a million takes so long that other work on the machine would change
seconds more than the size does. The store is filled at once with finished dialogues, each about something else; one in
fifty nearly copies another.

    python benchmarks/exports.py [--conversations 100000 1000000]     # then: make bench, for the page
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from batchgen.core.dialogue import STAGES
from batchgen.ledger.migrations import TEXT_IDS
from batchgen.ledger.store import Store
from batchgen.runtime.files import Layout
from benchmarks.commands import measured
from benchmarks.throughput import seeds, topic

ROUNDS = 3
COPIED = 50
VOCABULARY = [topic(number).split()[0] for number in range(3000)]


def fill(root: Path, conversations: int) -> None:
    """A store whose conversations have all rounds."""
    layout = Layout(root)
    layout.data.mkdir(parents=True)
    store = Store.open(layout.store)
    store.replace_seeds(seeds(conversations), {"run": "bench", "prepared": "bench"})
    rows = (row for number in range(1, conversations + 1) for row in later(number))
    with store.transaction():
        while some := list(islice(rows, 100_000)):
            store._connection.executemany("INSERT INTO texts (text_id, text) VALUES (?, ?)", some)  # noqa: SLF001
    store.close()


def later(number: int) -> list[tuple[int, str]]:
    """The texts of rounds 2 and 3, of some 300 characters each."""
    chance = Random(number - number % COPIED if number % COPIED == 1 else number)
    texts = (" ".join(chance.choices(VOCABULARY, k=40)) + "?" for _ in range(len(STAGES) * (ROUNDS - 1)))
    return list(enumerate(texts, start=number * TEXT_IDS + len(STAGES)))


def reading(folder: Path, conversations: int) -> Iterator[tuple[str, float]]:
    """What the commands take that read every dialogue."""
    fill(folder / "root", conversations)
    for name, *more in (["export", "--format", "messages", "--output", str(folder / "train.jsonl")], ["report"]):
        took = measured(folder / "root", name, *more)
        yield f"{name}, conversations per CPU second", conversations / took.cpu_seconds
        yield f"{name}, peak MB", took.peak_mb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="An empty folder on a disk with room for 10 GB.")
    options = parser.parse_args()
    place = REPOSITORY / "benchmarks" / "figures" / "exports.json"
    kept = json.loads(place.read_text("utf-8")) if place.exists() else {}
    for conversations in options.conversations:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            for name, value in reading(Path(folder), conversations):
                print(f"{conversations:>10,}  {name:<45}{value:>10.0f}", flush=True)
                kept.setdefault(str(conversations), {})[name] = value
                place.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")  # what a stopped run has found


if __name__ == "__main__":
    main()
