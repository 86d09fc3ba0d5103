"""How much memory and time an export takes, by the number of conversations. Each runs in a process of its own.

The store is filled at once with finished dialogues, each about something else; one in fifty nearly copies another.

    python benchmarks/exports.py [--conversations 20000 200000] [--figures after]     # then: make bench, for the page
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--figures", default="after", help="Under which name the figures are kept.")
    options = parser.parse_args()
    found = {}
    for conversations in options.conversations:
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder) / "root", conversations)
            output = str(Path(folder) / "train.jsonl")
            seconds, peak = measured(Path(folder) / "root", "export", "--format", "messages", "--output", output)
        found[f"export, {conversations:,} conversations, s"] = seconds
        found[f"export, {conversations:,} conversations, peak MB"] = peak
        print(f"{conversations:>10,} conversations{seconds:>10.1f} s{peak:>10.0f} MB")
    place = REPOSITORY / "benchmarks" / "figures"
    place.mkdir(exist_ok=True)
    (place / f"export-{options.figures}.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
