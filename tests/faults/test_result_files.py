"""Test result files with rows in disorder, cut, repeated, badly encoded, late or missing."""

from __future__ import annotations

import json
import re

import pytest

from batchgen.emulator.faults import Action, Body, CallFault, Html, Merge, Status, Truncate
from tests.support.invariants import bought_once, ledger
from tests.support.provider_facts import OUTPUT_FILE, POSITION, PROVIDERS, STAGE
from tests.support.scene import HOUR, MINUTE, Make, Scene, failed_requests, reach

BOTH = pytest.mark.parametrize("provider", PROVIDERS)


def key(number: int, provider: str, attempt: int = 1) -> str:
    """A regex that matches the key of one request of round 2."""
    return rf"r1-{number:06d}\.r2\.{STAGE[provider]}\.a{attempt}\."


def until_collected(scene: Scene, provider: str, *, most: int = 4, every: float = 0.0) -> str:
    """Run a tick `every` this many seconds until the provider's first batch is collected. Returns the last log."""
    for _ in range(most):
        result = scene.tick(every)
        if any(row["provider"] == provider and row["state"] == "collected" for row in ledger(scene.bench).batches):
            return result.err
    raise AssertionError("nothing was collected")


def failures(scene: Scene) -> dict[int, str]:
    """Conversation -> the reason of its first failed request."""
    return {number: reason for number, reason, attempt in failed_requests(scene.bench) if attempt == 1}


