"""Plan batches for ready conversations, as many as may be sent now. The module `sender` sends them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from batchgen.core.dialogue import STAGES, Stage, Step
from batchgen.core.errors import BatchgenError
from batchgen.core.outcomes import Reason
from batchgen.engine.session import Session
from batchgen.engine.settlement import settle
from batchgen.engine.submission import request_files
from batchgen.engine.submission.admission import may_submit_draft, may_submit_planned, record_hold
from batchgen.engine.submission.rejection_limit import rejection_limit_error
from batchgen.engine.submission.request_files import BatchDraft
from batchgen.engine.submission.sender import Sender
from batchgen.ledger.rows import WAITING_STATES, Batch, BatchIdentity, BatchPlan, BatchState
from batchgen.runtime.failpoints import failpoint
from batchgen.runtime.files import hash_file, write_durably


def submit(session: Session, steps: Sequence[Step]) -> int:
    """Submit every conversation that is ready for one of `steps`. Returns the number of batches created.

    What cannot be sent now waits. Troubles are recorded in the session; they do not stop other providers.
    """
    sender = Sender(session)
    return sum(map(sender.send, Selection(session, steps, sender.halted).sources()))


class Selection:
    """Selects the batches that may be sent now, in order.

    `halted` are models that stopped in this command, `unready` the stages for which no model can be asked, with the
    reason.
    """

    def __init__(self, session: Session, steps: Sequence[Step], halted: set[str]) -> None:
        self.session, self.steps, self.halted = session, steps, halted
        self.reasons = dict[Step, str]()
        # If a provider could not be used while collecting, its trouble was recorded then.
        self.unready = {stage: "" for stage in Stage if session.choice(stage).provider in session.unusable}

    def sources(self) -> Iterator[Iterator[Batch]]:
        """Yield the batches of each step and number of attempts, one iterator after the other.

        Send each one before taking the next: its result decides on later ones. Raises NeedsPerson if the store is an
        older copy.
        """
        if self.session.store.batches(*WAITING_STATES) or any(map(self.session.store.ready_attempts, self.steps)):
            self.session.require_newest_store()  # it lists folders, so call it once in a command
        yield self._left_over(upload_failed=False)
        for step in self.steps:
            for tried in self.session.store.ready_attempts(step):
                yield self._plan_new(step, tried)
            record_hold(self.session, step, self.reasons.get(step, ""))
        yield self._left_over(upload_failed=True)

    # ---- what a dry run overrides

    def make_ready(self, stage: Stage) -> None:
        """Prepare for the first paid batch of `stage`. Raises BatchgenError if no provider can be used now."""
        self.session.pin_model(stage)

    def enter(self, draft: BatchDraft) -> Batch:
        """Write the request file of a batch, and enter the batch into the ledger."""
        self.session.record_instructions()
        return plan_batch(self.session, draft)

    def release(self, batch: Batch, why: str) -> None:
        """End a batch that an earlier command planned and that was not created."""
        settle.release_batch(self.session, batch, BatchState.REFUSED, error=why)

    # ----

    def _left_over(self, *, upload_failed: bool) -> Iterator[Batch]:
        """Yield the batches that an earlier command planned and that were not created yet.

        `upload_failed`: those with a failed upload, in random order, because one file may be refused every time.
        Otherwise those without one.
        """
        session = self.session
        waiting = session.store.batches(*WAITING_STATES)
        found = [batch for batch in waiting if bool(batch.counters.failed_uploads) == upload_failed]
        if upload_failed and found:
            from random import shuffle  # here: few ticks need it

            shuffle(found)
        for at, batch in enumerate(found, start=1):
            written_by = session.choice(batch.step.stage)
            if batch.job.intent_at is None and (batch.provider, batch.model) != written_by:
                self.release(batch, f"{batch.model} was given up before it was asked")
            elif batch.step in self.steps and may_submit_planned(session, batch, found[at:], self.reasons):
                yield batch

    def _plan_new(self, step: Step, tried: int) -> Iterator[Batch]:
        """Yield every batch of `step` that may be sent now; each is entered into the ledger when it is taken."""
        session = self.session
        # Before the first batch, a model is needed for every stage of a dialogue: the user must not pay for questions
        # and learn later that the key for answers is missing. The audit needs only the judge.
        able = set(filter(self.can_ask, STAGES if step.stage in STAGES else [step.stage]))
        after = 0
        while step.stage in able:
            draft = request_files.draft_batch(session, step, tried, after=after)
            if draft is None:
                return
            after = max(row.number for row in (*draft.rows, *draft.too_large))
            for row in draft.too_large:
                session.store.reject(row, Reason.TOO_LARGE, "its request alone exceeds the limits of a request file")
            if draft.too_large and (stop := rejection_limit_error(session, step)):
                session.trouble(stop)
                return
            if not draft.rows:
                continue
            if not may_submit_draft(session, draft, self.halted, self.reasons):
                return
            batch = self.enter(draft)
            del draft  # it is on disk now; free its memory before the next one
            yield batch

    def can_ask(self, stage: Stage) -> bool:
        """Return whether a model can be asked for `stage` in this command; otherwise record a trouble."""
        choice = self.session.choice(stage)
        for other, why in list(self.unready.items()):
            if self.session.choice(other) == choice:
                self.unready.setdefault(stage, why)  # the same model is asked once in a command
        if stage not in self.unready:
            try:
                self.make_ready(stage)
            except BatchgenError as error:
                self.session.trouble(error)
                self.unready[stage] = str(error)
        return stage not in self.unready


def plan_batch(session: Session, draft: BatchDraft) -> Batch:
    """Write the request file durably, then the ledger: a kill between the two leaves a file that no batch refers to.

    If the same file exists already, an older copy of the store may have been restored. Then the batch is entered as one
    with an intent, so that its job is looked for before it is created.
    """
    identity, plan = ledger_entry(session, draft)
    path = session.layout.requests(draft.step, identity.name)
    before = hash_file(path) if path.exists() else None
    written = write_durably(path, [draft.body])
    failpoint("request_file_written")
    plan = plan._replace(bytes=written.size, sha256=written.sha256)
    with session.store.transaction():
        batch = session.store.plan(identity, plan, draft.rows)
        if written == before:
            batch = session.store.update(batch, intent_at=plan.planned_at)
    failpoint("batch_planned")
    return batch


def ledger_entry(session: Session, draft: BatchDraft) -> tuple[BatchIdentity, BatchPlan]:
    """Return the next batch of the ledger, for the content of `draft`. Its file is not written yet: no `sha256`."""
    provider, model = session.choice(draft.step.stage)
    number = session.store.next_batch_number()
    identity = BatchIdentity(
        name=f"{session.names().run}-r{draft.step.round}-{draft.step.stage}-{number:06d}-a{draft.attempt}",
        position=draft.step.position,
        attempt=draft.attempt,
        provider=provider,
        model=model,
    )
    plan = BatchPlan(
        requests=len(draft.rows),
        bytes=draft.size,
        sha256="",
        input_tokens=draft.input_tokens,
        output_ceiling=draft.output_ceiling,
        estimated_usd=draft.estimated_usd,
        reserved_usd=draft.reserved_usd,
        planned_at=session.now(),
        follow_up=draft.follow_up,
        echo=draft.echo,
    )
    return identity, plan
