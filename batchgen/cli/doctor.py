"""Check everything that a paid run needs: keys, addresses, proxy and CA, models, prices, limits."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from batchgen.core.dialogue import STAGES
from batchgen.core.errors import BatchgenError, SetupError, Temporary, UnknownModel
from batchgen.core.pricing import batch_rate, offers, past_price
from batchgen.core.wording import as_invoked
from batchgen.providers import PROVIDERS, connect, find_provider
from batchgen.providers.base import ConnectionOptions, CreateRefused, JobNotFound, ModelGone, Provider, ProviderClient
from batchgen.providers.http_errors import address_text, mask_password
from batchgen.runtime import clock
from batchgen.runtime.environment import api_key
from batchgen.runtime.files import sync_directory
from batchgen.runtime.settings import ModelChoice, Settings

NETWORK_VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")


def check_setup(
    settings: Settings, environment: Mapping[str, str], root: Path, *, every_model: bool = False
) -> dict[str, Any]:
    """Return the results of all checks as JSON. `problem` of a provider is empty if a run could start with it.

    A provider whose key is not set is no problem as long as another one can write the same stages. With `every_model`
    the models with a known price are asked too, at providers whose key is set.
    """
    choices = dict.fromkeys((choice for stage in STAGES for choice in settings.choices(stage)), True)
    if every_model:
        priced = (ModelChoice(offer.provider, offer.model) for offer in offers(settings.prices))
        choices |= {
            choice: False
            for choice in priced
            if choice not in choices
            and choice.provider in PROVIDERS
            and environment.get(find_provider(choice.provider).key_variable, "").strip()
        }
    names = dict.fromkeys(choice.provider for choice in choices)
    found = {name: _check_provider(find_provider(name), choices, settings, environment) for name in names}
    served = {(name, model["model"]) for name in names for model in found[name]["models"] if model["served"] == "yes"}
    needed = set[str]()  # providers of stages that no served model can write
    for stage in STAGES:
        if not served.intersection(settings.choices(stage)):
            needed.update(choice.provider for choice in settings.choices(stage))
    for name, provider in found.items():
        if name not in needed and (not provider["key_set"] or provider["exit_code"] == UnknownModel.exit_code):
            provider |= {"problem": "", "note": provider["problem"]}
    _note_unwritten_stages(found, settings, served)
    for name, day in _rehearsed_on(root, found.values()).items():
        found[name]["rehearsed"] = day
    return {
        "providers": list(found.values()),
        "stages": {
            stage.value: next((str(one) for one in settings.choices(stage) if one in served), None) for stage in STAGES
        },
        "surroundings": dict(_network_settings()),
        "root": {"folders_synced": _folders_synced(root)},
    }


def _note_unwritten_stages(
    found: Mapping[str, dict[str, Any]], settings: Settings, served: Collection[tuple[str, str]]
) -> None:
    """Note a problem for each stage that no model can write, if its providers serve the models of other stages."""
    for stage in STAGES:
        wanted = settings.choices(stage)
        if any(choice in served or found[choice.provider]["problem"] for choice in wanted):
            continue
        found[wanted[0].provider] |= {
            "problem": f"no model of [{stage}] answers: {', '.join(map(str, wanted))}",
            "do": f"Name one that is served in batchgen.toml ([{stage}] models), then run: batchgen doctor",
            "exit_code": UnknownModel.exit_code,
        }


def _rehearsed_on(root: Path, providers: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return when the run in `root` was rehearsed with each provider, at the address that is used now."""
    from batchgen.providers.assumptions.evidence import read_record

    try:
        record = read_record(root)
    except SetupError:  # `rehearse` says what is wrong with it
        record = None
    if record is None or not record.finished:
        return {}
    day = datetime.fromtimestamp(record.updated_at, UTC).date().isoformat()
    seen = [(one, notes) for one in providers if (notes := record.providers.get(one["name"])) and notes.jobs]
    return {one["name"]: day for one, notes in seen if notes.address == one["url"]}


def _folders_synced(root: Path) -> bool | None:
    """Return whether the file system of `root` can sync folders; None if that cannot be tried."""
    try:
        return sync_directory(root)
    except OSError:
        return None


