"""Choose the model of each stage from a list over several providers, of which some have no key or serve no model."""

from __future__ import annotations

import pytest

from batchgen.emulator.faults import CallFault, Status
from batchgen.providers import PROVIDERS
from batchgen.runtime.settings import LLAMA, Settings
from tests.support.bench import SERVICE_KEY, SPARE_MODEL, Bench, seeds
from tests.support.invariants import ROUNDS, Make, finished
from tests.support.scene import Scene, built_again

GEMINI = Settings().gemini.models
OFFER = f"{LLAMA} of deepinfra was passed over: DEEPINFRA_API_KEY is not set. Its price in batch is 11% of that"


def let(monkeypatch: pytest.MonkeyPatch, bench: Bench, provider: str, *, key: bool = True) -> None:
    """Set the key and the address of a service, or remove its key."""
    row = PROVIDERS[provider]
    monkeypatch.setenv(row.url_variable, bench.service.service_url(provider))
    if key:
        monkeypatch.setenv(row.key_variable, SERVICE_KEY)
    else:
        monkeypatch.delenv(row.key_variable, raising=False)


def prepared(bench: Bench, toml: str = "") -> Bench:
    bench.configure(f"{ROUNDS}{toml}")
    assert bench.prepare(seeds(4)).code == 0
    return bench


def writers(bench: Bench) -> dict[str, str]:
    return {stage: f"{one['provider']}:{one['model']}" for stage, one in bench.status()["stage_models"].items()}


def test_a_provider_without_a_key_is_passed_over_with_its_price(
    make_bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default list: Together no longer serves Llama, DeepInfra has no key. Later the user sets it and switches."""
    bench = prepared(make_bench())
    bench.service.world.gone_models = {LLAMA}
    first = bench.run("collect", "--advance")
    assert first.code == 0
    assert first.err.count(OFFER) == 1
    assert writers(bench)["answer"] == f"together:{SPARE_MODEL}"
    bench.service.world.gone_models = set()
    let(monkeypatch, bench, "deepinfra")
    assert OFFER not in bench.run("collect", "--advance").err
    assert writers(bench)["answer"] == f"together:{SPARE_MODEL}", "a key alone changes no pinned model"
    switched = bench.run("switch", "answer", f"deepinfra:{LLAMA}", "--json")
    assert switched.json == {
        "provider": "deepinfra",
        "model": LLAMA,
        "stages": {"answer": f"deepinfra:{LLAMA}"},
    }
    bench.ticks()
    finished(bench)
    assert bench.run("verify").code == 0


def test_the_first_model_whose_key_is_set_is_used(make_bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = prepared(make_bench())
    let(monkeypatch, bench, "deepinfra")
    monkeypatch.delenv("TOGETHER_API_KEY")
    assert bench.run("collect", "--advance").code == 0
    assert writers(bench)["answer"] == f"deepinfra:{LLAMA}"
    bench.ticks()
    finished(bench)
    assert bench.service.world.seen("together") == []


def test_without_any_key_of_the_list_the_status_is_2(make_bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = prepared(make_bench())
    monkeypatch.delenv("TOGETHER_API_KEY")
    done = bench.run("collect", "--advance")
    assert done.code == 2
    assert "TOGETHER_API_KEY is not set, nor is DEEPINFRA_API_KEY; [answer] needs one of them." in done.err
    assert len(bench.service.world.jobs_created("gemini")) == 1, "the questions are sent"


def test_stages_may_use_different_models_of_one_provider(make_bench: Make) -> None:
    toml = f'question.models = ["gemini:{GEMINI[0]}"]\ncorrection.models = ["gemini:{GEMINI[2]}"]\n'
    bench = prepared(make_bench(), toml)
    bench.ticks()
    finished(bench)
    wanted = {"question": f"gemini:{GEMINI[0]}", "answer": f"together:{LLAMA}", "correction": f"gemini:{GEMINI[2]}"}
    assert writers(bench) == wanted
    assert bench.status()["models"] == {"gemini": GEMINI[0], "together": LLAMA}
    receipt = bench.run("receipt", "--json").json
    assert {row["stage"]: row["models"] for row in receipt["steps"]} == {stage: [one] for stage, one in wanted.items()}
    assert {job.model for job in bench.service.world.jobs_created("gemini")} == {GEMINI[0], GEMINI[2]}
    said = bench.run("status").out
    assert f"corrections by {GEMINI[2]} (gemini)" in said
    built_again(Scene(bench))
    assert writers(bench) == wanted


def test_three_models_of_three_providers_whose_keys_come_and_go(
    make_bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing key stops its own stage with status 2; with the key the run goes on where it stood."""
    toml = 'answer.models = ["deepinfra:a-model"]\ncorrection.models = ["groq:b-model"]\n'
    bench = prepared(make_bench(job_seconds=60.0), toml)
    codes = []
    for number in range(40):
        let(monkeypatch, bench, "deepinfra", key=number % 4 in (1, 2))
        let(monkeypatch, bench, "groq", key=number % 3 == 0)
        done = bench.run("collect", "--advance")
        codes.append(done.code)
        assert "Traceback" not in done.err
        if bench.status()["finished"]:
            break
        bench.service.world.advance(60)
    assert set(codes) == {0, 2}
    finished(bench)
    for provider in ("deepinfra", "groq"):
        let(monkeypatch, bench, provider)
    assert bench.run("verify").code == 0
    assert {len(bench.service.world.jobs_created(name)) for name in ("gemini", "deepinfra", "groq")} == {1}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["groq"], "No stage has a model of groq."),
        (
            ["answer", "nobody/knows"],
            f"nobody/knows is not in the list of [answer]: together:{LLAMA}, deepinfra:{LLAMA}",
        ),
        (["gemini", "nobody/knows"], f"nobody/knows is not in the list of gemini: {', '.join(GEMINI)}."),
        (["answer", "deepinfra:other"], "deepinfra:other is not in the list of [answer]"),
    ],
)
def test_switch_names_what_is_in_the_list(bench: Bench, arguments: list[str], words: str) -> None:
    done = prepared(bench).run("switch", *arguments)
    assert done.code == 2
    assert words in done.err


