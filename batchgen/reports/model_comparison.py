"""Price the rest of a run for every model with a known price (`estimate --models`). Makes no network calls.

Requests, conversations and expected lengths are those of `estimate`. Input tokens are counted with the token formula of
each model's provider. Replies are taken to be as long as those of the configured model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from batchgen.core.dialogue import STAGES, Stage, Step
from batchgen.core.outcomes import Usage
from batchgen.core.pricing import Offer, Rate, offers, standard_rate
from batchgen.core.tokens import TokenFormula, estimate_prompt_tokens
from batchgen.engine.session import Session
from batchgen.engine.submission.expected_length import expected_output_tokens
from batchgen.providers import PROVIDERS
from batchgen.reports.estimate import mean_input_tokens, remaining_requests, sum_known, usd_text


class ModelCost(NamedTuple):
    """What the remaining requests of one stage cost with one model. A price that is not known is None.

    `missing_key` is the variable of the provider's key if it is not set. `is_past`: the last day of the price is over.
    """

    provider: str
    model: str
    configured: bool
    missing_key: str
    usage: Usage
    batch: Rate | None
    standard: Rate | None
    is_past: bool
    note: str

    @property
    def name(self) -> str:
        return f"{self.provider}:{self.model}"

    @property
    def usd(self) -> float | None:
        return self.batch.usd(self.usage) if self.batch else None

    @property
    def online_usd(self) -> float | None:
        return self.standard.usd(self.usage) if self.standard else None


class StageComparison(NamedTuple):
    """The remaining requests of one stage, and what they cost with each model, cheapest first, ended prices last."""

    stage: Stage
    requests: int
    models: tuple[ModelCost, ...]


Combination = Mapping[Stage, ModelCost]  # a model for each stage that has something left to buy


def compare_models(session: Session, environment: Mapping[str, str]) -> list[StageComparison]:
    """Price every stage that has something left to buy. `environment` holds the keys that are set."""
    requests = remaining_requests(session)
    candidates = _candidates(session)
    formulas = {PROVIDERS[offer.provider].tokens for offer in candidates}
    inputs = {formula: _input_tokens(session, requests, formula) for formula in formulas}
    found = []
    for stage in STAGES:
        steps = {step: count for step, count in requests.items() if step.stage is stage and count}
        output = round(sum(expected_output_tokens(session, step) * count for step, count in steps.items()))
        costs = []
        for offer in candidates:
            by_step = inputs[PROVIDERS[offer.provider].tokens]
            used = Usage(input=sum(by_step[step] for step in steps), output=output)
            costs.append(_model_cost(session, stage, offer, used, environment))
        if steps:
            found.append(StageComparison(stage, sum(steps.values()), tuple(sorted(costs, key=_order))))
    return found


def _candidates(session: Session) -> list[Offer]:
    """List the configured models, and every model with a known price at a provider that this program can call."""
    found = {
        (offer.provider, offer.model): offer for offer in offers(session.settings.prices) if offer.provider in PROVIDERS
    }
    for stage in STAGES:
        for choice in session.settings.choices(stage):
            rate = session.rate(*choice)
            if rate or choice == session.choice(stage):
                found.setdefault(choice, Offer(*choice, rate, standard_rate(*choice)))
    return list(found.values())


def _input_tokens(session: Session, requests: Mapping[Step, int], formula: TokenFormula) -> dict[Step, int]:
    """Return the input tokens of each step's remaining requests, counted with `formula`."""
    means = mean_input_tokens(session, lambda _, asked: estimate_prompt_tokens(asked, formula))
    return {step: round(means.get(step.position, 0.0) * count) for step, count in requests.items()}


def _model_cost(session: Session, stage: Stage, offer: Offer, used: Usage, environment: Mapping[str, str]) -> ModelCost:
    variable = PROVIDERS[offer.provider].key_variable
    return ModelCost(
        provider=offer.provider,
        model=offer.model,
        configured=(offer.provider, offer.model) == session.choice(stage),
        missing_key="" if environment.get(variable, "").strip() else variable,
        usage=used,
        batch=offer.batch,
        standard=offer.standard,
        is_past=offer.batch is not None and offer.batch.is_past(session.now()),
        note=offer.note,
    )


def _order(cost: ModelCost) -> tuple[bool, bool, float, str]:
    """Sort the cheapest first; prices that have ended and unknown ones last."""
    return cost.is_past, cost.usd is None, cost.usd or 0.0, cost.name


# ---------------------------------------------------------------- one model for each stage


def configured_models(found: Sequence[StageComparison]) -> Combination:
    return {stage.stage: next(cost for cost in stage.models if cost.configured) for stage in found}


def cheapest_models(found: Sequence[StageComparison], *, keys_set: bool = False) -> Combination | None:
    """Return the cheapest model of each stage, with `keys_set` only of providers whose key is set. None if a stage has
    no model with a price that still holds.
    """
    chosen = {}
    for stage in found:
        fit = [one for one in stage.models if one.usd is not None and not one.is_past]
        fit = [one for one in fit if not (keys_set and one.missing_key)]
        if not fit:
            return None
        chosen[stage.stage] = fit[0]
    return chosen


