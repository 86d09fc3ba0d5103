"""Ready conversations -> request files -> batches in flight.

The order of the submission protocol: request file durable, upload, intent durable, exactly one create call, id durable.
Each boundary is a crash point; what a kill leaves behind is picked up here or in `reconcile`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from batchgen import booking, build
from batchgen.build import Shard
from batchgen.crash import crashpoint
from batchgen.dialogue import Step
from batchgen.errors import (
    Ambiguous,
    BatchgenError,
    BudgetReached,
    KeyRefused,
    NotReady,
    QuotaReached,
    SetupError,
    StageStopped,
    Temporary,
)
from batchgen.files import hash_file, write_durably
from batchgen.guard import stopped
from batchgen.housekeeping import clean_files
from batchgen.logs import log
from batchgen.outcomes import Reason, Usage
from batchgen.providers import provider as provider_row
from batchgen.providers.base import CreateRefused, FileGone, JobMissing, LinesRefused, ModelGone, Provider, label
from batchgen.receipt import Money, money
from batchgen.reconcile import adopt, listed
from batchgen.records import Batch, Plan, Wait
from batchgen.session import Session
from batchgen.waits import in_force, pause


class _Stop(Exception):
    """Nothing more of this model can be submitted in this command; the trouble is noted."""


class _Processing(NotReady):
    """An uploaded file may not be used yet. Says nothing about the next one."""


def submit(session: Session, steps: Sequence[Step]) -> int:
    """Submit every conversation that is ready for one of `steps`. Returns the number of batches created.

    What cannot go now waits: troubles are noted in the session, and the other provider goes on.
    """
    halted: set[str] = set()
    sent = _resume(session, steps, halted)
    for step in steps:
        attempts = session.store.ready_attempts(step)
        if not attempts:
            session.store.end_wait(_scope(step))
            continue
        try:
            session.pin_models()
        except Temporary as error:
            session.trouble(error)
            break
        for tried in attempts:
            sent += _submit_step(session, step, tried, halted)
    return sent


def _resume(session: Session, steps: Sequence[Step], halted: set[str]) -> int:
    """Batches whose file was written in an earlier command and that were not created yet."""
    sent = 0
    for batch in session.store.batches("planned", "uploaded"):
        if batch.intent_at is None and batch.model != session.model(provider_row(batch.provider)):
            booking.release(session, batch, "refused", error=f"{batch.model} was given up before it was asked")
        elif batch.step in steps and _affordable(session, batch.step, _need(session, batch), counted=True):
            sent += _guarded(session, batch, halted)
    return sent


def _submit_step(session: Session, step: Step, tried: int, halted: set[str]) -> int:
    sent = 0
    while shard := build.shard(session, step, tried):
        for row in shard.too_large:
            session.store.reject(row, Reason.TOO_LARGE, "a single request exceeds the limits of a request file")
        if not shard.rows:
            continue
        if not _admitted(session, shard, halted):
            break
        batch = plan(session, shard)
        if _guarded(session, batch, halted):
            session.store.end_wait(_scope(step))
            sent += 1
        elif f"{batch.provider}/{batch.model}" in halted:
            break
    return sent


def _guarded(session: Session, batch: Batch, halted: set[str]) -> bool:
    """Send one batch; a failure is noted and, where it concerns the model, stops that model for this command."""
    scope = f"{batch.provider}/{batch.model}"
    if scope in halted or _held_back(session, scope, batch.step):
        return False
    try:
        _send(session, batch)
    except _Stop:
        halted.add(scope)
        return False
    except SetupError:
        raise
    except BatchgenError as error:
        session.trouble(error)
        if not isinstance(error, _Processing):
            halted.add(scope)
        return False
    return True


# ---------------------------------------------------------------- admission


def _scope(step: Step) -> str:
    return f"step/{step.position}"


def _held_back(session: Session, scope: str, step: Step) -> bool:
    """Whether a quota's back-off or a halt forbids creating batches of this model or step now."""
    waits = session.store.waits()
    for wait in (waits.get(scope), waits.get(f"halt/{step.position}")):
        if wait is None or not in_force(wait, session.now()):
            continue
        if wait.until is None:
            session.trouble(StageStopped(wait.reason, do="Mend the cause, then: batchgen retry"))
        else:
            session.trouble(Temporary(wait.reason, do="What was not submitted waits; a later tick goes on."))
        return True
    return False


