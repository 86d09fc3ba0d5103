"""A run of batchgen without providers: batches are cut, admitted, wait, come back and flow on, in simulated time.

Nothing here knows a distribution: `Plan.draw` says how each batch fares. A batch has a random generator of its own,
made of the seed, its step, its first conversation and its attempt, so that two plans that send the same batch see the
same fate. What batchgen does itself (build, upload, collect: seconds a tick) takes no time here.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple
from zlib import crc32

import numpy as np
import numpy.typing as npt

from batchgen.engine.submission.request_files import MAX_HALVINGS

Rows = npt.NDArray[np.int32]
TICK, ROOM = "tick", "room"  # what a conversation waits for besides its batches: a tick to collect, room to be sent


class Work(NamedTuple):
    """One step: who does it, and what one of its requests weighs."""

    name: str
    provider: str
    tokens: int
    bytes: int


class Limits(NamedTuple):
    """What a provider lets one account have in flight, and what one file may hold."""

    enqueued_tokens: int
    concurrent_batches: int
    file_requests: int
    file_bytes: int


class Fate(NamedTuple):
    """How a batch ends: so many seconds after its create call, with a share of its rows. `kind` names what it met."""

    seconds: float
    share: float = 1.0
    kind: str = "minutes"


class Switch(NamedTuple):
    """From `seconds` on new batches of the provider `before` go to `after`. Those in flight stay where they are."""

    seconds: int
    before: str
    after: str


Draw = Callable[[Work, int, Random], Fate]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated. `draw` is told the work and the number of requests of a batch.

    failing, blocked   shares of the rows that come back: asked again; left behind at once
    flow               rows go on as soon as their batch is collected; else a step waits for the whole step before it
    """

    conversations: int
    max_requests: int
    work: Sequence[Work]
    limits: Mapping[str, Limits]
    draw: Draw
    max_attempts: int
    max_bytes: int
    tick_seconds: int
    flow: bool = True
    failing: float = 0.0
    blocked: float = 0.0
    switch: Switch | None = None
    seed: int = 0


class Result(NamedTuple):
    """How a run went.

    completed   how many conversations were completed at which second
    peak        the most batches that a provider had in flight at once
    chain       what the conversation that was settled last spent its seconds on: kinds of fates, TICK and ROOM
    """

    seconds: int
    complete: int
    rejected: int
    batches: int
    requests: int
    completed: tuple[tuple[int, int], ...]
    peak: Mapping[str, int]
    chain: Mapping[str, float] = {}

    def seconds_until(self, share: float) -> int:
        """When `share` of the conversations that were completed in the end were complete."""
        wanted, done = share * self.complete, 0
        for second, count in self.completed:
            done += count
            if done >= wanted:
                return second
        return self.seconds


class _Batch(NamedTuple):
    step: int
    provider: str
    tried: int
    tokens: int
    accepted: Rows
    again: Rows
    left: Rows  # behind, at once


@dataclass(slots=True)
class _Pool:
    """Conversations ready for one step and attempt: those of earlier ticks first, each tick's by number."""

    pieces: deque[Rows] = field(default_factory=deque)
    arrived: list[Rows] = field(default_factory=list)
    size: int = 0

    def put(self, rows: Rows) -> None:
        if len(rows):
            self.arrived.append(rows)
            self.size += len(rows)

    def take(self, count: int) -> Rows:
        if self.arrived:
            self.pieces.append(np.sort(np.concatenate(self.arrived)))
            self.arrived.clear()
        taken: list[Rows] = []
        missing = min(count, self.size)
        self.size -= missing
        while missing:
            piece = self.pieces.popleft()
            taken.append(piece[:missing])
            if len(piece) > missing:
                self.pieces.appendleft(piece[missing:])
            missing -= len(taken[-1])
        return np.concatenate(taken)


