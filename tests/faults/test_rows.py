"""Test single rows that fail: the recorded reason, the next attempt or the rejection, and the tokens booked."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from batchgen.core.outcomes import POLICY, Reason
from batchgen.emulator.backends.builtin import Prompt, Scripted, default_text
from tests.support.bench import seeds
from tests.support.invariants import ROUNDS, undisturbed
from tests.support.provider_facts import MAX_OUTPUT_TOKENS, PROVIDERS, STAGE
from tests.support.scene import Make, Scene, built_again, failed_requests

if TYPE_CHECKING:
    from tests.support.bench import Bench

# (outcome of the row fault, its fields, provider, the reason to expect)
ROWS: list[tuple[str, dict[str, Any], str, Reason]] = [
    ("truncated", {}, "gemini", Reason.TRUNCATED),
    ("blocked_prompt", {}, "gemini", Reason.BLOCKED_PROMPT),
    ("blocked_prompt", {"reason": "OTHER"}, "gemini", Reason.BLOCKED_PROMPT),
    ("safety", {}, "gemini", Reason.BLOCKED_OUTPUT),
    ("safety", {"text": '{"question": "Half of it"}'}, "gemini", Reason.BLOCKED_OUTPUT),
    ("recitation", {}, "gemini", Reason.BLOCKED_OUTPUT),
    ("finish", {"reason": "SPII"}, "gemini", Reason.BLOCKED_OUTPUT),
    ("finish", {"reason": "MALFORMED_RESPONSE"}, "gemini", Reason.MALFORMED),
    ("finish", {}, "gemini", Reason.UNKNOWN_FINISH),
    ("finish", {"text": '{"question": "Said all the same"}'}, "gemini", Reason.UNKNOWN_FINISH),
    ("no_parts", {}, "gemini", Reason.EMPTY),
    ("thought_only", {}, "gemini", Reason.EMPTY),
    ("blank", {}, "gemini", Reason.EMPTY),
    ("text", {"text": '{"question": "?!"}'}, "gemini", Reason.EMPTY),
    ("text", {"text": '{"query": "What?"}'}, "gemini", Reason.MALFORMED),
    ("text", {"text": '{"question": ["What?"]}'}, "gemini", Reason.MALFORMED),
    ("malformed_json", {}, "gemini", Reason.MALFORMED),
    ("neither", {}, "gemini", Reason.UNREADABLE),
    ("missing", {}, "gemini", Reason.MISSING),
    ("duplicate_different", {}, "gemini", Reason.CONFLICT),
    ("error", {"code": 13}, "gemini", Reason.PROVIDER_ERROR),
    ("error", {"code": 8, "message": "Too many"}, "gemini", Reason.PROVIDER_ERROR),
    ("error", {"code": 3, "message": "No such thing"}, "gemini", Reason.INVALID_REQUEST),
    ("status", {"code": 14}, "gemini", Reason.PROVIDER_ERROR),
    ("error", {"code": 1, "message": ""}, "gemini", Reason.CANCELLED),
    ("truncated", {}, "together", Reason.TRUNCATED),
    ("safety", {}, "together", Reason.BLOCKED_OUTPUT),
    ("finish", {}, "together", Reason.UNKNOWN_FINISH),
    ("no_parts", {}, "together", Reason.EMPTY),
    ("blank", {}, "together", Reason.EMPTY),
    ("neither", {}, "together", Reason.UNREADABLE),
    ("missing", {}, "together", Reason.MISSING),
    ("error", {}, "together", Reason.PROVIDER_ERROR),
    ("http_status", {"code": 500}, "together", Reason.PROVIDER_ERROR),
    ("http_status", {"code": 400}, "together", Reason.INVALID_REQUEST),
    ("http_status", {"code": 422}, "together", Reason.INVALID_REQUEST),
    # Those of Together, and codes of errors as text.
    ("truncated", {}, "deepinfra", Reason.TRUNCATED),
    ("safety", {}, "deepinfra", Reason.BLOCKED_OUTPUT),
    ("finish", {}, "deepinfra", Reason.UNKNOWN_FINISH),
    ("no_parts", {}, "deepinfra", Reason.EMPTY),
    ("blank", {}, "deepinfra", Reason.EMPTY),
    ("neither", {}, "deepinfra", Reason.UNREADABLE),
    ("missing", {}, "deepinfra", Reason.MISSING),
    ("error", {"code": 500}, "deepinfra", Reason.PROVIDER_ERROR),
    ("error", {"code": 400}, "deepinfra", Reason.INVALID_REQUEST),
    ("http_status", {"code": 500}, "deepinfra", Reason.PROVIDER_ERROR),
    ("http_status", {"code": 422}, "deepinfra", Reason.INVALID_REQUEST),
]
# Provider -> its rows of the table above.
BY_PROVIDER = {name: [row for row in ROWS if row[2] == name] for name in PROVIDERS}
TWO = pytest.mark.parametrize("provider", PROVIDERS)


def strike(scene: Scene, provider: str, attempt: str = "1") -> dict[int, Reason]:
    """Apply each row of the table to another conversation, at the provider's first stage. Conversation -> reason."""
    struck = {}
    for number, (outcome, details, _, reason) in enumerate(BY_PROVIDER[provider], 1):
        key = rf"r1-{number:06d}\.r2\.{STAGE[provider]}\.a{attempt}\."
        scene.bench.service.faults.rows(outcome, provider=provider, key=key, **details)  # type: ignore[arg-type]
        struck[number] = reason
    return struck