def _admitted(session: Session, shard: Shard, halted: set[str]) -> bool:
    """Whether `shard` may go now; why not is recorded for `status`."""
    provider = session.provider(shard.step.stage)
    model = session.model(provider)
    scope = f"{provider.name}/{model}"
    if scope in halted or _held_back(session, scope, shard.step):
        return False
    bounds = session.settings.provider(provider.name)
    batches, tokens = session.store.enqueued(provider.name, model)
    reason = ""
    if stop := stopped(session, shard.step):
        session.trouble(stop)
        reason = str(stop)
    elif batches >= bounds.concurrent_batches:
        reason = f"{batches} batches are in flight at {provider.name}; concurrent_batches allows no more"
    elif batches and tokens + shard.input_tokens > bounds.enqueued_tokens:
        reason = (
            f"{tokens} tokens are enqueued at {provider.name} and the next batch has {shard.input_tokens};"
            f" enqueued_tokens allows {bounds.enqueued_tokens}"
        )
    elif not _affordable(session, shard.step, shard.reserved_usd):
        reason = f"max_usd = {session.settings.max_usd:g} would be passed"
    if reason:
        session.store.wait(Wait(_scope(shard.step), None, 0, reason))
        log.info("%s waits: %s", shard.step, reason)
    return not reason


def _affordable(session: Session, step: Step, need_usd: float | None, *, counted: bool = False) -> bool:
    """Whether `max_usd` allows a batch that costs at most `need_usd` (`counted`: what is reserved includes it)."""
    cap = session.settings.max_usd
    if not cap:
        return True
    held = money(session.store, session.settings)
    reserved = held.reserved - ((need_usd or 0) if counted else 0)
    left = cap - held.spent - reserved
    if need_usd is not None and need_usd <= left and not held.unpriced:
        return True
    session.trouble(_over_budget(session, step, need_usd, left, held))
    return False


def _need(session: Session, batch: Batch) -> float | None:
    """The most that a planned batch can cost, by a price that may have become known since."""
    if batch.reserved_usd is not None:
        return batch.reserved_usd
    rate = session.rate(batch.model)
    return rate.usd(Usage(input=batch.input_tokens, output=batch.output_ceiling)) if rate else None


def _over_budget(session: Session, step: Step, need_usd: float | None, left: float, held: Money) -> BudgetReached:
    if need_usd is None or held.unpriced:
        models = held.unpriced_models or (session.model(session.provider(step.stage)),)
        return BudgetReached(
            f"{step}: it was not sent, because max_usd = {session.settings.max_usd:g} cannot be kept: the price of"
            f" {', '.join(models)} is unknown.",
            do=f'Set it in batchgen.toml: [prices."{models[0]}"] input = ..., output = ... (USD per million tokens).',
        )
    return BudgetReached(
        f"{step}: the next batch costs up to ${need_usd:.4f}; ${max(left, 0):.4f} of max_usd ="
        f" {session.settings.max_usd:g} is left (spent ${held.spent:.4f}, reserved ${held.reserved:.4f})."
        " It was not sent.",
        do="Raise max_usd in batchgen.toml, or let what is in flight come back first.",
    )


# ---------------------------------------------------------------- the protocol


