"""An assumption that this program makes of a service, as one row of a table, and what a look at it found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from batchgen.core.pricing import Rate
from batchgen.providers.assumptions.evidence import Evidence, JobNotes
from batchgen.providers.assumptions.results import BatchRows
from batchgen.providers.base import Provider

# What an assumption was taken from before any rehearsal.
DOCUMENTED = "documented"
REPORTED = "reported by users"
UNVERIFIED = "unverified"


class State(StrEnum):
    """What is known of an assumption."""

    HELD = "held"
    BROKEN = "broken"
    UNSEEN = "not seen yet"


class Finding(NamedTuple):
    """Whether an assumption is held, and what was seen, in a few words."""

    state: State
    seen: str


class Seen(NamedTuple):
    """All that a rehearsal has seen of one provider.

    `rows` are the batches with results, `rates` the prices of the models in batch. `grace_seconds` is how long the job
    of an unanswered create call is looked for.
    """

    provider: Provider
    notes: Evidence
    rows: Sequence[BatchRows]
    models: Sequence[str]
    rates: Mapping[str, Rate | None]
    grace_seconds: float

    @property
    def jobs(self) -> list[JobNotes]:
        return list(self.notes.jobs.values())

    @property
    def run_jobs(self) -> list[JobNotes]:
        """The jobs of the run itself, without those that only the rehearsal created."""
        probes = {self.notes.probes.cancel.job, self.notes.probes.dead_create.job}
        return [job for identity, job in self.notes.jobs.items() if identity not in probes]


@dataclass(frozen=True, slots=True)
class Assumption:
    """One assumption.

    `assumes` is the assumption in one sentence, `source` where it comes from and how certain that is. If it is
    `needed`, a run goes wrong without it; otherwise the program copes. `rare`: seen only if something unusual happens.
    """

    name: str
    assumes: str
    source: str
    look: Callable[[Seen], Finding]
    needed: bool = True
    rare: bool = False


def held(seen: str) -> Finding:
    return Finding(State.HELD, seen)


def broken(seen: str) -> Finding:
    return Finding(State.BROKEN, seen)


def unseen(seen: str = "") -> Finding:
    return Finding(State.UNSEEN, seen)
