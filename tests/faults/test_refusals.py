"""Test refusals before anything is bought: quotas, uploads, request lines, models, keys (6-13)."""

from __future__ import annotations

import re
from typing import Any

import pytest

from batchgen.emulator.faults import Action, Body, CallFault, Drop, Status
from tests.support.bench import Bench
from tests.support.invariants import (
    CONVERSATIONS,
    Make,
    Watch,
    end,
    finished,
    ledger,
    posts,
    start,
    strikes,
    tick,
    until,
)
from tests.support.provider_facts import (
    ANSWERERS,
    KEYS,
    MODEL_GONE,
    OTHER_MODEL,
    PROVIDERS,
    STAGE,
    UPLOAD_DATA,
    UPLOAD_START,
)

STEPS = 3
QUOTA = "You exceeded your current quota, please check your plan and billing details."


@pytest.fixture
def bench(expected: dict[str, bytes], make_bench: Make) -> Bench:
    return start(make_bench())


# ---------------------------------------------------------------- quotas and uploads, 6 to 10


@pytest.mark.fault(
    6,
    "create: 429 for two hours",
    injected="status",
    seen="status 75 with the probable quota; that model waits, longer each time; the other provider goes on",
)
def test_6_quota_on_create_for_two_hours(expected: dict[str, bytes], make_bench: Make) -> None:
    """One model is paused, longer each time; the other provider continues; no attempt is counted, no row is lost."""
    bench = start(make_bench(), "max_requests = 2\n")
    refused = CallFault(provider="gemini", endpoint="create", action=Status(429, QUOTA), nth=2, times=0)
    bench.service.faults.add(refused)
    first = tick(bench)
    assert first.code == 75
    assert "probably the limit of enqueued tokens or of concurrent batches" in first.err
    assert posts(bench) == 2
    watch = Watch(bench)
    calls = []
    for _ in range(24):  # two hours of ticks
        assert tick(bench, 300).code == 75
        watch.check()
        calls.append(posts(bench))
    assert posts(bench, "together") == 1  # the batches that Gemini had accepted continued
    assert calls[-1] - 2 < 8, "the back-off must grow from tick to tick"
    assert strikes(bench) == {0}
    bench.service.faults.clear()
    assert tick(bench, 7201).code == 0
    bench.ticks(seconds=600)
    finished(bench)
    assert bench.files() == expected
    assert len(bench.service.world.jobs) == len(
        {job.name or job.input_file for job in bench.service.world.jobs.values()}
    )


WISH = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "250s"}
RETRY_INFO = {"error": {"code": 429, "message": QUOTA, "status": "RESOURCE_EXHAUSTED", "details": [WISH]}}
# The response to a chunk that the SDK sends again at the old offset, because it lost the first response.
OLD_OFFSET = Status(400, "Offset does not match the bytes received.", headers={"X-Goog-Upload-Status": "final"})
NO_BYTES = Body(json={})  # a proxy answers 200 and drops the bytes, so the file cannot be finalized
NOT_ACTIVE = "The File files/abc is not in an ACTIVE state and usage is not allowed. FAILED_PRECONDITION"
PROCESSING = "Input file file-abc is still being processed"


def refused(provider: str, endpoint: str, action: Action, **options: Any) -> CallFault:
    return CallFault(provider=provider, endpoint=endpoint, action=action, **options)


def wait(seconds: int) -> Status:
    """A 429 with a time to wait."""
    return Status(429, "slow down", headers={"Retry-After": str(seconds)})


