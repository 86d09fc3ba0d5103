"""The page's charts as inline SVG. They are drawn when the page is written and need no script.

Colours are the page's CSS variables, so one drawing fits both themes. Charts contain no text from outside
(conversations, models, errors), only names of steps and fields and the words below.

altair and vl_convert need as much memory as the rest of a report together. So `draw` runs in a process of its own, and
they are imported only inside the functions that draw.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from batchgen.reports.html import timeline_bars
from batchgen.reports.html.audit_values import ALL_PAIRS, LIKE_LENGTH
from batchgen.reports.html.facts import StepFacts
from batchgen.reports.html.timeline_bars import Timeline

if TYPE_CHECKING:
    import altair as alt

Rows = Sequence[Mapping[str, Any]]

WIDE, NARROW = 1090, 320  # width in pixels, on a desktop and on a phone
STEP_LABEL = 128  # pixels for the longest label, "round 3 correction"
ROW_HEIGHT = 24  # pixels of a bar and the gap beside it
STATE_COLOURS = {"done": "--good", "in flight": "--busy", "ready": "--idle", "rejected": "--bad"}
WIN_RATE_COLOURS = {ALL_PAIRS: "--busy", LIKE_LENGTH: "--round3"}
COST_COLOURS = {"accepted": "--good", "failed or unused": "--bad", "estimated": "--text"}
PHASE_COLOURS = dict(zip(timeline_bars.PHASES, ("--idle", "--busy"), strict=True))
# The date at midnight, the time at all other ticks.
TIME_LABEL = (
    "utchours(datum.value) + utcminutes(datum.value) + utcseconds(datum.value) == 0 ? utcFormat(datum.value, '%b %d')"
    " : utcFormat(datum.value, utcseconds(datum.value) ? '%H:%M:%S' : '%H:%M')"
)
ROUND_COLOURS = 6  # number of colours in the style sheet: --round1, --round2, ...


class RenderedChart(NamedTuple):
    """One chart as SVG in two widths; the style sheet shows the one that fits.

    `label` describes the chart for screen readers. `legend` maps each kind to the CSS variable of its colour.
    """

    wide: str
    narrow: str
    label: str
    legend: Mapping[str, str]


class ChartData(NamedTuple):
    """The data of the charts.

    `lengths` comes from `lengths.length_shares`. `bill` has the rows of `cost_chart`, none if nothing was billed.
    `win_rates` comes from `audit_values.win_rates`, none if nothing was judged.
    """

    steps: Sequence[StepFacts]
    timeline: Timeline
    lengths: Mapping[str, Rows]
    bill: Rows
    win_rates: Rows = ()


class RenderedCharts(NamedTuple):
    """The charts of the page; None if there is nothing to show."""

    flow: RenderedChart
    timeline: RenderedChart | None
    lengths: Mapping[str, RenderedChart]
    money: RenderedChart | None
    audit: RenderedChart | None = None


def draw(wanted: ChartData) -> RenderedCharts:
    """Draw all charts of the page."""
    return RenderedCharts(
        steps_chart(wanted.steps),
        timeline_chart(wanted.timeline),
        length_charts(wanted.lengths),
        cost_chart(wanted.bill) if wanted.bill else None,
        win_rate_chart(wanted.win_rates) if wanted.win_rates else None,
    )


def render_chart(
    chart: Callable[[int], alt.TopLevelMixin], label: str, legend: Mapping[str, str], **data: Rows
) -> RenderedChart:
    """Draw a chart in both widths. `chart` builds it for a width; its marks refer to `data` by name."""
    return RenderedChart(svg(chart(WIDE), data), svg(chart(NARROW), data), label, legend)


def svg(chart: alt.TopLevelMixin, data: Mapping[str, Rows]) -> str:
    """Return the chart as an SVG element, hidden from screen readers (the figure around it has a label)."""
    import vl_convert

    spec = chart.to_dict()
    spec |= {
        "config": CONFIG,
        "datasets": data,
    }  # not through altair, which needs a data frame or checks each row
    text: str = vl_convert.vegalite_to_svg(spec)
    return re.sub(r'<svg [^>]*?width="(\d+)" height="(\d+)"', r'<svg aria-hidden="true" width="\1" height="\2"', text)


CONFIG: Mapping[str, Any] = {
    "aria": False,
    "background": "transparent",
    "font": "Arial, sans-serif",  # only to measure labels; the style sheet sets the font of the page
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
        "labelSeparation": 16,  # pixels between labels; wide, because the font of the page may be wider
    },
}


def _colour(names: Mapping[str, str]) -> alt.Color:
    """Return the colours by `kind`. The page shows the legend, because HTML can wrap it."""
    import altair as alt

    scale = alt.Scale(domain=list(names), range=[f"var({name})" for name in names.values()])
    return alt.Color("kind:N", scale=scale, legend=None)


def _step_axis(steps: Sequence[str]) -> alt.Y:
    import altair as alt

    return alt.Y("step:N", sort=list(steps), axis=_label_axis(), scale=alt.Scale(paddingInner=0.35, paddingOuter=0.1))


def _label_axis() -> alt.Axis:
    import altair as alt

    return alt.Axis(title=None, grid=False, labelLimit=STEP_LABEL, minExtent=STEP_LABEL)


def _ticks(width: int) -> int:
    return width // 120


# ---------------------------------------------------------------- steps


def steps_chart(steps: Sequence[StepFacts]) -> RenderedChart:
    """Draw the number of conversations at each step by their state there."""
    import altair as alt

    rows = [
        {"step": one.name, "kind": kind, "order": order, "conversations": count}
        for one in steps
        for order, (kind, count) in enumerate(zip(STATE_COLOURS, _counts(one), strict=True))
    ]
    most = max(one.entered for one in steps)

    def chart(width: int) -> alt.TopLevelMixin:
        axis = alt.Axis(title="conversations", tickMinStep=1, tickCount=_ticks(width), format=",d")
        done: alt.TopLevelMixin = (
            alt.Chart(alt.NamedData("steps"), width=width - STEP_LABEL, height=ROW_HEIGHT * len(steps))
            .mark_bar()
            .encode(
                x=alt.X("conversations:Q", axis=axis, scale=alt.Scale(domainMax=most, nice=False)),
                y=_step_axis([one.name for one in steps]),
                color=_colour(STATE_COLOURS),
                order="order:Q",
            )
        )
        return done

    words = "; ".join(f"{one.name}: {one.done} done, {one.rejected} rejected of {one.entered}" for one in steps)
    return render_chart(chart, f"Conversations per step. {words}.", STATE_COLOURS, steps=rows)


def _counts(one: StepFacts) -> tuple[int, int, int, int]:
    return one.done, one.in_flight, one.ready, one.rejected


# ---------------------------------------------------------------- money


def cost_chart(rows: Sequence[Mapping[str, Any]]) -> RenderedChart:
    """Draw estimated and billed USD by step. A row has `step`, `estimated`, `accepted` and `wasted`."""
    import altair as alt

    bars = [
        {"step": row["step"], "kind": kind, "order": order, "usd": row[key]}
        for row in rows
        for order, (kind, key) in enumerate(zip(COST_COLOURS, ("accepted", "wasted"), strict=False))
    ]
    ticks = [{"step": row["step"], "kind": "estimated", "usd": row["estimated"]} for row in rows if row["estimated"]]

    def chart(width: int) -> alt.TopLevelMixin:
        axis = alt.Axis(title="US dollars", tickCount=_ticks(width), format="$,.8~f")
        y, colour = _step_axis([row["step"] for row in rows]), _colour(COST_COLOURS)
        bar = alt.Chart(alt.NamedData("bars")).mark_bar()
        tick = alt.Chart(alt.NamedData("ticks")).mark_tick(thickness=2, size=ROW_HEIGHT * 0.8)
        layers = alt.layer(
            bar.encode(x=alt.X("usd:Q", axis=axis), y=y, color=colour, order="order:Q"),
            tick.encode(x="usd:Q", y=y, color=colour),
        )
        return layers.properties(width=width - STEP_LABEL, height=ROW_HEIGHT * len(rows))

    words = "; ".join(f"{row['step']}: {row['accepted'] + row['wasted']:.4f} dollars" for row in rows)
    return render_chart(chart, f"Cost and estimate of each step. {words}.", COST_COLOURS, bars=bars, ticks=ticks)


# ---------------------------------------------------------------- audit


def win_rate_chart(points: Rows) -> RenderedChart:
    """Draw how often corrections win, with the 95 % interval, for each round. `points` have the keys of `win_rates`."""
    import altair as alt

    rounds = list(dict.fromkeys(point["turns"] for point in points))
    names = {kind: colour for kind, colour in WIN_RATE_COLOURS.items() if any(each["kind"] == kind for each in points)}

    def chart(width: int) -> alt.TopLevelMixin:
        axis = alt.Axis(title="correction wins, with 95 % interval", format=".0%", tickCount=_ticks(width))
        share = alt.Scale(domain=[0, 1])
        place = {
            "y": alt.Y("turns:N", sort=rounds, axis=_label_axis(), scale=alt.Scale(paddingInner=0.3, paddingOuter=0.1)),
            "yOffset": alt.YOffset("kind:N", sort=list(names)),
            "color": _colour(names),
        }
        base = alt.Chart(alt.NamedData("points"))
        layers = alt.layer(
            alt.Chart(alt.NamedData("half"))
            .mark_rule(strokeDash=[4, 4], color="var(--soft)")
            .encode(x=alt.X("rate:Q", scale=share, axis=axis)),
            base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", scale=share, axis=axis), x2="high:Q", **place),
            base.mark_point(filled=True, size=60, opacity=1).encode(x="rate:Q", **place),
        )
        return layers.properties(width=width - STEP_LABEL, height=ROW_HEIGHT * len(names) * len(rounds))

    words = "; ".join(
        f"{each['turns']}, {each['kind']}: {each['rate']:.0%}, {each['low']:.0%} to {each['high']:.0%}"
        for each in points
    )
    return render_chart(
        chart, f"Share of judged turns that the correction wins. {words}.", names, points=points, half=[{"rate": 0.5}]
    )


# ---------------------------------------------------------------- batches


def timeline_chart(shown: Timeline) -> RenderedChart | None:
    """Draw when each batch waited and ran, None before the first submission."""
    import altair as alt

    if not shown.batches:
        return None
    order = list(dict.fromkeys(row["lane"] for row in shown.bars))

    def chart(width: int) -> alt.TopLevelMixin:
        axis = alt.Axis(title="UTC", tickCount=_ticks(width), labelExpr=TIME_LABEL)
        time = alt.X("from:T", scale=alt.Scale(type="utc"), axis=axis)
        label = alt.Axis(title=None, grid=True, labelLimit=STEP_LABEL + 30, minExtent=STEP_LABEL + 30)
        done: alt.TopLevelMixin = (
            alt.Chart(
                alt.NamedData("bars"),
                width=width - STEP_LABEL - 30,
                height=(18 if shown.lanes else ROW_HEIGHT) * len(order),
            )
            .mark_bar(opacity=1 if shown.lanes else 0.6, height=10)
            .encode(
                x=time,
                x2="to:T",
                y=alt.Y("lane:N", sort=order, axis=label),
                color=_colour(PHASE_COLOURS),
            )
        )
        return done

    label = f"When {shown.batches} batches waited at the provider and ran. The table below has the numbers."
    return render_chart(chart, label, PHASE_COLOURS, bars=shown.bars)


# ---------------------------------------------------------------- lengths


def length_charts(shares: Mapping[str, Rows]) -> dict[str, RenderedChart]:
    """Draw a chart for each field: the share of texts by length, one line for each round."""
    return {field: _length_chart(rows, field) for field, rows in shares.items()}


def _length_chart(rows: Rows, field: str) -> RenderedChart:
    import altair as alt

    names = {
        f"round {number}": f"--round{(number - 1) % ROUND_COLOURS + 1}"
        for number in sorted({row["round"] for row in rows})
    }
    curves = [{"kind": f"round {row['round']}", **row} for row in rows]

    def chart(_: int) -> alt.TopLevelMixin:
        scale = alt.Scale(type="log", nice=False)
        axis = alt.Axis(title="characters", values=[1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 100_000], format="~s")
        share = alt.Axis(title=None, format="~%", tickCount=4)
        done: alt.TopLevelMixin = (
            alt.Chart(alt.NamedData("curves"), width=230, height=130)
            .mark_line(strokeWidth=2, interpolate="monotone")
            .encode(
                x=alt.X("characters:Q", scale=scale, axis=axis),
                y=alt.Y("share:Q", axis=share),
                color=_colour(names),
            )
        )
        return done

    return render_chart(chart, f"Lengths of the {field}s. The table below has the numbers.", names, curves=curves)
