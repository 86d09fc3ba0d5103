"""The page's charts as inline SVG, drawn when the page is written: they need no script, and never move the page.

Colours are the page's CSS variables, so one drawing serves both themes. No text of a conversation, a model or an
error enters a chart: only steps, fields and the words below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import floor, log10
from operator import itemgetter
from typing import Any, NamedTuple

import altair as alt
import polars as pl
import vl_convert

from batchgen.dialogue import Turn
from batchgen.records import Batch
from batchgen.report.facts import StepFacts

WIDE, NARROW = 1090, 320  # pixels between the axes and all around: a desktop's, a phone's
STEP_LABEL = 128  # pixels of the longest, "round 3 correction"
ROW = 24  # pixels of a bar with its gap
LANES = 40  # batches that get a line of their own
BARS = 2_000  # that a timeline has at most, however many batches it shows
BINS = 10  # of a decade of characters
STATES = {"done": "--good", "in flight": "--busy", "ready": "--idle", "left behind": "--bad"}
MONEY = {"accepted": "--good", "failed or unused": "--bad", "estimated": "--text"}
PHASES = {"waiting at the provider": "--idle", "running": "--busy"}
# A day's name at midnight, the time elsewhere.
CLOCK = (
    "utchours(datum.value) + utcminutes(datum.value) + utcseconds(datum.value) == 0 ? utcFormat(datum.value, '%b %d')"
    " : utcFormat(datum.value, utcseconds(datum.value) ? '%H:%M:%S' : '%H:%M')"
)
ROUNDS = 6  # colours in the style sheet, --round1 ...


class Drawing(NamedTuple):
    """One chart in two widths; the style sheet shows the one that fits. `label` says in words what it shows, `legend`
    maps what its colours mean to the style sheet's variables.
    """

    wide: str
    narrow: str
    label: str
    legend: Mapping[str, str]


def drawn(chart: Callable[[int], alt.TopLevelMixin], label: str, legend: Mapping[str, str]) -> Drawing:
    """`chart`, a function of its width, as SVG."""
    return Drawing(svg(chart(WIDE)), svg(chart(NARROW)), label, legend)


def svg(chart: alt.TopLevelMixin) -> str:
    """The chart as an SVG element that scales down, hidden from screen readers (its figure has the label)."""
    spec = chart.to_dict()
    spec["config"] = CONFIG
    text: str = vl_convert.vegalite_to_svg(spec)
    return re.sub(r'<svg [^>]*?width="(\d+)" height="(\d+)"', r'<svg aria-hidden="true" width="\1" height="\2"', text)


CONFIG: Mapping[str, Any] = {
    "aria": False,
    "background": "transparent",
    "font": "Arial, sans-serif",  # for measuring; the style sheet names the page's own
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--soft)",
        "titleColor": "var(--soft)",
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "gridColor": "var(--line)",
        "domain": False,
        "ticks": False,
        "labelPadding": 6,
    },
}


def _colour(names: Mapping[str, str]) -> alt.Color:
    """The colours of `kind`. The legend is the page's: it wraps, and its letters are the page's own."""
    scale = alt.Scale(domain=list(names), range=[f"var({name})" for name in names.values()])
    return alt.Color("kind:N", scale=scale, legend=None)


def _steps(steps: Sequence[str]) -> alt.Y:
    axis = alt.Axis(title=None, grid=False, labelLimit=STEP_LABEL, minExtent=STEP_LABEL)
    return alt.Y("step:N", sort=list(steps), axis=axis, scale=alt.Scale(paddingInner=0.35, paddingOuter=0.1))


def _ticks(width: int) -> int:
    return width // 120


# ---------------------------------------------------------------- steps


def flow(steps: Sequence[StepFacts]) -> Drawing:
    """How many conversations came to each step, and what became of them there."""
    rows = [
        {"step": one.name, "kind": kind, "order": order, "conversations": count}
        for one in steps
        for order, (kind, count) in enumerate(zip(STATES, _counts(one), strict=True))
    ]
    frame, most = pl.DataFrame(rows), max(one.entered for one in steps)

    def chart(width: int) -> alt.TopLevelMixin:
        axis = alt.Axis(title="conversations", tickMinStep=1, tickCount=_ticks(width), format=",d")
        done: alt.TopLevelMixin = (
            alt.Chart(frame, width=width - STEP_LABEL, height=ROW * len(steps))
            .mark_bar()
            .encode(
                x=alt.X("conversations:Q", axis=axis, scale=alt.Scale(domainMax=most, nice=False)),
                y=_steps([one.name for one in steps]),
                color=_colour(STATES),
                order="order:Q",
            )
        )
        return done

    words = "; ".join(f"{one.name}: {one.done} done, {one.rejected} left behind of {one.entered}" for one in steps)
    return drawn(chart, f"Conversations per step. {words}.", STATES)


def _counts(one: StepFacts) -> tuple[int, int, int, int]:
    return one.done, one.in_flight, one.ready, one.rejected


# ---------------------------------------------------------------- money


def money(rows: Sequence[Mapping[str, Any]]) -> Drawing:
    """Estimate and bill of each step. A row has `step`, `estimated`, `accepted` and `wasted`, in USD."""
    bars = [
        {"step": row["step"], "kind": kind, "order": order, "usd": row[key]}
        for row in rows
        for order, (kind, key) in enumerate(zip(MONEY, ("accepted", "wasted"), strict=False))
    ]
    ticks = [{"step": row["step"], "kind": "estimated", "usd": row["estimated"]} for row in rows if row["estimated"]]
    marks = pl.DataFrame(ticks, schema={"step": pl.String, "kind": pl.String, "usd": pl.Float64})

    def chart(width: int) -> alt.TopLevelMixin:
        axis = alt.Axis(title="US dollars", tickCount=_ticks(width), format="$~g")
        y, colour = _steps([row["step"] for row in rows]), _colour(MONEY)
        bar = alt.Chart(pl.DataFrame(bars)).mark_bar()
        tick = alt.Chart(marks).mark_tick(thickness=2, size=ROW * 0.8)
        layers = alt.layer(
            bar.encode(x=alt.X("usd:Q", axis=axis), y=y, color=colour, order="order:Q"),
            tick.encode(x="usd:Q", y=y, color=colour),
        )
        return layers.properties(width=width - STEP_LABEL, height=ROW * len(rows))

    words = "; ".join(f"{row['step']}: {row['accepted'] + row['wasted']:.4f} dollars" for row in rows)
    return drawn(chart, f"Cost per step beside its estimate. {words}.", MONEY)


# ---------------------------------------------------------------- batches


def timeline(batches: Sequence[Batch], now: float) -> Drawing | None:
    """When each batch waited and ran; many batches share their step's line. None before the first submission."""
    sent = [batch for batch in batches if batch.submitted_at is not None]
    if not sent:
        return None
    lanes = len(sent) <= LANES
    rows = [row for number, batch in enumerate(sent, start=1) for row in _spans(batch, number, now, lanes=lanes)]
    rows = rows if lanes else _merged(rows)
    order = list(dict.fromkeys(row["lane"] for row in rows))
    frame = pl.DataFrame(rows).with_columns(pl.from_epoch(pl.col("from", "to"), time_unit="ms"))

    def chart(width: int) -> alt.TopLevelMixin:
        axis = alt.Axis(title="UTC", tickCount=_ticks(width), labelExpr=CLOCK)
        time = alt.X("from:T", scale=alt.Scale(type="utc"), axis=axis)
        label = alt.Axis(title=None, grid=True, labelLimit=STEP_LABEL + 30, minExtent=STEP_LABEL + 30)
        done: alt.TopLevelMixin = (
            alt.Chart(frame, width=width - STEP_LABEL - 30, height=(ROW if not lanes else 18) * len(order))
            .mark_bar(opacity=1 if lanes else 0.6, height=10)
            .encode(
                x=time,
                x2="to:T",
                y=alt.Y("lane:N", sort=order, axis=label),
                color=_colour(PHASES),
            )
        )
        return done

    label = f"When {len(sent)} batches waited at the provider and ran; the table below has the figures."
    return drawn(chart, label, PHASES)


