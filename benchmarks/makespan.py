"""How long a run takes from the first submit to the last conversation, by simulation, and what decides it.

Settings are those of the program (batchgen.runtime.settings), the tick is that of README's cron line, and the size of
a request is what benchmarks/cost.py builds and counts. How long batches take is assumed
(benchmarks/simulation/weather.py).

    python benchmarks/makespan.py [--seeds 2] [--largest 1000000] [--history round3_history.jsonl] [--write]
    python benchmarks/makespan.py --case 10000000 2 20000     # conversations, tier, max_requests: this one alone
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.simulation import cases
from benchmarks.simulation.cases import ASKING, DEFAULT_SIZE, MODES, Answers, Case, last, results, until
from benchmarks.simulation.run import ROOM, TICK, Result
from benchmarks.simulation.weather import HOUR, KINDS, WEATHERS, Rules

DOCS = REPOSITORY / "docs"
PAGE, PLOT = DOCS / "scale.md", DOCS / "makespan.svg"
START, END = "<!-- tables: make bench-makespan -->\n", "<!-- end of tables -->\n"
SIZES = (500, 1000, 2000, 5000, 20_000)
MILLION = 1_000_000
# With batches of 2,000 requests, 100 batches hold less than the tokens of tier 2, so that tier 3 is the same.
RUNS = {
    "200": Case(200),
    "20,000": Case(20_000),
    "1,000,000, tier 1": Case(MILLION, 1),
    "1,000,000, tiers 2 and 3": Case(MILLION, 2),
}
ANSWERS = {
    "Together": Answers("together"),
    "DeepInfra, an expired batch brings nothing": Answers("deepinfra"),
    "DeepInfra, an expired batch brings half of its rows": Answers("deepinfra", expired_share=0.5),
    "Together, after a day DeepInfra": Answers("together", then="deepinfra"),
    "Together in a bad week": Answers("together", "bad week"),
    "Together in a bad week, after a day DeepInfra": Answers("together", "bad week", then="deepinfra"),
}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "the defaults": {},
    "without expired and lost batches": {"rules": Rules(frozenset({"expired", "lost"}))},
    "without batches of one to two days": {"rules": Rules(frozenset({"days"}))},
    "without batches of hours": {"rules": Rules(frozenset({"hours"}))},
    "all batches take minutes": {"rules": Rules(frozenset(KINDS))},
    "without rows that fail": {"failing": 0.0},
    "10 % of the rows fail, not 2 %": {"failing": 0.1},
    "without limits of tokens and batches": {"tier": 0},
    "a tick every minute": {"tick_seconds": 60},
    "a tick every 15 minutes": {"tick_seconds": 900},
    "a tick every hour": {"tick_seconds": 3600},
    "`ask_next = true`": {"mode": ASKING},
    **{f"`max_requests = {size}`": {"max_requests": size} for size in SIZES if size != DEFAULT_SIZE},
    "`max_attempts = 2`": {"max_attempts": 2},
    "`max_attempts = 5`": {"max_attempts": 5},
    "batches cancelled after 12 h": {"rules": Rules(cancel_seconds=12 * HOUR)},
    "the same, `max_attempts = 5`": {"rules": Rules(cancel_seconds=12 * HOUR), "max_attempts": 5},
    "batches cancelled after 24 h": {"rules": Rules(cancel_seconds=24 * HOUR)},
}
# The columns of KINDS, TICK and ROOM.
CHAIN = ("batches of minutes", "of hours", "of days", "expired", "lost", "until the tick", "waiting to be sent")


def hours(seconds: float) -> str:
    return f"{seconds / HOUR:.1f}" if seconds < 10 * HOUR else f"{seconds / HOUR:,.0f}"


def both(share: float, found: list[Result]) -> str:
    return f"{hours(until(share, found))} / {hours(last(found))}"


def table(head: list[str], rows: Iterator[list[str]]) -> str:
    """Write a table whose first column is text."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, rule, *rows])


def mode_rows(runs: Mapping[str, Case], seeds: int) -> Iterator[list[str]]:
    for name, case in runs.items():
        yield [name, *(both(0.9, results(case._replace(mode=mode), seeds)) for mode in MODES)]


def size_rows(runs: Mapping[str, Case], seeds: int) -> Iterator[list[str]]:
    for name, case in runs.items():
        for weather in WEATHERS:
            found = [results(case._replace(max_requests=size, weather=weather), seeds) for size in SIZES]
            yield [f"{name}, {weather}", *(both(0.99, one) for one in found)]


def chain_rows(runs: Mapping[str, Case], seeds: int) -> Iterator[list[str]]:
    """What the last conversation spends its time on, mean over the seeds."""
    for name, case in runs.items():
        for weather in WEATHERS:
            found = results(case._replace(weather=weather), seeds)
            spent = [statistics.mean(one.chain.get(kind, 0.0) for one in found) for kind in (*KINDS, TICK, ROOM)]
            yield [f"{name}, {weather}", hours(last(found)), *map(hours, spent)]