WISH_TO_WAIT = pytest.mark.fault(
    6,
    "create: 429 with the wish to wait",
    injected="Retry-After, RetryInfo",
    seen="waits as long as asked",
)
MADE_ALL_THE_SAME = pytest.mark.fault(
    6,
    "create: 429, and yet the batch was made",
    injected="status after the effect",
    seen="found before the name is tried again; one batch",
)
UPLOAD_BREAKS = pytest.mark.fault(
    8,
    "upload: the connection breaks",
    injected="dropped at the start or in the body, four times",
    seen="uploaded again in this tick or the next; one batch, from the whole file",
)
UPLOAD_REFUSED = pytest.mark.fault(
    8,
    "upload: refused, because something went wrong on the way",
    injected="a stale offset; bytes that never arrived",
    seen="uploaded once more from the start; nothing to see. Refused again: status 3",
)
TOO_EARLY = pytest.mark.fault(
    10,
    "create: 400, the file is not ready after all",
    injected="answer to create",
    seen="status 75; the next tick looks at the file again and creates it once",
)
WHOLE_FILE = pytest.mark.fault(
    11,
    "create: 400 for the whole file",
    injected="status",
    seen="status 3; the step halts until `retry`; no second call",
)
AT_250_SECONDS = [(200, 75), (51, 0)]
# (fault, exit status and message of its tick, later ticks as (seconds, exit status), create calls of these)
REFUSALS = [
    # If the provider asks to wait for three days, the pause is two hours.
    pytest.param(refused("gemini", "create", wait(259200)), 75, "waits 7200 s", [(7100, 75), (101, 0)], 1, id="days"),
    pytest.param(
        refused("gemini", "create", Status(429, body=RETRY_INFO)),
        75,
        "waits 250 s",
        AT_250_SECONDS,
        1,
        marks=WISH_TO_WAIT,
        id="gemini wish",
    ),
    pytest.param(
        refused("together", "create", wait(250)),
        75,
        "waits 250 s",
        AT_250_SECONDS,
        1,
        marks=WISH_TO_WAIT,
        id="together wish",
    ),
    pytest.param(
        refused("deepinfra", "create", wait(250)),
        75,
        "waits 250 s",
        AT_250_SECONDS,
        1,
        marks=WISH_TO_WAIT,
        id="deepinfra wish",
    ),
    *(
        # A create call that may have bought a job is looked for before it is made again.
        pytest.param(
            refused(provider, "create", Status(429, QUOTA), after_effect=True),
            75,
            "",
            [(100, 0)],
            0,
            marks=MADE_ALL_THE_SAME,
            id=f"{provider} made",
        )
        for provider in PROVIDERS
    ),
    *(
        pytest.param(
            refused(provider, endpoint, Drop(), times=4),
            75,
            "",
            [],
            0,
            marks=UPLOAD_BREAKS,
            id=f"{provider} {endpoint}",
        )
        for provider in PROVIDERS
        for endpoint in sorted({UPLOAD_START[provider], UPLOAD_DATA[provider]})
    ),
    # One refused upload causes no halt: uploading again buys nothing.
    pytest.param(
        refused("gemini", "upload_data", OLD_OFFSET), 0, "", [(0, 0)], 0, marks=UPLOAD_REFUSED, id="gemini once"
    ),
    pytest.param(
        refused("together", "upload_data", NO_BYTES), 0, "", [(0, 0)], 1, marks=UPLOAD_REFUSED, id="together once"
    ),
    pytest.param(
        refused("gemini", "upload_data", OLD_OFFSET, times=2), 3, "", [], 0, marks=UPLOAD_REFUSED, id="gemini twice"
    ),
    pytest.param(refused("gemini", "create", Status(400, NOT_ACTIVE)), 75, "", [], 0, marks=TOO_EARLY, id="not active"),
    pytest.param(
        refused("together", "create", Status(400, PROCESSING)), 75, "", [], 0, marks=TOO_EARLY, id="processing"
    ),
    pytest.param(
        refused("deepinfra", "create", Status(400, PROCESSING)), 75, "", [], 0, marks=TOO_EARLY, id="deepinfra early"
    ),
    # The same request would be refused again: the step halts until `retry`.
    pytest.param(
        refused(
            "deepinfra", "create", Status(422, body={"detail": [{"loc": ["body", "metadata"], "msg": "Bad field."}]})
        ),
        3,
        "Bad field.",
        [(9000, 3)] * 3,
        0,
        marks=WHOLE_FILE,
        id="deepinfra whole",
    ),
    pytest.param(
        refused("gemini", "create", Status(400, "Bad field.")), 3, "", [(9000, 3)] * 3, 0, marks=WHOLE_FILE, id="whole"
    ),
]


@pytest.mark.parametrize(("fault", "code", "words", "later", "creates"), REFUSALS)
def test_a_refusal_is_waited_for_or_told_and_buys_nothing_twice(  # noqa: PLR0913, PLR0917 - a row of the table
    bench: Bench,
    expected: dict[str, bytes],
    fault: CallFault,
    code: int,
    words: str,
    later: list[tuple[float, int]],
    creates: int,
) -> None:
    bench.service.faults.add(fault)
    assert words in until(bench, code).err
    before = posts(bench, fault.provider)
    assert [tick(bench, after).code for after, _ in later] == [status for _, status in later]
    assert posts(bench, fault.provider) == before + creates
    assert bench.service.faults.struck()
    assert strikes(bench) == {0}
    if code == 3:
        assert bench.run("retry").code == 0
    end(bench, expected, jobs=STEPS)


