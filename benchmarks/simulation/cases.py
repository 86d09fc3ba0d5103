"""The simulated configurations. What is not said is a default of the program, the README's cron line, or a documented
limit of a provider.
"""

from __future__ import annotations

import re
import statistics
from functools import cache
from pathlib import Path
from typing import NamedTuple

from batchgen.core.dialogue import Stage
from batchgen.providers import find_provider
from batchgen.runtime.settings import Settings
from benchmarks import cost
from benchmarks.simulation.run import Limits, Plan, Result, Switch, Work, simulate
from benchmarks.simulation.weather import HOUR, WEATHERS, Rules, draw

DEFAULTS = Settings()
DEFAULT_SIZE = DEFAULTS.batches.max_requests
README = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")
CRON_MINUTES = re.search(r"^\*/(\d+) \* \* \* \* .* collect --advance$", README, re.MULTILINE)
assert CRON_MINUTES
TICK_SECONDS = 60 * int(CRON_MINUTES[1])

# Enqueued tokens of the flash-lite models in tiers 1 (the default) to 3: Google's rate limits, 2026-08-18. 0: no limit.
TIERS = {0: 10**15, 1: DEFAULTS.gemini.enqueued_tokens, 2: 500_000_000, 3: 1_000_000_000}
FAILING, BLOCKED = 0.02, 0.005  # assumed shares of the rows that come back: asked again; left behind
SWITCH_SECONDS = 24 * int(HOUR)
ASK_NEXT = "correction.ask_next = true"


class Mode(NamedTuple):
    """Do rows flow, do failures happen (and are asked again), does the correction ask the next question?"""

    name: str
    flow: bool = True
    failures: bool = True
    ask_next: bool = False


FLOW, ASKING = Mode("flow"), Mode("flow, ask_next", ask_next=True)
MODES = (
    Mode("barrier, nothing fails", flow=False, failures=False),
    Mode("flow, nothing fails", failures=False),
    Mode("barrier", flow=False),
    FLOW,
    ASKING,
)


class Answers(NamedTuple):
    """Who writes the answers, in which weather; with `then`, new batches go there after SWITCH_SECONDS."""

    provider: str = DEFAULTS.choices(Stage.ANSWER)[0].provider
    weather: str = ""  # that of the case
    then: str = ""
    expired_share: float = 0.0  # of the rows of an expired batch that come back


class Case(NamedTuple):
    """One simulated configuration."""

    conversations: int
    tier: int = 1
    max_requests: int = DEFAULT_SIZE
    mode: Mode = FLOW
    weather: str = "usual"
    answers: Answers = Answers()
    max_attempts: int = DEFAULTS.batches.max_attempts
    tick_seconds: int = TICK_SECONDS
    failing: float = FAILING
    rules: Rules = Rules()


HISTORY = [cost.HISTORY]  # the conversations whose requests are counted


@cache
def work(answers: str, *, ask_next: bool) -> tuple[Work, ...]:
    """Return the steps of a run with the size of their requests, as benchmarks/cost.py builds them."""
    sizes = cost.request_sizes(cost.read_conversations(HISTORY[0]), ASK_NEXT if ask_next else "")
    return tuple(
        Work(
            str(size.step),
            answers if size.step.stage is Stage.ANSWER else size.provider,
            round(size.tokens),
            round(size.bytes),
        )
        for size in sizes
    )


def limits(provider: str, tier: int) -> Limits:
    """Return the limits that the program keeps at a provider."""
    configured, documented = DEFAULTS.provider(provider), find_provider(provider)
    return Limits(
        TIERS[tier] if provider == "gemini" else configured.enqueued_tokens,
        configured.concurrent_batches if tier else 10**6,
        documented.max_file_requests,
        documented.max_file_bytes,
    )


def plan(case: Case, seed: int) -> Plan:
    failures, answers = case.mode.failures, case.answers
    weathers = dict.fromkeys(("gemini", "together", "deepinfra"), WEATHERS[case.weather])
    if answers.weather:
        weathers[answers.provider] = WEATHERS[answers.weather]
    rules = case.rules._replace(
        harmless=not failures, expired_share=tuple((name, answers.expired_share) for name in ("together", "deepinfra"))
    )
    return Plan(
        conversations=case.conversations,
        max_requests=case.max_requests,
        work=work(answers.provider, ask_next=case.mode.ask_next),
        limits={name: limits(name, case.tier) for name in weathers},
        draw=draw(weathers, rules),
        max_attempts=case.max_attempts,
        max_bytes=DEFAULTS.batches.max_bytes,
        tick_seconds=case.tick_seconds,
        flow=case.mode.flow,
        failing=case.failing if failures else 0.0,
        blocked=BLOCKED if failures else 0.0,
        switch=Switch(SWITCH_SECONDS, answers.provider, answers.then) if answers.then else None,
        seed=seed,
    )


@cache
def results(case: Case, seeds: int) -> list[Result]:
    """The case for each seed: a large run averages over its many batches by itself, a small one is a lottery."""
    seeds *= 1 if case.conversations > 20_000 else 30 if case.conversations > 200 else 300
    return [simulate(plan(case, seed)) for seed in range(seeds)]


def last(found: list[Result]) -> float:
    """Seconds until the last conversation is settled, mean over the seeds."""
    return statistics.mean(result.seconds for result in found)


def until(share: float, found: list[Result]) -> float:
    """Seconds until `share` of those that complete are complete, mean over the seeds."""
    return statistics.mean(result.seconds_until(share) for result in found)
