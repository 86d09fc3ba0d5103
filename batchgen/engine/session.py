"""Hold what every working command needs: paths, store, settings, clock, and the connections to the providers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from batchgen.core.dialogue import STAGES, Stage
from batchgen.core.errors import (
    QuotaReached,
    StageStopped,
    UnknownModel,
)
from batchgen.ledger.holds import hold_error, is_in_force, model_scope
from batchgen.ledger.rows import Hold, pinned_model_fact
from batchgen.ledger.run import Run
from batchgen.ledger.store import Store
from batchgen.runtime.files import Layout
from batchgen.runtime.logging_setup import log
from batchgen.runtime.memory import set_mmap_threshold
from batchgen.runtime.settings import Settings, api_key

if TYPE_CHECKING:
    from batchgen.core.pricing import Rate
    from batchgen.providers.base import Provider, ProviderClient


def _unverified_model_fact(provider: str) -> str:
    """Return the name of the fact that a pinned model could not be probed."""
    return f"unproven:{provider}"


class Session(Run):
    """A run with its providers: their connections, and the model that is pinned for each."""

    __slots__ = ("_remotes",)

    def __init__(
        self,
        layout: Layout,
        settings: Settings,
        store: Store,
        environment: Mapping[str, str],
        remotes: Mapping[str, ProviderClient] | None = None,
    ) -> None:
        """Open a session. `remotes` are connections that exist already, by provider."""
        super().__init__(layout, settings, store, environment)
        self._remotes: dict[str, ProviderClient] = dict(remotes or {})

    # ---- providers

    def provider(self, stage: Stage) -> Provider:
        """Return the configured provider that writes `stage`."""
        from batchgen.providers import find_provider as provider_row  # here and below: an idle tick asks nobody

        return provider_row(self.settings.stage(stage).provider)

    def providers(self) -> list[Provider]:
        """Return every provider that a stage names, once."""
        return list({(row := self.provider(stage)).name: row for stage in STAGES}.values())

    def key_fingerprint(self, provider: Provider) -> str:
        """Return a hash that tells API keys apart without revealing them: a job is readable only with the key that
        created it.
        """
        key = api_key(dict(self.environment), provider.key_variable)
        from hashlib import sha256

        return sha256(key.encode()).hexdigest()[:8]

    def remote(self, provider: Provider) -> ProviderClient:
        """Return the provider's connection; connect at first use. Raises KeyRefused."""
        if provider.name not in self._remotes:
            from batchgen.providers import connect
            from batchgen.providers.base import ConnectionOptions

            set_mmap_threshold()
            access = ConnectionOptions(
                key=api_key(dict(self.environment), provider.key_variable),
                url=self.environment.get(provider.url_variable) or None,
                timeout_seconds=self.settings.batches.http_timeout_seconds,
                api_version=self.settings.provider(provider.name).api_version,
            )
            self._remotes[provider.name] = connect(provider, access)
        return self._remotes[provider.name]

    def close(self) -> None:
        for remote in self._remotes.values():
            with suppress(Exception):
                remote.close()
        self._remotes.clear()
        self.store.close()

    def rate(self, provider: str, model: str) -> Rate | None:
        """Return the batch price of `model` at `provider`; None if it is unknown."""
        from batchgen.core.pricing import batch_rate

        return batch_rate(provider, model, self.settings.prices)

    # ---- models

    def pinned_model(self, provider: Provider) -> str | None:
        """Return the model that was served first in this run, if the configuration still lists it."""
        model = self.store.fact(pinned_model_fact(provider.name))
        return model if model in self.settings.provider(provider.name).models else None

    def model(self, provider: Provider) -> str:
        """Return the model that is or would be used: the pinned one, else the first of the list."""
        return self.pinned_model(provider) or self.settings.provider(provider.name).models[0]

    def pin_model(self, provider: Provider) -> None:
        """Before the first paid batch, pin the first model of the list that answers a request for one token.

        A listing is no proof at Together, and a batch for a withdrawn model is accepted (201) before it fails. Raises
        KeyRefused, QuotaClosed, UnknownModel, Temporary; NeedsPerson after one day of waiting for a quota.
        """
        self.key_fingerprint(provider)
        if self.pinned_model(provider) is None:
            self.pin(provider, self.settings.provider(provider.name).models)

    def pin(self, provider: Provider, models: Sequence[str]) -> str:
        """Pin the first of `models` that is served and not halted, for every batch from now on. Raises UnknownModel."""
        before, hopeful = self.store.fact(pinned_model_fact(provider.name)), self.hopeful(provider, models)
        model, proven = self._first_served(provider, hopeful) or self.none_served(provider, models)
        self.store.set_fact(pinned_model_fact(provider.name), model)
        self.store.set_fact(_unverified_model_fact(provider.name), "" if proven else model)
        if before and before != model:
            self.store.holds.end(model_scope(provider.name, before))
        log.info("%s: %s is pinned for this run", provider.name, model)
        return model

    def hopeful(self, provider: Provider, models: Sequence[str]) -> list[str]:
        """Return those of `models` that are not halted."""
        halted = {scope for scope, wait in self.store.holds.all().items() if wait.until is None}
        return [model for model in models if model_scope(provider.name, model) not in halted]

    def _first_served(self, provider: Provider, models: Sequence[str]) -> tuple[str, bool] | None:
        """Return (model, whether it really answered); None if none is served."""
        from batchgen.providers.base import CreateRefused, JobNotFound, ModelGone

        for model in models:
            try:
                self._probe(provider, model)
            except ModelGone as error:
                log.warning("%s does not serve %s: %s", provider.name, model, error)
                continue
            except (CreateRefused, JobNotFound) as error:
                # A no that does not speak of the model (an endpoint without this call) proves nothing against it.
                log.warning("%s: whether %s is served could not be asked: %s", provider.name, model, error)
                return model, False
            return model, True
        return None

    def _probe(self, provider: Provider, model: str) -> None:
        """Ask for one token. A quota error holds the model back, as one from a create call does."""
        scope = model_scope(provider.name, model)
        wait = self.store.holds.all().get(scope)
        if wait is not None and is_in_force(wait, self.now()):
            raise hold_error(wait, self.now())
        try:
            self.remote(provider).probe(model)
        except QuotaReached as error:
            wait = self.store.holds.pause(scope, str(error), self.now(), error.retry_after_seconds)
            raise hold_error(wait, self.now()) from None
        self.store.holds.end(scope)

    def none_served(self, provider: Provider, models: Sequence[str]) -> NoReturn:
        """Raise UnknownModel with the names of models to choose from."""
        what = f"{provider.name} serves none of: {', '.join(models)}"
        raise UnknownModel(
            f"{what}." if models else f"The list of {provider.name} has no other model.",
            do=f"Name one that is served in batchgen.toml: [{provider.name}] models = [...]. {self._choices(provider)}",
        )

    def _choices(self, provider: Provider) -> str:
        """Return the provider's models that have a known price, to choose from."""
        from batchgen.core.pricing import priced_models

        offers = {model: known for model in priced_models(provider.name) if (known := self.rate(provider.name, model))}
        named = [f"{model} (${one.input:g} in, ${one.output:g} out)" for model, one in offers.items()]
        return f"With a known batch price per million tokens: {', '.join(named)}." if named else ""

    def halt_model(self, provider: str, model: str, message: str) -> None:
        """Halt the model of a batch after a clear refusal; only a person chooses another.

        A model that could not be probed before the first batch was never proven to be served, and wrote nothing of the
        run. Then the next model of the list is tried.
        """
        reason = f"{provider} does not serve {model}: {message}"
        self.store.holds.put(Hold(model_scope(provider, model), None, 1, reason))
        if self.store.fact(_unverified_model_fact(provider)) == model:
            self.store.delete_fact(pinned_model_fact(provider))
            log.warning("%s; the next model of the list is tried", reason)
        elif self.store.fact(pinned_model_fact(provider)) == model:
            do = f"Pin another: batchgen switch {provider} [MODEL] (or change [{provider}] models in batchgen.toml)."
            self.trouble(StageStopped(reason, do=do))
