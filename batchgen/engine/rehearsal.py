"""A rehearsal: an ordinary run of a few seeds whose providers are watched, so that every assumption can be checked.

The run itself is the ordinary pipeline. What is added: each client notes what passes (`Observed`), each provider's
listing is read after each tick, and some calls are made once beside the run (`probes`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from typing import Any, cast

from batchgen import __version__
from batchgen.core.dialogue import STAGES
from batchgen.core.errors import BatchgenError, Temporary
from batchgen.dataset.round_files import has_open_conversations
from batchgen.engine.session import Session
from batchgen.ledger.pins import pinned_choice
from batchgen.ledger.receipt import cost_summary
from batchgen.ledger.rows import SUBMITTED_STATES, BatchState
from batchgen.ledger.store import Store
from batchgen.providers.assumptions import rehearsed
from batchgen.providers.assumptions.assumption import Seen
from batchgen.providers.assumptions.evidence import CheckedAssumption, Evidence, Record, write_record
from batchgen.providers.assumptions.observer import Observed, ResponseLog
from batchgen.providers.assumptions.probes import ProbeKit, Prober
from batchgen.providers.assumptions.results import BatchRows, read_rows
from batchgen.providers.base import REFUSALS, Provider, ProviderClient
from batchgen.providers.http_errors import address_text
from batchgen.runtime.files import Layout
from batchgen.runtime.settings import Settings

QUOTED_CHARACTERS = 40  # of instructions; a message with so many of them quotes them
ENDED = (BatchState.COLLECTED, BatchState.LOST)


class Rehearsal(Session):
    """The session of a rehearsal in the folder of `layout`. `record` is what it has seen and concluded so far."""

    __slots__ = ("_probers", "_root", "record")

    def __init__(
        self, layout: Layout, settings: Settings, store: Store, environment: Mapping[str, str], record: Record
    ) -> None:
        super().__init__(layout, settings, store, environment)
        self.record, self._root = record, layout.root.parent
        self._probers: dict[str, Prober] = {}
        record.version, record.started_at = __version__, record.started_at or self.now()

    def connect(self, provider: Provider, *hooks: Callable[[Any], None]) -> ProviderClient:
        """Return a client that notes what passes."""
        responses = ResponseLog()
        notes = self.record.providers.setdefault(provider.name, Evidence())
        notes.sdk = f"{provider.sdk} {version(provider.sdk)}"
        notes.address = address_text(self.environment.get(provider.url_variable))
        return Observed(super().connect(provider, responses.add, *hooks), responses, notes, self.now)

    # ---- what is done beside the run

    def look(self) -> None:
        """After a tick: read each provider's listing, make the probes that are due, write the record."""
        for provider in self._providers_with_jobs():
            try:
                with suppress(BatchgenError, *REFUSALS):  # it is noted, and looked at as an assumption
                    self._read_listing(provider)
                self._prober(provider).step()
                if self.run_has_ended:
                    self._prober(provider).last_step()
            except BatchgenError as error:
                self.trouble(error, provider.name)
            except REFUSALS as error:
                self.trouble(Temporary(f"{provider.name}: {error}", do="Run rehearse again."), provider.name)
        self.save()

    @property
    def run_has_ended(self) -> bool:
        """Whether the run itself has nothing left to do."""
        return not has_open_conversations(self) and not self.store.batches(*SUBMITTED_STATES)

    @property
    def pending(self) -> bool:
        """Whether later looks will see more of a finished run."""
        return any(self._prober(provider).pending for provider in self._providers_with_jobs())

    def save(self) -> None:
        """Check all assumptions and write the record."""
        record = self.record
        record.updated_at, record.conversations = self.now(), self.conversations
        record.models = {stage.value: str(self.choice(stage)) for stage in STAGES}
        record.spent_usd = cost_summary(self.store, self.settings).spent_usd
        record.finished = self.run_has_ended and not self.pending
        record.checks = [row for provider in self.providers() for row in self._checked(provider)]
        write_record(self._root, record)

    # ----

    def _providers_with_jobs(self) -> list[Provider]:
        found = self.record.providers
        return [row for row in self.providers() if row.name in found and found[row.name].jobs]

    def _observed(self, provider: Provider) -> Observed:
        return cast("Observed", self.remote(provider))

    def _read_listing(self, provider: Provider) -> None:
        """Read the listing if it may show something new: a job that it has not shown, or how the listing looks."""
        notes = self.record.providers[provider.name]
        if (
            notes.listing is None
            or notes.listing.error
            or any(job.listed_at is None and not job.deleted for job in notes.jobs.values())
        ):
            self._observed(provider).jobs()

    def _prober(self, provider: Provider) -> Prober:
        if provider.name not in self._probers:
            known = rehearsed(provider.name)
            stage = next(stage for stage in STAGES if self.provider(stage) == provider)
            kit = ProbeKit(
                provider=provider,
                model=self.model(stage),
                dead_model=known.dead_model,
                refuses_dead=known.refuses_dead,
                paged=known.paged,
                sizes_results=known.sizes_results,
                mark=self.names().run,
                folder=self.layout.root / "probes",
                grace_seconds=self.settings.batches.reconcile_grace_seconds,
                save=self._write,
                now=self.now,
            )
            self._probers[provider.name] = Prober(self._observed(provider), kit)
        return self._probers[provider.name]

    def _write(self) -> None:
        write_record(self._root, self.record)

    def _checked(self, provider: Provider) -> list[CheckedAssumption]:
        choices = [choice for stage in STAGES if (choice := pinned_choice(self.store, self.settings, stage))]
        models = list(dict.fromkeys(choice.model for choice in choices if choice.provider == provider.name))
        seen = Seen(
            provider=provider,
            notes=self.record.providers.get(provider.name, Evidence()),
            rows=self._rows(provider),
            models=models,
            rates={model: self.rate(provider.name, model) for model in models},
            grace_seconds=self.settings.batches.reconcile_grace_seconds,
        )
        return [
            CheckedAssumption(
                provider=provider.name,
                name=row.name,
                state=found.state.value,
                assumes=row.assumes,
                seen=self._without_instructions(found.seen),
                needed=row.needed,
                source=row.source,
                rare=row.rare,
            )
            for row in rehearsed(provider.name).rows
            if (found := row.look(seen))
        ]

    def _without_instructions(self, text: str) -> str:
        """Return a text for the record. A provider's message may quote a request, and so the user's instructions."""
        own = (words[:QUOTED_CHARACTERS] for words in self.settings.own_instructions().values())
        return "(a message that quotes your instructions)" if any(words in text for words in own) else text

    def _rows(self, provider: Provider) -> list[BatchRows]:
        """Read the files of the batches that have ended once more."""
        found = []
        for batch in self.store.batches(*ENDED):
            if batch.provider == provider.name and batch.job.remote_id:
                paths = (
                    self.layout.requests(batch.step, batch.name),
                    self.layout.results(batch.step, batch.name),
                    self.layout.errors(batch.step, batch.name),
                )
                files = [path.read_bytes() if path.exists() else b"" for path in paths]
                found.append(read_rows(provider, batch.job.remote_id, batch.model, (files[0], files[1], files[2])))
        return found