def texts(scene: Scene, provider: str) -> dict[int, str]:
    """Conversation -> its text in the provider's first stage of round 2."""
    found = ledger(scene.bench).texts.items()
    return {place // 256: text for place, (_, text) in found if place % 256 == POSITION[provider]}


# ---------------------------------------------------------------- which rows there are


@pytest.mark.fault(
    25,
    "results in disorder: a row twice, twice with different texts, missing, without a key, and one nobody asked for",
    injected="rows of the result file",
    seen="right rows are kept, the others are asked again; strange lines are counted aloud and booked",
)
@BOTH
def test_rows_in_disorder(make_bench: Make, provider: str) -> None:
    scene = Scene.of(make_bench, 8)
    outcomes = ("duplicate_same", "duplicate_different", "unknown_key", "missing", "no_key")
    for number, outcome in enumerate(outcomes, 1):
        scene.bench.service.faults.rows(outcome, provider=provider, key=key(number, provider))  # type: ignore[arg-type]
    said = until_collected(scene, provider)
    assert "5 of 8 accepted (5 accepted, 1 conflict, 2 missing, 2 superseded)" in said
    assert "ignored 1 line for requests that it does not hold and 1 without a key" in said
    assert failures(scene) == {2: "conflict", 4: "missing", 5: "missing"}
    raw = next((scene.bench.root / "results" / "round2" / STAGE[provider]).glob("*-a1.jsonl")).read_bytes()
    keys = [row.get("key") or row.get("custom_id") for row in map(json.loads, raw.splitlines())]
    assert [found for found in keys if found] != sorted(found for found in keys if found)  # as it was downloaded
    scene.finish_as_expected()


@pytest.mark.fault(
    29,
    "Together: a 400 in the output file, the rest in the error file, an empty error_file_id",
    injected="rows and file ids",
    seen="every row accounted for; the refused one is left behind with its words; nothing is fetched for an empty id",
)
def test_rows_in_both_files_of_together(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 6)
    faults = scene.bench.service.faults
    faults.rows("http_status", provider="together", key=key(1, "together"), code=400, message="Input too long.")
    faults.rows("error", provider="together", key=r"r1-00000[23].*answer\.a1", message="Worker died.")
    faults.job(provider="together", empty_error_file=True)
    assert "3 of 6 accepted (3 accepted, 1 invalid_request, 2 provider_error)" in until_collected(scene, "together")
    folder = scene.bench.root / "results" / "round2" / "answer"
    assert len(list(folder.glob("*.errors.jsonl"))) == 1
    scene.finish()
    assert scene.bench.rows("rejected.jsonl") == [
        {
            "id": "r1-000001",
            "round": 2,
            "stage": "answer",
            "reason": "invalid_request",
            "detail": "HTTP 400: Input too long.",
            "attempts": 1,
        }
    ]
    downloads = scene.bench.service.world.seen("together", "download")
    assert len(downloads) == 3  # two files of the first job and one of the second
    assert not [seen.path for seen in scene.bench.service.world.requests if "//" in seen.path]


def test_a_text_beside_an_error_row_of_the_same_request_stays(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 4)
    reach(scene, "together")
    world = scene.bench.service.world
    [job] = world.jobs_created("together")
    scene.bench.service.step()
    line = {"id": "x", "custom_id": job.keys[0], "error": {"message": "late accident", "code": "batch_client_error"}}
    file = world.files["together", job.output]
    errors = Body(text=json.dumps(line) + "\n")
    scene.bench.service.faults.add(CallFault(provider="together", endpoint="download", contains="extra", action=errors))
    patch = Merge({"error_file_id": f"{file.id}-extra"})
    scene.bench.service.faults.add(CallFault(provider="together", endpoint="get", action=patch))
    scene.finish_as_expected(jobs=3)


def cut(keep: float, *, on_line: bool = False) -> Truncate:
    """A body that ends after the share `keep`, without a Content-Length to detect it."""
    return Truncate(keep=keep, content_length=False, on_line=on_line)


# ---------------------------------------------------------------- whether the file came whole


@pytest.mark.fault(
    30,
    "a download ends early",
    injected="body cut at 2 % or at a line's end, with and without Content-Length",
    seen="read again; no file from a part",
)
@pytest.mark.parametrize(
    ("provider", "keep", "length"),
    [
        *((name, keep, length) for name in PROVIDERS[:2] for keep in (0.02, 0.0, 0.5) for length in (True, False)),
        *(("deepinfra", 0.02, length) for length in (True, False)),
    ],
)
def test_a_download_that_ends_early(make_bench: Make, provider: str, keep: float, *, length: bool) -> None:
    scene = Scene.of(make_bench, 5)
    short = Truncate(keep=keep, content_length=length, on_line=keep == 0.5)
    scene.bench.service.faults.add(CallFault(provider=provider, endpoint="download", action=short))
    assert {result.code for result in scene.finish_as_expected(jobs=3)} == {0}
    assert not list(scene.bench.root.rglob("*.part"))


@pytest.mark.fault(
    30,
    "the first downloads are cut at a line's end, after looks at which the results were not there",
    injected="results named minutes after the end, or 404 or a page in place of the file; then bodies cut in one tick",
    seen="status 75, the cut file is not believed; the next tick reads the whole one, nothing is bought again",
)
@pytest.mark.parametrize(
    ("provider", "before"),
    [
        *((provider, before) for provider in ("gemini", "together") for before in ("unnamed", "missing", "page")),
        ("deepinfra", "page"),
    ],
)
def test_a_first_short_download_is_not_believed_however_late_it_comes(
    make_bench: Make, provider: str, before: str
) -> None:
    """Polls without a file to download do not count as downloads of a short file."""
    scene = Scene.of(make_bench, 8)
    faults = scene.bench.service.faults
    if before == "unnamed":
        faults.job(provider=provider, times=1, output_after_seconds=200.0)
    else:
        action = Html() if before == "page" else Status(404, "Not found.")
        faults.add(CallFault(provider=provider, endpoint="download", action=action, times=0))
    reach(scene, provider)
    assert [scene.tick(MINUTE).code for _ in range(3)] == [75] * 3
    faults.clear()
    part = OUTPUT_FILE[provider]
    short = CallFault(provider=provider, endpoint="download", contains=part, action=cut(0.6, on_line=True), times=2)
    faults.add(short)
    result = scene.tick(MINUTE)
    assert result.code == 75
    assert "at least 8 are expected" in result.err
    scene.finish_as_expected()
    bought_once(scene.bench)


def test_rows_that_are_counted_but_do_not_come_are_asked_again_after_the_grace_period(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 5)
    short = CallFault(provider="gemini", endpoint="download", contains="batch-", action=cut(0.6, on_line=True), times=0)
    scene.bench.service.faults.add(short)
    for after in (0, MINUTE, MINUTE, 10 * MINUTE):
        scene.tick(after)
        assert scene.jobs() == 1
    assert scene.tick(5 * MINUTE).code == 0
    assert [part[0] for part in scene.batches()][:2] == [1, 2]
    scene.bench.service.faults.clear()
    scene.finish_as_expected()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_success_that_stays_empty_is_asked_again(make_bench: Make, provider: str) -> None:
    scene = Scene.of(make_bench, 4)
    reach(scene, provider)
    empty = CallFault(provider=provider, endpoint="download", action=Body(text=""), times=0)
    scene.bench.service.faults.add(empty)
    assert [scene.tick(5 * MINUTE).code for _ in range(4)] == [75, 75, 75, 0]
    scene.bench.service.faults.clear()
    scene.finish_as_expected()
    again = [part[:2] for part in scene.batches(POSITION[provider])]
    assert again == [(1, 4), (2, 2), (2, 2)]


PAGE = pytest.mark.fault(
    15,
    "the page of a proxy in place of a poll or a download",
    injected="HTML with status 200",
    seen="status 75, nothing is kept; the next tick reads the real one",
)
ERROR_FOR_HOURS = pytest.mark.fault(
    15,
    "an error of somebody in between in place of a download, for hours",
    injected="JSON with status 200",
    seen="status 75, after 6 h status 3, nothing is kept or bought again; the tick that gets the file reads it",
)
EMPTY_AT_FIRST = pytest.mark.fault(
    24,
    "a success whose file is empty at first",
    injected="an empty body, tick after tick",
    seen="status 75 until its rows are there; asked again only when it stays empty for the grace period",
)
LOOKED_AT_QUICKLY = pytest.mark.fault(
    30,
    "a download is cut at the same line's end again and again within a minute",
    injected="four looks, 15 s apart, each with two cut bodies",
    seen="status 75, the cut file is not believed within the grace period; nothing is bought again",
)
ONCE, FIVE_HOURS_THEN_A_DAY = [(0.0, 75)], [(HOUR, 75)] * 5 + [(20 * HOUR, 3)]
ERROR = Body(json={"error": {"code": 500, "message": "upstream"}})
NOT_MINE = "You do not have permission to access the File x or it may not exist."
# (responses to a download, how often each (0: always), ticks as (seconds later, exit status), message of each tick)
NOT_BELIEVED = [
    # Gemini says how many rows there are. A success at Together has a row for every request.
    pytest.param([cut(0.6, on_line=True)], 2, ONCE, "at least 5 are expected", id="cut at a line's end"),
    # `--wait` and short cron intervals poll many times before a fault of some minutes is over.
    pytest.param(
        [cut(0.6, on_line=True)],
        0,
        [(15.0, 75)] * 4,
        "at least 5 are expected",
        marks=LOOKED_AT_QUICKLY,
        id="cut at a line's end for a minute",
    ),
    pytest.param([cut(0.0, on_line=True)], 2, ONCE, "at least 5 are expected", id="cut at the start"),
    pytest.param([Body(text="")], 2, ONCE, "have 0 lines, but at least 5 are expected", id="empty"),
    # The number of lines is right, but the last one is incomplete. A new request for its row would be paid again.
    pytest.param([cut(0.95)], 4, ONCE * 2, "end within a line: a part is missing", id="cut in a line"),
    pytest.param(
        [cut(keep) for keep in (0.2, 0.4, 0.6, 0.8)],
        1,
        ONCE,
        "are different at every download",
        id="different every time",
    ),
    # The interval between ticks does not matter.
    pytest.param([Body(text="")], 0, [(2 * MINUTE, 75)] * 6, "", marks=EMPTY_AT_FIRST, id="long empty"),
    pytest.param([ERROR], 0, FIVE_HOURS_THEN_A_DAY, "", marks=ERROR_FOR_HOURS, id="error for hours"),
    pytest.param([Body(json={})], 0, FIVE_HOURS_THEN_A_DAY, "", marks=ERROR_FOR_HOURS, id="object for hours"),
]
# Decided by `engine/collection`, from the lines of the files and the time, whatever the provider is.
CASES = [
    pytest.param(provider, *case.values, marks=case.marks, id=f"{provider}-{case.id}")
    for case in NOT_BELIEVED
    for provider in ("gemini", "together")
]


@pytest.mark.parametrize(("provider", "actions", "times", "ticks", "words"), CASES)
def test_an_answer_that_is_not_the_whole_file_is_not_believed(
    make_bench: Make, provider: str, actions: list[Action], times: int, ticks: list[tuple[float, int]], words: str
) -> None:
    """No file is kept, no request is sent again, and the first tick that gets the whole file reads it."""
    scene = Scene.of(make_bench, 5)
    reach(scene, provider)
    before = list((scene.bench.root / "results").rglob("*.jsonl"))
    for action in actions:
        part = OUTPUT_FILE[provider]
        fault = CallFault(provider=provider, endpoint="download", contains=part, action=action, times=times)
        scene.bench.service.faults.add(fault)
    for after, code in ticks:
        result = scene.tick(after)
        assert result.code == code
        assert re.search(words, result.err)
        assert list((scene.bench.root / "results").rglob("*.jsonl")) == before
    scene.bench.service.faults.clear()
    scene.finish_as_expected(jobs=3)


# (endpoint, its response, a regex of the message), which the client or the codec of each provider refuses.
NO_FILE: list[tuple[str, Action, str]] = [
    ("download", Html(), "not JSON lines"),
    ("get", Html(), ""),
    ("get", Body(json=[]), ""),
    ("get", Body(json={}), ""),
    ("download", Status(404, "File not found."), "does not exist|File not found"),
    ("download", Status(403, NOT_MINE), "permission"),
    ("download", Status(500), "HTTP 500"),
    ("download", ERROR, "not JSON lines"),
    ("download", cut(0.6, on_line=True), "at least 5 are expected"),
]


@PAGE
@BOTH
def test_an_answer_that_is_no_file_is_not_believed(make_bench: Make, provider: str) -> None:
    """As above, one after another, with any client."""
    scene = Scene.of(make_bench, 5)
    reach(scene, provider)
    before, faults = list((scene.bench.root / "results").rglob("*.jsonl")), scene.bench.service.faults
    for endpoint, action, words in NO_FILE:
        faults.clear()
        part = OUTPUT_FILE[provider] if endpoint == "download" else ""
        faults.add(CallFault(provider=provider, endpoint=endpoint, contains=part, action=action, times=0))
        result = scene.tick()
        assert (result.code, action) == (75, action)
        assert re.search(words, result.err), action
        assert list((scene.bench.root / "results").rglob("*.jsonl")) == before
    faults.clear()
    scene.finish_as_expected(jobs=3)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_result_file_that_is_gone_calls_somebody_and_is_given_up(make_bench: Make, provider: str) -> None:
    scene = Scene.of(make_bench, 4)
    reach(scene, provider)
    gone = Status(404, "File not found.")
    scene.bench.service.faults.add(CallFault(provider=provider, endpoint="download", action=gone, times=0))
    assert scene.tick().code == 75
    assert scene.tick(7 * HOUR).code == 3
    assert scene.jobs(provider) == 1
    lost = scene.tick(66 * HOUR)
    assert lost.code == 3
    assert "it is given up, and what it cost is unknown" in lost.err
    scene.bench.service.faults.clear()
    scene.finish_as_expected()


def test_a_file_of_one_broken_line_is_settled_in_the_end(make_bench: Make) -> None:
    """At first it may be the page of a proxy; after six hours it is taken as the file of the provider."""
    scene = Scene.of(make_bench, 2, most=1)
    scene.bench.service.faults.rows("invalid_utf8", key=key(1, "gemini"))
    scene.tick()
    for _ in range(2):
        result = scene.tick(HOUR)
        assert result.code == 75
        assert "are not JSON lines" in result.err
    assert scene.tick(5 * HOUR).code == 0
    scene.finish_as_expected(jobs=2 + 1 + 2 + 2)


# ---------------------------------------------------------------- how the lines are written


@pytest.mark.fault(
    31,
    "bytes that break careless readers: U+2028/2029/0085, NUL, lone surrogate, CRLF, blank lines, BOM, a torn line",
    injected="lines of the result file",
    seen="every line that can be read is; only the others are asked again",
)
@BOTH
def test_bytes_that_break_careless_readers(make_bench: Make, provider: str) -> None:
    scene = Scene.of(make_bench, 11)
    rows = scene.bench.service.faults.rows
    outcomes = ("separators", "nul", "lone_surrogate", "crlf", "blank_line", "bom", "invalid_utf8", "torn", "not_json")
    for number, outcome in enumerate(outcomes, 1):
        rows(outcome, provider=provider, key=key(number, provider))  # type: ignore[arg-type]
    smile = "Smile \U0001f600\U0001f468\u200d\U0001f469 \u4f60\u597d"
    text = json.dumps({"question": smile}) if provider == "gemini" else smile
    rows("text", provider=provider, key=key(10, provider), text=text)
    assert "8 of 11 accepted (8 accepted, 3 missing)" in until_collected(
        scene, provider, most=5, every=8 * MINUTE
    )  # the torn line is settled later
    assert failures(scene) == {7: "missing", 8: "missing", 9: "missing"}
    found = texts(scene, provider)
    assert "\u2028\u2029\u0085" in found[1]
    assert "\0" not in found[2]
    assert "\ufffd" in found[3]
    assert found[10] == smile
    scene.finish()
    for path in (scene.bench.root / "requests").rglob("*.jsonl"):
        raw = path.read_bytes()
        assert raw.decode().splitlines() == [line.decode() for line in raw.split(b"\n")[:-1]]
    for name, data in scene.bench.files().items():
        assert "single_turn" not in name or data.count(b"\n") == 11


def test_fields_nobody_knows_and_fences_do_no_harm(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 4)
    scene.bench.service.faults.rows("extra_fields", key=r"r1-00000[12]")
    scene.bench.service.faults.rows("fenced", key=r"r1-00000[34].*(question|correction)")
    scene.finish_as_expected(every=MINUTE, jobs=3)