def ceilings(bench: Bench, number: int, stage: str) -> list[int]:
    """The limits of output tokens of a conversation's requests of a stage, by attempt."""
    found = {}
    for path in (bench.root / "requests" / "round2" / stage).glob("*.jsonl"):
        for line in path.read_bytes().split(b"\n")[:-1]:
            row = json.loads(line)
            key = row.get("key") or row["custom_id"]
            if key.startswith(f"r1-{number:06d}."):
                body = row.get("body") or row["request"]["generationConfig"]
                found[key.split(".")[3]] = body.get("max_tokens") or body["maxOutputTokens"]
    return [found[attempt] for attempt in sorted(found)]


def without(data: bytes, numbers: Iterable[int]) -> bytes:
    """The lines of a round file without those of some conversations."""
    ids = tuple(b'{"id":"r1-%06d"' % number for number in numbers)
    return b"".join(line for line in data.splitlines(keepends=True) if not line.startswith(ids))


def test_every_reason_a_row_can_have_is_in_the_table() -> None:
    never_rows = {
        Reason.ACCEPTED,
        Reason.REFUSED,
        Reason.FLAGGED,
        Reason.MISPLACED,
        Reason.TOO_LARGE,
        Reason.NOT_SENT,
        Reason.LOST,
    }
    assert {row[3] for row in ROWS} == set(Reason) - never_rows - {Reason.SUPERSEDED}
    assert POLICY.keys() == set(Reason)


@pytest.mark.fault(
    28,
    "rows that are blocked, cut short, empty, malformed or failed",
    injected="each class on a row of its own",
    seen="the exact class; blocks are left behind at once, accidents are asked again, cut texts with twice the ceiling",
)
@TWO
def test_a_row_that_fails_once(make_bench: Make, provider: str) -> None:
    count = len(BY_PROVIDER[provider]) + 3
    expected = undisturbed(make_bench, count)
    scene = Scene.of(make_bench, count)  # more rows fail than are accepted at first, which does not stop the step
    struck = strike(scene, provider)
    scene.finish()
    assert failed_requests(scene.bench) == [(number, reason, 1) for number, reason in struck.items()]
    left = {row["id"]: (row["stage"], row["reason"], row["attempts"]) for row in scene.bench.rows("rejected.jsonl")}
    blocked = {number: reason for number, reason in struck.items() if not POLICY[reason].retry}
    assert left == {f"r1-{number:06d}": (STAGE[provider], reason, 1) for number, reason in blocked.items()}
    for name, data in scene.bench.files().items():
        if "round2" in name:  # the same file without the blocked conversations
            assert data == without(expected[name], blocked)
    first = BY_PROVIDER[provider][0][0]
    assert first == "truncated"
    ceiling = MAX_OUTPUT_TOKENS[provider]
    assert ceilings(scene.bench, 1, STAGE[provider]) == [ceiling, 2 * ceiling]
    assert ceilings(scene.bench, count, STAGE[provider]) == [ceiling]


