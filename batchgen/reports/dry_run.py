"""`submit --dry-run`: list what would be sent, as text or as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from batchgen.core.dialogue import Stage, Step
from batchgen.core.wording import pluralize
from batchgen.engine.session import Session
from batchgen.engine.submission.admission import hold_reason
from batchgen.engine.submission.rejection_limit import rejection_limit_error
from batchgen.engine.submission.request_files import BatchDraft
from batchgen.engine.submission.submit import Selection, ledger_entry
from batchgen.ledger import pins
from batchgen.ledger.holds import model_scope
from batchgen.ledger.rows import WAITING_STATES, Batch, BatchState


class Preview(NamedTuple):
    """A batch that `submit` would send."""

    step: Step
    attempt: int
    provider: str
    model: str
    requests: int
    bytes: int
    input_tokens: int
    estimated_usd: float | None
    first_request: str


class Waiting(NamedTuple):
    """A step with ready conversations that would not be sent, and the reason."""

    step: Step
    reason: str


def preview(session: Session, steps: Sequence[Step]) -> tuple[list[Preview], list[Waiting]]:
    """Return the batches that `submit` would send for `steps`, and the steps that would wait. Sends and writes nothing.

    Notes the same troubles in the session as `submit`. Calls no provider, so it cannot check whether the provider
    accepts the key, serves the model, or has the job of a create call that got no clear answer.
    """
    with session.store.undone():
        choice = DryRun(session, steps)
        found = [choice.shown(batch) for source in choice.sources() for batch in source if choice.may_go(batch)]
        return found, list(choice.waiting())


class DryRun(Selection):
    """Choose what `submit` would choose. Batches are entered in the ledger so that they count against later ones.

    The caller undoes these changes (`store.undone`).
    """

    def __init__(self, session: Session, steps: Sequence[Step]) -> None:
        super().__init__(session, steps, set())
        self._first: dict[str, bytes] = {}  # the first request of a batch that has no file
        left_over = {batch.step for batch in session.store.batches(*WAITING_STATES)}
        self._ready = [step for step in steps if step in left_over or session.store.ready_attempts(step)]

    def make_ready(self, stage: Stage) -> None:
        """Check that a key is set and pin the first listed model that is not halted, without calling the provider.

        Raises KeyRefused, UnknownModel.
        """
        session = self.session
        pinned = pins.pinned_choice(session.store, session.settings, stage)
        choices = [pinned] if pinned else session.settings.choices(stage)
        usable = session.require_key(stage, choices)
        if not pinned:
            pins.pin(session.store, stage, (session.without_halted(usable) or session.none_served(stage, usable))[0])

    def enter(self, draft: BatchDraft) -> Batch:
        """Enter the batch in the ledger without a file and without conversations, which stay ready.

        The batch that is returned has the full number of requests, the ledger entry has 0.
        """
        identity, plan = ledger_entry(self.session, draft)
        self._first[identity.name] = draft.first_line
        batch = self.session.store.plan(identity, plan._replace(requests=0), ())
        return batch._replace(plan=plan)

    def release(self, batch: Batch, why: str) -> None:
        self.session.store.release(batch, BatchState.REFUSED, error=why)

    def may_go(self, batch: Batch) -> bool:
        """Whether the sender would send this batch: a model can be asked for its stage and no hold is in force."""
        if self.can_ask(batch.step.stage):
            return not hold_reason(self.session, model_scope(batch.provider, batch.model), batch.step)
        return False

    def shown(self, batch: Batch) -> Preview:
        """Return the preview of a batch, with the first line of its request file."""
        first = self._first.get(batch.name)
        if first is None:
            with suppress(FileNotFoundError), self.session.layout.requests(batch.step, batch.name).open("rb") as file:
                first = file.readline()
        return Preview(
            batch.step,
            batch.attempt,
            batch.provider,
            batch.model,
            batch.requests,
            batch.plan.bytes,
            batch.plan.input_tokens,
            batch.plan.estimated_usd,
            (first or b"").decode(),
        )

    def waiting(self) -> Iterator[Waiting]:
        """Yield each step that has requests that would not be sent, with the reason."""
        for step in self._ready:
            scope = model_scope(*self.session.choice(step.stage))
            reasons = [self.unready.get(step.stage), self.reasons.get(step), hold_reason(self.session, scope, step)]
            if why := next(filter(None, [*reasons, str(rejection_limit_error(self.session, step) or "")]), ""):
                yield Waiting(step, why)


def describe(
    previews: Sequence[Preview], waiting: Sequence[Waiting], *, show_request: bool
) -> tuple[dict[str, Any], str]:
    """Return (JSON value, text) of what `submit` would send. The total is unknown if one price is unknown."""
    known = [one.estimated_usd for one in previews if one.estimated_usd is not None]
    value: dict[str, Any] = {
        "batches": [_record(one) for one in previews],
        "waiting": [{"round": one.step.round, "stage": one.step.stage, "reason": one.reason} for one in waiting],
        "estimated_usd": sum(known) if len(known) == len(previews) else None,
    }
    lines = [*map(_line, previews), *(f"{one.step} waits: {one.reason}" for one in waiting)]
    if show_request and previews:
        lines += ["", *(f"first request: {one.first_request}" for one in previews)]
    if not previews:
        lines.append("Nothing would be sent." if waiting else "Nothing is ready; nothing would be sent.")
        return value, "\n".join(lines)
    total = "unknown" if value["estimated_usd"] is None else f"${value['estimated_usd']:,.4f}"
    return value, "\n".join([*lines, f"estimated: {total}. Nothing was sent (--dry-run)."])


def _line(one: Preview) -> str:
    price = "price unknown" if one.estimated_usd is None else f"about ${one.estimated_usd:,.4f}"
    return (
        f"{one.step}: {pluralize(one.requests, 'request')} to {one.provider} {one.model}, {one.bytes:,} bytes,"
        f" {one.input_tokens:,} input tokens, {price}"
    )


def _record(one: Preview) -> dict[str, Any]:
    rest = {name: value for name, value in one._asdict().items() if name != "step"}
    return {"round": one.step.round, "stage": one.step.stage, **rest}