def _combination_value(chosen: Combination | None) -> dict[str, Any] | None:
    if chosen is None:
        return None
    return {
        "usd": sum_known(cost.usd for cost in chosen.values()),
        "online_usd": sum_known(cost.online_usd for cost in chosen.values()),
        "models": {str(stage): {"provider": cost.provider, "model": cost.model} for stage, cost in chosen.items()},
    }


# ---------------------------------------------------------------- what is printed


def describe(found: Sequence[StageComparison]) -> tuple[dict[str, Any], str]:
    """Return (JSON value, text) of a comparison."""
    value = {
        "stages": [
            {
                "stage": str(stage.stage),
                "requests": stage.requests,
                "models": [_model_value(cost) for cost in stage.models],
            }
            for stage in found
        ],
        "configured": _combination_value(configured_models(found)),
        "cheapest": _combination_value(cheapest_models(found)),
        "cheapest_with_keys": _combination_value(cheapest_models(found, keys_set=True)),
    }
    return value, "\n".join(_lines(found)) if found else "Nothing is left to buy."


def _model_value(cost: ModelCost) -> dict[str, Any]:
    price = cost.batch
    return {
        "provider": cost.provider,
        "model": cost.model,
        "configured": cost.configured,
        "missing_key": cost.missing_key,
        "input_tokens": cost.usage.input,
        "output_tokens": cost.usage.output,
        "usd": cost.usd,
        "online_usd": cost.online_usd,
        "price_source": price.source if price else None,
        "price_read_on": str(price.read_on) if price and price.read_on else None,
        "price_last_day": str(price.last_day) if price and price.last_day else None,
        "price_past": cost.is_past,
        "note": cost.note,
    }


def _lines(found: Sequence[StageComparison]) -> Iterator[str]:
    """Write one table: a line for each model, a column for each stage, then the sums in batch and online."""
    by_model = _costs_by_model(found)
    prices = [cost.batch for costs in by_model for cost in costs[:1] if cost.batch]
    origins = list(dict.fromkeys((price.source, price.read_on) for price in prices))
    counts = ", ".join(f"{stage.stage} {stage.requests:,}" for stage in found)
    yield f"USD in batch by stage, and for all stages in batch and online. Requests: {counts}."
    yield "".join(f"{stage.stage:>11} " for stage in found) + f"{'all, batch':>11}{'online':>10}  model"
    yield from (_table_line(costs, _model_words(costs[0], origins)) for costs in by_model)
    yield ""
    cheapest, with_keys = cheapest_models(found), cheapest_models(found, keys_set=True)
    yield _table_line(tuple(configured_models(found).values()), "today's models (*)")
    yield from _combination_lines("cheapest", cheapest)
    if with_keys != cheapest:
        yield from _combination_lines("cheapest with the keys that are set", with_keys)
    yield ""
    yield "Only prices are compared: a weaker model writes worse corrections. Tokens are counted as those of Gemma"
    yield "(gemini) or Llama 3.1 (all others); for a model with another tokenizer they are an estimate."
    yield from (
        f"[{number}] {source}{f', read {read_on}' if read_on else ''}"
        for number, (source, read_on) in enumerate(origins, start=1)
    )
    for note in dict.fromkeys(costs[0].note for costs in by_model if costs[0].note):
        yield f"{', '.join(costs[0].name for costs in by_model if costs[0].note == note)}: {note}"


def _costs_by_model(found: Sequence[StageComparison]) -> list[tuple[ModelCost, ...]]:
    """Return the costs of each model, one a stage; the model that is cheapest for all stages first."""
    by_model: dict[str, list[ModelCost]] = {}
    for stage in found:
        for cost in stage.models:
            by_model.setdefault(cost.name, []).append(cost)

    def order(costs: Sequence[ModelCost]) -> tuple[bool, bool, float, str]:
        usd = sum_known(cost.usd for cost in costs)
        return costs[0].is_past, usd is None, usd or 0.0, costs[0].name

    return sorted(map(tuple, by_model.values()), key=order)


def _table_line(costs: Sequence[ModelCost], words: str) -> str:
    cells = (f"{usd_text(cost.usd):>11}{'*' if cost.configured else ' '}" for cost in costs)
    usd, online = sum_known(cost.usd for cost in costs), sum_known(cost.online_usd for cost in costs)
    return f"{''.join(cells)}{usd_text(usd):>11}{usd_text(online):>10}  {words}"


def _model_words(cost: ModelCost, origins: Sequence[tuple[str, date | None]]) -> str:
    price, words = cost.batch, [cost.name]
    if price:
        words.append(f"[{origins.index((price.source, price.read_on)) + 1}]")
    if price and price.last_day:
        words.append(f"{'ended' if cost.is_past else 'until'} {price.last_day}")
    if cost.missing_key:
        words.append(f"{cost.missing_key} is not set")
    return "  ".join(words)


def _combination_lines(title: str, chosen: Combination | None) -> Iterable[str]:
    if chosen is None:
        return [f"{title}: no price holds for one of the stages"]
    models = (f"{stage} {cost.name}" for stage, cost in chosen.items())
    return [_table_line(tuple(chosen.values()), f"{title}:"), *(f"{'':>8}{words}" for words in models)]