def plan(session: Session, shard: Shard) -> Batch:
    """Request file durable, then the ledger: a kill between the two leaves a file that nobody refers to."""
    provider = session.provider(shard.step.stage)
    number = session.store.next_batch()
    name = f"{session.names().run}-r{shard.step.round}-{shard.step.stage}-{number:06d}-a{shard.attempt}"
    written = write_durably(session.layout.requests(shard.step, name), [shard.body])
    crashpoint("request_file_written")
    entry = Plan(
        name=name,
        position=shard.step.position,
        attempt=shard.attempt,
        provider=provider.name,
        model=session.model(provider),
        requests=len(shard.rows),
        bytes=written.size,
        sha256=written.sha256,
        input_tokens=shard.input_tokens,
        output_ceiling=shard.output_ceiling,
        estimated_usd=shard.estimated_usd,
        reserved_usd=shard.reserved_usd,
        planned_at=session.now(),
        follow_up=shard.follow_up,
    )
    batch = session.store.plan(entry, shard.rows)
    crashpoint("batch_planned")
    return batch


def _send(session: Session, batch: Batch) -> Batch:
    """Bring one planned batch to the provider. Raises what went wrong; the ledger says how far it came."""
    provider = provider_row(batch.provider)
    batch = _upload(session, provider, batch)
    if batch.intent_at is not None and (found := _found_again(session, provider, batch)):
        return found
    return _create(session, provider, batch)


def _upload(session: Session, provider: Provider, batch: Batch) -> Batch:
    """Upload the request file unless the provider still has it, and wait until it may be used."""
    path = session.layout.requests(batch.step, batch.name)
    remote, key = session.remote(provider), session.fingerprint(provider)
    age = session.now() - (batch.uploaded_at or 0)
    kept = batch.state == "uploaded" and batch.key_fingerprint == key and 0 <= age < provider.upload_lives_seconds
    try:
        if kept:
            ready = remote.file(batch.remote_file or "").ready
        else:
            _check_file(session, batch)
            file = remote.upload(path, batch.bytes)
            crashpoint("uploaded_before_recorded")
            ready = file.ready
            batch = session.store.update(
                batch, state="uploaded", remote_file=file.file_id, key_fingerprint=key, uploaded_at=session.now()
            )
            crashpoint("uploaded")
    except QuotaReached as error:
        if freed := clean_files(session, provider):
            log.info("%s: %d input files that were no longer needed are deleted to make room", provider.name, freed)
        _pause(session, batch, error)
    except (FileGone, JobMissing) as error:
        _file_gone(session, batch, error)
    except ModelGone as error:
        _model_gone(session, batch, str(error))
    except CreateRefused as error:
        _halt(session, batch, str(error))
    if not ready:
        raise _Processing(
            f"{session.describe(batch)}: the provider is still processing the uploaded file.",
            do="The next tick goes on.",
        )
    return batch


def _check_file(session: Session, batch: Batch) -> None:
    """The bytes about to be sent must be the bytes that were planned."""
    path = session.layout.requests(batch.step, batch.name)
    try:
        same = hash_file(path).sha256 == batch.sha256
    except FileNotFoundError:
        same = False
    if not same:
        booking.release(session, batch, "refused", error="the request file is not what was planned")
        raise Temporary(
            f"{path}: not the file that was planned; it was not sent.", do="The next tick writes a new one."
        )


def _found_again(session: Session, provider: Provider, batch: Batch) -> Batch | None:
    """Before a name that was ever tried is tried again: it may exist after all."""
    wanted = label(provider, name=batch.name, remote_file=batch.remote_file or "")
    matches = listed(session, provider).get(wanted, [])
    return adopt(session, provider, batch, matches) if matches else None


