"""Test faults that waiting does not fix: quotas of zero, wrong addresses, variables that change the SDKs."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from batchgen.emulator.faults import CallFault, Html, Status
from batchgen.runtime import clock
from tests.support.bench import GEMINI_KEY, Bench
from tests.support.invariants import CONVERSATIONS, Make, posts, start, tick, until
from tests.support.provider_facts import PROVIDERS, UPLOAD_START, URL_VARIABLE
from tests.support.scene import HOUR, MINUTE, Scene

QUOTA = "You exceeded your current quota, please check your plan and billing details."
LONG = (
    f"{QUOTA} For more information on this error, head to: https://limits.example/gemini/how-limits-work-and-more. To"
    " monitor your current usage, head to: https://limits.example/usage-of-this-project/today/by-model-and-by-key. \n"
)
NO_FREE_TIER = f"{LONG}* Quota exceeded for metric: free_tier_requests, limit: 0, model: gemini-2.5-flash-lite"
NO_CREDITS = "The prepaid credits of this project are used up; buy new ones in its billing."
DAILY = f"{LONG}* Quota exceeded for metric: paid_tier_requests, limit: 1500, model: gemini-2.5-flash-lite"


@pytest.fixture
def bench(make_bench: Make) -> Bench:
    return start(make_bench())


# ---------------------------------------------------------------- quotas, 6


def limited(message: str) -> Status:
    """Google's response, which names a time to retry even if a retry cannot succeed."""
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "45s"}
    error = {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED", "details": [retry]}
    return Status(429, body={"error": error})


@pytest.mark.fault(
    6,
    "429 for a quota that no waiting mends: a limit of 0, or credits that are used up",
    injected="status, at the probe, upload, create",
    seen="status 2 with the sentence that names the quota, and what to do; mended, the next tick goes on",
)
@pytest.mark.parametrize(
    ("endpoint", "message", "named"),
    [
        *((endpoint, NO_FREE_TIER, "free_tier_requests, limit: 0") for endpoint in ("probe", "upload_start", "create")),
        *((endpoint, NO_CREDITS, "used up") for endpoint in ("probe", "upload_start", "create")),
    ],
)
def test_6_a_quota_that_no_waiting_mends(endpoint: str, message: str, named: str, make_bench: Make) -> None:
    scene = Scene.of(make_bench)
    scene.bench.service.faults.add(CallFault(provider="gemini", endpoint=endpoint, action=limited(message), times=0))
    for _ in range(2):
        refused = scene.tick(MINUTE)
        assert refused.code == 2
        assert named in refused.err
        assert "This quota does not reset" in refused.err
        assert "probably" not in refused.err
    scene.bench.service.faults.clear()
    assert scene.tick(MINUTE).code == 0
    scene.finish()


def test_6_a_quota_that_the_message_names_is_not_guessed(bench: Bench) -> None:
    bench.service.faults.add(CallFault(provider="gemini", endpoint="create", action=limited(DAILY)))
    refused = tick(bench)
    assert refused.code == 75
    assert "paid_tier_requests, limit: 1500" in refused.err
    assert "probably" not in refused.err


def test_6_a_quota_that_only_the_details_name(bench: Bench) -> None:
    violation = {"quotaId": "BatchEnqueuedTokensPerProject", "quotaMetric": "batch_enqueued_tokens"}
    details = [{"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]}]
    error = {"code": 429, "message": QUOTA, "status": "RESOURCE_EXHAUSTED", "details": details}
    bench.service.faults.add(CallFault(provider="gemini", endpoint="create", action=Status(429, body={"error": error})))
    refused = tick(bench)
    assert refused.code == 75
    assert "BatchEnqueuedTokensPerProject" in refused.err


def test_6_a_job_that_failed_for_a_quota_that_no_waiting_mends(bench: Bench) -> None:
    error = {"code": 8, "message": NO_FREE_TIER}
    bench.service.faults.job(provider="gemini", end="BATCH_STATE_FAILED", error=error, times=1)
    assert tick(bench).code == 0
    refused = tick(bench)
    assert refused.code == 2
    assert "limit: 0" in refused.err
    assert "This quota does not reset" in refused.err


@pytest.mark.fault(
    6,
    "429 for a day",
    injected="status, at the probe or at create",
    seen="status 75; after 24 h status 3 with how long the model has waited; ticks go on trying",
)
@pytest.mark.parametrize("endpoint", ["probe", "create"])
def test_6_a_model_that_has_waited_for_a_day_calls_somebody(endpoint: str, make_bench: Make) -> None:
    scene = Scene.of(make_bench)
    scene.bench.service.faults.add(CallFault(provider="gemini", endpoint=endpoint, action=Status(429, QUOTA), times=0))
    assert {scene.tick(HOUR).code for _ in range(24)} == {75}
    called = scene.tick(HOUR)
    assert called.code == 3
    assert "24 h" in called.err
    assert "batchgen switch gemini" in called.err
    assert scene.tick(MINUTE).code == 3  # halted: no call is made, and the exit status still asks for a person
    scene.bench.service.faults.clear()
    assert scene.tick(2 * HOUR + MINUTE).code == 0
    scene.finish()
    assert scene.bench.service.world.batches_bought == 3


# ---------------------------------------------------------------- addresses, 43


@pytest.mark.parametrize(
    ("provider", "ending"),
    [
        *((provider, ending) for provider in PROVIDERS for ending in ("/", "/v1", "/v1/", "//")),
        # The address of a service of OpenAI's shape is used as it is: its version may be a part of it.
        *((provider, ending) for provider in ("gemini", "together") for ending in ("/v1beta", "/v1beta/", "/v1beta1")),
    ],
)
def test_an_address_that_ends_in_its_version(
    provider: str, ending: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URL_VARIABLE[provider], f"{os.environ[URL_VARIABLE[provider]]}{ending}")
    assert bench.run("doctor").code == 0


@pytest.mark.parametrize(("provider", "ending"), [("gemini", "/v1beta/"), ("together", "/v1/"), ("deepinfra", "//")])
def test_a_run_with_an_address_that_ends_in_its_version(
    provider: str, ending: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URL_VARIABLE[provider], f"{os.environ[URL_VARIABLE[provider]]}{ending}")
    assert {result.code for result in bench.ticks()} == {0}
    assert bench.status()["complete"] == CONVERSATIONS


@pytest.mark.fault(
    43,
    "an address at which no such API is",
    injected="404 to the start of an upload, as JSON and as a page",
    seen="status 2 with the variable to correct",
)
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("action", [Status(404, "Not Found"), Html(404)], ids=["json", "page"])
def test_43_an_upload_that_finds_nobody(provider: str, action: Any, bench: Bench) -> None:
    bench.service.faults.add(CallFault(provider=provider, endpoint=UPLOAD_START[provider], action=action, times=0))
    refused = until(bench, 2)
    assert URL_VARIABLE[provider] in refused.err
    assert "Traceback" not in refused.err
    assert posts(bench, provider) == 0
    bench.service.faults.clear()
    assert tick(bench).code == 0
    assert posts(bench, provider) == 1


def test_43_an_upload_that_is_forgotten_on_the_way_is_begun_again(bench: Bench) -> None:
    lost = Status(404, "Upload not found.", headers={"X-Goog-Upload-Status": "final"})
    bench.service.faults.add(CallFault(provider="gemini", endpoint="upload_data", action=lost))
    assert tick(bench).code == 75
    assert tick(bench).code == 0


# ---------------------------------------------------------------- doctor, 13


@pytest.mark.fault(
    13,
    "`doctor`: no model could be asked",
    injected="400 and 404 at the probe",
    seen="status 2 with the refusal's words",
)
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("code", "message"), [(400, "Request contains an invalid argument."), (404, "No such address")]
)
def test_13_doctor_where_no_model_could_be_asked(provider: str, code: int, message: str, bench: Bench) -> None:
    bench.service.faults.add(CallFault(provider=provider, endpoint="probe", action=Status(code, message), times=0))
    found = bench.run("doctor")
    assert found.code == 2
    assert f"PROBLEM: {provider}: no call to a configured model succeeded" in found.out
    assert message in found.err
    assert URL_VARIABLE[provider] in found.err


PLACES = (
    "User location is not supported for the API use.",
    "This service is not offered at the location of this user.",
    "Free tier is not available in your country. Please enable billing on your project.",
)


@pytest.mark.fault(
    13,
    "the API is not offered where this machine is",
    injected="400 at the probe, upload, create",
    seen="status 2 with the refusal's words, also from `doctor`; nothing is halted",
)
@pytest.mark.parametrize("endpoint", ["probe", "upload_start", "create"])
@pytest.mark.parametrize("message", PLACES)
def test_13_a_place_where_the_api_is_not_offered(endpoint: str, message: str, bench: Bench) -> None:
    refused = Status(400, message, status="FAILED_PRECONDITION")
    bench.service.faults.add(CallFault(provider="gemini", endpoint=endpoint, action=refused, times=0))
    said = tick(bench)
    assert said.code == 2
    assert message in said.err
    if endpoint == "probe":
        found = bench.run("doctor")
        assert found.code == 2
        assert message in found.err
    bench.service.faults.clear()
    assert tick(bench).code == 0
    assert posts(bench) == 1 + (endpoint == "create")


def test_doctor_names_the_key_that_is_used(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", "AIzaSyANOTHER")
    found = bench.run("doctor")
    assert (found.code, found.err) == (0, "")
    assert "key from GEMINI_API_KEY; not read: GOOGLE_API_KEY" in found.out
    assert "key from TOGETHER_API_KEY\n" in found.out
    assert GEMINI_KEY not in found.out


# ---------------------------------------------------------------- variables that the SDKs read, 37

SDK_VARIABLES = {
    "GOOGLE_API_KEY": "AIzaSyANOTHER0000000000000000000000000",
    "GOOGLE_GENAI_USE_VERTEXAI": "true",
    "GOOGLE_GENAI_USE_ENTERPRISE": "false",
    "GOOGLE_GENAI_CLIENT_MODE": "replay",
    "GOOGLE_GENAI_REPLAYS_DIRECTORY": "/nowhere",
    "GOOGLE_GENAI_REPLAY_ID": "nothing",
    "GOOGLE_GENAI_API_VERSION": "v9",
    "GOOGLE_GENAI_HTTP_CLIENT": "httpx",
    "GOOGLE_CLOUD_PROJECT": "project",
    "GOOGLE_CLOUD_LOCATION": "nowhere",
    "GOOGLE_VERTEX_BASE_URL": "http://127.0.0.1:9",
    "TOGETHER_LOG": "debug",
    "TOGETHER_CUSTOM_HEADERS": "Authorization: Bearer tgp_v1_another\nX-Other: 1",
    "TOGETHER_PROJECT_ID": "project",
}


@pytest.mark.fault(
    37,
    "variables that the SDKs read by themselves are set",
    injected="GOOGLE_API_KEY, GOOGLE_GENAI_*, GOOGLE_CLOUD_*, TOGETHER_LOG, TOGETHER_CUSTOM_HEADERS",
    seen="nothing: keys and addresses are those of `doctor`, and ticks say no more than before",
)
@pytest.mark.slow
def test_37_variables_of_the_sdks_change_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a new process, because the SDKs read some of them when they are imported; the tick calls both providers."""
    assert tick(bench).code == 0
    later = bench.spawn("collect", "--advance", **SDK_VARIABLES)
    assert later.returncode == 0, later
    said = later.stderr.splitlines()
    assert all(re.match("[0-9a-f]{8}-r2-|gemini: |together: ", line) for line in said), said
    assert bench.service.world.seen("together", "create")
    assert {seen.owner for seen in bench.service.world.requests} == {
        job.owner for job in bench.service.world.jobs_created()
    } | {""}
    for name, value in SDK_VARIABLES.items():
        monkeypatch.setenv(name, value)
    assert {result.code for result in bench.ticks()} == {0}
    assert bench.status()["complete"] == CONVERSATIONS


# ---------------------------------------------------------------- models and prices that end


@pytest.mark.fault(
    12,
    "the older models are closed to a new key",
    injected="404 at the probe of the first two of the shipped list",
    seen="the third is pinned; nothing to see but a line for each",
)
def test_12_a_new_key_finds_a_model(bench: Bench) -> None:
    for model in ("gemini-2.5-flash-lite", "gemini-3.1-flash-lite"):
        gone = Status(404, f"This model models/{model} is no longer available to new users.")
        bench.service.faults.add(CallFault(provider="gemini", endpoint="probe", contains=model, action=gone, times=0))
    assert {result.code for result in bench.ticks()} == {0}
    assert bench.status()["models"]["gemini"] == "gemini-3.5-flash-lite"
    assert bench.status()["complete"] == CONVERSATIONS


@pytest.mark.parametrize("days", [0, 1])
def test_a_price_that_is_past_is_said_aloud(days: int, make_bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = start(make_bench(), more='gemini.models = ["gemini-2.5-flash"]\ntogether.models = ["Qwen/Qwen3.5-9B"]')
    noon = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp() + days * 24 * HOUR
    monkeypatch.setattr(clock, "now", lambda: noon)
    said = "ended on 2026-11-30"
    for command in ("estimate", "doctor"):
        shown = bench.run(command)
        assert shown.code == 0
        assert (said in shown.out) is bool(days)
        assert ('[prices."gemini:gemini-2.5-flash"]' in shown.out) is bool(days)
    assert bench.run("estimate", "--json").json["past_prices"] == ["gemini-2.5-flash"][:days]
    model = bench.run("doctor", "--json").json["providers"][0]["models"][0]
    assert (model["price_last_day"], bool(model["price_past"])) == ("2026-11-30", bool(days))
