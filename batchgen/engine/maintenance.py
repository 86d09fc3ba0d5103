"""Implement `cancel`, `clean`, `retry` and `switch`. Only objects that this run created are changed."""

from __future__ import annotations

from typing import NamedTuple, NoReturn

from batchgen.core.dialogue import STAGES, Stage, Step
from batchgen.core.errors import BatchgenError, NotReady, SetupError
from batchgen.engine.reconcile import reconcile
from batchgen.engine.session import Session
from batchgen.engine.settlement.settle import release_batch
from batchgen.ledger.holds import halt_scope, model_scope, provider_of
from batchgen.ledger.pins import pinned_choice
from batchgen.ledger.rows import CANCELLATION_REQUESTED, JOB_DELETED, UNKNOWN_FINGERPRINT, Batch, BatchState
from batchgen.providers import find_provider
from batchgen.providers.base import REFUSALS, FileGone, JobNotFound, Provider
from batchgen.runtime.logging_setup import log
from batchgen.runtime.settings import PROVIDERS, ModelChoice


def cancel(session: Session) -> int:
    """Request the cancellation of every batch in flight. Returns how many were requested.

    A cancelled batch stays in flight until the provider reports its end. The results that it has by then are collected.
    """
    reconcile(session)
    return sum(_try_request_cancellation(session, batch) for batch in session.store.batches(BatchState.IN_FLIGHT))


def _try_request_cancellation(session: Session, batch: Batch) -> bool:
    """Return whether the provider accepted to cancel a batch in flight; otherwise record a trouble."""
    provider = find_provider(batch.provider)
    if batch.provider in session.unusable:
        return False
    try:
        if batch.job.key_fingerprint != session.key_fingerprint(provider):
            log.warning(
                "%s was submitted with another key; to cancel it, run `batchgen cancel` with that key",
                session.describe(batch),
            )
            return False
        request_cancellation(session, batch)
    except BatchgenError as error:
        session.trouble(error, batch.provider)
        return False
    except REFUSALS as error:
        if _has_ended(session, provider, batch):
            log.info("%s: has ended already; the next tick collects its results", session.describe(batch))
        else:
            session.trouble(NotReady(f"{session.describe(batch)}: {error}", do="The next tick checks its state."))
        return False
    return True


def request_cancellation(session: Session, batch: Batch) -> None:
    """Ask the provider to cancel a batch in flight. Raises what the call raises."""
    session.remote(find_provider(batch.provider)).cancel(batch.job.remote_id or "")
    session.store.update(batch, error=CANCELLATION_REQUESTED)
    log.info("%s: cancellation asked for", session.describe(batch))


def _has_ended(session: Session, provider: Provider, batch: Batch) -> bool:
    try:
        return session.remote(provider).get(batch.job.remote_id or "").state.ended
    except (BatchgenError, *REFUSALS):
        return False


class Cleaned(NamedTuple):
    """How many files and jobs `clean` deleted at the providers."""

    files: int
    jobs: int


def clean(session: Session) -> Cleaned:
    """Delete the remote input files of settled batches, and the ended jobs whose results are on disk."""
    return Cleaned(delete_input_files(session), _delete_jobs(session))


def _delete_jobs(session: Session) -> int:
    """Delete the remote jobs of collected batches, if the provider has a call for it. Returns how many were deleted."""
    deleted, failing = 0, set(session.unusable)
    for batch in session.store.batches(BatchState.COLLECTED):
        provider = find_provider(batch.provider)
        if not batch.job.remote_id or batch.job.remote_state == JOB_DELETED or batch.provider in failing:
            continue
        if session.may_get_late_results(batch):
            continue
        try:
            if batch.job.key_fingerprint != session.key_fingerprint(provider):
                continue
            gone = session.remote(provider).delete_job(batch.job.remote_id)
        except JobNotFound:
            gone = True
        except REFUSALS as error:
            log.warning("%s: its job was not deleted: %s", batch.name, error)
            continue
        except BatchgenError as error:
            session.trouble(error, batch.provider)
            failing.add(batch.provider)
            continue
        if gone:
            session.store.update(batch, remote_state=JOB_DELETED)
            deleted += 1
    return deleted


