"""Test replies under the key of another request: they are found by their echoes or their words."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from batchgen.core.dialogue import echo_of
from batchgen.emulator.backends.builtin import Prompt, Scripted, default_text
from batchgen.engine.settlement import settle
from tests.support.bench import seeds
from tests.support.invariants import ROUNDS, finished
from tests.support.scene import HOUR, MINUTE, Make, Scene, built_again, failed_requests

if TYPE_CHECKING:
    from tests.support.bench import Bench

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


_quiet: dict[str, bytes] = {}


def quiet_files(make_bench: Make) -> dict[str, bytes]:
    """The files of a run in which nothing is swapped, made once."""
    if not _quiet:
        quiet = scene_of_topics(make_bench, 12, "quiet")
        quiet.finish()
        _quiet.update(quiet.bench.files())
    return _quiet


@pytest.mark.fault(
    26,
    "answers under each other's keys",
    injected="rows swapped in pairs",
    seen="neither is kept, both are asked again; when many are swapped nothing of the batch is believed",
)
@pytest.mark.parametrize(
    ("stage", "swapped", "again"),
    [
        *((stage, (1, 4), 2) for stage in ("question", "answer", "correction")),
        ("answer", (1, 4, 7, 9), 12),
        ("correction", tuple(range(12)), 12),
    ],
)
def test_answers_under_each_others_keys(make_bench: Make, stage: str, swapped: tuple[int, ...], again: int) -> None:
    expected = quiet_files(make_bench)
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
@pytest.mark.parametrize(
    ("stage", "swapped", "ask_next"),
    [
        ("question", (0, 7), "false"),
        ("correction", (3, 4), "false"),
        ("correction", (3, 4), "true"),
        ("correction", (1, 2, 6, 9), "false"),
        ("correction", (1, 2, 6, 9), "true"),
    ],
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