@pytest.mark.fault(
    7,
    "upload: 429, the file storage is full",
    injected="status",
    seen="status 75 with the probable quota; own input files no longer needed are deleted",
)
def test_7_file_quota(bench: Bench, expected: dict[str, bytes]) -> None:
    """The 20 GB are full: this is reported, unneeded input files of the run are deleted, and the rest waits."""
    assert [tick(bench).code for _ in range(2)] == [0, 0]  # the question is collected, so its input file is not needed
    world = bench.service.world
    assert len(world.files_of("gemini", owner(bench, "gemini"))) == 2
    full = Status(429, "You have exceeded the file_storage_bytes quota.")
    bench.service.faults.add(CallFault(provider="gemini", endpoint="upload_start", action=full))
    refused = tick(bench)
    assert refused.code == 75
    assert "FILE quota" in refused.err
    assert "1 input files that were no longer needed are deleted" in refused.err
    assert len(world.files_of("gemini", owner(bench, "gemini"))) == 1  # a result file
    assert strikes(bench) == {0}
    assert tick(bench, 10).code == 75
    assert tick(bench, 200).code == 0
    end(bench, expected, jobs=STEPS)


def owner(bench: Bench, provider: str) -> str:
    return bench.service.world.jobs_created(provider)[0].owner


@pytest.mark.fault(
    9,
    "upload: the MIME type is refused",
    injected="400, and 200 with an error body",
    seen="the next type is tried; nothing to see",
)
@pytest.mark.parametrize("answer", ["400", "200"])
def test_9_mime_type_refused(answer: str, bench: Bench, expected: dict[str, bytes]) -> None:
    """As a 400, or as a 200 that becomes a KeyError in the SDK: the next type of the list is tried."""
    bench.service.world.refused_mime_types = {"application/jsonl", "jsonl"}
    bench.service.world.mime_refusal = "200" if answer == "200" else "400"
    assert tick(bench).code == 0
    end(bench, expected, jobs=STEPS)


@pytest.mark.fault(
    10,
    "upload: the file is still being processed",
    injected="state of the file",
    seen="status 75; no create before it is ready; other files are uploaded meanwhile",
)
def test_10_file_still_processing(expected: dict[str, bytes], make_bench: Make) -> None:
    """No create call before ACTIVE; one file that is not ready does not delay the upload of the others."""
    bench = start(make_bench(), "max_requests = 2\n")
    bench.service.world.file_processing_seconds = 30
    waiting = tick(bench)
    assert waiting.code == 75
    assert "still processing" in waiting.err
    assert posts(bench) == 0
    assert [batch["state"] for batch in ledger(bench).batches] == ["uploaded", "uploaded"]
    assert tick(bench, 31).code == 0
    assert posts(bench) == 2
    bench.service.world.file_processing_seconds = 0
    end(bench, expected, jobs=2 * STEPS)


FAILED = '{"name": "files/x", "state": "FAILED", "error": {"code": 13, "message": "Failed to process."}}'


@pytest.mark.fault(
    10,
    "the provider could not process an uploaded file, or answers 200 and says nothing of it",
    injected="answer to a look at the file",
    seen="status 75, no create; a file that failed is uploaded anew, after three times status 3",
)
@pytest.mark.parametrize(("answer", "times"), [("{}", 1), (FAILED, 1), (FAILED, 3), (FAILED, 4)])
def test_10_a_file_that_failed_is_uploaded_again(
    answer: str, times: int, expected: dict[str, bytes], bench: Bench
) -> None:
    bench.service.world.file_processing_seconds = 30
    bench.service.faults.add(CallFault(provider="gemini", endpoint="file_get", action=Body(text=answer), times=times))
    codes = [tick(bench).code for _ in range(2 * times)]  # in turn an upload and a check of its state
    assert codes == ([75] * 8 if times <= 3 else [75] * 7 + [3])[: 2 * times]
    assert posts(bench) == 0
    if times > 3:
        assert bench.run("retry").code == 0
    bench.service.world.file_processing_seconds = 0
    assert strikes(bench) == {0}
    end(bench, expected, jobs=STEPS)


