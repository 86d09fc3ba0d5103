"""Test single rows that fail: the recorded reason, the next attempt or the rejection, and the tokens booked."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from batchgen.core.dialogue import echo_of
from batchgen.core.outcomes import POLICY, Reason
from batchgen.emulator.backends.builtin import Prompt, Scripted, default_text
from batchgen.engine.settlement import settle
from tests.support.bench import seeds
from tests.support.invariants import ROUNDS, finished, undisturbed
from tests.support.provider_facts import MAX_OUTPUT_TOKENS, PROVIDERS, STAGE
from tests.support.scene import HOUR, MINUTE, Make, Scene, built_again, failed_requests

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


# ---------------------------------------------------------------- under the wrong key

TOPICS = (
    "volcano magma eruption crater",
    "violin bow rosin concerto",
    "beehive honey drone swarm",
    "glacier moraine crevasse iceberg",
    "printer toner cartridge paper",
    "marathon runner ankle hydration",
    "sourdough starter flour crumb",
    "submarine periscope torpedo sonar",
    "tomato blight trellis compost",
    "chess bishop gambit endgame",
    "telescope nebula mirror eyepiece",
    "passport visa embassy customs",
)


def distinct(count: int) -> list[dict[str, str]]:
    """Triples with one topic each."""
    return [
        {
            "question": f"Tell me about {topic}",
            "answer": f"Everything about {topic} is known",
            "correction": f"Much about {topic} is known, not everything",
        }
        for topic in TOPICS[:count]
    ]


def to_the_point(prompt: Prompt) -> str:
    """A reply that differs from the others only by the words of its topic."""
    known = set(" ".join(TOPICS).split())
    said = [word for word in re.findall(r"[a-z]+", prompt.messages[-1].content) if word in known]
    text = f"This is what there is to say about {' and '.join(dict.fromkeys(said))}, in short."
    return json.dumps(dict.fromkeys(prompt.schema["properties"], text)) if prompt.schema else text


def scene_of_topics(make_bench: Make, count: int, root: str) -> Scene:
    bench = make_bench(root=root, backend=Scripted(to_the_point))
    bench.configure(f"{ROUNDS}batches.echo = false\n")
    bench.prepare(distinct(count))
    return Scene(bench)


@pytest.mark.fault(
    26,
    "answers under each other's keys",
    injected="rows swapped in pairs",
    seen="neither is kept, both are asked again; when many are swapped nothing of the batch is believed",
)
@pytest.mark.parametrize(("swapped", "again"), [((1, 4), 2), ((1, 4, 7, 9), 12), (tuple(range(12)), 12)])
@pytest.mark.parametrize("stage", ["question", "answer", "correction"])
def test_answers_under_each_others_keys(make_bench: Make, stage: str, swapped: tuple[int, ...], again: int) -> None:
    quiet = scene_of_topics(make_bench, 12, "quiet")
    quiet.finish()
    expected = quiet.bench.files()
    scene = scene_of_topics(make_bench, 12, "swapped")
    scene.bench.service.faults.rows("swapped", key=rf"\.{stage}\.a1\.", indexes=list(swapped))
    said = "".join(result.err for result in scene.finish())
    assert f"{len(swapped)} replies answer another request of the batch" in said
    assert ("all its replies are rejected" in said) == (again == 12)
    assert [(reason, attempt) for _, reason, attempt in failed_requests(scene.bench)] == [("misplaced", 1)] * again
    assert scene.bench.files() == expected


def saying_nothing(prompt: Prompt) -> str:
    """A reply that fits every request, with the values that the enums of the schema fix."""
    if prompt.schema is None:
        return "It depends on much, as so often."
    properties = prompt.schema["properties"].items()
    return json.dumps({name: part["enum"][0] if "enum" in part else "It depends on much." for name, part in properties})


def without_enums(prompt: Prompt) -> str:
    """A reply of a model that ignores the enums of the schema."""
    said = json.loads(default_text(prompt)) if prompt.schema else default_text(prompt)
    return said if isinstance(said, str) else json.dumps({name: said[name] for name in said if name != "m"})


@pytest.mark.fault(
    26,
    "answers of Gemini under each other's keys, whatever their words",
    injected="rows swapped in pairs; no text tells its request",
    seen="the echoes tell: exactly these are asked again, and all others are kept",
)
@pytest.mark.parametrize("ask_next", ["false", "true"])
@pytest.mark.parametrize(
    ("stage", "swapped"), [("question", (0, 7)), ("correction", (3, 4)), ("correction", (1, 2, 6, 9))]
)
def test_swapped_replies_are_known_by_their_echoes(
    make_bench: Make, stage: str, swapped: tuple[int, ...], ask_next: str
) -> None:
    bench = make_bench(backend=Scripted(saying_nothing))
    bench.configure(f"rounds = 3\ncorrection.ask_next = {ask_next}\n")
    bench.prepare(seeds(12))
    bench.service.faults.rows("swapped", key=rf"r2\.{stage}\.a1\.", indexes=list(swapped))
    said = "".join(result.err for result in bench.ticks())
    assert f"{len(swapped)} replies answer another request of the batch" in said
    assert "all its replies are rejected" not in said
    assert failed_requests(bench) == [(number + 1, "misplaced", 1) for number in swapped]
    assert bench.status()["complete"] == 12
    assert bench.run("verify").code == 0


@pytest.mark.fault(
    26,
    "a model that ignores the enum of the schema",
    injected="replies without the echo",
    seen="one warning; replies are compared by their words, and later batches have no echo",
)
def test_a_model_that_ignores_the_echo(make_bench: Make) -> None:
    def finished_run(root: str, script: Any) -> tuple[Scene, str]:
        scene = Scene(make_bench(root=root, backend=Scripted(script)))
        scene.bench.configure(ROUNDS)
        scene.bench.prepare(seeds(12))
        return scene, "".join(result.err for result in scene.finish())

    quiet, _ = finished_run("quiet", default_text)
    assert [has_echo(quiet.bench, stage) for stage in ("question", "correction")] == [True, True]
    scene, said = finished_run("ignored", without_enums)
    assert said.count("does not return the echo of its schema") == 1
    assert scene.bench.files() == quiet.bench.files()
    assert [has_echo(scene.bench, stage) for stage in ("question", "correction")] == [True, False]
    built_again(scene)
    assert [has_echo(scene.bench, stage) for stage in ("question", "correction")] == [True, False]


def has_echo(bench: Bench, stage: str) -> bool:
    """Whether the requests of round 2 fix an echo, each its own; the ledger must say the same."""
    lines = [
        line for path in (bench.root / f"requests/round2/{stage}").iterdir() for line in path.read_bytes().splitlines()
    ]
    found = [f'"enum":["{echo_of(number)}"]'.encode() in line for number, line in enumerate(lines, start=1)]
    with closing(sqlite3.connect(bench.root / "data" / "batchgen.sqlite")) as database:
        noted = database.execute("SELECT DISTINCT echo FROM batches WHERE name LIKE ?", (f"%-{stage}-%",)).fetchall()
    assert noted == [(int(all(found)),)]
    assert all(found) == any(found)
    return all(found)


@pytest.mark.parametrize(("least", "again"), [(2, 2), (1, 12)])
def test_a_batch_is_believed_up_to_so_many_swaps(
    make_bench: Make, monkeypatch: pytest.MonkeyPatch, least: int, again: int
) -> None:
    monkeypatch.setattr(settle, "WHOLE_BATCH_LEAST", least)
    scene = scene_of_topics(make_bench, 12, "swapped")
    scene.bench.service.faults.rows("swapped", key=r"\.question\.a1\.", indexes=[1, 4])
    scene.finish()
    assert len(failed_requests(scene.bench)) == again


def test_an_answer_under_a_key_whose_own_request_is_answered_already(make_bench: Make) -> None:
    """The batch no longer needs one of two swapped replies, because its text came with late results."""
    quiet = scene_of_topics(make_bench, 12, "quiet")
    quiet.finish()
    scene = scene_of_topics(make_bench, 12, "swapped")
    faults, world = scene.bench.service.faults, scene.bench.service.world
    world.job_seconds = 1000.0
    faults.job(provider="gemini", times=1, cancel="late", late_seconds=5 * HOUR)
    scene.tick()
    for command in ("cancel", "collect"):
        scene.run(command)
    world.job_seconds = 24 * HOUR
    scene.tick(20 * MINUTE)
    faults.rows("missing", where=lambda key: "-000002" not in key)
    assert "1 of 12 accepted" in scene.tick(5 * HOUR).err
    faults.clear()
    faults.rows("swapped", where=lambda key: ".question.a2." in key and key[:9] in {"r1-000002", "r1-000005"})
    assert "2 replies answer another request of the batch" in scene.tick(24 * HOUR).err
    world.job_seconds = 0.0
    scene.finish()
    assert scene.bench.files() == quiet.bench.files()


def test_texts_that_say_nothing_of_their_request_are_not_suspected(make_bench: Make) -> None:
    def generic(prompt: Prompt) -> str:
        text = f"Reply {abs(hash(prompt.messages)):x} to this"
        return json.dumps(dict.fromkeys(prompt.schema["properties"], text)) if prompt.schema else text

    bench = make_bench(backend=Scripted(generic))
    bench.configure(ROUNDS)
    bench.prepare(distinct(12))
    bench.ticks()
    finished(bench)
    assert failed_requests(bench) == []


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
