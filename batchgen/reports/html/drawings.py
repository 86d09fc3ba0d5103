"""All charts of a page, drawn in a process of their own: what draws them takes as much memory as all the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from batchgen.reports.html.facts import StepFacts
from batchgen.reports.html.timeline_bars import Timeline


class Drawing(NamedTuple):
    """One chart in two widths; the style sheet shows the one that fits. `label` says in words what it shows, `legend`
    maps what its colours mean to the style sheet's variables.
    """

    wide: str
    narrow: str
    label: str
    legend: Mapping[str, str]


class Wanted(NamedTuple):
    """What the charts show; `lengths` is that of `lengths.shares`, `bill` has the rows of `charts.money`, none where
    nothing was paid.
    """

    steps: Sequence[StepFacts]
    timeline: Timeline
    lengths: Mapping[str, Sequence[Mapping[str, Any]]]
    bill: Sequence[Mapping[str, Any]]


class Drawings(NamedTuple):
    """The charts, by what they show; None where there is nothing to show."""

    flow: Drawing
    timeline: Drawing | None
    lengths: Mapping[str, Drawing]
    money: Drawing | None


def draw(wanted: Wanted) -> Drawings:
    """Draw everything."""
    from batchgen.reports.html import charts  # here: who asks another process to draw needs none of it

    return Drawings(
        charts.flow(wanted.steps),
        charts.timeline(wanted.timeline),
        charts.lengths(wanted.lengths),
        charts.money(wanted.bill) if wanted.bill else None,
    )
