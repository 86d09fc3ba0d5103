"""Compare the token estimate with real tokenizers, and compute prices."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import splintr
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.core import text_features
from batchgen.core.outcomes import Usage
from batchgen.core.pricing import (
    Offer,
    Price,
    Rate,
    batch_price_ratio,
    batch_rate,
    offers,
    price_list,
    priced_models,
    standard_rate,
)
from batchgen.core.prompts import Message, Prompt
from batchgen.core.tokens import (
    OTHER_LETTER_TOKENS,
    REQUEST_OVERHEAD_TOKENS,
    TokenFormula,
    estimate_prompt_tokens,
    estimate_text_tokens,
)
from batchgen.providers import PROVIDERS
from batchgen.runtime.settings import Settings
from tests.support.bench import SHARED

TOKENIZERS = {"gemini": "gemma3", "together": "llama3.1"}
FIELDS = ("question", "answer", "correction")
# Exact totals of the real tokenizers over the three fields of each file.
REFERENCE = [
    ("aligner20k/round1_single_turn.jsonl", "gemini", 41_950),
    ("aligner20k/round1_single_turn.jsonl", "together", 41_279),
    ("oasst1_rm_zh_triples.jsonl", "gemini", 274_868),
    ("oasst1_rm_zh_triples.jsonl", "together", 316_948),
]
ENGLISH = """
You can keep a sourdough starter alive for years if you feed it often enough. Mix 50 g of flour with 50 g of water,
stir it well, and leave the jar on the counter with a loose lid. After 24 hours you should see a few bubbles; after a
week it ought to double within 4-6 hours of each feeding.

If a grey liquid gathers on top, don't panic: it's only alcohol, and it means the starter is hungry. Pour it off (or
stir it in, if you like a sharper taste), throw away half, and feed the rest. Why half? Otherwise you'd need twice the
flour every day, and by Friday you'd be feeding a bathtub.

1. Use rye or whole wheat for the first days.
2. Keep it between 22 and 26 degrees.
3. Going on holiday? Put it into the fridge; it will sleep for two weeks, maybe three.
"""
CHINESE = """
如果你经常喂养，天然酵种可以存活很多年。把五十克面粉和五十克水混合，搅拌均匀，然后松松地盖上盖子，放在室温下。
一天之后，你应该能看到一些气泡；一周之后，每次喂养以后它应该在四到六个小时之内长到两倍大。

如果表面出现灰色的液体，不用担心：那只是酒精，说明酵种饿了。把它倒掉，扔掉一半，再喂剩下的部分。
为什么要扔掉一半呢？否则你每天都需要两倍的面粉，到了星期五，你就得喂养一整个浴缸了。

第一，前几天最好使用黑麦或者全麦面粉。第二，温度保持在22到26度之间。第三，出门旅行的时候请放进冰箱。
"""


@cache
def tokenizer(provider: str) -> Any:
    return splintr.Tokenizer.from_pretrained(TOKENIZERS[provider])


@pytest.mark.parametrize("provider", TOKENIZERS)
@pytest.mark.parametrize(("text", "tolerance"), [(ENGLISH, 0.05), (CHINESE, 0.15)], ids=["English", "Chinese"])
def test_the_estimate_against_a_real_tokenizer(provider: str, text: str, tolerance: float) -> None:
    assert estimate_text_tokens(text, PROVIDERS[provider].tokens) == pytest.approx(
        len(tokenizer(provider).encode(text)), rel=tolerance
    )


@pytest.mark.parametrize(("name", "provider", "total"), REFERENCE)
def test_the_estimate_of_a_whole_data_set(name: str, provider: str, total: int) -> None:
    path = SHARED / name
    if not path.exists():
        return  # real rows are not allowed in the repository
    rows = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    estimated = sum(estimate_text_tokens(row[field], PROVIDERS[provider].tokens) for row in rows for field in FIELDS)
    assert estimated == pytest.approx(total, rel=0.05)


def features(text: str) -> Iterator[float]:
    """The formula's features as they are defined, character by character."""
    ranges = [(0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x3040, 0x30FF), (0xAC00, 0xD7AF)]
    words = re.findall("[A-Za-z\u00c0-\u024f]+", text)
    yield sum(any(low <= ord(character) <= high for low, high in ranges) for character in text)
    yield len(words)
    yield sum(map(len, words))
    yield sum(character.isdecimal() for character in text)
    yield sum(not character.isalnum() and not character.isspace() for character in text)
    yield len(re.findall("\n+", text))
    others = re.sub("[\0-\x7f\u00c0-\u024f]", "", text)
    yield sum(
        letter.isalnum() and not letter.isdecimal() and not any(low <= ord(letter) <= high for low, high in ranges)
        for letter in others
    )


