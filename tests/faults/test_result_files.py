"""Result files as services really send them: mixed up, cut short, doubled, torn, badly encoded, late or not at all."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from batchgen.emulator.faults import Body, CallFault, Html, Merge, Status, Truncate
from tests.support.invariants import bought_once, ledger, undisturbed
from tests.support.scene import HOUR, MINUTE, Make, Scene, reach

STAGE = {"gemini": "question", "together": "answer"}
BOTH = pytest.mark.parametrize("provider", ["gemini", "together"])


def key(number: int, provider: str, attempt: int = 1) -> str:
    """A regex that finds one request of round 2."""
    return rf"r1-{number:06d}\.r2\.{STAGE[provider]}\.a{attempt}\."


def until_collected(scene: Scene, provider: str, *, most: int = 4, every: float = 0.0) -> str:
    """Ticks until the provider's first batch is collected, `every` so many seconds; what the last one said."""
    for _ in range(most):
        result = scene.tick(every)
        if any(row["provider"] == provider and row["state"] == "collected" for row in ledger(scene.bench).batches):
            return result.err
    raise AssertionError("nothing was collected")


def failures(scene: Scene) -> dict[int, str]:
    """Conversation -> why its request failed, of the first batch with failures."""
    rows = ledger_failures(scene)
    first = min(batch for batch, _, _ in rows)
    return {number: reason for batch, number, reason in rows if batch == first}


def ledger_failures(scene: Scene) -> list[tuple[int, int, str]]:
    with closing(sqlite3.connect(scene.bench.root / "data" / "batchgen.sqlite")) as database:
        return database.execute("SELECT batch, number, reason FROM failures ORDER BY batch, number").fetchall()


def texts(scene: Scene, provider: str) -> dict[int, str]:
    """Conversation -> the text it got in the provider's first stage of round 2."""
    position = 3 if provider == "gemini" else 4
    found = ledger(scene.bench).texts.items()
    return {place // 256: text for place, (_, text) in found if place % 256 == position}


# ---------------------------------------------------------------- which rows there are


@pytest.mark.fault(
    25,
    "results in disorder: a row twice, twice with different texts, missing, without a key, and one nobody asked for",
    injected="rows of the result file",
    seen="right rows are kept, the others are asked again; strange lines are counted aloud and booked",
)
@BOTH
def test_rows_in_disorder(make_bench: Make, provider: str) -> None:
    expected = undisturbed(make_bench, 8)
    scene = Scene.of(make_bench, 8)
    outcomes = ("duplicate_same", "duplicate_different", "unknown_key", "missing", "no_key")
    for number, outcome in enumerate(outcomes, 1):
        scene.bench.service.faults.rows(outcome, provider=provider, key=key(number, provider))  # type: ignore[arg-type]
    said = until_collected(scene, provider)
    assert "5 of 8 accepted (5 accepted, 1 conflict, 2 missing, 2 superseded)" in said
    assert "1 line for requests that it does not hold and 1 without a key are left aside" in said
    assert failures(scene) == {2: "conflict", 4: "missing", 5: "missing"}
    raw = next((scene.bench.root / "results" / "round2" / STAGE[provider]).glob("*.jsonl")).read_bytes()
    keys = [row.get("key") or row.get("custom_id") for row in map(json.loads, raw.splitlines())]
    assert [found for found in keys if found] != sorted(found for found in keys if found)  # in no order, as it came
    scene.finish()
    assert scene.bench.files() == expected


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
    assert len(downloads) == 3  # two files of the first job, one of the second
    assert not [seen.path for seen in scene.bench.service.world.requests if "//" in seen.path]


def test_a_text_beside_an_error_row_of_the_same_request_stays(make_bench: Make) -> None:
    expected = undisturbed(make_bench, 4)
    scene = Scene.of(make_bench, 4)
    scene.tick()
    scene.tick()
    world = scene.bench.service.world
    [job] = world.jobs_created("together")
    scene.bench.service.step()
    line = {"id": "x", "custom_id": job.keys[0], "error": {"message": "late accident", "code": "batch_client_error"}}
    file = world.files["together", job.output]
    errors = Body(text=json.dumps(line) + "\n")
    scene.bench.service.faults.add(CallFault(provider="together", endpoint="download", contains="extra", action=errors))
    patch = Merge({"error_file_id": f"{file.id}-extra"})
    scene.bench.service.faults.add(CallFault(provider="together", endpoint="get", action=patch))
    scene.finish()
    assert scene.jobs("together") == 1
    assert scene.bench.files() == expected


# ---------------------------------------------------------------- whether the file came whole


@pytest.mark.fault(
    30,
    "a download ends early",
    injected="body cut at 2 % or at a line's end, with and without Content-Length",
    seen="read again; no file from a part",
)
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5])
@pytest.mark.parametrize("length", [True, False])
@BOTH
def test_a_download_that_ends_early(make_bench: Make, provider: str, *, length: bool, keep: float) -> None:
    expected = undisturbed(make_bench, 5)
    scene = Scene.of(make_bench, 5)
    cut = Truncate(keep=keep, content_length=length, on_line=keep == 0.5)
    scene.bench.service.faults.add(CallFault(provider=provider, endpoint="download", action=cut))
    codes = {result.code for result in scene.finish()}
    assert codes == {0}
    assert scene.jobs() == 3
    assert scene.bench.files() == expected
    assert not list(scene.bench.root.rglob("*.part"))


