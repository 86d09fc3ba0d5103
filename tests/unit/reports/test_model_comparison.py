"""Test `estimate --models`: the same run, priced with every model whose price is known."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import pytest

from batchgen.core.pricing import batch_rate, price_list, standard_rate
from batchgen.providers import PROVIDERS
from batchgen.runtime import clock
from tests.support.bench import Bench, seeds

FLASH_LITE = "gemini-2.5-flash-lite"
LLAMA = "meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo"
STAGES = ["question", "answer", "correction"]


@pytest.fixture
def prepared(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A run of 4 conversations, none of them sent, on a day on which every shipped price holds."""
    monkeypatch.setattr(clock, "now", lambda: datetime(2026, 3, 1, tzinfo=UTC).timestamp())
    assert bench.prepare(seeds(4)).code == 0
    return bench


def compared(bench: Bench) -> Any:
    shown = bench.run("estimate", "--models", "--json")
    assert shown.code == 0
    return shown.json


def row(found: Any, stage: str, name: str) -> dict[str, Any]:
    (models,) = [one["models"] for one in found["stages"] if one["stage"] == stage]
    (row,) = [one for one in models if f"{one['provider']}:{one['model']}" == name]
    return dict(row)


@pytest.mark.parametrize("more", ["", "correction.ask_next = true\n", "rounds = 2\nhistory_messages = 2\n"])
def test_the_configured_models_cost_what_the_estimate_says(prepared: Bench, more: str) -> None:
    prepared.configure(more)
    found, plain = compared(prepared), prepared.run("estimate", "--json").json
    sums = defaultdict[str, list[float]](lambda: [0, 0, 0, 0.0])
    for step in plain["steps"]:
        values = [step[name] for name in ("requests", "input_tokens", "output_tokens", "usd")]
        sums[step["stage"]] = [before + value for before, value in zip(sums[step["stage"]], values, strict=True)]
    assert [stage["stage"] for stage in found["stages"]] == STAGES
    for stage in found["stages"]:
        (today,) = [one for one in stage["models"] if one["configured"]]
        values = [stage["requests"], today["input_tokens"], today["output_tokens"], today["usd"]]
        assert values == pytest.approx(sums[stage["stage"]], abs=1)
        assert today["usd"] == pytest.approx(sums[stage["stage"]][3], rel=0.01)
    assert found["configured"]["usd"] == pytest.approx(plain["usd"], rel=0.01)
    assert found["configured"]["online_usd"] == pytest.approx(plain["online_usd"], rel=0.01)
    assert {stage: one["model"] for stage, one in found["configured"]["models"].items()} == {
        "question": FLASH_LITE,
        "answer": LLAMA,
        "correction": FLASH_LITE,
    }


def test_every_stage_lists_every_priced_model_and_the_cheapest_first(prepared: Bench) -> None:
    known = {name for name, entry in price_list().items() if entry["provider"] in PROVIDERS}
    for stage in compared(prepared)["stages"]:
        assert {f"{one['provider']}:{one['model']}" for one in stage["models"]} == known
        prices = [one["usd"] for one in stage["models"]]
        assert prices == sorted(prices)
        for one in stage["models"]:
            batch, standard = (
                batch_rate(one["provider"], one["model"], {}),
                standard_rate(one["provider"], one["model"]),
            )
            assert batch is not None
            assert standard is not None
            tokens = one["input_tokens"], one["output_tokens"]
            assert one["usd"] * 1e6 == pytest.approx(tokens[0] * batch.input + tokens[1] * batch.output)
            assert one["online_usd"] * 1e6 == pytest.approx(tokens[0] * standard.input + tokens[1] * standard.output)
            assert (one["price_source"], one["price_read_on"]) == (batch.source, str(batch.read_on))
            assert one["price_last_day"] == (str(batch.last_day) if batch.last_day else None)


def test_tokens_are_counted_with_the_formula_of_the_model_s_provider(prepared: Bench) -> None:
    """A model has the tokens here that it has in `estimate` once it is configured."""
    alike = "batches.echo = false\n"  # only Gemini's replies have an echo, and later requests show replies
    prepared.configure(alike)
    found = compared(prepared)
    prepared.configure(f'{alike}[answer]\nprovider = "gemini"\n[question]\nprovider = "together"\n')
    for stage, name in (("answer", f"gemini:{FLASH_LITE}"), ("question", f"together:{LLAMA}")):
        steps = [step for step in prepared.run("estimate", "--json").json["steps"] if step["stage"] == stage]
        assert row(found, stage, name)["input_tokens"] == pytest.approx(
            sum(one["input_tokens"] for one in steps), abs=1
        )