# The first and last characters of each range that is counted alike: only they show a range that is off by one.
EDGES = "\u00bf\u00c0\u00d7\u01ff\u0200\u023f\u0240\u024f\u0250\u3040\u30ff\u3400\u9fff\ua000\uabff\uac00\ud7af"
EDGES += "\uf900\ufaff\ufb00az09 \n\r\t\u0663\u0969\u044f\u0e01\u00b2\u3002\u0085\u2028"


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8")) | st.text(st.characters(codec="ascii")) | st.text(EDGES, min_size=5))
def test_both_ways_of_counting_follow_the_definition(text: str) -> None:
    assert list(text_features.count_features(text)) == list(features(text))
    for at in range(len(TokenFormula._fields)):
        weights = [0.0] * len(TokenFormula._fields)
        weights[at] = 1.0
        assert estimate_text_tokens(text, TokenFormula(*weights)) == list(features(text))[at]


@pytest.mark.parametrize("character", EDGES)
def test_every_edge_of_a_range_is_counted_by_the_definition(character: str) -> None:
    assert list(text_features.count_features(character)) == list(features(character))


def test_a_prompt_costs_its_texts_and_a_little_more() -> None:
    formula = PROVIDERS["gemini"].tokens
    asked = Prompt("Be brief.", (Message("user", "One two."), Message("assistant", "三")), ())
    said = sum(estimate_text_tokens(text, formula) for text in ("Be brief.", "One two.", "三"))
    assert estimate_prompt_tokens(asked, formula) == round(said) + REQUEST_OVERHEAD_TOKENS


def test_letters_that_the_formula_does_not_know_are_not_taken_for_nothing() -> None:
    formula = PROVIDERS["gemini"].tokens
    asked = Prompt("", (Message("user", "яблоко" * 100),), ())
    assert estimate_prompt_tokens(asked, formula) == round(OTHER_LETTER_TOKENS * 600) + REQUEST_OVERHEAD_TOKENS


# ---------------------------------------------------------------- prices


def test_the_user_s_own_price_of_cached_input() -> None:
    for cached, then in ((None, 1.0), (0.25, 0.25), (0.0, 0.0)):
        own = batch_rate("gemini", "m", {"m": Price(1.0, 2.0, cached)})
        assert own is not None
        assert (own.input, own.cached_input, own.output) == (1.0, then, 2.0)


FLASH_LITE = "gemini-2.5-flash-lite"


def test_a_rate_is_the_batch_price() -> None:
    assert batch_rate("gemini", FLASH_LITE, {}) == Rate(
        0.05, 0.01, 0.20, "ai.google.dev/gemini-api/docs/pricing", date(2026, 8, 15)
    )


def test_cached_input_has_its_own_price_and_thoughts_are_output() -> None:
    found = batch_rate("gemini", FLASH_LITE, {})
    assert found is not None
    million = 1_000_000
    assert found.usd(Usage(input=million)) == pytest.approx(0.05)
    assert found.usd(Usage(input=million, cached=million)) == pytest.approx(0.01)
    assert found.usd(Usage(input=million, cached=400_000)) == pytest.approx(0.6 * 0.05 + 0.4 * 0.01)
    assert found.usd(Usage(output=million, thoughts=900_000)) == pytest.approx(0.20)
    assert found.usd(Usage()) == 0


def test_more_cached_than_input_costs_nothing_negative() -> None:
    assert Rate(1.0, 0.0, 1.0, "", None).usd(Usage(input=1, cached=5)) == 0


def test_the_user_s_own_price_wins() -> None:
    own = batch_rate("gemini", FLASH_LITE, {FLASH_LITE: Price(input=1.0, output=2.0)})
    assert own == Rate(1.0, 1.0, 2.0, "batchgen.toml", None)
    free = batch_rate("together", "vllm/anything", {"vllm/anything": Price(input=0, output=0, cached_input=0)})
    assert free is not None
    assert free.usd(Usage(10, 5, 10, 0)) == 0


def test_the_user_s_price_for_one_provider_wins_over_that_of_the_model() -> None:
    own = {FLASH_LITE: Price(input=1.0, output=2.0), f"gemini:{FLASH_LITE}": Price(input=0.0, output=0.0)}
    at_gemini, elsewhere = batch_rate("gemini", FLASH_LITE, own), batch_rate("together", FLASH_LITE, own)
    assert at_gemini == Rate(0.0, 0.0, 0.0, "batchgen.toml", None)
    assert elsewhere == Rate(1.0, 1.0, 2.0, "batchgen.toml", None)