def answer_rows(runs: Mapping[str, Case], seeds: int) -> Iterator[list[str]]:
    for name, answers in ANSWERS.items():
        yield [name, *(both(0.99, results(case._replace(answers=answers), seeds)) for case in runs.values())]


def variant_rows(runs: Mapping[str, Case], seeds: int) -> Iterator[list[str]]:
    for name, changes in VARIANTS.items():
        found = [
            results(case._replace(weather=weather)._replace(**changes), seeds)
            for case in runs.values()
            for weather in WEATHERS
        ]
        yield [name, *(both(0.99, one) for one in found)]


def effort_rows(case: Case, seeds: int) -> Iterator[list[str]]:
    """What settings cost: conversations rejected, requests sent for a conversation, batches."""
    for name, changes in VARIANTS.items():
        if name.startswith(("without", "all")):
            continue
        cells = []
        for weather in WEATHERS:
            found = results(case._replace(weather=weather)._replace(**changes), seeds)
            rejected, requests = (
                statistics.mean(count / case.conversations for count in counts)
                for counts in zip(*((one.rejected, one.requests) for one in found), strict=True)
            )
            cells.append(f"{rejected:.2%} / {requests:.2f} / {statistics.mean(one.batches for one in found):,.0f}")
        yield [name, *cells]


def report(runs: Mapping[str, Case], seeds: int) -> str:
    sizes = [f"{size:,}" for size in SIZES]
    small = {name: case for name, case in runs.items() if case.conversations < MILLION}
    larger = {name: case for name, case in runs.items() if case.conversations > SIZES[0]}
    most = list(small.values())[-1]
    columns = [f"{name}, {weather}" for name in small for weather in WEATHERS]
    parts = [
        f"Hours until 90 % are complete / until the last is settled, `max_requests` = {DEFAULT_SIZE:,}:\n\n",
        table(["conversations", *(mode.name for mode in MODES)], mode_rows(runs, seeds)),
        "\nWhat the hours of the last conversation consist of:\n\n",
        table(["conversations, weather", "in all", *CHAIN], chain_rows(runs, seeds)),
        "\nHours until 99 % are complete / until the last is settled, by what is taken away or changed:\n\n",
        table(["", *columns], variant_rows(small, seeds)),
        f"\nShare of {most.conversations:,} conversations rejected / requests sent for a conversation / batches:\n\n",
        table(["", *WEATHERS], effort_rows(most, seeds)),
        "\nHours until 99 % / the last, by `max_requests`:\n\n",
        table(["conversations, weather", *sizes], size_rows(larger, seeds)),
        "\nHours until 99 % / the last, by who writes the answers:\n\n",
        table(["answers", *runs], answer_rows(runs, seeds)),
    ]
    return "".join(parts)


def plot(runs: Mapping[str, Case], seeds: int) -> None:
    """Draw hours by batch size, one panel for each number of conversations."""
    import altair as alt

    values = [
        {
            "conversations": f"{case.conversations:,} conversations",
            "tier": "2 and 3" if case.tier > 1 else "1",
            "size": size,
            "until": what,
            "hours": seconds / HOUR,
        }
        for case in runs.values()
        if case.conversations > SIZES[0]
        for size in SIZES
        for found in [results(case._replace(max_requests=size), seeds)]
        for what, seconds in (("99 %", until(0.99, found)), ("the last", last(found)))
    ]
    panels = list(dict.fromkeys(str(value["conversations"]) for value in values))
    axis = alt.Axis(values=list(SIZES), labelAngle=-45, title="max_requests")
    chart = (
        alt.Chart(alt.InlineData(values=values))
        .mark_line(point=True)
        .encode(
            x=alt.X("size:Q", scale=alt.Scale(type="log", domain=[400, 25_000]), axis=axis),
            y=alt.Y("hours:Q", scale=alt.Scale(type="log", domainMin=10), title="hours"),
            color=alt.Color("tier:N", title="tier"),
            strokeDash=alt.StrokeDash("until:N", legend=None, sort=["99 %", "the last"]),
        )
        .properties(width=230, height=240)
        .facet(alt.Column("conversations:N", title=None, sort=panels))
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
        "--seeds", type=int, default=2, help="Of a million conversations; 30 and 300 times as many of fewer."
    )
    parser.add_argument("--largest", type=int, default=MILLION, help="Leave larger runs out.")
    parser.add_argument("--history", type=Path, default=cases.HISTORY[0], help="Count the requests of this run.")
    parser.add_argument("--write", action="store_true", help="Write docs/scale.md and docs/makespan.svg.")
    parser.add_argument("--case", type=int, nargs=3, metavar="N", help="Conversations, tier, max_requests.")
    options = parser.parse_args()
    cases.HISTORY[0] = options.history
    start = time.perf_counter()
    if options.case:
        found = results(Case(*options.case), options.seeds)
        print(f"hours until 99 % / the last: {both(0.99, found)}; batches at once: {found[0].peak}")
        return
    runs = {name: case for name, case in RUNS.items() if case.conversations <= options.largest}
    text = report(runs, options.seeds)
    print(text)
    if options.write:
        write(text)
        plot(runs, options.seeds)
    print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
