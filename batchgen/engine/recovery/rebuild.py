"""Rebuild the store from `requests/` and `results/` alone. Makes no network call and pays nothing.

Every request file is entered as a batch, in the order in which the batches were planned. A batch is settled from its
result files and its ending file, by the same code that settled it the first time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from batchgen.core.dialogue import Stage, Step, conversation_of
from batchgen.core.errors import InputError, SetupError
from batchgen.core.outcomes import Reason, Usage, accepted_keys
from batchgen.core.text_features import count_features
from batchgen.core.tokens import estimate_request_tokens, input_margin
from batchgen.dataset.manifest import read_facts, read_manifest_seeds, writer_at
from batchgen.dataset.round_files import write_due_files
from batchgen.engine import duplicates
from batchgen.engine.recovery.request_reader import (
    LastRequestIndex,
    ReadRequestFile,
    RequestFile,
    read_request_file,
    request_files,
)
from batchgen.engine.session import Session
from batchgen.engine.settlement import settle
from batchgen.ledger import pins
from batchgen.ledger.pins import pinned_choice
from batchgen.ledger.rows import (
    REBUILDING_FACT,
    UNKNOWN_FINGERPRINT,
    Batch,
    BatchIdentity,
    BatchPlan,
    BatchState,
    ReadyConversation,
)
from batchgen.providers import find_provider
from batchgen.runtime.files import Layout, hash_file, rebuild_command
from batchgen.runtime.logging_setup import log
from batchgen.runtime.settings import ModelChoice

RELEASED = (BatchState.REFUSED, BatchState.ABANDONED)


class Rebuilt(NamedTuple):
    """How many conversations, batches settled again, and batches with an unknown end there are."""

    conversations: int
    settled: int
    open: int


def rebuild(session: Session) -> Rebuilt:
    """Fill an empty store from the files. Raises SetupError if it is not empty, InputError if files are missing."""
    if session.conversations and not session.store.fact(REBUILDING_FACT):
        raise SetupError(
            f"{session.layout.store} holds a run already; nothing was changed.",
            do=f"Move it away first: {rebuild_command(session.layout.store)}",
        )
    known, files = read_facts(session.layout), request_files(session.layout)
    # Until the rebuild ends, no other command may use this store: it would buy again what is not settled yet.
    conversations = session.store.replace_seeds(read_manifest_seeds(session.layout), {**known, REBUILDING_FACT: "1"})
    replay = _Replay(session, LastRequestIndex(session.layout, files, conversations))
    for file in files:
        replay.enter(read_request_file(file))
    bought_twice = duplicates.enter_again(session)
    session.store.delete_fact(REBUILDING_FACT)
    write_due_files(session)
    return Rebuilt(conversations, replay.settled + bought_twice, replay.open)


class _Replay:
    """Enters and settles the batches of a run again, one by one, in the order in which they were planned."""

    def __init__(self, session: Session, latest: LastRequestIndex) -> None:
        self.settled = self.open = 0
        self._session, self._latest = session, latest
        # Texts that late results brought after a later batch had asked for them, too.
        self._answered_late: set[tuple[int, Step]] = set()

    def enter(self, sent: ReadRequestFile) -> None:
        """Enter a batch, and settle it if it had ended. Raises InputError if its request file does not fit the run."""
        file, store = sent.file, self._session.store
        numbers = [number for number in sent.numbers if (number, file.step) not in self._answered_late]
        if (foreign := conversation_of(max(numbers, default=0))) > (have := self._session.conversations):
            why = f"asks for conversation {foreign}, but the run has only {have}"
            raise InputError(f"{file.path}: {why}.", do="Restore requests/ from a backup: rebuild needs it unchanged.")
        batch = _plan_batch(self._session, sent, numbers)
        ending = settle.read_ending(self._session.layout.ending(batch.step, batch.name))
        went_on = ending is None and self._latest.asked_anything_later(file, numbers)
        if went_on:
            ending = _default_ending(self._session, batch)
        if ending is not None and ending.state in RELEASED:
            why, until = ending.why, ending.awaited_until
            store.release(batch, ending.state, error=why, refused=ending.refused, late_results_until=until)
            if raw := _read_results(self._session.layout, batch):  # results that came after it was given up
                settle.book_unused_results(
                    self._session, find_provider(batch.provider), batch._replace(state=ending.state), raw
                )
        elif ending is not None:
            self._settle(file, batch, ending, numbers)
        elif went_on:
            store.release(batch, BatchState.REFUSED, error="no results, and its conversations were sent again")
        else:
            _mark_unanswered(self._session, batch, sent)
            self.open += 1

    def _settle(self, file: RequestFile, batch: Batch, ending: settle.Ending, numbers: Sequence[int]) -> None:
        asked_again = self._latest.asked_again(file, numbers)
        _settle_batch(self._session, batch, ending, asked_again)
        if ending.late:
            self._answered_late.update((number, file.step) for number in asked_again.difference(ending.gone))
        self.settled += 1


def _plan_batch(session: Session, sent: ReadRequestFile, numbers: Sequence[int]) -> Batch:
    """Plan a batch again under its own number, for `numbers`: its conversations that still lack its text."""
    file = sent.file
    written, kept = hash_file(file.path), settle.read_ledger_fields(session.layout.ending(file.step, file.path.stem))
    identity = BatchIdentity(
        name=file.path.stem,
        position=file.step.position,
        attempt=file.attempt,
        provider=str(kept["provider"] or _writer(session, sent).provider),
        model=sent.model or str(kept["model"] or ""),
    )
    plan = BatchPlan(
        requests=len(numbers),
        bytes=written.size,
        sha256=written.sha256,
        input_tokens=0,
        output_ceiling=0,
        estimated_usd=kept["estimated_usd"],
        reserved_usd=None,
        planned_at=file.path.stat().st_mtime,
        follow_up=sent.follow_up,
        echo=sent.echo,
    )
    if file.step.stage is Stage.AUDIT:
        session.store.enter_judgements(numbers, file.step.position)
    session.store.undo_rejections(numbers, file.step.position)
    try:
        batch = session.store.plan(
            identity,
            plan,
            [ReadyConversation(number, identity.position, identity.attempt, 0, 0) for number in numbers],
            number=file.serial,
        )
    except AssertionError:
        why = "its conversations are not ready for it; a file of an earlier batch is missing or was changed"
        raise InputError(
            f"{file.path}: {why}.", do="Restore requests/ and results/ from a backup: rebuild needs them unchanged."
        ) from None
    # Needed to find late results, and to delete the files and jobs at the provider.
    return session.store.update(batch, **{name: kept[name] for name in settle.REMOTE_FIELDS})


def _writer(session: Session, sent: ReadRequestFile) -> ModelChoice:
    """Return who was asked by a request file without an ending. Several services have lines of the same form."""
    file = sent.file
    writer = ModelChoice.parse(writer_at(read_facts(session.layout), file.step.stage, file.serial))
    return writer if writer.provider in sent.providers else ModelChoice(sent.providers[0], sent.model)


def _configured_model(session: Session, batch: Batch) -> str:
    """Return the model of a batch whose request file does not name it."""
    stage = batch.step.stage
    choices = [pinned_choice(session.store, session.settings, stage), *session.settings.choices(stage)]
    return next((choice.model for choice in choices if choice and choice.provider == batch.provider), "")


def _default_ending(session: Session, batch: Batch) -> settle.Ending | None:
    """Return an ending for a batch whose ending file is missing; None if its result files are missing, too.

    A later batch asked for its conversations again, so it had ended.
    """
    if not any(path.exists() for path in _result_files(session.layout, batch)):
        return None
    log.warning("%s: its ending file is missing; it is settled from its result files alone", session.describe(batch))
    flags = session.settings.stage(batch.step.stage).retry_flags
    return settle.Ending(Reason.MISSING, "its ending file is missing", retry_flags=flags)


def _settle_batch(session: Session, batch: Batch, ending: settle.Ending, asked_again: Collection[int]) -> None:
    """Settle a batch as it was settled the first time.

    A later batch asked for the same text of the conversations `asked_again`, so no text of this batch was accepted for
    them, unless its results came late. If one is there and the ending does not say that it is late, a kill came first.
    """
    batch = session.store.update(
        batch, state=BatchState.IN_FLIGHT, intent_at=batch.plan.planned_at, submitted_at=batch.plan.planned_at
    )
    provider = find_provider(batch.provider)
    if batch.model:
        pins.pin(session.store, batch.step.stage, ModelChoice(batch.provider, batch.model))
    session.store.release_conversations(
        batch, ending.gone, "the batch ended without results", max_attempts=session.settings.batches.max_attempts
    )
    keys, raw = session.keys(batch), _read_results(session.layout, batch)
    if ending.late:  # the ending says which texts were taken
        settle.settle(session, batch, keys, settle.parse_result_lines(provider, batch, raw), ending)
        return
    if raw.strip():  # late results whose ending was not updated before a kill
        ending = ending._replace(awaited_until=None)
    replies = settle.parse_results(session, provider, batch, raw, keys, ending.retry_flags)
    accepted = {keys.get(key, 0) for key in accepted_keys(replies)} if asked_again else set()
    if late := accepted.intersection(asked_again):
        gone = {**ending.gone, **dict.fromkeys(late, ending.absent)}
        _settle_batch(session, batch, ending._replace(gone=gone), ())
        return
    settle.settle(session, batch, keys, replies, ending)


def _read_results(layout: Layout, batch: Batch) -> bytes:
    """Return all result lines of a batch, from both its files."""
    return b"\n".join(path.read_bytes() for path in _result_files(layout, batch) if path.exists())


def _result_files(layout: Layout, batch: Batch) -> Sequence[Path]:
    return layout.results(batch.step, batch.name), layout.errors(batch.step, batch.name)


def _mark_unanswered(session: Session, batch: Batch, sent: ReadRequestFile) -> None:
    """Treat a batch without an ending as a create call without an answer: it may be in flight and is not bought again.

    It may cost money, so its price is reserved again. A request file for Gemini does not name its model.
    """
    log.warning("%s: how it ended is not known; it is looked for, and not bought again", session.describe(batch))
    model = batch.model or _configured_model(session, batch)
    said = count_features(" ".join(text for one in sent.asked for text in one.texts))
    tokens = estimate_request_tokens("", said, len(sent.asked), find_provider(batch.provider).tokens)
    ceiling = sum(one.max_output_tokens for one in sent.asked)
    most = Usage(input=round(tokens * (1 + input_margin(len(sent.asked)))), output=ceiling)
    rate = session.rate(batch.provider, model)
    session.store.update(
        batch,
        state=BatchState.CREATING,
        model=model,
        input_tokens=tokens,
        output_ceiling=ceiling,
        reserved_usd=rate.usd(most) if rate else None,
        intent_at=batch.plan.planned_at,
        key_fingerprint=UNKNOWN_FINGERPRINT,
    )
