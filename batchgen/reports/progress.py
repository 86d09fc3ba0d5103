"""Progress of long commands: a live table in a terminal, log lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from batchgen.ledger.status import status
from batchgen.runtime.logging_setup import log

if TYPE_CHECKING:
    from batchgen.engine.session import Session


@contextmanager
def show_progress(session: Session, *, live: bool) -> Iterator[Callable[[], None]]:
    """Yield a function that shows the state of the run; call it after each tick."""

    def answer() -> dict[str, Any]:
        return status(session.store, session.settings, session.now())

    if not live:
        yield _log_changes(answer)
        return
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    from batchgen.reports.tables import overview

    def view() -> Group:
        now = answer()
        return Group(overview(now), Text(summary(now)))

    with Live(view(), console=Console(stderr=True, markup=False, emoji=False), auto_refresh=False) as live_view:

        def show() -> None:
            live_view.update(view(), refresh=True)

        yield show


def _log_changes(answer: Callable[[], Mapping[str, Any]]) -> Callable[[], None]:
    """Return a function that logs the state of the run if its summary has changed since the last call."""
    before = ""

    def show() -> None:
        nonlocal before
        line = summary(answer())
        if line != before:
            log.info(line)
        before = line

    return show


def summary(answer: Mapping[str, Any]) -> str:
    """Return the state of a run in one line."""
    flying = sum(row["in_flight"] for row in (*answer["steps"], answer["audit"] or {"in_flight": 0}))
    least = "at least " if answer["cost"]["unpriced_requests"] else ""
    return (
        f"{answer['complete']:,}/{answer['conversations']:,} complete, {flying:,} in flight,"
        f" {answer['rejected']:,} rejected, {least}${answer['cost']['spent_usd']:,.4f} spent"
    )
