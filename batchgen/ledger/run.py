"""A run as every command sees it: its folder, settings, store and names, and the troubles that were recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, Self

from batchgen.core.dialogue import (
    Judgement,
    Stage,
    Step,
    conversation_id,
    conversation_of,
    key_format,
    request_key,
    steps,
)
from batchgen.core.errors import BatchgenError, NeedsPerson, SetupError, note
from batchgen.core.wording import pluralize
from batchgen.ledger.rows import REBUILDING_FACT, WAITING_STATES, Batch
from batchgen.ledger.store import Store
from batchgen.runtime import clock
from batchgen.runtime.files import Layout, last_batch_number, rebuild_command
from batchgen.runtime.settings import Settings


class Names(NamedTuple):
    """Makes the names of a run: ids of conversations, keys of requests.

    `run` is the mark of the run, a part of every key and batch name. `digits` is the width of a conversation's number.
    """

    run: str
    digits: int

    def id(self, number: int) -> str:
        """Return the id of a conversation, also for the number of a judgement."""
        return conversation_id(conversation_of(number), self.digits)

    def key(self, number: int, step: Step, attempt: int) -> str:
        order = Judgement.at(number).order if step.stage is Stage.AUDIT else 0
        return request_key(self.id(number), step, attempt, self.run, order=order)

    def id_format(self) -> bytes:
        """Return a format for many ids: `names.id_format() % number`."""
        return f"r1-%0{self.digits}d".encode()

    def key_format(self, step: Step, attempt: int) -> bytes:
        """Return a format for many keys: `names.key_format(step, attempt) % number`."""
        return key_format(step, attempt, self.run, self.digits)


class Run:
    """The run in one folder, opened by one command. It calls no provider; `engine.session.Session` does.

    `troubles` collects errors that did not stop the rest of the command. `unusable` are the providers that cannot be
    used until the user has fixed their setup.
    """

    __slots__ = ("environment", "layout", "settings", "store", "troubles", "unusable")

    def __init__(
        self,
        layout: Layout,
        settings: Settings,
        store: Store,
        environment: Mapping[str, str],
    ) -> None:
        self.layout, self.settings, self.store, self.environment = layout, settings, store, environment
        self.troubles: list[BatchgenError] = []
        self.unusable: set[str] = set()

    def now(self) -> float:
        """Return the time in seconds since 1970 UTC."""
        return clock.now()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Close the run. After an error in the block, errors of closing are ignored: the user must see the first."""
        with suppress(*() if error is None else (Exception,)):
            self.close()

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    # ---- what the run is

    @property
    def conversations(self) -> int:
        return int(self.store.fact("conversations") or 0)

    def require_complete_store(self) -> None:
        """Raise SetupError if a rebuild has begun and not ended."""
        if self.store.fact(REBUILDING_FACT):
            raise SetupError("The store is only half rebuilt.", do="Finish it: batchgen rebuild")

    def require_newest_store(self) -> None:
        """Raise NeedsPerson if there are files of batches that the store does not know.

        Such a store is an older copy, and would buy these batches again. One unknown request file with the number of
        the next batch is allowed: a kill may leave it.
        """
        layout, run, following = self.layout, self.names().run, self.store.next_batch_number()
        waiting = self.store.batches(*WAITING_STATES)
        if (
            last_batch_number(layout.root / "requests", run) > following
            or last_batch_number(layout.root / "results", run) >= following
            or any(layout.results(batch.step, batch.name).exists() for batch in waiting)
        ):
            raise NeedsPerson(
                f"{layout.store} is older than the files beside it: requests/ and results/ have batches that it does"
                " not know. Nothing was sent, because these batches would be bought again.",
                do=f"Build it again, which costs nothing: {rebuild_command(layout.store)}",
            )

    def names(self) -> Names:
        """Return the maker of the run's names. This reads the store, so call it once and use the result often."""
        return Names(self.store.fact("run") or "", int(self.store.fact("id_digits") or 0))

    def keys(self, batch: Batch, numbers: Sequence[int] | None = None) -> dict[str, int]:
        """Map the keys of a batch's requests to conversation numbers, in file order.

        `numbers` are the conversations; None means those that the batch holds.
        """
        if numbers is None:
            numbers = self.store.held_numbers(batch.number)
        names = self.names()
        if batch.step.stage is Stage.AUDIT:
            return {names.key(number, batch.step, batch.attempt): number for number in numbers}
        key = names.key_format(batch.step, batch.attempt).decode()
        return dict(zip(map(key.__mod__, numbers), numbers, strict=True))

    def may_get_late_results(self, batch: Batch) -> bool:
        """Whether an ended batch may still bring results."""
        return batch.job.late_results_until is not None and self.now() < batch.job.late_results_until

    def steps(self) -> list[Step]:
        """List the steps that grow the dialogues, in order."""
        return steps(self.settings.rounds)

    def all_steps(self) -> list[Step]:
        """List everything that is bought: `steps`, and after them the audit of each round, if an audit was begun."""
        return self.store.bought_steps(self.settings.rounds)

    # ---- troubles

    def trouble(self, error: BatchgenError, provider: str = "") -> None:
        """Record an error. The command goes on and shows it at its end. `provider` is the one whose call failed."""
        note(self.troubles, error)
        if provider and isinstance(error, SetupError):
            self.unusable.add(provider)

    def describe(self, batch: Batch) -> str:
        return f"{batch.name} ({batch.step}, {pluralize(batch.requests, 'request')}, {batch.provider})"
