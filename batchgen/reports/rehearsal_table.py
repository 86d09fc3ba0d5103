"""The table of a rehearsal for people (rich): each assumption, whether it is held, and what was seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from batchgen.core.wording import as_invoked, pluralize
from batchgen.providers.assumptions.assumption import State
from batchgen.providers.assumptions.evidence import CheckedAssumption, Record

PLAIN_COLUMNS = 100  # where the output is no terminal
WIDE_COLUMNS = 110  # from here on each row also says what is assumed
MARKS = {State.HELD: "held", State.BROKEN: "BROKEN", State.UNSEEN: "-"}
MOST_SEEN = 130  # characters of what was seen of a held assumption; all are in the file
STYLES = {State.HELD: "green", State.BROKEN: "bold red", State.UNSEEN: "dim"}


def print_rehearsal(record: Record, flying: int, path: Path, columns: int, stream: TextIO) -> None:
    """Print the tables of all providers, and what follows. `columns` 0: the output is no terminal."""
    console = Console(file=stream, width=columns or PLAIN_COLUMNS, highlight=False, markup=False, emoji=False)
    with console.capture() as shown:
        _print(console, record, flying, path)
    stream.write("".join(f"{line.rstrip()}\n" for line in shown.get().splitlines()))


def _print(console: Console, record: Record, flying: int, path: Path) -> None:
    for name in dict.fromkeys(row.provider for row in record.checks):
        rows = [row for row in record.checks if row.provider == name]
        console.print(_heading(record, name, rows))
        for part in _tables(rows, wide=console.width >= WIDE_COLUMNS):
            console.print(Padding(part, (0, 0, 0, 2)))
        console.print()
    for line in conclusion(record, flying):
        console.print(Text(line), soft_wrap="batchgen" in line or "cli.py" in line)
    paid = f"Paid for the dialogues: ${record.spent_usd:.4f}. To attach to a report: {path}"
    console.print(Text(paid, style="dim"), soft_wrap=True)


def _heading(record: Record, name: str, rows: Sequence[CheckedAssumption]) -> Text:
    stages = [stage for stage, choice in record.models.items() if choice.partition(":")[0] == name]
    models = dict.fromkeys(record.models[stage].partition(":")[2] for stage in stages)
    return Text.assemble(
        (name, "bold"), f"  {', '.join(models)} ({', '.join(stages)})\n", (f"  {_counts(rows)}", "dim")
    )


def _counts(rows: Sequence[CheckedAssumption]) -> str:
    counts = ((sum(row.state == state for row in rows), state) for state in State)
    return ", ".join(f"{count} {state}" for count, state in counts if count)


def _tables(rows: Sequence[CheckedAssumption], *, wide: bool) -> Iterator[RenderableType]:
    """Return the table of what was seen, and a line with the names of the rest."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0), expand=wide)
    table.add_column("state", no_wrap=True, width=6)
    table.add_column("check", no_wrap=True, width=15)
    if wide:
        table.add_column("assumed", ratio=6)
    table.add_column("seen", ratio=7)
    for row in rows:
        if row.state != State.UNSEEN or (row.seen and not row.rare):
            table.add_row(*_cells(row, wide=wide))
    yield table
    if names := [row.name for row in rows if row.state == State.UNSEEN and not row.seen]:
        yield Text(f"{State.UNSEEN}: {', '.join(names)}", style="dim")


def _cells(row: CheckedAssumption, *, wide: bool) -> Iterator[Text]:
    state = State(row.state)
    style = "dim" if state is State.UNSEEN else ""
    seen = Text(row.seen, style)
    if state is State.HELD:
        seen.truncate(MOST_SEEN, overflow="ellipsis")
    yield Text(MARKS[state], STYLES[state])
    yield Text(row.name, style)
    if wide:
        yield Text(row.assumes, "" if state is State.BROKEN else "dim")
    elif state is State.BROKEN:
        seen.append(f"\nAssumed: {row.assumes}")
    if state is State.BROKEN:
        seen.append("\nA run relies on this." if row.needed else "\nA run copes with this.", "yellow")
    yield seen


def conclusion(record: Record, flying: int) -> Iterator[str]:
    """Say what the table means, and what to do next. `flying` is the number of batches in flight."""
    broken = [row for row in record.checks if row.state == State.BROKEN]
    needed, others = [
        [f"{row.provider} {row.name}" for row in broken if row.needed == wanted] for wanted in (True, False)
    ]
    if needed:
        yield f"BROKEN, and a run relies on it: {', '.join(needed)}. Do not start a large run; please report this."
    if others:
        yield f"Broken, but a run copes: {', '.join(others)}.{'' if needed else ' Please report this.'}"
    if not record.finished:
        so_far = "" if broken else " Nothing is wrong so far."
        what = f"{pluralize(flying, 'batch')} in flight." if flying else "Not finished."
        yield as_invoked(f"{what}{so_far} Run it again later, or to the end: batchgen rehearse --wait")
        return
    if not broken:
        yield f"All {sum(row.state == State.HELD for row in record.checks)} assumptions that could be seen are held."
    unseen = [row for row in record.checks if row.state == State.UNSEEN]
    if usual := [row for row in unseen if not row.rare]:
        yield f"Not seen: {', '.join(f'{row.provider} {row.name}' for row in usual)}."
    if rare := dict.fromkeys(row.name for row in unseen if row.rare):
        yield f"Not seen, because it did not happen: {', '.join(rare)}."