# ---------------------------------------------------------------- clear refusals, 11 to 13


@pytest.mark.fault(
    11,
    "create: 400 for single lines",
    injected="`Error on line 3: ...`",
    seen="those conversations are left behind with the reason, the others are sent again",
)
@pytest.mark.parametrize("line", [1, 3, CONVERSATIONS])
def test_11_single_lines_refused(bench: Bench, line: int) -> None:
    """The named rows are rejected with the reason; the others are sent again at once; there is no endless loop."""
    message = f"Error on line {line}: invalid JSON, near column 12: no such field: 'x'"
    bench.service.faults.add(CallFault(provider="gemini", endpoint="create", action=Status(400, message)))
    watch = Watch(bench)
    refused = tick(bench)
    assert refused.code == 75
    assert "1 of its requests were refused" in refused.err
    watch.check()
    bench.ticks()
    finished(bench)
    assert [(row["id"], row["reason"]) for row in bench.rows("rejected.jsonl")] == [
        (f"r1-00000{line}", "invalid_request")
    ]
    assert "no such field" in bench.rows("rejected.jsonl")[0]["detail"]
    assert bench.service.world.batches_bought == STEPS
    assert len(bench.rows("round2/round2_history.jsonl")) == CONVERSATIONS - 1


@pytest.mark.fault(
    12,
    "create: the model is gone",
    injected="404 or 400",
    seen="status 3 and the setting to change; no storm; the other provider's steps go on",
)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_12_model_removed(provider: str, expected: dict[str, bytes], make_bench: Make) -> None:
    """Exit 3 and no repeated retries; the other provider's steps continue; a person must choose another model."""
    bench = start(make_bench(), "max_requests = 2\n")
    nth = 2 if provider == "gemini" else 1
    bench.service.faults.add(
        CallFault(provider=provider, endpoint="create", action=MODEL_GONE[provider], nth=nth, times=0)
    )
    assert f"batchgen switch {STAGE[provider]}" in until(bench, 3).err
    for _ in range(3):
        assert tick(bench, 4000).code == 3
    assert posts(bench, provider) == nth
    other = bench.answerer if provider == "gemini" else "gemini"
    assert bench.service.world.jobs_created(other)
    bench.service.faults.clear()
    start(bench, "max_requests = 2\n", OTHER_MODEL[provider])
    bench.ticks()
    finished(bench)
    assert bench.files() == expected


REFUSED = {
    "missing_billing": Status(402, "Insufficient credits"),
    "401": Status(401, "Invalid API key provided: {key}"),
    "403_leaked": Status(403, "Your API key was reported as leaked. Please use another API key."),
    "403_denied": Status(403, "Your project has been denied access."),
    "400": Status(400, "API key not valid. Please pass a valid API key. ({key})"),
}


@pytest.mark.fault(
    13,
    "the key is refused, leaked, or without credit",
    injected="400, 401, 402, 403, at the probe, upload, create, poll",
    seen="status 2, one line with the fact and what to check, never the key",
)
@pytest.mark.parametrize(
    ("name", "endpoint", "provider"),
    [
        *((name, "create", provider) for provider in ANSWERERS for name in REFUSED),
        *(("400", endpoint, provider) for provider in ANSWERERS for endpoint in ("probe", "upload", "get")),
    ],
)
def test_13_key_refused(name: str, endpoint: str, provider: str, bench: Bench, expected: dict[str, bytes]) -> None:
    """Exit 2, one line with the error, one with the fix; no key, no traceback; the right key continues the run."""
    for asked in ("gemini", provider):
        refused = REFUSED[name]
        action = Status(refused.code, refused.message.format(key=KEYS[asked]))
        call = UPLOAD_START[asked] if endpoint == "upload" else endpoint
        bench.service.faults.add(CallFault(provider=asked, endpoint=call, action=action))
    said = [tick(bench)]
    while said[-1].code != 2:
        said.append(tick(bench))
    assert "Traceback" not in said[-1].err
    lines = [line for line in said[-1].err.splitlines() if line.startswith(("batchgen: ", "  "))]
    assert len(lines) == (4 if endpoint == "probe" else 2)  # two for each provider
    assert all(re.match("  Check [A-Z]+_API_KEY, its project and its billing", line) for line in lines[1::2])
    Watch(bench).check(said=[text for result in said for text in result[1:]])
    assert strikes(bench) == {0}
    end(bench, expected, jobs=STEPS)
