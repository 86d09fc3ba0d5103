"""A run together with its providers: what every command needs that may call a provider."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from batchgen.core.dialogue import STAGES, Stage
from batchgen.core.errors import (
    KeyRefused,
    QuotaReached,
    SetupError,
    UnknownModel,
)
from batchgen.ledger import pins
from batchgen.ledger.holds import hold_error, is_in_force, model_gone_error, model_scope
from batchgen.ledger.pins import pinned_choice, pinned_choices
from batchgen.ledger.rows import Hold
from batchgen.ledger.run import Run
from batchgen.ledger.store import Store
from batchgen.runtime.environment import api_key
from batchgen.runtime.files import Layout
from batchgen.runtime.logging_setup import log
from batchgen.runtime.memory import set_mmap_threshold
from batchgen.runtime.settings import ModelChoice, Settings

if TYPE_CHECKING:
    from batchgen.core.pricing import Rate
    from batchgen.providers.base import Provider, ProviderClient


class Session(Run):
    """A run together with its providers: a client for each provider, and a pinned model for each stage."""

    __slots__ = ("_remotes",)

    def __init__(
        self,
        layout: Layout,
        settings: Settings,
        store: Store,
        environment: Mapping[str, str],
        remotes: Mapping[str, ProviderClient] | None = None,
    ) -> None:
        """Open a session. `remotes` maps the names of providers to clients that are connected already."""
        super().__init__(layout, settings, store, environment)
        self._remotes: dict[str, ProviderClient] = dict(remotes or {})

    # ---- providers

    def choice(self, stage: Stage) -> ModelChoice:
        """Return the model that writes `stage`: the pinned one, else the first of the list whose key is set."""
        if pinned := pinned_choice(self.store, self.settings, stage):
            return pinned
        choices = self.settings.choices(stage)
        return next(filter(self.has_key, choices), choices[0])

    def provider(self, stage: Stage) -> Provider:
        """Return the provider that writes `stage`."""
        from batchgen.providers import find_provider  # here and below: an idle tick needs none

        return find_provider(self.choice(stage).provider)

    def model(self, stage: Stage) -> str:
        """Return the model that writes `stage`."""
        return self.choice(stage).model

    def providers(self) -> list[Provider]:
        """Return every provider that writes a stage, once."""
        return list({(row := self.provider(stage)).name: row for stage in STAGES}.values())

    def has_key(self, choice: ModelChoice) -> bool:
        """Return whether the key of the model's provider is set."""
        from batchgen.providers import find_provider

        return bool(self.environment.get(find_provider(choice.provider).key_variable, "").strip())

    def key_fingerprint(self, provider: Provider) -> str:
        """Return 8 hex digits that identify the API key of a provider without revealing it. Raises KeyRefused.

        A job can only be read with the key that created it.
        """
        key = api_key(dict(self.environment), provider.key_variable)
        from hashlib import sha256

        return sha256(key.encode()).hexdigest()[:8]

    def remote(self, provider: Provider) -> ProviderClient:
        """Return the client of a provider, connected at first use. Raises KeyRefused."""
        if provider.name not in self._remotes:
            self._remotes[provider.name] = self.connect(provider)
        return self._remotes[provider.name]

    def connect(self, provider: Provider, *hooks: Callable[[Any], None]) -> ProviderClient:
        """Return a new client of a provider; `hooks` are called with each HTTP response. Raises KeyRefused."""
        from batchgen.providers import connect
        from batchgen.providers.base import ConnectionOptions

        set_mmap_threshold()
        access = ConnectionOptions(
            key=api_key(dict(self.environment), provider.key_variable),
            url=self.environment.get(provider.url_variable) or None,
            timeout_seconds=self.settings.batches.http_timeout_seconds,
            api_version=self.settings.provider(provider.name).api_version,
            hooks=hooks,
        )
        return connect(provider, access)

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

    def pin_model(self, stage: Stage) -> None:
        """Before the first paid batch of `stage`, pin the first model of its list that answers a request for one token.

        A listing of models proves nothing: Together lists models that it does not serve, and answers 201 to a batch
        for such a model before the job fails. Raises KeyRefused, QuotaClosed, UnknownModel, Temporary; NeedsPerson if a
        quota has refused for a day.
        """
        if pinned := pinned_choice(self.store, self.settings, stage):
            self.require_key(stage, [pinned])
        else:
            self.pin(stage, self.settings.choices(stage))

    def require_key(self, stage: Stage, choices: Sequence[ModelChoice]) -> list[ModelChoice]:
        """Return those of `choices` whose provider's key is set. Raises KeyRefused if there is none."""
        from batchgen.providers import find_provider

        usable = list(filter(self.has_key, choices))
        variables = list(dict.fromkeys(find_provider(choice.provider).key_variable for choice in choices))
        if not usable and len(variables) > 1:
            raise KeyRefused(
                f"{variables[0]} is not set, nor is {' or '.join(variables[1:])}; [{stage}] needs one of them.",
                do="Put one of them into the environment, or into ROOT/.env (mode 0600).",
            )
        for choice in usable or choices:
            self.key_fingerprint(find_provider(choice.provider))
        return usable

    def pin(self, stage: Stage, choices: Sequence[ModelChoice]) -> ModelChoice:
        """Pin the first of `choices` that is served and not halted, for every batch of `stage` from now on.

        Models whose provider's key is not set are passed over. Raises UnknownModel, KeyRefused.
        """
        before = pinned_choice(self.store, self.settings, stage)
        usable = self.require_key(stage, choices) if choices else []
        choice, proven = self._first_served(self.without_halted(usable)) or self.none_served(stage, usable)
        self._record_pin(stage, choice)
        pins.pin(self.store, stage, choice, proven=proven)
        if before and before != choice and before not in pinned_choices(self.store, self.settings).values():
            self.store.holds.end(model_scope(*before))
        log.info("%s: %s is pinned for this run (%s)", choice.provider, choice.model, stage)
        for skipped in choices[: choices.index(choice)]:
            if not self.has_key(skipped):
                log.warning("%s", self._passed_over(skipped, choice))
        return choice

    def _record_pin(self, stage: Stage, choice: ModelChoice) -> None:
        """Note beside the requests who writes the batches from the next one on: a lost store is rebuilt with it."""
        from batchgen.dataset.manifest import add_facts, writer_fact

        add_facts(self.layout, {writer_fact(stage, self.store.next_batch_number()): str(choice)})

    def record_instructions(self) -> None:
        """Note beside the requests with which instructions the next batch is asked; log what has changed."""
        from batchgen.dataset.manifest import instructions_hash, record_instructions

        number = self.store.next_batch_number()
        for stage, own in record_instructions(self, number).items():
            which = f"the instructions of the configuration (SHA-256 {instructions_hash(own)[:8]})" if own else ""
            log.info("%s: asked with %s from batch %d on", stage, which or "the built-in instructions", number)

    def _passed_over(self, skipped: ModelChoice, chosen: ModelChoice) -> str:
        """Say that a model was passed over for lack of a key, and how much cheaper it would be."""
        from batchgen.core.pricing import batch_price_ratio
        from batchgen.providers import find_provider

        variable = find_provider(skipped.provider).key_variable
        words = f"{skipped.model} of {skipped.provider} was passed over: {variable} is not set."
        ratio = batch_price_ratio(skipped, chosen, self.settings.prices)
        if ratio is not None and ratio < 1:
            words += f" Its price in batch is {ratio:.0%} of that of {chosen.model}, which is used."
        return words

    def without_halted(self, choices: Sequence[ModelChoice]) -> list[ModelChoice]:
        """Return those of `choices` that are not halted."""
        halted = {scope for scope, hold in self.store.holds.all().items() if hold.until is None}
        return [choice for choice in choices if model_scope(*choice) not in halted]

    def _first_served(self, choices: Sequence[ModelChoice]) -> tuple[ModelChoice, bool] | None:
        """Return (model, whether it really answered); None if none is served."""
        from batchgen.providers.base import CreateRefused, JobNotFound, ModelGone

        for choice in choices:
            if any(
                choice == pinned and pins.is_proven(self.store, stage, choice)
                for stage, pinned in pinned_choices(self.store, self.settings).items()
            ):
                return choice, True
            try:
                self._probe(choice)
            except ModelGone as error:
                log.warning("%s does not serve %s: %s", choice.provider, choice.model, error)
                continue
            except (CreateRefused, JobNotFound) as error:
                # A refusal that does not name the model (an address without this call) proves nothing against it.
                log.warning("%s: could not check whether it serves %s: %s", choice.provider, choice.model, error)
                return choice, False
            return choice, True
        return None

    def _probe(self, choice: ModelChoice) -> None:
        """Ask for one token. A quota error holds the model back, as one from a create call does."""
        from batchgen.providers import find_provider

        scope = model_scope(*choice)
        hold = self.store.holds.all().get(scope)
        if hold is not None and is_in_force(hold, self.now()):
            raise hold_error(hold, self.now())
        try:
            self.remote(find_provider(choice.provider)).probe(choice.model)
        except QuotaReached as error:
            hold = self.store.holds.pause(scope, str(error), self.now(), error.retry_after_seconds)
            raise hold_error(hold, self.now()) from None
        except SetupError:
            self.unusable.add(choice.provider)
            raise
        self.store.holds.end(scope)

    def none_served(self, stage: Stage, choices: Sequence[ModelChoice]) -> NoReturn:
        """Raise UnknownModel with the names of models to choose from."""
        wanted = self.settings.choices(stage)
        names = list(dict.fromkeys(choice.provider for choice in choices or wanted))
        if not choices:
            what = f"The list of {' and '.join(names)} has no other model."
        elif len(names) == 1:
            what = f"{names[0]} serves none of: {', '.join(choice.model for choice in choices)}."
        else:
            what = f"None of the models of [{stage}] is served: {', '.join(map(str, choices))}."
        where = f"[{stage}] models" if self.settings.stage(stage).models else f"[{names[0]}] models"
        do = f"Name one that is served in batchgen.toml: {where} = [...]. {self._priced_models(stage, names)}".rstrip()
        if keyless := [str(choice) for choice in wanted if not self.has_key(choice)]:
            do += f" Or set the key for {', '.join(keyless)}."
        raise UnknownModel(what, do=do)

    def _priced_models(self, stage: Stage, names: Sequence[str]) -> str:
        """Return the providers' models with a known price that the list of `stage` does not have, as it names them."""
        from batchgen.core.pricing import priced_models

        tried, own_list = self.settings.choices(stage), bool(self.settings.stage(stage).models)
        offers = [ModelChoice(name, model) for name in names for model in priced_models(name)]
        named = [
            f"{one if own_list else one.model} (${known.input:g} in, ${known.output:g} out)"
            for one in offers
            if one not in tried and (known := self.rate(*one))
        ]
        return f"With a known batch price per million tokens: {', '.join(named)}." if named else ""

    def halt_model(self, provider: str, model: str, message: str) -> None:
        """Halt a model that a provider has refused for a batch. The user must pin another one.

        If the probe could not check the model before its first batch, it has written nothing in this run. Then it is
        unpinned, and the next model of the list is tried.
        """
        reason = f"{provider} does not serve {model}: {message}"
        self.store.holds.put(Hold(model_scope(provider, model), None, 1, reason))
        for stage, choice in pinned_choices(self.store, self.settings).items():
            if choice != (provider, model):
                continue
            if pins.is_proven(self.store, stage, choice):
                self.trouble(model_gone_error(reason, stage))
            else:
                pins.unpin(self.store, stage)
                log.warning("%s; the next model of the list is tried", reason)
