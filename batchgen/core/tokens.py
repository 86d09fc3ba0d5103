"""Estimates of tokens, without network and tokenizer."""

from __future__ import annotations

from functools import cache
from math import sqrt
from typing import NamedTuple

from batchgen.core.prompts import Prompt
from batchgen.core.text_features import Features, features

TEXT_ERROR, CORPUS_ERROR = 0.28, 0.03  # by what share the estimate is off: for 95 % of single texts, for corpora


class Formula(NamedTuple):
    """Coefficients of the token estimate, fitted by least squares over six English and Chinese corpora.

    Totals of corpora are within 3 % of the real number, 95 % of single texts within 10 to 28 %.
    """

    cjk: float
    latin_words: float
    latin_letters: float
    digits: float
    punctuation: float
    newline_runs: float


REQUEST_OVERHEAD_TOKENS = 12  # of the chat template and the JSON schema

OTHER_LETTER_TOKENS = 0.5  # Cyrillic, Arabic, Thai, ...: not fitted, but max_usd must not count them as 0


def tokens(text: str, formula: Formula) -> float:
    """Estimate the tokens of a text."""
    return weigh(features(text), formula)


def weigh(found: Features, formula: Formula) -> float:
    """Estimate tokens from counted features. Letters of scripts that the formula does not know count as 0."""
    return (
        formula.cjk * found.cjk
        + formula.latin_words * found.words
        + formula.latin_letters * found.letters
        + formula.digits * found.digits
        + formula.punctuation * found.punctuation
        + formula.newline_runs * found.newline_runs
    )


def prompt_tokens(prompt: Prompt, formula: Formula) -> int:
    """Estimate the input tokens of one request."""
    said = Features()
    for message in prompt.messages:
        said = said.plus(features(message.text))
    return requests_tokens(prompt.system, said, 1, formula)


def requests_tokens(system: str, said: Features, requests: int, formula: Formula) -> int:
    """Estimate the input tokens of `requests` requests that share a system text.

    `said` are the features of all their messages.
    """
    messages = weigh(said, formula) + OTHER_LETTER_TOKENS * said.other_letters
    return round(requests * _system_tokens(system, formula) + messages) + requests * REQUEST_OVERHEAD_TOKENS


def input_margin(requests: int) -> float:
    """Return by what share the estimated input of `requests` requests may be too low.

    The random part of the error averages out: single texts are off by up to 28 %, whole corpora by 3 %.
    """
    return CORPUS_ERROR + (TEXT_ERROR - CORPUS_ERROR) / sqrt(max(requests, 1))


@cache
def _system_tokens(system: str, formula: Formula) -> float:
    return tokens(system, formula)
