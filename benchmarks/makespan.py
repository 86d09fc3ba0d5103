"""How long a run takes from the first submit to the last conversation, by simulation, and which batch size is best.

What batches do to those who wait for them is drawn from distributions shaped like what people report:

* both providers aim at 24 hours; most batches are far quicker: two requests in 68 s (Gemini), minutes below 1,000
  requests (Together); large batches take longer, and expire more often
* some take hours; at times a model is stuck for a day to four days while another one ends in ten minutes (Gemini:
  October 2025, March, May and September 2026)
* Gemini ends a batch that is pending or running for 48 hours as EXPIRED, without any results; Together's 24 hours are
  a best effort, and after 72 hours one may ask
* now and then a batch is not found any more, which is believed after two hours of looking

Nobody publishes shares, so the shares below are assumptions, in three sets: `usual`, `bad week`, and `by size`, where
slow and expired batches are more likely in proportion to their size. Batches are drawn independently of each other;
a real outage strikes many at once. Tokens and bytes of a request are those that benchmarks/cost.py counts; the
limits are Google's of 2026-08-18 and Together's of 2026, where none is published 100 concurrent batches are assumed.

    python benchmarks/makespan.py [--seeds 5] [--largest 1000000] [--write]
    python benchmarks/makespan.py --case 10000000 2 20000     # conversations, tier, max_requests: this one alone
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.simulation import Draw, Fate, Limits, Plan, Result, Work, simulate

if TYPE_CHECKING:
    import numpy as np

DOCS = REPOSITORY / "docs"
PAGE, PLOT = DOCS / "scale.md", DOCS / "makespan.svg"
START, END = "<!-- tables: make bench-makespan -->\n", "<!-- end of tables -->\n"

MINUTE, HOUR = 60.0, 3600.0
WORK = (
    Work("round 2 question", "gemini", 290, 1800),
    Work("round 2 answer", "together", 160, 1200),
    Work("round 2 correction", "gemini", 460, 2700),
    Work("round 3 question", "gemini", 515, 2900),
    Work("round 3 answer", "together", 250, 1700),
    Work("round 3 correction", "gemini", 695, 3800),
)
ASK_NEXT = (*WORK[:2], Work("round 2 correction", "gemini", 500, 2900), *WORK[4:])
TOGETHER = Limits(30_000_000_000, 100)
TIERS = {
    1: {"gemini": Limits(10_000_000, 100), "together": TOGETHER},
    2: {"gemini": Limits(500_000_000, 100), "together": TOGETHER},
    3: {"gemini": Limits(1_000_000_000, 100), "together": TOGETHER},
}
DRAWN_TIERS = {1: "1", 2: "2 and 3"}  # 100 concurrent batches bind before their tokens do: they are one line
COUNTS = (200, 20_000, 1_000_000)
SIZES = (100, 500, 1000, 2000, 5000, 20_000)
DEFAULT_SIZE = 2000
FAILING, BLOCKED = 0.02, 0.005  # of the rows that come back: asked again; left behind
EXPIRES = {"gemini": 48 * HOUR, "together": 72 * HOUR}
QUICK_SECONDS, QUICK_SPREAD = 8 * MINUTE, 0.8  # median and sigma of a log-normal distribution
SLOW_SECONDS, SLOW_SPREAD = 4 * HOUR, 0.7
SECONDS_PER_REQUEST = 0.25  # what a larger batch takes longer
LOST_SECONDS = 2 * HOUR


class Weather(NamedTuple):
    """Shares of batches that take hours, take a day or two, expire, get lost; the others take minutes."""

    hours: float
    days: float
    expired: float
    lost: float
    by_size: bool = False  # the shares hold for DEFAULT_SIZE requests and grow with the size, up to tenfold


WEATHERS = {
    "usual": Weather(0.15, 0.02, 0.005, 0.001),
    "bad week": Weather(0.35, 0.10, 0.05, 0.005),
    "by size": Weather(0.15, 0.02, 0.005, 0.001, by_size=True),
}


class Mode(NamedTuple):
    """A column: do rows flow, do failures happen (and are asked again), does the correction ask the next question?"""

    name: str
    flow: bool
    failures: bool
    ask_next: bool = False


MODES = (
    Mode("barrier, nothing fails", flow=False, failures=False),
    Mode("flow, nothing fails", flow=True, failures=False),
    Mode("barrier", flow=False, failures=True),
    Mode("flow", flow=True, failures=True),
    Mode("flow, ask_next", flow=True, failures=True, ask_next=True),
)
FLOW, ASKING = MODES[3], MODES[4]


def draw(weather: Weather, *, failures: bool) -> Draw:
    """Turnarounds of `weather`; without failures what would expire or be lost brings its rows at that moment."""

    def fate(work: Work, requests: int, random: np.random.Generator) -> Fate:
        factor = min(requests / DEFAULT_SIZE, 10.0) if weather.by_size else 1.0
        luck = random.random() / factor
        quick = QUICK_SECONDS * random.lognormal(0.0, QUICK_SPREAD) + SECONDS_PER_REQUEST * requests
        slow = min(max(SLOW_SECONDS * random.lognormal(0.0, SLOW_SPREAD), HOUR), 24 * HOUR)
        long = random.uniform(24, 48) * HOUR
        if (luck := luck - weather.lost) < 0:
            return Fate(quick + LOST_SECONDS, rows=not failures)
        if (luck := luck - weather.expired) < 0:
            return Fate(EXPIRES[work.provider], rows=not failures)
        if (luck := luck - weather.days) < 0:
            return Fate(long)
        return Fate(quick + slow if luck < weather.hours else quick)

    return fate


class Case(NamedTuple):
    """One simulated configuration."""

    conversations: int
    tier: int
    max_requests: int = DEFAULT_SIZE
    mode: Mode = FLOW
    weather: str = "usual"


def plan(case: Case, seed: int) -> Plan:
    return Plan(
        conversations=case.conversations,
        max_requests=case.max_requests,
        work=ASK_NEXT if case.mode.ask_next else WORK,
        limits=TIERS[case.tier],
        draw=draw(WEATHERS[case.weather], failures=case.mode.failures),
        flow=case.mode.flow,
        failing=FAILING if case.mode.failures else 0.0,
        blocked=BLOCKED if case.mode.failures else 0.0,
        seed=seed,
    )


@cache
def results(case: Case, seeds: int) -> list[Result]:
    """The case for each seed: a large run averages over its many batches by itself, a small one is a lottery."""
    seeds *= 1 if case.conversations > 20_000 else 10 if case.conversations > 200 else 100
    return [simulate(plan(case, seed)) for seed in range(seeds)]


def hours(seconds: float) -> str:
    return f"{seconds / HOUR:.1f}" if seconds < 10 * HOUR else f"{seconds / HOUR:,.0f}"


def last(found: list[Result]) -> float:
    """Seconds until the last conversation is settled, mean over the seeds."""
    return statistics.mean(result.seconds for result in found)


def until(share: float, found: list[Result]) -> float:
    """Seconds until `share` of those that complete are complete, mean over the seeds."""
    return statistics.mean(result.seconds_until(share) for result in found)


def both(share: float, found: list[Result]) -> str:
    return f"{hours(until(share, found))} / {hours(last(found))}"


def table(head: list[str], rows: Iterator[list[str]]) -> str:
    rule = ["---"] * 2 + ["---:"] * (len(head) - 2)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, rule, *rows])


def mode_rows(counts: list[int], seeds: int) -> Iterator[list[str]]:
    for count in counts:
        for tier in TIERS:
            found = [results(Case(count, tier, mode=mode), seeds) for mode in MODES]
            yield [f"{count:,}", str(tier), *(both(0.9, one) for one in found)]


def size_rows(counts: list[int], seeds: int) -> Iterator[list[str]]:
    for count in counts:
        for tier in TIERS:
            found = [results(Case(count, tier, size), seeds) for size in SIZES]
            yield [f"{count:,}", str(tier), *(both(0.99, one) for one in found)]


def weather_rows(counts: list[int], seeds: int) -> Iterator[list[str]]:
    for count in counts:
        for weather in WEATHERS:
            for tier in (1, 2):
                found = [results(Case(count, tier, size, weather=weather), seeds) for size in SIZES]
                yield [f"{count:,}, tier {tier}", weather, *(both(0.99, one) for one in found)]


def left_rows(counts: list[int], seeds: int) -> Iterator[list[str]]:
    """What is left behind, and how many batches it takes."""
    for count in counts:
        for weather in WEATHERS:
            found = [results(Case(count, 2, size, weather=weather), seeds) for size in SIZES]
            rejected = [statistics.mean(result.rejected / count for result in one) for one in found]
            batches = [statistics.mean(result.batches for result in one) for one in found]
            cells = [f"{share:.2%} / {number:,.0f}" for share, number in zip(rejected, batches, strict=True)]
            yield [f"{count:,}", weather, *cells]


def peak_rows(counts: list[int], seeds: int) -> Iterator[list[str]]:
    for count in counts:
        for tier in TIERS:
            found = [results(Case(count, tier, size), seeds) for size in SIZES]
            yield [f"{count:,}", str(tier), *(str(max(result.peak["gemini"] for result in one)) for one in found)]


def report(counts: list[int], seeds: int) -> str:
    sizes = [f"{size:,}" for size in SIZES]
    larger = [count for count in counts if count > min(COUNTS)]
    parts = [
        f"Hours until 90 % are complete / until the last is settled, `max_requests` = {DEFAULT_SIZE:,}:\n\n",
        table(["conversations", "tier", *(mode.name for mode in MODES)], mode_rows(counts, seeds)),
        "\nHours until 99 % of the conversations are complete / until the last is settled, by `max_requests`:\n\n",
        table(["conversations", "tier", *sizes], size_rows(counts, seeds)),
        "\nThe same in other weather:\n\n",
        table(["run", "weather", *sizes], weather_rows(larger, seeds)),
        "\nShare of conversations rejected / number of batches, tier 2:\n\n",
        table(["conversations", "weather", *sizes], left_rows(larger, seeds)),
        "\nMost Gemini batches in flight at once:\n\n",
        table(["conversations", "tier", *sizes], peak_rows(larger, seeds)),
    ]
    return "".join(parts)


def plot(counts: list[int], seeds: int) -> None:
    """Hours by batch size, one panel for each number of conversations."""
    import altair as alt

    values = [
        {
            "conversations": f"{count:,} conversations",
            "tier": tier,
            "size": size,
            "until": what,
            "hours": seconds / HOUR,
        }
        for count in counts
        for number, tier in DRAWN_TIERS.items()
        for size in SIZES
        for found in [results(Case(count, number, size), seeds)]
        for what, seconds in (("99 %", until(0.99, found)), ("the last", last(found)))
    ]
    axis = alt.Axis(values=list(SIZES), labelAngle=-45, title="max_requests")
    chart = (
        alt.Chart(alt.InlineData(values=values))
        .mark_line(point=True)
        .encode(
            x=alt.X("size:Q", scale=alt.Scale(type="log", domain=[80, 25_000]), axis=axis),
            y=alt.Y("hours:Q", scale=alt.Scale(type="log", domainMin=10), title="hours"),
            color=alt.Color("tier:N", title="tier"),
            strokeDash=alt.StrokeDash("until:N", legend=None, sort=["99 %", "the last"]),
        )
        .properties(width=230, height=240)
        .facet(alt.Column("conversations:N", title=None, sort=[f"{count:,} conversations" for count in counts]))
        .resolve_scale(y="independent")
        .properties(title="Hours until 99 % are complete (solid) and until the last is settled (dashed)")
    )
    chart.save(PLOT)


def write(text: str) -> None:
    """Put the tables into the page."""
    before, _, rest = PAGE.read_text("utf-8").partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{START}{text}{END}{after}", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", type=int, default=3, help="Of the largest run; 10 and 100 times as many of the smaller."
    )
    parser.add_argument("--largest", type=int, default=max(COUNTS), help="Leave larger runs out.")
    parser.add_argument("--write", action="store_true", help="Write docs/scale.md and docs/makespan.svg.")
    parser.add_argument("--case", type=int, nargs=3, metavar="N", help="Conversations, tier, max_requests.")
    options = parser.parse_args()
    start = time.perf_counter()
    if options.case:
        found = results(Case(*options.case), options.seeds)
        print(f"hours until 99 % / the last: {both(0.99, found)}; batches at once: {found[0].peak}")
        return
    counts = [count for count in COUNTS if count <= options.largest]
    text = report(counts, options.seeds)
    print(text)
    if options.write:
        write(text)
        plot(counts, options.seeds)
    print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