@BOTH
@pytest.mark.parametrize("keep", [0.6, 0.0])
def test_a_download_that_always_ends_at_the_same_line_is_not_believed(
    make_bench: Make, keep: float, provider: str
) -> None:
    """Gemini says how many rows there are, and a success at Together has one for every request; what is cut twice at
    the same line is told by that alone.
    """
    expected = undisturbed(make_bench, 5)
    scene = Scene.of(make_bench, 5)
    cut = Truncate(keep=keep, content_length=False, on_line=True)
    scene.bench.service.faults.add(CallFault(provider=provider, endpoint="download", action=cut, times=2))
    reach(scene, provider)
    result = scene.tick()
    assert result.code == 75
    assert "5 or more are due" in result.err
    assert not list((scene.bench.root / "results").rglob(f"*-{STAGE[provider]}-*.jsonl"))
    scene.finish()
    assert scene.jobs() == 3
    assert scene.bench.files() == expected


@pytest.mark.fault(
    30,
    "the first downloads are cut at a line's end, after looks at which the results were not there",
    injected="results named minutes after the end, or 404 or a page in place of the file; then bodies cut in one tick",
    seen="status 75, the cut file is not believed; the next tick reads the whole one, nothing is bought again",
)
@pytest.mark.parametrize("before", ["unnamed", "missing", "page"])
@BOTH
def test_a_first_short_download_is_not_believed_however_late_it_comes(
    make_bench: Make, provider: str, before: str
) -> None:
    """Looks at which there was nothing to download are no looks at a short file."""
    expected = undisturbed(make_bench, 8)
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
    cut = Truncate(keep=0.6, content_length=False, on_line=True)
    faults.add(CallFault(provider=provider, endpoint="download", action=cut, times=2))
    result = scene.tick(MINUTE)
    assert result.code == 75
    assert "8 or more are due" in result.err
    scene.finish()
    assert len(scene.bench.service.world.bought_keys) == 24
    bought_once(scene.bench)
    assert scene.bench.files() == expected


@pytest.mark.fault(
    30,
    "a download is cut at the same line's end again and again within a minute",
    injected="four looks, 15 s apart, each with two cut bodies",
    seen="status 75, the cut file is not believed within the grace period; nothing is bought again",
)
@BOTH
def test_looks_that_follow_quickly_do_not_make_a_short_download_believed(make_bench: Make, provider: str) -> None:
    """`--wait` and short cron intervals look many times before a fault of some minutes is over."""
    expected = undisturbed(make_bench, 8)
    scene = Scene.of(make_bench, 8)
    reach(scene, provider)
    cut = Truncate(keep=0.6, content_length=False, on_line=True)
    scene.bench.service.faults.add(CallFault(provider=provider, endpoint="download", action=cut, times=0))
    assert [scene.tick(15.0).code for _ in range(4)] == [75] * 4
    scene.bench.service.faults.clear()
    scene.finish()
    assert len(scene.bench.service.world.bought_keys) == 24
    bought_once(scene.bench)
    assert scene.bench.files() == expected


