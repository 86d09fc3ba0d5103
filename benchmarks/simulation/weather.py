"""How long a batch takes and what it brings: drawn from distributions shaped like what people report.

* Gemini and Together aim at 24 hours; most batches are far quicker: two requests in 68 s (Gemini), minutes below 1,000
  requests (Together); large batches take longer, and expire more often
* some take hours; at times a model is stuck for a day to four days while another one ends in ten minutes (Gemini:
  October 2025, March, May and September 2026)
* Gemini ends a batch that is pending or running for 48 hours as EXPIRED, without any results; Together's 24 hours are
  a best effort, and after 72 hours one may ask; a batch of DeepInfra ends after 24 hours at the latest
* now and then a batch is not found any more, which `collect` believes after some time

Nobody publishes shares, so those below are assumptions, and so is that all providers have the same ones, and that a
batch of Together ends after 72 hours. Whether an expired batch of DeepInfra brings the rows that were finished is not
documented: both are simulated. Batches are drawn independently of each other; a real outage strikes many at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import NamedTuple

from batchgen.engine.collection.poll import LOST_AFTER_GRACE_PERIODS
from batchgen.runtime.settings import Settings
from benchmarks.simulation.run import Draw, Fate, Work

MINUTE, HOUR = 60.0, 3600.0
WINDOWS = {"gemini": 48 * HOUR, "together": 72 * HOUR, "deepinfra": 24 * HOUR}
REFERENCE_SIZE = 2000  # requests
QUICK_SECONDS, QUICK_SPREAD = 8 * MINUTE, 0.8  # median and sigma of a log-normal distribution
SLOW_SECONDS, SLOW_SPREAD = 4 * HOUR, 0.7
SECONDS_PER_REQUEST = 0.25  # what a larger batch takes longer
LOST_SECONDS = LOST_AFTER_GRACE_PERIODS * Settings().batches.reconcile_grace_seconds
KINDS = ("minutes", "hours", "days", "expired", "lost")  # of a Fate


class Weather(NamedTuple):
    """Shares of batches that take hours, take a day or two, expire, get lost; the others take minutes."""

    hours: float
    days: float
    expired: float
    lost: float
    by_size: bool = False  # the shares hold for REFERENCE_SIZE requests and grow with the size, up to tenfold


WEATHERS = {
    "usual": Weather(0.15, 0.02, 0.005, 0.001),
    "bad week": Weather(0.35, 0.10, 0.05, 0.005),
    "by size": Weather(0.15, 0.02, 0.005, 0.001, by_size=True),
}


class Rules(NamedTuple):
    """What differs from the weather as it is.

    without        kinds of fates that are taken away: such batches take minutes
    expired_share  of the rows of an expired batch that it brings all the same, by provider
    cancel_seconds a batch that has not ended by then is cancelled, and brings nothing
    harmless       what expires or gets lost brings all its rows at that moment
    """

    without: frozenset[str] = frozenset()
    expired_share: tuple[tuple[str, float], ...] = ()
    cancel_seconds: float = float("inf")
    harmless: bool = False


AS_IT_IS = Rules()


def draw(weathers: Mapping[str, Weather], rules: Rules = AS_IT_IS) -> Draw:
    """Return the fates of batches, each in the weather of its provider."""
    shares = dict(rules.expired_share)

    def fate(work: Work, requests: int, random: Random) -> Fate:
        weather, window = weathers[work.provider], WINDOWS[work.provider]
        found = _in_window(_fate(weather, requests, random, rules.without), window, shares.get(work.provider, 0.0))
        if rules.harmless:
            return found._replace(share=1.0)
        if found.seconds > rules.cancel_seconds:
            return Fate(rules.cancel_seconds, 0.0, found.kind)
        return found

    return fate


def _in_window(fate: Fate, window: float, share: float) -> Fate:
    """Let a batch that takes longer than its provider's window expire."""
    if fate.kind == "lost" or fate.seconds <= window:
        return fate
    return Fate(window, share, "expired")


def _fate(weather: Weather, requests: int, random: Random, without: frozenset[str]) -> Fate:
    """Return the fate of a batch that nothing ends; one that never ends takes for ever."""
    factor = min(requests / REFERENCE_SIZE, 10.0) if weather.by_size else 1.0
    luck = random.random() / factor
    quick = QUICK_SECONDS * random.lognormvariate(0.0, QUICK_SPREAD) + SECONDS_PER_REQUEST * requests
    slow = min(max(SLOW_SECONDS * random.lognormvariate(0.0, SLOW_SPREAD), HOUR), 24 * HOUR)
    long = random.uniform(24, 48) * HOUR
    fates = (
        (weather.lost, Fate(quick + LOST_SECONDS, 0.0, "lost")),
        (weather.expired, Fate(float("inf"), 0.0, "expired")),
        (weather.days, Fate(long, kind="days")),
        (weather.hours, Fate(quick + slow, kind="hours")),
    )
    for share, fate in fates:
        if (luck := luck - share) < 0:
            return Fate(quick) if fate.kind in without else fate
    return Fate(quick)