class _Run:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.now = 0
        self.ready: dict[tuple[int, int], _Pool] = defaultdict(_Pool)
        self.flying: list[tuple[int, int, _Batch]] = []
        self.open = Counter({0: plan.conversations})  # conversations at each step, ready or in flight
        self.batches_at: Counter[str] = Counter()
        self.tokens_at: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.batches = self.requests = self.rejected = 0
        self.completed: list[tuple[int, int]] = []
        self.sent: list[tuple[int, int, Rows, Fate]] = []  # when each batch was sent and collected
        self.last = 0  # the conversation that was settled last, or one of them
        self.ready[0, 0].put(np.arange(plan.conversations, dtype=np.int32))

    def run(self) -> Result:
        self.submit()
        while self.flying:
            self.now = self.flying[0][0]
            while self.flying and self.flying[0][0] == self.now:
                self.collect(heapq.heappop(self.flying)[2])
            self.submit()
        complete = sum(count for _, count in self.completed)
        found = Result(self.now, complete, self.rejected, self.batches, self.requests, tuple(self.completed), self.peak)
        return found._replace(chain=self._chain())

    def _chain(self) -> Mapping[str, float]:
        """Return what the conversation that was settled last spent its seconds on."""
        spent: dict[str, float] = defaultdict(float)
        for sent, collected, rows, fate in self.sent:
            if (rows == self.last).any():
                spent[fate.kind] += fate.seconds
                spent[TICK] += collected - sent - fate.seconds
        spent[ROOM] = max(0.0, self.now - sum(spent.values()))
        return dict(spent)

    def submit(self) -> None:
        """The earliest step first, as batchgen does; a step that does not fit leaves room to the ones behind it."""
        for step in range(len(self.plan.work)):
            work = self._work(step)
            for tried in range(self.plan.max_attempts):
                pool = self.ready.get((step, tried))
                while pool and pool.size:
                    count = min(self._most(work, tried), pool.size)
                    if not self._admitted(work, count):
                        break
                    self._send(step, work, tried, pool.take(count))
            if not self.plan.flow and self.open[step]:
                return

    def _work(self, step: int) -> Work:
        work, switch = self.plan.work[step], self.plan.switch
        if switch and self.now >= switch.seconds and work.provider == switch.before:
            return work._replace(provider=switch.after)
        return work

    def _most(self, work: Work, tried: int) -> int:
        plan, limits = self.plan, self.plan.limits[work.provider]
        halved = min(plan.max_requests, limits.file_requests) >> min(tried, MAX_HALVINGS)
        size = min(plan.max_bytes, limits.file_bytes) // work.bytes
        return max(1, min(halved, size, limits.enqueued_tokens // work.tokens))

    def _admitted(self, work: Work, count: int) -> bool:
        batches, limits = self.batches_at[work.provider], self.plan.limits[work.provider]
        tokens = self.tokens_at[work.provider] + count * work.tokens
        return not batches or (batches < limits.concurrent_batches and tokens <= limits.enqueued_tokens)

    def _send(self, step: int, work: Work, tried: int, rows: Rows) -> None:
        plan = self.plan
        # The number of the step must not depend on the steps a plan leaves out.
        name = f"{plan.seed} {work.name} {rows[0]} {tried}"
        random = Random(crc32(name.encode()))
        fate = plan.draw(work, len(rows), random)
        judged = self._judged(rows, fate.share, random)
        batch = _Batch(step, work.provider, tried, len(rows) * work.tokens, *judged)
        ticks = max(1, -int(-fate.seconds // plan.tick_seconds))  # the first tick that finds it ended
        self.batches += 1
        self.requests += len(rows)
        self.batches_at[work.provider] += 1
        self.peak[work.provider] = max(self.peak[work.provider], self.batches_at[work.provider])
        self.tokens_at[work.provider] += batch.tokens
        collected = self.now + ticks * plan.tick_seconds
        self.sent.append((self.now, collected, rows, fate))
        heapq.heappush(self.flying, (collected, self.batches, batch))

    def collect(self, batch: _Batch) -> None:
        self.batches_at[batch.provider] -= 1
        self.tokens_at[batch.provider] -= batch.tokens
        accepted, again, left = batch.accepted, batch.again, batch.left
        if batch.tried + 1 < self.plan.max_attempts:
            self.ready[batch.step, batch.tried + 1].put(again)
        else:
            left = np.concatenate([left, again])
        self.open[batch.step] -= len(accepted) + len(left)
        self.rejected += len(left)
        if batch.step + 1 < len(self.plan.work):
            self.ready[batch.step + 1, 0].put(accepted)
            self.open[batch.step + 1] += len(accepted)
        elif len(accepted):
            self.completed.append((self.now, len(accepted)))
            left = np.concatenate([left, accepted])
        if len(left):
            self.last = left[0]

    def _judged(self, rows: Rows, share: float, random: Random) -> tuple[Rows, Rows, Rows]:
        """(accepted, to be asked again, left behind); `share` of the rows come back."""
        plan, none = self.plan, rows[:0]
        if not share:
            return none, rows, none
        if not plan.failing and not plan.blocked and share == 1:
            return rows, none, none
        luck = np.frombuffer(random.randbytes(4 * len(rows)), np.uint32) / 2**32
        blocked = luck < plan.blocked * share
        failed = ~blocked & ((luck < (plan.blocked + plan.failing) * share) | (luck >= share))
        return rows[~(blocked | failed)], rows[failed], rows[blocked]


def simulate(plan: Plan) -> Result:
    """The whole run, from the first submit to the tick that settles the last conversation."""
    return _Run(plan).run()