def test_rows_that_are_counted_but_do_not_come_are_asked_again_after_the_grace_period(make_bench: Make) -> None:
    expected = undisturbed(make_bench, 5)
    scene = Scene.of(make_bench, 5)
    cut = Truncate(keep=0.6, content_length=False, on_line=True)
    scene.bench.service.faults.add(
        CallFault(provider="gemini", endpoint="download", contains="batch-", action=cut, times=0)
    )
    for after in (0, MINUTE, MINUTE, 10 * MINUTE):
        scene.tick(after)
        assert scene.jobs() == 1
    assert scene.tick(5 * MINUTE).code == 0
    assert [part[0] for part in scene.batches()][:2] == [1, 2]
    scene.bench.service.faults.clear()
    scene.finish()
    assert scene.bench.files() == expected


@BOTH
def test_a_download_that_ends_within_a_line_is_not_believed_at_once(make_bench: Make, provider: str) -> None:
    """All lines are there to be counted, the last one not whole: to ask for its row again would be to buy it again."""
    expected = undisturbed(make_bench, 5)
    scene = Scene.of(make_bench, 5)
    cut = Truncate(keep=0.95, content_length=False)
    scene.bench.service.faults.add(CallFault(provider=provider, endpoint="download", action=cut, times=4))
    why = "end within a line: a part is missing"
    ticks = [scene.tick() for _ in range(4)]
    told = [result for result in ticks if result.code == 75]
    assert len(told) >= 2
    assert all(why in result.err for result in told)
    scene.finish()
    assert scene.jobs() == 3
    assert scene.bench.files() == expected


def test_a_download_that_is_different_every_time_is_not_believed(make_bench: Make) -> None:
    expected = undisturbed(make_bench, 5)
    scene = Scene.of(make_bench, 5)
    for keep in (0.2, 0.4, 0.6, 0.8):
        cut = Truncate(keep=keep, content_length=False)
        scene.bench.service.faults.add(CallFault(provider="together", endpoint="download", action=cut))
    scene.tick()
    scene.tick()
    result = scene.tick()
    assert result.code == 75
    assert "come back different at every download" in result.err
    scene.finish()
    assert scene.jobs() == 3
    assert scene.bench.files() == expected


def test_an_empty_file_is_not_believed_where_nobody_says_how_many_rows_there_are(make_bench: Make) -> None:
    expected = undisturbed(make_bench, 5)
    scene = Scene.of(make_bench, 5)
    empty = CallFault(provider="together", endpoint="download", action=Body(text=""), times=2)
    scene.bench.service.faults.add(empty)
    scene.tick()
    scene.tick()
    result = scene.tick()
    assert result.code == 75
    assert "have 0 lines, 5 or more are due" in result.err
    scene.finish()
    assert scene.jobs() == 3
    assert scene.bench.files() == expected


@pytest.mark.fault(
    24,
    "a success whose file is empty at first",
    injected="an empty body, tick after tick",
    seen="status 75 until its rows are there; asked again only when it stays empty for the grace period",
)
@BOTH
def test_an_empty_success_is_looked_at_for_the_grace_period(make_bench: Make, provider: str) -> None:
    """However quickly looks follow one another."""
    expected = undisturbed(make_bench, 4)
    scene = Scene.of(make_bench, 4)
    reach(scene, provider)
    empty = CallFault(provider=provider, endpoint="download", action=Body(text=""), times=0)
    scene.bench.service.faults.add(empty)
    assert [scene.tick(2 * MINUTE).code for _ in range(6)] == [75] * 6
    assert not list((scene.bench.root / "results").rglob(f"*-{STAGE[provider]}-*"))
    scene.bench.service.faults.clear()
    scene.finish()
    assert scene.jobs() == 3
    assert scene.bench.files() == expected


@BOTH
def test_a_success_that_stays_empty_is_asked_again(make_bench: Make, provider: str) -> None:
    expected = undisturbed(make_bench, 4)
    scene = Scene.of(make_bench, 4)
    reach(scene, provider)
    empty = CallFault(provider=provider, endpoint="download", action=Body(text=""), times=0)
    scene.bench.service.faults.add(empty)
    assert [scene.tick(5 * MINUTE).code for _ in range(3)] == [75] * 3
    assert scene.tick(5 * MINUTE).code == 0
    scene.bench.service.faults.clear()
    scene.finish()
    again = [part[:2] for part in scene.batches(3 if provider == "gemini" else 4)]
    assert again == [(1, 4), (2, 2), (2, 2)]
    assert scene.bench.files() == expected


