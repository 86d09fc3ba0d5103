"""Tokens before they are counted, and what tokens cost. Pure but for reading the shipped price list."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from functools import cache
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from batchgen.core.outcomes import Usage
from batchgen.core.text_features import Features, features

if TYPE_CHECKING:
    from batchgen.core.prompts import Prompt

MILLION = 1_000_000
TEXT_ERROR, CORPUS_ERROR = 0.28, 0.03  # of the token estimate: of 95 % of single texts, of whole corpora


class Formula(NamedTuple):
    """Coefficients of the token estimate, fitted by least squares over six English and Chinese corpora.

    Corpus totals come out within 3 %, single texts within 10-28 % (95 % of them).
    """

    cjk: float
    latin_words: float
    latin_letters: float
    digits: float
    punctuation: float
    newline_runs: float


REQUEST_OVERHEAD_TOKENS = 12  # chat template and, where asked for, the JSON schema

OTHER_LETTER_TOKENS = 0.5  # Cyrillic, Arabic, Thai, ...: not fitted, but a cap must not take them for nothing


def tokens(text: str, formula: Formula) -> float:
    """Estimated tokens of `text`, without network and tokenizer."""
    return weigh(features(text), formula)


def weigh(found: Features, formula: Formula) -> float:
    """The estimate that counted features come to; letters of scripts that the formula does not know are left out."""
    return (
        formula.cjk * found.cjk
        + formula.latin_words * found.words
        + formula.latin_letters * found.letters
        + formula.digits * found.digits
        + formula.punctuation * found.punctuation
        + formula.newline_runs * found.newline_runs
    )


def prompt_tokens(prompt: Prompt, formula: Formula) -> int:
    """Estimated input tokens of one request."""
    said = Features()
    for message in prompt.messages:
        said = said.plus(features(message.text))
    return requests_tokens(prompt.system, said, 1, formula)


def requests_tokens(system: str, said: Features, requests: int, formula: Formula) -> int:
    """Estimated input tokens of `requests` requests with one system text, whose messages have features `said`."""
    messages = weigh(said, formula) + OTHER_LETTER_TOKENS * said.other_letters
    return round(requests * _system_tokens(system, formula) + messages) + requests * REQUEST_OVERHEAD_TOKENS


def input_margin(requests: int) -> float:
    """By what share the estimated input of `requests` requests may be too low.

    Single texts are off by up to 28 % (95 % of them), whole corpora by 3 %: what is random averages out.
    """
    return CORPUS_ERROR + (TEXT_ERROR - CORPUS_ERROR) / sqrt(max(requests, 1))


@cache
def _system_tokens(system: str, formula: Formula) -> float:
    return tokens(system, formula)


class Price(NamedTuple):
    """USD per million tokens in batch, set by the user in place of the shipped price list."""

    input: float
    output: float
    cached_input: float | None = None


class Rate(NamedTuple):
    """USD per million tokens in batch, where it comes from, when it was seen there, and its last day if it has one."""

    input: float
    cached_input: float
    output: float
    source: str
    read_on: date | None
    last_day: date | None = None

    def is_past(self, now: float) -> bool:
        """Whether the last day is over (UTC); `now` is in seconds since 1970."""
        return self.last_day is not None and datetime.fromtimestamp(now, UTC).date() > self.last_day

    def usd(self, usage: Usage) -> float:
        """What `usage` costs. Cached input has its own price; thoughts are part of the output."""
        fresh = max(usage.input - usage.cached, 0)
        return (fresh * self.input + usage.cached * self.cached_input + usage.output * self.output) / MILLION


@cache
def price_list() -> Mapping[str, Mapping[str, Any]]:
    """The shipped price list (prices.toml), by model."""
    import tomllib

    return tomllib.loads(Path(__file__).with_name("prices.toml").read_text("utf-8"))


def listed_models(provider: str) -> list[str]:
    """The models of `provider` on the shipped price list."""
    return [model for model, entry in price_list().items() if entry["provider"] == provider]


def past_price(model: str, price: Rate) -> str:
    """What people are told of a price whose last day is over."""
    return (
        f"this price ended on {price.last_day}; look up the new one and set it in batchgen.toml:"
        f' [prices."{model}"] input = ..., output = ...'
    )


def rate(model: str, overrides: Mapping[str, Price]) -> Rate | None:
    """The batch price of `model`: the user's own, else the shipped one, else None, which means unknown."""
    if own := overrides.get(model):
        cached = own.input if own.cached_input is None else own.cached_input
        return Rate(own.input, cached, own.output, "batchgen.toml", None)
    return _listed(model, "batch")


def standard_rate(model: str) -> Rate | None:
    """The price of the same tokens outside batch, for comparison; None when unknown."""
    return _listed(model, "standard")


def _listed(model: str, kind: str) -> Rate | None:
    entry: Mapping[str, Any] = price_list().get(model, {})
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
