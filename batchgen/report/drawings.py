"""All charts of a page, drawn in a process of their own: what draws them takes as much memory as all the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import polars as pl

    from batchgen.records import Batch
    from batchgen.report.charts import Drawing
    from batchgen.report.facts import StepFacts


class Wanted(NamedTuple):
    """What the charts show; `bill` has the rows of `charts.money`, none where nothing was paid."""

    steps: Sequence[StepFacts]
    batches: Sequence[Batch]
    now: float
    lengths: pl.DataFrame
    bill: Sequence[Mapping[str, Any]]


class Drawings(NamedTuple):
    """The charts, by what they show; None where there is nothing to show."""

    flow: Drawing
    timeline: Drawing | None
    lengths: Mapping[str, Drawing]
    money: Drawing | None


def draw(wanted: Wanted) -> Drawings:
    """Draw everything."""
    from batchgen.report import charts  # here: who asks another process to draw needs none of it

    return Drawings(
        charts.flow(wanted.steps),
        charts.timeline(wanted.batches, wanted.now),
        charts.lengths(wanted.lengths),
        charts.money(wanted.bill) if wanted.bill else None,
    )