def test_the_cheapest_combination_is_the_first_model_of_each_stage(prepared: Bench) -> None:
    found = compared(prepared)
    first = {stage["stage"]: stage["models"][0] for stage in found["stages"]}
    assert found["cheapest"]["usd"] == pytest.approx(sum(one["usd"] for one in first.values()))
    assert found["cheapest"]["online_usd"] == pytest.approx(sum(one["online_usd"] for one in first.values()))
    assert found["cheapest"]["models"] == {
        stage: {"provider": one["provider"], "model": one["model"]} for stage, one in first.items()
    }
    assert found["cheapest"]["usd"] <= found["configured"]["usd"]


def test_a_price_that_has_ended_comes_last_and_is_never_the_cheapest(
    prepared: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared.configure(f'[prices."together:{LLAMA}"]\ninput = 0.0\noutput = 0.0\n')
    gone = {"provider": "together", "model": LLAMA}
    assert compared(prepared)["cheapest"]["models"]["answer"] == gone  # one's own price does not end
    prepared.configure("")
    monkeypatch.setattr(clock, "now", lambda: datetime(2026, 3, 7, tzinfo=UTC).timestamp())
    found = compared(prepared)
    for stage in found["stages"]:
        last = stage["models"][-1]
        assert ({name: last[name] for name in gone}, last["price_past"]) == (gone, True)
    assert gone not in found["cheapest"]["models"].values()
    shown = prepared.run("estimate", "--models").out
    assert f"together:{LLAMA}  [" in shown
    assert "ended 2026-03-06" in shown


def test_models_without_a_key_are_marked(prepared: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared.configure('[prices."together:nobody/knows-1B"]\ninput = 0.0\noutput = 0.0\n')
    for provider in PROVIDERS.values():
        monkeypatch.setenv(provider.key_variable, "key")
    both = compared(prepared)
    assert both["cheapest"] == both["cheapest_with_keys"]
    assert both["cheapest"]["usd"] == 0
    assert "is not set" not in prepared.run("estimate", "--models").out
    monkeypatch.setenv("TOGETHER_API_KEY", " ")
    found = compared(prepared)
    for stage in found["stages"]:
        for one in stage["models"]:
            assert one["missing_key"] == ("TOGETHER_API_KEY" if one["provider"] == "together" else "")
    assert found["cheapest"]["usd"] == 0
    assert found["cheapest_with_keys"]["usd"] > 0
    assert "together" not in {one["provider"] for one in found["cheapest_with_keys"]["models"].values()}
    for provider in PROVIDERS.values():
        monkeypatch.delenv(provider.key_variable)
    none = compared(prepared)
    assert none["cheapest_with_keys"] is None
    assert [stage["models"] for stage in none["stages"]] != []
    shown = prepared.run("estimate", "--models").out
    assert "GEMINI_API_KEY is not set" in shown
    assert "cheapest with the keys that are set: no price" in shown


def test_a_configured_model_without_a_price_is_unknown_and_not_free(prepared: Bench) -> None:
    models = '[together]\nmodels = ["nobody/knows-1B", "my/own-1B"]\n'
    prepared.configure(f'{models}[prices."my/own-1B"]\ninput = 1000.0\noutput = 1000.0\n')
    found = compared(prepared)
    assert row(found, "answer", "together:nobody/knows-1B")["usd"] is None
    assert found["stages"][1]["models"][-1]["model"] == "nobody/knows-1B"
    assert found["configured"]["usd"] is None
    own = row(found, "answer", "together:my/own-1B")
    assert own["usd"] == pytest.approx((own["input_tokens"] + own["output_tokens"]) / 1000)
    assert (own["online_usd"], own["price_source"], own["price_read_on"]) == (None, "batchgen.toml", None)
    lines = prepared.run("estimate", "--models").out.split("\n")
    (line,) = [line for line in lines if line.endswith("together:nobody/knows-1B")]
    assert line.split()[:5] == ["unknown", "unknown*", "unknown", "unknown", "unknown"]


def test_the_table_has_a_line_for_each_model_and_says_where_prices_are_from(prepared: Bench) -> None:
    found, shown = compared(prepared), prepared.run("estimate", "--models")
    assert shown.code == 0
    for name, entry in price_list().items():
        if entry["provider"] in PROVIDERS:
            (line,) = [line for line in shown.out.split("\n") if f"  {name}  [" in line]
            usd = [row(found, stage, name)["usd"] for stage in STAGES]
            cells = [cell.rstrip("*") for cell in line.split()[:4]]
            assert cells == [f"{value:.4f}" for value in [*usd, sum(usd)]]
            assert f"{entry['source']}, read {entry['read_on']}" in shown.out
            assert entry.get("note", "") in shown.out
    assert f"{found['configured']['usd']:.4f}" in shown.out


def test_a_finished_run_has_nothing_left_to_price(bench: Bench) -> None:
    bench.prepare(seeds(2))
    bench.ticks()
    assert compared(bench)["stages"] == []
    assert bench.run("estimate", "--models").out == "Nothing is left to buy.\n"
