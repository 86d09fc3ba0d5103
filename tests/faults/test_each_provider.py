"""Test that each provider works alone: a fault of one does not stop the other, and the message names it."""

from __future__ import annotations

import pytest

from batchgen.emulator.faults import ALWAYS, CallFault, Status
from batchgen.runtime.settings import LLAMA
from tests.support.bench import SPARE_MODEL
from tests.support.invariants import ORDER, ledger
from tests.support.provider_facts import ANSWERERS, KEY_VARIABLE, KEYS
from tests.support.scene import Make, Scene

MODELS = dict.fromkeys(ANSWERERS, (LLAMA, SPARE_MODEL))
ONE_AT_A_TIME = "gemini.concurrent_batches = 1\n"


def hindered(scene: Scene, patch: pytest.MonkeyPatch, provider: str, how: str) -> tuple[int, str]:
    """Make all calls to `provider` fail. Returns the exit status to expect, and a part of the message."""
    variable, key = KEY_VARIABLE[provider], KEYS[provider]
    world, faults = scene.bench.service.world, scene.bench.service.faults
    if how == "no key":
        patch.delenv(variable)
        return 2, f"{variable} is not set"
    if how == "a refused key":
        world.valid_keys = set(KEYS.values()) - {key}
        return 2, f"Check {variable}, its project and its billing"
    if how == "no model":
        world.gone_models = set(MODELS[provider])
        return 2, f"{provider} serves none of"
    faults.add(CallFault(provider=provider, endpoint="probe", times=ALWAYS, action=Status(503)))
    return 75, "503"


def mended(scene: Scene, patch: pytest.MonkeyPatch) -> None:
    for provider, variable in KEY_VARIABLE.items():
        patch.setenv(variable, KEYS[provider])
    world = scene.bench.service.world
    world.valid_keys, world.gone_models = None, set()
    scene.bench.service.faults.clear()


@pytest.mark.fault(
    13,
    "nothing can be asked of one provider when a run begins",
    injected="its key is missing or refused, none of its models is served, its probe is answered 503",
    seen="the other provider's stage is sent; status 2 (75 after the 503), and what is missing",
)
@pytest.mark.parametrize(
    ("provider", "how"),
    [(provider, how) for provider in ANSWERERS for how in ("no key", "a refused key", "no model", "no answer")],
)
def test_one_provider_is_no_reason_to_hold_back_the_other(
    provider: str, how: str, make_bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene.of(make_bench, 4)
    code, told = hindered(scene, monkeypatch, provider, how)
    for command in (["submit", "--stage", "question"], ["collect", "--advance"]):
        done = scene.run(*command)
        assert done.code == code
        assert done.err.count(told) == 1
        assert (scene.jobs("gemini"), scene.jobs(provider)) == (1, 0)
    assert [(row["position"], row["state"]) for row in ledger(scene.bench).batches] == [(3, "collected")]
    mended(scene, monkeypatch)
    scene.finish()


@pytest.mark.parametrize("how", ["no key", "a refused key"])
def test_what_comes_behind_a_step_that_cannot_be_sent_is_sent(
    how: str, make_bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Questions wait for the key of their provider; answers to existing questions are requested."""
    scene = Scene.of(make_bench, 2, ONE_AT_A_TIME, most=1)
    scene.tick()
    assert scene.run("collect").code == 0
    code, _ = hindered(scene, monkeypatch, "gemini", how)
    assert scene.tick().code == code
    assert (scene.jobs("gemini"), scene.jobs("together")) == (1, 1)
    mended(scene, monkeypatch)
    scene.finish()


@pytest.mark.parametrize("endpoint", ["upload_start", "create"])
def test_a_key_that_is_refused_at_work_stops_its_provider_only(endpoint: str, make_bench: Make) -> None:
    scene = Scene.of(make_bench, 2, ONE_AT_A_TIME, most=1)
    scene.tick()
    assert scene.run("collect").code == 0
    no = Status(401, "API key not valid.")
    scene.bench.service.faults.add(CallFault(provider="gemini", endpoint=endpoint, action=no))
    assert scene.tick().code == 2
    assert (scene.jobs("gemini"), scene.jobs("together")) == (1, 1)
    assert scene.tick().code == 0
    scene.finish()


@pytest.mark.parametrize(
    ("provider", "how"),
    [(provider, how) for provider in ANSWERERS for how in ("no key", "a refused key")],
)
def test_a_run_waits_for_what_the_other_provider_has(
    provider: str, how: str, make_bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run` ends when no provider can do more, and not before."""
    scene = Scene.of(make_bench, 4, job_seconds=60.0)
    code, told = hindered(scene, monkeypatch, provider, how)
    done = scene.run("run")
    assert done.code == code
    assert told in done.err
    assert [(row["position"], row["state"]) for row in ledger(scene.bench).batches] == [(3, "collected")]
    mended(scene, monkeypatch)
    assert scene.run("run").code == 0
    assert scene.bench.status()["finished"]


@pytest.mark.parametrize("how", ["no key", "a refused key"])
def test_a_run_does_not_wait_for_whom_it_cannot_ask(
    how: str, make_bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene.of(make_bench, 4, job_seconds=600.0)
    scene.tick()
    hindered(scene, monkeypatch, "gemini", how)
    assert scene.run("run").code == 2
    mended(scene, monkeypatch)
    scene.finish()


@pytest.mark.parametrize("how", ["no key", "a refused key"])
def test_cancel_and_clean_go_on_where_one_key_is_missing(
    how: str, make_bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first in flight is Gemini's, the second Together's."""
    scene = Scene.of(make_bench, 2, ONE_AT_A_TIME, most=1, job_seconds=600.0)
    scene.tick()
    scene.tick(700)
    flying = [row["provider"] for row in ledger(scene.bench).batches if row["state"] in ORDER]
    assert flying == ["gemini", "together"]
    code, told = hindered(scene, monkeypatch, "gemini", how)
    done = scene.run("cancel", "--json")
    assert (done.code, done.json) == (code, {"cancelled": 1})
    assert done.err.count(told) == 1
    scene.bench.service.world.advance(700)
    scene.run("collect")
    cleaned = scene.run("clean", "--json")
    assert cleaned.code == code
    assert told in cleaned.err
    mended(scene, monkeypatch)
    scene.finish(700)
