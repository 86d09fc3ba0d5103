"""`status` and the live view as tables for a terminal (rich), with the same facts as the plain text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from batchgen.core.wording import pluralize
from batchgen.ledger.rows import LIVE_STATES
from batchgen.reports.status_text import cost_lines, duration, headline

BATCHES_SHOWN = 10
BAR_CHARACTERS = 20
ZERO = "·"  # shown for 0, so that other counts are easier to see


def print_status(answer: Mapping[str, Any], columns: int) -> None:
    """Print `status` as tables that are `columns` characters wide."""
    console = Console(width=columns, highlight=False, markup=False, emoji=False)
    lines = [headline(answer), "", overview(answer), "", *cost_lines(answer["cost"])]
    if answer["conversations"]:
        models = [f"{name} {model}" for name, model in answer["models"].items() if model]
        lines += [Text(f"models: {', '.join(models)}", style="dim")] if models else []
    else:
        lines = [headline(answer)]
    console.print(Group(*lines))


def overview(answer: Mapping[str, Any]) -> RenderableType:
    """Return tables of the steps and of the batches in flight, and the holds."""
    live = [batch for batch in answer["batches"] if batch["state"] in LIVE_STATES]
    parts: list[RenderableType] = [_steps(answer)]
    if live:
        parts += ["", _batches(live)]
    parts += _hold_lines(answer["waiting"])
    return Group(*parts)


def _steps(answer: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("step", no_wrap=True)
    table.add_column("", max_width=BAR_CHARACTERS)  # on a narrow terminal this column shrinks first
    for heading, style in (("done", "green"), ("in flight", "cyan"), ("ready", ""), ("rejected", "yellow")):
        table.add_column(heading, justify="right", style=style, no_wrap=True)
    for row in answer["steps"]:
        settled = row["done"] + row["rejected"]
        bar = ProgressBar(answer["conversations"] or 1, settled, complete_style="green", finished_style="green")
        counts = (f"{row[key]:,}" if row[key] else ZERO for key in ("done", "in_flight", "ready", "rejected"))
        table.add_row(f"round {row['round']} {row['stage']}", bar, *counts)
    if audit := answer["audit"]:
        bar = ProgressBar(audit["requests"] or 1, audit["done"] + audit["rejected"], complete_style="green")
        counts = (f"{audit[key]:,}" if audit[key] else ZERO for key in ("done", "in_flight", "ready", "rejected"))
        table.add_row("audit (verdicts)", bar, *counts)
    return table


def _batches(live: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("batch", no_wrap=True)
    table.add_column("requests", justify="right", no_wrap=True)
    table.add_column("provider", no_wrap=True)
    table.add_column("state", no_wrap=True, overflow="ellipsis")
    table.add_column("age", justify="right", no_wrap=True)
    for batch in live[:BATCHES_SHOWN]:
        state = (batch["remote_state"] or batch["state"]).removeprefix("JOB_STATE_").removeprefix("BATCH_STATE_")
        age = duration(batch["age_seconds"])
        table.add_row(batch["batch"], f"{batch['requests']:,}", batch["provider"], state.lower(), age)
    if len(live) > BATCHES_SHOWN:
        table.add_row(Text(f"and {pluralize(len(live) - BATCHES_SHOWN, 'batch')} more", style="dim"))
    return table


def _hold_lines(waiting: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    for wait in waiting:
        yield Text.assemble(("waiting ", "yellow"), f"{wait['for']}: {wait['reason']}")