def test_switch_of_a_provider_changes_every_stage_that_it_writes(bench: Bench) -> None:
    prepared(bench)
    bench.run("collect", "--advance")
    assert bench.run("switch", "gemini").code == 0
    assert (writers(bench)["question"], writers(bench)["correction"]) == (f"gemini:{GEMINI[1]}",) * 2
    assert bench.run("switch", "correction", GEMINI[2]).code == 0
    assert (writers(bench)["question"], writers(bench)["correction"]) == (f"gemini:{GEMINI[1]}", f"gemini:{GEMINI[2]}")


def test_a_store_of_an_earlier_version_keeps_its_models(bench: Bench) -> None:
    """It has one pinned model for each provider."""
    import sqlite3
    from contextlib import closing

    prepared(bench)
    with closing(sqlite3.connect(bench.root / "data" / "batchgen.sqlite")) as store, store:
        rows = [("model:gemini", GEMINI[1]), ("model:together", SPARE_MODEL)]
        store.executemany("INSERT INTO run_facts VALUES (?, ?)", rows)
    wanted = {
        "question": f"gemini:{GEMINI[1]}",
        "answer": f"together:{SPARE_MODEL}",
        "correction": f"gemini:{GEMINI[1]}",
    }
    assert writers(bench) == wanted
    bench.ticks()
    finished(bench)
    assert writers(bench) == wanted
    assert bench.service.world.seen("", "probe") == []


def test_doctor_tells_who_would_write_each_stage(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    found = bench.run("doctor", "--json")
    assert found.code == 0
    assert found.json["stages"]["answer"] == f"together:{LLAMA}"
    deepinfra = found.json["providers"][2]
    assert (deepinfra["name"], deepinfra["problem"]) == ("deepinfra", "")
    assert "DEEPINFRA_API_KEY is not set" in deepinfra["note"]
    bench.service.world.gone_models = {LLAMA, SPARE_MODEL}
    lost = bench.run("doctor", "--json")
    assert lost.code == 2
    assert lost.json["stages"]["answer"] is None
    bench.service.world.gone_models = {SPARE_MODEL}
    let(monkeypatch, bench, "deepinfra")
    monkeypatch.delenv("TOGETHER_API_KEY")
    told = bench.run("doctor")
    assert told.code == 0
    assert f"answer: deepinfra:{LLAMA}" in told.out
    assert "built from documents and a published record of its API" in told.out


def test_doctor_asks_every_model_with_a_known_price(bench: Bench) -> None:
    """Only those that a stage may use decide whether a run can start."""
    bench.service.world.gone_models = {"openai/gpt-oss-120b"}
    bench.service.faults.add(
        CallFault(provider="gemini", endpoint="probe", contains="3.8", action=Status(429, "Wait."))
    )
    found = bench.run("doctor", "--models", "--json")
    assert found.code == 0
    models = {one["name"]: {row["model"]: row["served"] for row in one["models"]} for one in found.json["providers"]}
    assert models["together"]["openai/gpt-oss-120b"] == "no"
    assert models["together"]["meta-llama/Llama-3.3-70B-Instruct-Turbo"] == "yes"
    assert models["gemini"]["gemini-3.8-flash"] == "unclear"
    assert models["deepinfra"] == {}, "its key is not set"
    assert "gpt-oss" not in bench.run("doctor").out


def test_a_stage_that_no_model_writes_is_a_problem_for_doctor(make_bench: Make) -> None:
    """Each provider serves the models of other stages, so none of them has a problem of its own."""
    bench = prepared(make_bench(), 'question.models = ["gemini:gone", "together:gone"]\n')
    bench.service.world.gone_models = {"gone"}
    told = bench.run("doctor")
    assert told.code == bench.run("submit", "--stage", "question").code == 2
    assert "no model of [question] answers: gemini:gone, together:gone" in told.err
    assert f"gemini:{GEMINI[0]} ($" in bench.run("submit", "--stage", "question").err, "as the list of a stage names it"
