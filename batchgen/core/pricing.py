"""What tokens cost: the shipped price list (prices.toml) and the prices that the user sets."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from msgspec import Meta, Struct

from batchgen.core.outcomes import Usage

MILLION = 1_000_000


class Price(Struct, frozen=True, forbid_unknown_fields=True):
    """USD per million tokens in batch, set by the user in place of the shipped price list."""

    input: Annotated[float, Meta(ge=0)]
    output: Annotated[float, Meta(ge=0)]
    cached_input: Annotated[float, Meta(ge=0)] | None = None


class Rate(NamedTuple):
    """USD per million tokens in batch, where it comes from, when it was seen there, and its last day if it has one."""

    input: float
    cached_input: float
    output: float
    source: str
    read_on: date | None
    last_day: date | None = None

    def is_past(self, now: float) -> bool:
        """Whether the last day of this price is over (UTC). `now` is in seconds since 1970."""
        return self.last_day is not None and datetime.fromtimestamp(now, UTC).date() > self.last_day

    def usd(self, usage: Usage) -> float:
        """Return what `usage` costs. Cached input has its own price; thoughts are part of the output."""
        fresh = max(usage.input - usage.cached, 0)
        return (fresh * self.input + usage.cached * self.cached_input + usage.output * self.output) / MILLION


@cache
def price_list() -> Mapping[str, Mapping[str, Any]]:
    """Read the shipped price list (prices.toml): "PROVIDER:MODEL" -> entry."""
    import tomllib  # an idle tick asks for no price

    return tomllib.loads(Path(__file__).with_name("prices.toml").read_text("utf-8"))


class Offer(NamedTuple):
    """A model at a provider: its price in batch and outside it (None: unknown), and what else is to be known of it."""

    provider: str
    model: str
    batch: Rate | None
    standard: Rate | None
    note: str = ""


def offers(overrides: Mapping[str, Price]) -> list[Offer]:
    """List every model with a known batch price: those of the shipped list, then those that only the user has priced.

    Of the user's prices only those named "PROVIDER:MODEL" count: the others do not say who sells the model.
    """
    found = []
    for name in dict.fromkeys([*price_list(), *overrides]):
        provider, colon, model = name.partition(":")
        if colon and (batch := batch_rate(provider, model, overrides)):
            note = str(price_list().get(name, {}).get("note", ""))
            found.append(Offer(provider, model, batch, standard_rate(provider, model), note))
    return found


def batch_price_ratio(offer: tuple[str, str], other: tuple[str, str], overrides: Mapping[str, Price]) -> float | None:
    """Return the batch price of `offer` divided by that of `other`, each a (provider, model).

    A price is that of one input token and one output token together. None if one of the two is unknown, or `other` is
    free of charge.
    """
    first, second = batch_rate(*offer, overrides), batch_rate(*other, overrides)
    if first is None or second is None or not second.input + second.output:
        return None
    return (first.input + first.output) / (second.input + second.output)


def priced_models(provider: str) -> list[str]:
    """List the models of `provider` on the shipped price list."""
    beginning = f"{provider}:"
    return [name.removeprefix(beginning) for name in price_list() if name.startswith(beginning)]


def past_price(provider: str, model: str, price: Rate) -> str:
    """Say that the last day of a price is over, and what to do."""
    return (
        f"this price ended on {price.last_day}; look up the new one and set it in batchgen.toml:"
        f' [prices."{provider}:{model}"] input = ..., output = ...'
    )


def batch_rate(provider: str, model: str, overrides: Mapping[str, Price]) -> Rate | None:
    """Return the batch price of `model` at `provider`; None if it is unknown.

    The user's own price ("PROVIDER:MODEL", else "MODEL") wins over the shipped one.
    """
    own = overrides.get(f"{provider}:{model}") or overrides.get(model)
    if own is not None:
        cached = own.input if own.cached_input is None else own.cached_input
        return Rate(own.input, cached, own.output, "batchgen.toml", None)
    return _shipped_rate(provider, model, "batch")


def standard_rate(provider: str, model: str) -> Rate | None:
    """Return the price of the same tokens outside batch, for comparison; None if it is unknown."""
    return _shipped_rate(provider, model, "standard")


def _shipped_rate(provider: str, model: str, kind: str) -> Rate | None:
    entry: Mapping[str, Any] = price_list().get(f"{provider}:{model}", {})
    price: Any = entry.get(kind)
    if not isinstance(price, dict):
        return None
    seen, last_day, fresh = entry.get("read_on"), entry.get("last_day"), float(price["input"])
    return Rate(
        input=fresh,
        cached_input=float(price.get("cached_input", fresh)),
        output=float(price["output"]),
        source=str(entry["source"]),
        read_on=seen if isinstance(seen, date) else None,
        last_day=last_day if isinstance(last_day, date) else None,
    )