BROKEN: list[tuple[str, Any, str]] = [
    ("download", Html(), "no JSON lines"),
    ("download", Status(404, "File not found."), "is not there|File not found"),
    ("download", Status(403, "You do not have permission to access the File x or it may not exist."), "permission"),
    ("download", Status(500), "HTTP 500"),
    ("download", Body(json={"error": {"code": 500, "message": "upstream"}}), "no JSON lines"),
    ("get", Html(), ""),
    ("get", Body(json=[]), ""),
    ("get", Body(json={}), ""),
]


@pytest.mark.fault(
    15,
    "the page of a proxy in place of a poll or a download",
    injected="HTML with status 200",
    seen="status 75, nothing is kept; the next tick reads the real one",
)
@BOTH
@pytest.mark.parametrize(("endpoint", "action", "words"), BROKEN)
def test_what_is_no_answer_is_not_taken_for_one(
    make_bench: Make, provider: str, endpoint: str, action: Any, words: str
) -> None:
    expected = undisturbed(make_bench, 4)
    scene = Scene.of(make_bench, 4)
    reach(scene, provider)
    scene.bench.service.faults.add(CallFault(provider=provider, endpoint=endpoint, action=action, times=0))
    before = len(list((scene.bench.root / "results").rglob("*.jsonl")))
    result = scene.tick()
    assert result.code == 75
    assert re.search(words, result.err)
    assert len(list((scene.bench.root / "results").rglob("*.jsonl"))) == before
    scene.bench.service.faults.clear()
    scene.finish()
    assert scene.jobs() == 3
    assert scene.bench.files() == expected


@pytest.mark.fault(
    15,
    "an error of somebody in between in place of a download, for hours",
    injected="JSON with status 200",
    seen="status 75, after 6 h status 3, nothing is kept or bought again; the tick that gets the file reads it",
)
@BOTH
@pytest.mark.parametrize(
    "action",
    [Body(json={"error": {"code": 500, "message": "upstream"}}), Body(json={})],
    ids=["error", "object"],
)
def test_an_error_in_place_of_a_file_is_not_believed_the_third_time(
    make_bench: Make, provider: str, action: Any
) -> None:
    expected = undisturbed(make_bench, 4)
    scene = Scene.of(make_bench, 4)
    reach(scene, provider)
    scene.bench.service.faults.add(CallFault(provider=provider, endpoint="download", action=action, times=0))
    assert [scene.tick(HOUR).code for _ in range(5)] == [75] * 5
    assert scene.tick(20 * HOUR).code == 3  # somebody is called
    scene.bench.service.faults.clear()
    scene.finish()
    assert scene.jobs() == 3
    assert scene.bench.files() == expected


@BOTH
def test_a_result_file_that_is_gone_calls_somebody_and_is_given_up(make_bench: Make, provider: str) -> None:
    expected = undisturbed(make_bench, 4)
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
    scene.finish()
    assert scene.bench.files() == expected


def test_a_file_of_one_broken_line_is_settled_in_the_end(make_bench: Make) -> None:
    """At first it may be the page of somebody in between; after six hours it is what the provider has."""
    expected = undisturbed(make_bench, 2)
    scene = Scene.of(make_bench, 2, most=1)
    scene.bench.service.faults.rows("invalid_utf8", key=key(1, "gemini"))
    scene.tick()
    for _ in range(2):
        result = scene.tick(HOUR)
        assert result.code == 75
        assert "are no JSON lines" in result.err
    assert scene.tick(5 * HOUR).code == 0
    scene.finish()
    assert scene.jobs() == 2 + 1 + 2 + 2
    assert scene.bench.files() == expected


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
    text = smile if provider == "together" else json.dumps({"question": smile})
    rows("text", provider=provider, key=key(10, provider), text=text)
    assert "8 of 11 accepted (8 accepted, 3 missing)" in until_collected(
        scene, provider, most=5, every=8 * MINUTE
    )  # the torn line: later
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
    expected = undisturbed(make_bench, 4)
    scene = Scene.of(make_bench, 4)
    scene.bench.service.faults.rows("extra_fields", key=r"r1-00000[12]")
    scene.bench.service.faults.rows("fenced", key=r"r1-00000[34].*(question|correction)")
    scene.finish(every=MINUTE)
    assert scene.jobs() == 3
    assert scene.bench.files() == expected