@TWO
def test_a_row_that_always_fails(make_bench: Make, provider: str) -> None:
    count = len(BY_PROVIDER[provider]) + 3
    scene = Scene.of(make_bench, count, "question.max_rejected_share = 1.0\nanswer.max_rejected_share = 1.0\n")
    struck = strike(scene, provider, attempt=r"\d")
    scene.finish()
    tries = {number: 3 if POLICY[reason].retry else 1 for number, reason in struck.items()}
    wanted = [(n, r, a) for a in (1, 2, 3) for n, r in struck.items() if a <= tries[n]]
    assert sorted(failed_requests(scene.bench)) == sorted(wanted)
    left = [(row["id"], row["reason"], row["attempts"]) for row in scene.bench.rows("rejected.jsonl")]
    assert left == [(f"r1-{number:06d}", reason, tries[number]) for number, reason in struck.items()]
    ceiling = MAX_OUTPUT_TOKENS[provider]
    assert ceilings(scene.bench, 1, STAGE[provider]) == [ceiling, 2 * ceiling, 4 * ceiling]
    assert scene.bench.status()["complete"] == 3


@pytest.mark.fault(
    27,
    "every row of a job that succeeded is an error",
    injected="error code 13 on each row, at every attempt",
    seen="'0 of 5 accepted' aloud, three attempts, then status 3 and data/rejected.jsonl",
)
def test_every_row_of_a_success_is_an_error(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 5)
    scene.bench.service.faults.rows("error", key="question")
    scene.tick()
    said = scene.run("--quiet", "collect", "--advance").err
    assert "0 of 5 accepted (5 provider_error)" in said
    done = scene.finish()
    assert done[-1].code == 3
    assert "5 of 5 conversations were rejected (5 provider_error)" in done[-1].err
    assert "batchgen retry" in done[-1].err
    assert [part[:2] for part in scene.batches()] == [(1, 5), (2, 2), (2, 2), (2, 1)] + [(3, 1)] * 5
    assert {(row["reason"], row["attempts"]) for row in scene.bench.rows("rejected.jsonl")} == {("provider_error", 3)}


@pytest.mark.fault(
    40,
    "everything is blocked",
    injected="every row of a batch, or of all batches",
    seen="no loop; status 3 with reasons and counts; other batches finish; `retry` makes them ready again",
)
def test_everything_is_blocked(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 5)
    scene.bench.service.faults.rows("blocked_prompt", key="question")
    scene.tick()
    stopped = scene.tick()
    assert stopped.code == 3
    assert "round 2 question: 5 of 5 conversations were rejected (5 blocked_prompt)" in stopped.err
    assert "max_rejected_share" in stopped.err
    for _ in range(3):
        assert scene.tick() == (0, "", "")
    assert scene.jobs() == 1
    assert scene.bench.status()["finished"]
    assert scene.bench.rows("rejected.jsonl")[0]["detail"] == "PROHIBITED_CONTENT"
    scene.bench.service.faults.clear()
    assert scene.run("retry", "--reason", "blocked_output").out.startswith("0 conversations")
    assert scene.run("retry", "--reason", "blocked_prompt", "--stage", "question").out.startswith("5 conversations")
    assert scene.bench.rows("rejected.jsonl") == []
    scene.finish_as_expected()


def test_one_blocked_batch_among_others(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 15, "question.max_rejected_share = 0.2\n", most=5)
    scene.bench.service.faults.rows("safety", key=r"r1-00000[1-5].*question")
    scene.tick()
    result = scene.tick()
    assert result.code == 3
    assert "5 of 15 conversations were rejected (5 blocked_output)" in result.err
    scene.finish()
    assert scene.bench.status()["complete"] == 10
    assert {row["reason"] for row in scene.bench.rows("rejected.jsonl")} == {"blocked_output"}
    assert scene.jobs() == 3 + 2 + 2


def test_a_step_that_stopped_sends_nothing_more(make_bench: Make) -> None:
    """Ten more conversations were waiting when the first five were blocked."""
    limits = "gemini.concurrent_batches = 1\n"
    scene = Scene.of(make_bench, 15, limits, most=5)
    scene.bench.service.faults.rows("blocked_prompt", key=r"r1-00000[1-5].*question")
    scene.tick()
    for _ in range(3):
        result = scene.tick()
        assert result.code == 3
        assert "5 of 5 conversations were rejected" in result.err
    assert scene.jobs() == 1
    scene.bench.configure(f"{ROUNDS}batches.max_requests = 5\nquestion.max_rejected_share = 1.0\n")
    scene.finish()
    assert scene.bench.status()["complete"] == 10


