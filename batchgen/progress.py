"""What long work shows: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from batchgen.status import LIVE_STATES, duration, status
from batchgen.words import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from batchgen.session import Session

log = logging.getLogger("batchgen")
BATCHES_SHOWN = 10


@contextmanager
def showing(session: Session, *, live: bool) -> Iterator[Callable[[], None]]:
    """Yields the function that shows where the run stands now; call it after each tick."""

    def answer() -> dict[str, Any]:
        return status(session.store, session.settings, session.now())

    if not live:
        yield _lines(answer)
        return
    from rich.console import Console
    from rich.live import Live

    with Live(render(answer()), console=Console(stderr=True), auto_refresh=False) as view:

        def show() -> None:
            view.update(render(answer()), refresh=True)

        yield show


def _lines(answer: Callable[[], Mapping[str, Any]]) -> Callable[[], None]:
    """One log line whenever the counts have changed."""
    before = ""

    def show() -> None:
        nonlocal before
        line = summary(answer())
        if line != before:
            log.info(line)
        before = line

    return show


def summary(answer: Mapping[str, Any]) -> str:
    """Where a run stands, in one line."""
    flying = sum(row["in_flight"] for row in answer["steps"])
    return (
        f"{answer['complete']}/{answer['conversations']} complete, {flying} in flight,"
        f" {answer['rejected']} rejected, ${answer['cost']['spent_usd']:.4f} spent"
    )


def render(answer: Mapping[str, Any]) -> RenderableType:
    """The live view: per step done / in flight / ready / rejected, the batches with their age, the cost so far."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2))
    for heading in ("step", "", "done", "in flight", "ready", "rejected"):
        table.add_column(heading, justify="left" if heading in ("step", "") else "right")
    for row in answer["steps"]:
        bar = ProgressBar(total=answer["conversations"] or 1, completed=row["done"] + row["rejected"], width=24)
        name = f"round {row['round']} {row['stage']}"
        table.add_row(name, bar, *(str(row[key]) for key in ("done", "in_flight", "ready", "rejected")))
    live = [batch for batch in answer["batches"] if batch["state"] in LIVE_STATES]
    lines = [
        f"  {batch['batch']}  {counted(batch['requests'], 'request')}  {batch['remote_state'] or batch['state']}"
        f"  {duration(batch['age_seconds'])}"
        for batch in live[:BATCHES_SHOWN]
    ]
    if len(live) > BATCHES_SHOWN:
        lines.append(f"  and {len(live) - BATCHES_SHOWN} batches more")
    lines += [f"  waiting: {wait['for']}: {wait['reason']}" for wait in answer["waiting"]]
    return Group(table, Text("\n".join(lines)), Text(summary(answer)))