def _spans(batch: Batch, number: int, now: float, *, lanes: bool) -> list[dict[str, Any]]:
    """The waiting and the running of a batch, in milliseconds since 1970."""
    lane = f"{number}. {batch.step}" if lanes else str(batch.step)
    begin = batch.submitted_at or batch.planned_at
    end = max(batch.ended_at or now, begin)
    middle = min(max(batch.started_at or end, begin), end)
    spans = zip(PHASES, ((begin, middle), (middle, end)), strict=True)
    return [
        {"lane": lane, "kind": kind, "from": round(start * 1000), "to": round(stop * 1000)}
        for kind, (start, stop) in spans
    ]


def _merged(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The spans of many batches on their steps' lines, in one piece where no gap between them could be seen."""
    lines: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault((row["lane"], row["kind"]), []).append(dict(row))
    whole = max(row["to"] for row in rows) - min(row["from"] for row in rows)
    gap = whole * len(lines) / BARS
    merged: list[dict[str, Any]] = []
    for spans in lines.values():
        first, *others = sorted(spans, key=itemgetter("from"))
        merged.append(first)
        for span in others:
            if span["from"] <= merged[-1]["to"] + gap:
                merged[-1]["to"] = max(merged[-1]["to"], span["to"])
            else:
                merged.append(span)
    return merged


# ---------------------------------------------------------------- lengths


def lengths(frame: pl.DataFrame) -> dict[str, Drawing]:
    """Per field, the share of texts by their length, one line a round (schema texts.LENGTHS)."""
    return {field: _lengths(frame.filter(pl.col("field") == field), field) for field in Turn._fields}


def _lengths(frame: pl.DataFrame, field: str) -> Drawing:
    rounds = sorted(frame["round"].unique())
    shares = [row for number in rounds for row in _shares(frame.filter(pl.col("round") == number), number)]
    schema = {"kind": pl.String, "characters": pl.Float64, "share": pl.Float64}
    data = pl.DataFrame(shares, schema=schema)
    names = {f"round {number}": f"--round{(number - 1) % ROUNDS + 1}" for number in rounds}

    def chart(_: int) -> alt.TopLevelMixin:
        scale = alt.Scale(type="log", nice=False)
        axis = alt.Axis(title="characters", values=[1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 100_000], format="~s")
        share = alt.Axis(title=None, format="~%", tickCount=4)
        done: alt.TopLevelMixin = (
            alt.Chart(data, width=230, height=130)
            .mark_line(strokeWidth=2, interpolate="monotone")
            .encode(
                x=alt.X("characters:Q", scale=scale, axis=axis),
                y=alt.Y("share:Q", axis=share),
                color=_colour(names),
            )
        )
        return done

    return drawn(chart, f"Lengths of the {field}s; the table below has the figures.", names)


def _shares(frame: pl.DataFrame, number: int) -> list[dict[str, Any]]:
    """The share of a round's texts in each tenth of a decade, with an empty one at both ends."""
    counts: dict[int, int] = {}
    for length, texts in frame.select("length", "texts").iter_rows():
        place = floor(log10(length) * BINS)
        counts[place] = counts.get(place, 0) + texts
    total = sum(counts.values())
    places = range(max(min(counts) - 1, 0), max(counts) + 2)
    return [
        {"kind": f"round {number}", "characters": 10 ** ((at + 0.5) / BINS), "share": counts.get(at, 0) / total}
        for at in places
    ]