@pytest.mark.parametrize("limit", ["batches.max_bytes = 99", "gemini.enqueued_tokens = 9"])
def test_limits_that_no_request_fits_stop_the_step(limit: str, make_bench: Make) -> None:
    """No request is sent and every conversation is rejected, so a person must check the limits."""
    bench = make_bench()
    bench.configure(f"{ROUNDS}{limit}\n")
    bench.prepare(seeds(6))
    for command in (["submit", "--stage", "question"], ["collect", "--advance"], ["run"]):
        stopped = bench.run(*command)
        assert (stopped.code, "6 too_large" in stopped.err) == (3, True), (command, stopped)
        bench.run("retry")
    assert bench.service.world.jobs_created() == []


def thinking(prompt: Prompt) -> str:
    """A model that reasons: thoughts before every text, an empty block before every JSON."""
    return f"<think>\n{'' if prompt.schema else 'Wrong on purpose, then.'}\n</think>\n\n{default_text(prompt)}"


def thoughts_counted(bench: Bench) -> list[tuple[int, int]]:
    """(position, accepted replies that had thoughts) of every batch."""
    with closing(sqlite3.connect(bench.root / "data" / "batchgen.sqlite")) as database:
        return database.execute("SELECT position, replies_with_thoughts FROM batches ORDER BY batch").fetchall()


@pytest.mark.fault(
    28,
    "a model that reasons puts its thoughts in front of the text",
    injected="a `<think>` block, empty or not, in front of every reply",
    seen="the texts are those of an undisturbed run; `report` says how many replies had a block",
)
def test_thoughts_are_no_part_of_a_text(make_bench: Make, drawn_here: None) -> None:
    wanted = undisturbed(make_bench, 5)
    scene = Scene.of(make_bench, 5, backend=Scripted(thinking))
    scene.finish()
    assert scene.bench.files() == wanted
    assert thoughts_counted(scene.bench) == [(3, 5), (4, 5), (5, 5)]
    built_again(scene)
    assert thoughts_counted(scene.bench) == [(3, 5), (4, 5), (5, 5)]
    assert scene.run("report").code == 0
    page = (scene.bench.root / "data" / "report.html").read_text("utf-8")
    assert page.count("5 with a &lt;think&gt; block removed") == 3
    assert scene.run("export", "--format", "preference", "--output", str(scene.bench.root / "dpo.jsonl")).code == 0
    assert b"think" not in (scene.bench.root / "dpo.jsonl").read_bytes()
    assert scene.run("verify").code == 0


@pytest.mark.fault(
    28,
    "thoughts that have no end",
    injected="a reply of nothing but the beginning of a `<think>` block, with a normal finish and with `length`",
    seen="`malformed` and `truncated`: both are asked again",
)
def test_thoughts_without_an_end_are_no_text(make_bench: Make) -> None:
    wanted = undisturbed(make_bench, 5)
    scene = Scene.of(make_bench, 5)
    faults = scene.bench.service.faults
    faults.rows("text", key=r"r1-000002\.r2\.answer\.a1\.", text="<think>\nThe user wants")
    faults.rows("truncated", key=r"r1-000003\.r2\.answer\.a1\.", text="<think>\nThe user wants")
    scene.finish()
    assert [(number, reason) for number, reason, _ in failed_requests(scene.bench)] == [
        (2, "malformed"),
        (3, "truncated"),
    ]
    assert scene.bench.files() == wanted
    assert not any(count for _, count in thoughts_counted(scene.bench))


def test_a_text_that_an_older_program_accepted_with_its_thoughts_is_in_its_results(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 2, backend=Scripted(thinking))
    scene.finish()
    answers = next((scene.bench.root / "results" / "round2" / "answer").glob("*.jsonl"))
    said = [
        json.loads(line)["response"]["body"]["choices"][0]["message"]["content"]
        for line in answers.read_bytes().splitlines()
    ]
    with closing(sqlite3.connect(scene.bench.root / "data" / "batchgen.sqlite")) as database, database:
        for text in said:
            database.execute("UPDATE texts SET text = ? WHERE text = ?", (text, text.rpartition("</think>")[2].strip()))
    assert "not in any line" not in scene.bench.run("verify").out