def _check_provider(
    provider: Provider, choices: Mapping[ModelChoice, bool], settings: Settings, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Check one provider, and each of `choices` that is its model. They map to whether a stage may use the model."""
    wanted = settings.provider(provider.name)
    found: dict[str, Any] = {
        "name": provider.name,
        "sdk": f"{provider.sdk} {version(provider.sdk)}",
        "key_variable": provider.key_variable,
        "not_read": sorted(name for name in environment if provider.is_foreign(name)),
        "url": address_text(environment.get(provider.url_variable)),
        "enqueued_tokens": wanted.enqueued_tokens,
        "concurrent_batches": wanted.concurrent_batches,
        "key_set": bool(environment.get(provider.key_variable, "").strip()),
        "evidence": provider.evidence,
        "rehearsed": None,
        "models": [],
        "problem": "",
        "note": "",
        "exit_code": 0,
    }
    try:
        key = api_key(dict(environment), provider.key_variable)
        url = environment.get(provider.url_variable) or None
        access = ConnectionOptions(key, url, settings.batches.http_timeout_seconds, wanted.api_version)
        remote = connect(provider, access)
        try:
            found["models"] = [
                _check_model(remote, one, settings, needed=used)
                for one, used in choices.items()
                if one.provider == provider.name
            ]
        finally:
            remote.close()
    except BatchgenError as error:
        found["problem"] = str(error)
        found["do"] = "Try again later: batchgen doctor" if isinstance(error, Temporary) else error.do
        found["exit_code"] = error.exit_code
        return found
    if not any(model["served"] == "yes" for model in found["models"]):
        found |= _none_served(provider, found["models"])
    return found


def _none_served(provider: Provider, models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the problem if no model answered: the provider serves none of them, or the call failed."""
    found = {
        "problem": f"{provider.name} serves none of the configured models",
        "do": f"Name one that is served in batchgen.toml ([{provider.name}] models), then run: batchgen doctor",
        "exit_code": UnknownModel.exit_code,
    }
    for model in models:
        if model["served"] == "unclear":
            found["problem"] = f"{provider.name}: no call to a configured model succeeded: {model['detail']}"
            found["do"] = (
                f"Check {provider.url_variable}, and whether this key may use the API from here."
                " Then run: batchgen doctor"
            )
            break
    return found


def _check_model(remote: ProviderClient, choice: ModelChoice, settings: Settings, *, needed: bool) -> dict[str, Any]:
    """Ask a model for one token: a listed model may not be served. Raises KeyRefused, Temporary."""
    served, detail, model = "yes", "", choice.model
    try:
        remote.probe(model)
    except ModelGone as error:
        served, detail = "no", str(error)
    except (CreateRefused, JobNotFound) as error:
        served, detail = "unclear", str(error)
    except BatchgenError as error:
        if needed:
            raise
        served, detail = "unclear", str(error)
    price = batch_rate(*choice, settings.prices)
    return {
        "model": model,
        "served": served,
        "detail": detail,
        "price": None if price is None else {"input": price.input, "output": price.output},
        "price_source": "unknown" if price is None else price.source,
        "price_seen": str(price.read_on) if price and price.read_on else None,
        "price_last_day": str(price.last_day) if price and price.last_day else None,
        "price_past": past_price(choice.provider, choice.model, price) if price and price.is_past(clock.now()) else "",
    }


def _network_settings() -> Iterator[tuple[str, str]]:
    for name in NETWORK_VARIABLES:
        value = os.environ.get(name) or os.environ.get(name.lower())
        if value:
            yield name, mask_password(value)


def describe(found: Mapping[str, Any]) -> str:
    lines = []
    for provider in found["providers"]:
        lines.append(f"{provider['name']} ({provider['sdk']}), {provider['url']}")
        unread = f"; not read: {', '.join(provider['not_read'])}" if provider["not_read"] else ""
        lines.append(f"  key from {provider['key_variable']}{unread}")
        lines += [f"  {_model_line(model)}" for model in provider["models"]]
        tokens = f"{provider['enqueued_tokens']:,} tokens enqueued"
        lines.append(f"  limits in use: {provider['concurrent_batches']} batches, {tokens}")
        if provider["rehearsed"]:
            lines.append(f"  rehearsed on {provider['rehearsed']}")
        elif provider["evidence"]:
            lines.append(f"  built from {provider['evidence']}; this program has not been run with it yet")
        lines.append(f"  {'PROBLEM: ' + provider['problem'] if provider['problem'] else provider['note'] or 'ready'}")
    for stage, model in found["stages"].items():
        lines.append(f"{stage}: {model or 'no model answers'}")
    lines += [f"network: {name}={value}" for name, value in found["surroundings"].items()]
    if found["root"]["folders_synced"] is False:
        lines.append(
            "ROOT: its file system cannot sync a folder; a power cut may lose the newest files. Use a local disk."
        )
    used = {str(model).partition(":")[0] for model in found["stages"].values()}
    if new := [one["name"] for one in found["providers"] if one["name"] in used and not one["rehearsed"]]:
        words = "never rehearsed with this run's settings; two seeds, for a cent at most: batchgen rehearse --wait"
        lines.append(as_invoked(f"{', '.join(new)}: {words}"))
    return "\n".join(lines)


def _model_line(model: Mapping[str, Any]) -> str:
    served = {"yes": "served", "no": "NOT SERVED", "unclear": "call failed"}[model["served"]]
    price = model["price"]
    why = f" ({model['detail']})" if model["detail"] else ""
    if price is None:
        return f"{model['model']}: {served}{why}; price unknown"
    seen = f", seen {model['price_seen']}" if model["price_seen"] else ""
    cost = f"${price['input']:g} in, ${price['output']:g} out per million tokens"
    past = f"; {model['price_past']}" if model["price_past"] else ""
    return f"{model['model']}: {served}{why}; {cost} ({model['price_source']}{seen}){past}"


def first_problem(found: Mapping[str, Any]) -> BatchgenError | None:
    """Return the first problem as the error that decides the exit status."""
    problems = [provider for provider in found["providers"] if provider["problem"]]
    if not problems:
        return None
    first = problems[0]
    kind = {Temporary.exit_code: Temporary}.get(first["exit_code"], SetupError)
    return kind(first["problem"], do=first["do"] or "Fix it, then run: batchgen doctor")