def test_a_model_has_the_price_of_its_provider_and_no_other() -> None:
    assert batch_rate("together", FLASH_LITE, {}) is None
    assert standard_rate("together", FLASH_LITE) is None
    assert standard_rate("gemini", FLASH_LITE) == Rate(
        0.10, 0.01, 0.40, "ai.google.dev/gemini-api/docs/pricing", date(2026, 8, 15)
    )
    assert FLASH_LITE in priced_models("gemini")
    assert FLASH_LITE not in priced_models("together")


@pytest.mark.parametrize("model", ["", "gemini-9", "models/gemini-2.5-flash-lite"])
def test_an_unknown_price_is_none_and_not_zero(model: str) -> None:
    assert batch_rate("gemini", model, {}) is None


def test_a_free_cache_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"batch": {"input": 1.0, "cached_input": 0.0, "output": 2.0}, "source": "here"}
    monkeypatch.setattr(
        "batchgen.core.pricing.price_list", lambda: {"gemini:m": entry, "gemini:no batch": {"source": "here"}}
    )
    assert batch_rate("gemini", "m", {}) == Rate(1.0, 0.0, 2.0, "here", None)
    assert batch_rate("gemini", "no batch", {}) is None


def test_a_price_has_a_last_day_where_one_is_known() -> None:
    ended = batch_rate("gemini", "gemini-2.5-flash", {})
    assert ended is not None
    assert ended.last_day == date(2026, 11, 30)
    last_second = datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC).timestamp()
    assert not ended.is_past(last_second)
    assert ended.is_past(last_second + 1)
    for other in (
        batch_rate("gemini", FLASH_LITE, {}),
        batch_rate("gemini", FLASH_LITE, {FLASH_LITE: Price(input=1.0, output=2.0)}),
    ):
        assert other is not None
        assert other.last_day is None
        assert not other.is_past(last_second + 1e9)


def test_the_price_list_is_whole() -> None:
    for model, entry in price_list().items():
        assert model.startswith(f"{entry['provider']}:"), model
        assert set(entry) <= {"provider", "standard", "batch", "source", "read_on", "last_day", "note"}, model
        assert isinstance(entry.get("last_day", date.max), date), model
        assert entry["provider"] in PROVIDERS, model
        assert isinstance(entry["read_on"], date), model
        assert entry["source"], model
        batch, standard = entry["batch"], entry["standard"]
        assert {"input", "output"} <= set(batch) == set(standard) <= {"input", "cached_input", "output"}, model
        assert all(0 <= batch[name] <= standard[name] for name in batch), model
        assert batch.get("cached_input", 0) <= batch["input"], model


LLAMA_8B = "meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo"


def test_offers_are_the_shipped_models_and_those_that_the_user_has_priced() -> None:
    own = {"together:my/model": Price(1.0, 2.0), "my/other": Price(1.0, 2.0), f"gemini:{FLASH_LITE}": Price(3.0, 4.0)}
    found = {f"{offer.provider}:{offer.model}": offer for offer in offers(own)}
    assert found.keys() == {*price_list(), "together:my/model"}
    assert found["together:my/model"] == Offer("together", "my/model", Rate(1.0, 1.0, 2.0, "batchgen.toml", None), None)
    flash = found[f"gemini:{FLASH_LITE}"]
    assert flash.batch == Rate(3.0, 3.0, 4.0, "batchgen.toml", None)
    assert flash.standard == standard_rate("gemini", FLASH_LITE)
    assert "404" in flash.note


def test_one_model_at_two_providers() -> None:
    assert batch_price_ratio(("deepinfra", LLAMA_8B), ("together", LLAMA_8B), {}) == pytest.approx(0.048 / 0.18)
    assert batch_price_ratio(("deepinfra", LLAMA_8B), ("together", "Qwen/Qwen3.5-9B"), {}) == pytest.approx(
        0.048 / 0.42
    )
    assert batch_price_ratio(("together", LLAMA_8B), ("deepinfra", LLAMA_8B), {}) == pytest.approx(0.18 / 0.048)
    own = {f"together:{LLAMA_8B}": Price(0.024, 0.024)}
    assert batch_price_ratio(("deepinfra", LLAMA_8B), ("together", LLAMA_8B), own) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("first", "second", "own"),
    [
        ("nobody", "together", {}),
        ("together", "nobody", {}),
        ("deepinfra", "together", {f"together:{LLAMA_8B}": Price(0.0, 0.0)}),
    ],
)
def test_no_ratio_without_both_prices(first: str, second: str, own: dict[str, Price]) -> None:
    assert batch_price_ratio((first, LLAMA_8B), (second, LLAMA_8B), own) is None


def test_every_default_model_has_a_price() -> None:
    defaults = Settings()
    for name in PROVIDERS:
        assert all(batch_rate(name, model, {}) for model in defaults.provider(name).models)


def test_the_reference_files_are_the_ones_beside_the_repository() -> None:
    assert Path(__file__).resolve().parents[4] / "shared" / "data" == SHARED
