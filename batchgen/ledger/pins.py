"""The model that writes each stage of a run.

It is found before the first paid batch of the stage and stays for the whole run, unless the user switches it.
"""

from __future__ import annotations

from batchgen.core.dialogue import Stage
from batchgen.ledger.store import Store
from batchgen.runtime.settings import ModelChoice, Settings


def pinned_choice(store: Store, settings: Settings, stage: Stage) -> ModelChoice | None:
    """Return the pinned model of `stage`; None if there is none, or if the configuration no longer lists it.

    The judge need not be listed: `audit --model` can name any.
    """
    choices = settings.choices(stage)
    if pinned := store.fact(_fact(stage)):
        choice = ModelChoice.parse(pinned)
        return choice if choice in choices or stage is Stage.AUDIT else None
    # Earlier versions pinned one model for each provider.
    return next((one for one in choices if store.fact(f"model:{one.provider}") == one.model), None)


def pinned_choices(store: Store, settings: Settings) -> dict[Stage, ModelChoice]:
    """Return the pinned models of all stages that have one."""
    return {stage: choice for stage in Stage if (choice := pinned_choice(store, settings, stage))}


def pin(store: Store, stage: Stage, choice: ModelChoice, *, proven: bool = True) -> None:
    """Pin the model of `stage`. `proven`: it answered a request of this run."""
    store.set_fact(_fact(stage), str(choice))
    store.set_fact(_unproven_fact(stage), "" if proven else str(choice))


def is_proven(store: Store, stage: Stage, choice: ModelChoice) -> bool:
    """Return whether the pinned model `choice` of `stage` has answered a request."""
    return store.fact(_unproven_fact(stage)) != str(choice)


def unpin(store: Store, stage: Stage) -> None:
    """Forget the pinned model of `stage`."""
    store.delete_fact(_fact(stage))


def _fact(stage: Stage) -> str:
    return f"model:{stage}"


def _unproven_fact(stage: Stage) -> str:
    return f"unproven:{stage}"