def _create(session: Session, provider: Provider, batch: Batch) -> Batch:
    """Intent durable, one create call, id durable. After a clear no the batch is back where it was, or released."""
    remote = session.remote(provider)
    batch = session.store.update(
        batch, state="creating", intent_at=session.now(), blanks=0, first_blank_at=None, error=None
    )
    crashpoint("intent_before_create")
    try:
        remote_id = remote.create(model=batch.model, file_id=batch.remote_file or "", name=batch.name)
    except Ambiguous as error:
        raise Ambiguous(
            f"{session.describe(batch)}: {error}", do="The next tick looks for it; nothing is bought twice."
        ) from None
    except QuotaReached as error:
        _pause(session, session.store.update(batch, state="uploaded"), error)
    except (KeyRefused, Temporary, SetupError):
        session.store.update(batch, state="uploaded")  # a clear no, or never sent: nothing was bought
        raise
    except (FileGone, JobMissing) as error:
        _file_gone(session, batch, error)
    except LinesRefused as error:
        _refuse_lines(session, batch, error)
    except ModelGone as error:
        _model_gone(session, batch, str(error))
    except CreateRefused as error:
        _halt(session, batch, str(error))
    crashpoint("created_before_recorded")
    batch = session.store.update(batch, state="in_flight", remote_id=remote_id, submitted_at=session.now())
    session.store.end_wait(f"{batch.provider}/{batch.model}")
    crashpoint("created")
    log.info("%s: submitted as %s", session.describe(batch), remote_id)
    return batch


# ---------------------------------------------------------------- a clear no


def _pause(session: Session, batch: Batch, error: QuotaReached) -> NoReturn:
    """A quota: this model waits, with a back-off that is kept across ticks; attempts are not touched."""
    scope = f"{batch.provider}/{batch.model}"
    seconds = pause(session.store, scope, str(error), session.now(), error.retry_after_seconds)
    session.trouble(Temporary(str(error), do=f"{scope} waits {seconds:.0f} s; what was not submitted is kept."))
    raise _Stop


def _file_gone(session: Session, batch: Batch, error: Exception) -> NoReturn:
    session.store.update(batch, state="planned", remote_file=None, uploaded_at=None)
    raise Temporary(
        f"{session.describe(batch)}: the uploaded file is gone ({error}).", do="The next tick uploads it again."
    )


def _refuse_lines(session: Session, batch: Batch, error: LinesRefused) -> NoReturn:
    """The provider named bad lines: those conversations are left behind, the others go in a new batch."""
    rows = session.store.held(batch.batch)
    refused = {rows[line - 1].number: text for line, text in error.lines.items() if 0 < line <= len(rows)}
    if not refused:
        _halt(session, batch, str(error))
    booking.release(session, batch, "refused", error=str(error), refused=refused)
    raise Temporary(
        f"{session.describe(batch)}: {len(refused)} of its requests were refused ({error}).",
        do="See data/rejected.jsonl; the others are submitted again.",
    )


def _model_gone(session: Session, batch: Batch, message: str) -> NoReturn:
    booking.release(session, batch, "refused", error=f"{batch.provider} does not serve {batch.model}: {message}")
    session.model_gone(batch.provider, batch.model, message)
    raise _Stop


def _halt(session: Session, batch: Batch, message: str) -> NoReturn:
    """A refusal that would come again: the step waits for a person instead of asking at every tick."""
    booking.release(session, batch, "refused", error=message)
    session.store.wait(Wait(f"halt/{batch.position}", None, 1, f"{batch.step} was refused: {message}"))
    session.trouble(StageStopped(f"{session.describe(batch)}: {message}", do="Mend the cause, then: batchgen retry"))
    raise _Stop


# ---------------------------------------------------------------- looking ahead


class Preview(NamedTuple):
    """What a submit would send as one batch (`submit --dry-run`)."""

    step: Step
    attempt: int
    provider: str
    model: str
    requests: int
    bytes: int
    input_tokens: int
    estimated_usd: float | None
    first_request: str


def preview(session: Session, steps: Sequence[Step]) -> list[Preview]:
    """The batches that `submit` would create for `steps`. Sends nothing, writes nothing."""
    found = []
    for step in steps:
        provider = session.provider(step.stage)
        for tried in session.store.ready_attempts(step):
            after = 0
            while shard := build.shard(session, step, tried, after=after):
                after = max(row.number for row in (*shard.rows, *shard.too_large))
                if shard.rows:
                    found.append(
                        Preview(
                            step,
                            shard.attempt,
                            provider.name,
                            session.model(provider),
                            len(shard.rows),
                            shard.size,
                            shard.input_tokens,
                            shard.estimated_usd,
                            shard.first_line.decode(),
                        )
                    )
    return found