def delete_input_files(session: Session, only: Provider | None = None) -> int:
    """Delete the remote input files of settled batches, of provider `only` or all. Returns how many were deleted."""
    deleted, failing = 0, set(session.unusable)
    for batch in session.store.batches(BatchState.COLLECTED, BatchState.REFUSED, BatchState.ABANDONED, BatchState.LOST):
        provider = find_provider(batch.provider)
        if not batch.job.remote_file or (only or provider).name != batch.provider or batch.provider in failing:
            continue
        if session.may_get_late_results(batch):
            continue  # its job may still run and needs the file
        try:
            if batch.job.key_fingerprint != session.key_fingerprint(provider):
                continue
            session.remote(provider).delete_file(batch.job.remote_file)
        except BatchgenError as error:
            session.trouble(error, batch.provider)
            failing.add(batch.provider)  # the other calls would fail, too
            continue
        except (FileGone, JobNotFound):
            log.debug("%s: its input file was deleted before", batch.name)
        except REFUSALS as error:
            session.trouble(
                NotReady(f"{batch.name}: its input file was not deleted: {error}", do="`batchgen clean` tries again.")
            )
            continue
        session.store.update(batch, remote_file=None)
        deleted += 1
    return deleted


class Retried(NamedTuple):
    """How many conversations `retry` made ready, and how many halts it removed."""

    conversations: int
    halts: int


def retry(session: Session, steps: list[Step], reason: str | None) -> Retried:
    """Make rejected conversations of `steps` ready again: all, or those rejected for `reason`.

    Also removes the halts of these steps and of their providers, and abandons batches for which the user has found no
    job.
    """
    halts = 0
    scopes = {halt_scope(step.position) for step in steps}
    names = {choice.provider for step in steps for choice in session.settings.choices(step.stage)}
    for hold in session.store.holds.all().values():
        if hold.until is None and (hold.scope in scopes or provider_of(hold.scope) in names):
            session.store.holds.end(hold.scope)
            halts += 1
    for batch in session.store.batches(BatchState.CREATING):
        if batch.step in steps and _person_was_asked_to_look(batch):
            release_batch(session, batch, BatchState.ABANDONED, error="abandoned by `retry` after a rebuild")
    return Retried(session.store.make_ready([step.position for step in steps], reason), halts)


def _person_was_asked_to_look(batch: Batch) -> bool:
    """Return whether a tick asked the user to look for the job of a batch whose end a rebuilt store does not know.

    A user who runs `retry` after that has found no job. Where jobs are found by name, ticks find it themselves.
    """
    asked = batch.counters.empty_listings and not find_provider(batch.provider).names_come_back
    return bool(asked) and batch.job.key_fingerprint == UNKNOWN_FINGERPRINT


def switch(session: Session, name: str, model: str | None) -> dict[Stage, ModelChoice]:
    """Pin another model for the rest of the run: `model`, or the next served model of the list.

    `name` is a stage, or a provider: then every stage that it writes (or may write, if it writes none). Batches in
    flight stay with their model. Returns the model of each changed stage. Raises SetupError, UnknownModel.
    """
    wanted = ModelChoice.parse(model) if model and model.partition(":")[0] in PROVIDERS else None
    switched = {}
    for stage in _stages_to_switch(session, name):
        listed = session.settings.choices(stage)
        current = pinned_choice(session.store, session.settings, stage)
        if model is None:
            choices = [one for one in listed if one != current and (name in (stage, one.provider))]
        else:
            choices = [one for one in listed if one == wanted or (one.model == model and name in (stage, one.provider))]
            if not choices:
                _refuse_unlisted(session, stage, model)
            for choice in choices:
                session.store.holds.end(model_scope(*choice))  # a user who names it wants it to be tried again
        switched[stage] = session.pin(stage, choices)
    return switched


def _stages_to_switch(session: Session, name: str) -> list[Stage]:
    """Return the stage called `name`, or the stages of the provider called `name`. Raises SetupError."""
    if name in tuple(Stage):
        return [Stage(name)]
    written = [stage for stage in STAGES if session.choice(stage).provider == name]
    stages = written or [
        stage for stage in STAGES if any(one.provider == name for one in session.settings.choices(stage))
    ]
    if not stages:
        do = f'Name one of its models in batchgen.toml first: [answer] models = ["{name}:MODEL", ...].'
        raise SetupError(f"No stage has a model of {name}.", do=do)
    return stages


def _refuse_unlisted(session: Session, stage: Stage, model: str) -> NoReturn:
    listed = session.settings.choices(stage)
    if session.settings.stage(stage).models:
        raise SetupError(
            f"{model} is not in the list of [{stage}]: {', '.join(map(str, listed))}.",
            do=f"Add it in batchgen.toml first: [{stage}] models = [...].",
        )
    provider = listed[0].provider
    raise SetupError(
        f"{model} is not in the list of {provider}: {', '.join(one.model for one in listed)}.",
        do=f"Add it in batchgen.toml first: [{provider}] models = [...].",
    )
