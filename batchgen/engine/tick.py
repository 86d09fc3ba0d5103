"""Run one tick, or ticks until nothing is left to do: `collect`, `collect --advance`, `--wait` and `run`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from batchgen.core.dialogue import Step
from batchgen.core.errors import BatchgenError, BatchLost, NeedsPerson, SetupError
from batchgen.dataset.round_files import has_open_conversations, write_due_files
from batchgen.engine.session import Session
from batchgen.ledger.rows import AUDIT_FACT, SUBMITTED_STATES, Batch
from batchgen.runtime.environment import is_loopback

FIRST_PAUSE_SECONDS = 1.0
PAUSE_GROWTH = 1.5
LONGEST_PAUSE_SECONDS = 30.0  # Together asks for 30 to 60 s between polls
LONGEST_LOCAL_PAUSE_SECONDS = 2.0  # a service on this machine has no such limit


class Tick(NamedTuple):
    """What one tick did: number of batches collected and submitted, files written."""

    collected: int
    submitted: int
    written: tuple[Path, ...]

    @property
    def made_progress(self) -> bool:
        return bool(self.collected or self.submitted)


def tick(session: Session, *, advance: bool) -> Tick:
    """Resolve open create calls, collect ended batches, write outdated files; with `advance` submit what is ready."""
    collected = 0
    try:
        if session.store.batches(*SUBMITTED_STATES) or session.store.awaiting_late_results(session.now()):
            collected = _collect(session)
    finally:
        written = write_due_files(session)
    submitted = 0
    if advance and session.store.fact(AUDIT_FACT):
        from batchgen.engine.audit import enter_finished_turns

        enter_finished_turns(session)
    if advance and (has_open_conversations(session) or session.store.holds.all()):
        from batchgen.engine.submission.submit import submit

        submitted = submit(session, session.all_steps())
    return Tick(collected, submitted, tuple(written))


def _collect(session: Session) -> int:
    # Imported here and below, because an idle tick needs none of it.
    from batchgen.engine.collection.poll import collect
    from batchgen.engine.reconcile import reconcile
    from batchgen.engine.submission.rejection_limit import rejection_limit_error

    reconcile(session)
    collected = collect(session)
    if collected:
        for stop in filter(None, (rejection_limit_error(session, step) for step in session.all_steps())):
            session.trouble(stop)
    return collected


def submit_steps(session: Session, wanted: Sequence[Step]) -> int:
    """Submit what is ready for the steps `wanted`. Returns the number of batches created.

    Open create calls are resolved first, because their jobs may exist.
    """
    from batchgen.engine.reconcile import reconcile
    from batchgen.engine.submission.submit import submit

    reconcile(session)
    write_due_files(session)
    return submit(session, wanted)


def tick_until_done(
    session: Session, *, advance: bool, sleep: Callable[[float], None], show: Callable[[], None]
) -> None:
    """Tick until nothing is in flight; with `advance`, until the dataset is finished. Calls `show` after each tick.

    A trouble that only the user can fix ends the wait once nothing is in flight. It is in `session.troubles`.
    """
    pause = FIRST_PAUSE_SECONDS
    while True:
        session.troubles[:] = filter(_is_reported_once, session.troubles)  # this tick reports the others again
        session.unusable.clear()
        done = tick(session, advance=advance)
        show()
        if is_waiting_useless(session, advance=advance):
            return
        pause = FIRST_PAUSE_SECONDS if done.made_progress else min(pause * PAUSE_GROWTH, longest_pause(session))
        sleep(pause)


def is_waiting_useless(session: Session, *, advance: bool) -> bool:
    """Return whether more ticks would change nothing."""
    for_person = filter(lambda error: isinstance(error, (NeedsPerson, SetupError)), session.troubles)
    stuck = not all(map(_is_reported_once, for_person))
    if any(_can_poll(session, batch) for batch in session.store.batches(*SUBMITTED_STATES)):
        return False
    if not advance or stuck:
        return True
    return not has_open_conversations(session)


def _is_reported_once(error: BatchgenError) -> bool:
    """Return whether no later tick reports the error again. Lost requests are sent again, so the run does not stop."""
    return isinstance(error, BatchLost)


def _can_poll(session: Session, batch: Batch) -> bool:
    """Return whether ticks with the current API keys can see how `batch` ends."""
    from batchgen.providers import find_provider

    if batch.provider in session.unusable:
        return False
    return batch.job.key_fingerprint == session.key_fingerprint(find_provider(batch.provider))


def longest_pause(session: Session) -> float:
    """Return the longest pause between two ticks in seconds. It is shorter if all providers are on this machine."""
    local = all(is_loopback(session.environment.get(provider.url_variable)) for provider in session.providers())
    return LONGEST_LOCAL_PAUSE_SECONDS if local else LONGEST_PAUSE_SECONDS
