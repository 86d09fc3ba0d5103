"""When batches waited and ran, as bars of a timeline. Keeps four numbers for each batch. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from batchgen.core.dialogue import Step
from batchgen.ledger.rows import Batch

MAX_LANES = 40  # up to so many batches have a lane each; more share one lane per step
MAX_BARS = 2_000  # at most in one timeline; close bars are merged
PHASES = ("waiting at the provider", "running")
Bar = tuple[int, int]  # from, to: milliseconds since 1970


class Timeline(NamedTuple):
    """Bars with `lane`, `kind` (one of PHASES), `from` and `to` (milliseconds since 1970), and how many batches."""

    bars: Sequence[dict[str, Any]]
    batches: int

    @property
    def lanes(self) -> bool:
        """Whether each batch has a lane of its own."""
        return self.batches <= MAX_LANES


class TimelineBuilder:
    """Collects the times of batches, which are added one by one."""

    def __init__(self) -> None:
        self._positions, self._times = array("q"), array("q")

    def learn(self, batch: Batch, now: float) -> None:
        """Add a batch. A batch that was never submitted is skipped."""
        if batch.job.submitted_at is None:
            return
        begin = batch.job.submitted_at or batch.plan.planned_at
        end = max(batch.job.ended_at or now, begin)
        middle = min(max(batch.job.started_at or end, begin), end)
        self._positions.append(batch.position)
        self._times.extend(round(seconds * 1000) for seconds in (begin, middle, end))

    def timeline(self) -> Timeline:
        count = len(self._positions)
        return Timeline(list(self._batch_bars() if count <= MAX_LANES else self._step_bars()), count)

    def _batch_bars(self) -> Iterator[dict[str, Any]]:
        """Yield the bars of each batch in a lane of its own."""
        for number, position in enumerate(self._positions):
            lane = f"{number + 1}. {Step.at(position)}"
            yield from (_bar(lane, kind, self._times_of(number, phase)) for phase, kind in enumerate(PHASES))

    def _step_bars(self) -> Iterator[dict[str, Any]]:
        """Yield the bars of each step in one lane. Bars with a gap too small to be seen are merged."""
        positions = dict.fromkeys(self._positions)
        gap = (max(self._times) - min(self._times)) * len(positions) * len(PHASES) / MAX_BARS
        for position in positions:
            numbers = [number for number, at in enumerate(self._positions) if at == position]
            for phase, kind in enumerate(PHASES):
                bars = sorted(self._times_of(number, phase) for number in numbers)
                yield from (_bar(str(Step.at(position)), kind, bar) for bar in merge_close_bars(bars, gap))

    def _times_of(self, number: int, phase: int) -> Bar:
        at = 3 * number + phase
        return self._times[at], self._times[at + 1]


def _bar(lane: str, kind: str, bar: Bar) -> dict[str, Any]:
    return {"lane": lane, "kind": kind, "from": bar[0], "to": bar[1]}


def merge_close_bars(bars: Iterable[Bar], gap: float) -> Iterator[Bar]:
    """Merge bars that are `gap` milliseconds or less apart. `bars` must be sorted by start."""
    begin = end = None
    for start, stop in bars:
        if begin is None or end is None or start > end + gap:
            if begin is not None and end is not None:
                yield begin, end
            begin, end = start, stop
        else:
            end = max(end, stop)
    if begin is not None and end is not None:
        yield begin, end
