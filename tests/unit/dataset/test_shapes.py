"""Prepare files of every known shape, of other shapes with `--columns`, and files that are refused."""

from __future__ import annotations

import json
import random
import re
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.core.errors import InputError
from batchgen.dataset.rows import row_files
from batchgen.dataset.rows.dotted_paths import FIELDS
from batchgen.dataset.rows.shapes import Columns, RowError
from batchgen.dataset.seeds import Seed, SeedReport, read_seeds
from tests.support.bench import REPOSITORY, Bench
from tests.support.invariants import ROUNDS

Rows = list[dict[str, Any]]
TRIPLES = [
    Seed("How do I boil an egg?", "Throw it at the wall.", "Eight minutes in hot water."),
    Seed("Is 7 prime?\n\nSay why.", "No, it is odd.", "Yes: only 1 and 7 divide it."),
    Seed("月亮有多远？", "很近。", "平均约三十八万公里。"),
]
HH = "\n\nHuman: {}\n\nAssistant: {}"


def said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def told(who: str, text: str) -> dict[str, str]:
    return {"from": who, "value": text}


def aligner(row: Seed) -> dict[str, Any]:
    return {"prompt": "not read", **row._asdict()}


def ultrafeedback(row: Seed) -> dict[str, Any]:
    user = said("user", row.question)
    chosen, rejected = [user, said("assistant", row.correction)], [user, said("assistant", row.answer)]
    return {"prompt": row.question, "messages": chosen, "chosen": chosen, "rejected": rejected, "score_chosen": 8.5}


def hh_rlhf(row: Seed) -> dict[str, Any]:
    question = row.question
    return {"chosen": HH.format(question, row.correction), "rejected": HH.format(question, row.answer)}


def sharegpt(row: Seed) -> dict[str, Any]:
    before = [told("system", "Be kind."), told("human", row.question)]
    return {"conversations": before, "chosen": told("gpt", row.correction), "rejected": told("gpt", row.answer)}


def openai_messages(row: Seed) -> dict[str, Any]:
    before = [said("system", "Be kind."), said("user", row.question)]
    return {"messages": before, "chosen": said("assistant", row.correction), "rejected": said("assistant", row.answer)}


def openai_chosen_again(row: Seed) -> dict[str, Any]:
    messages = [said("user", row.question), said("assistant", row.correction)]
    return {"messages": messages, "chosen": row.correction, "rejected": row.answer}


def openai_prompt(row: Seed) -> dict[str, Any]:
    prompt, chosen, rejected = said("user", row.question), said("assistant", row.correction), row.answer
    return {"prompt": [prompt], "chosen": [chosen], "rejected": [said("assistant", rejected)]}


def openai_no_prompt(row: Seed) -> dict[str, Any]:
    return {name: ultrafeedback(row)[name] for name in ("chosen", "rejected")}


def texts(row: Seed) -> dict[str, Any]:
    return {"prompt": row.question, "chosen": row.correction, "rejected": row.answer}


def texts_with_question(row: Seed) -> dict[str, Any]:
    return {"system": "", "question": row.question, "chosen": row.correction, "rejected": row.answer}


def transcript_prompt(row: Seed) -> dict[str, Any]:
    return {**texts(row), "prompt": HH.format(row.question, "").rstrip()}


SHAPES: dict[Callable[[Seed], dict[str, Any]], str] = {
    aligner: "Aligner triples",
    ultrafeedback: "UltraFeedback",
    hh_rlhf: "hh-rlhf",
    sharegpt: "ShareGPT",
    openai_messages: "OpenAI",
    openai_chosen_again: "messages",
    openai_prompt: "OpenAI",
    openai_no_prompt: "OpenAI",
    texts: "texts with a prompt",
    texts_with_question: "texts with a question",
    transcript_prompt: "texts with a prompt",
}
WRITERS: dict[str, Callable[[Path, Rows], object]] = {
    "x.jsonl": lambda path, rows: path.write_text("".join(json.dumps(row) + "\n" for row in rows)),
    "x.json": lambda path, rows: path.write_text(json.dumps(rows, ensure_ascii=False)),
    "x.csv": lambda path, rows: pl.DataFrame([in_cells(row) for row in rows]).write_csv(path),
    "x.parquet": lambda path, rows: pl.DataFrame(rows).write_parquet(path),
}


def in_cells(row: dict[str, Any]) -> dict[str, Any]:
    """A row for a CSV: lists and objects as JSON."""
    return {name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in row.items()}


def read(path: Path, paths: dict[str, str] | None = None) -> tuple[list[Seed], SeedReport]:
    report = SeedReport()
    return list(read_seeds(path, report, Columns(paths))), report


def prepare(bench: Bench, name: str, rows: Rows, *options: str) -> Any:
    bench.root.mkdir(exist_ok=True)
    WRITERS[f"x{Path(name).suffix}"](bench.root / name, rows)
    return bench.run("prepare", "--input", str(bench.root / name), "--all", *options)


# --- known shapes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_in_every_format(tmp_path: Path, shape: Callable[[Seed], dict[str, Any]], name: str) -> None:
    WRITERS[name](tmp_path / name, [shape(row) for row in TRIPLES])
    rows, report = read(tmp_path / name)
    assert (rows, report.left_out) == (TRIPLES, {})
    assert SHAPES[shape] in report.shape


@pytest.mark.parametrize("shape", SHAPES)
def test_prepare_says_the_shape_and_shows_two_triples(bench: Bench, shape: Callable[[Seed], dict[str, Any]]) -> None:
    done = prepare(bench, "mine.jsonl", [shape(row) for row in TRIPLES], "--json")
    assert (done.code, done.json["conversations"]) == (0, 3)
    assert SHAPES[shape] in done.json["read_as"]
    first, *preview = done.err.splitlines()
    assert first == f"Read as {done.json['read_as']}."
    assert preview == [
        "  question: How do I boil an egg? | answer: Throw it at the wall. | correction: Eight minutes in hot water.",
        "  question: Is 7 prime? Say why. | answer: No, it is odd. | correction: Yes: only 1 and 7 divide it.",
    ]
    seeds = bench.rows("round1/round1_single_turn.jsonl")
    assert [tuple(row[field] for field in FIELDS) for row in seeds] == TRIPLES


def test_the_preview_is_short_safe_and_not_in_the_answer(bench: Bench) -> None:
    row = Seed("\x1b[31mred\u202e " * 50, "a" * 33, "b" * 32)
    done = prepare(bench, "mine.jsonl", [row._asdict()])
    assert "Read as" not in done.out
    [_, line] = done.err.splitlines()
    assert line.isprintable()
    assert line.endswith(f"... | answer: {'a' * 29}... | correction: {'b' * 32}")
    again = prepare(bench, "mine.jsonl", [row._asdict()])
    assert (again.code, again.err) == (0, "")  # nothing is read, nothing changes
    bench.run("-q", "prepare", "--input", str(bench.root / "mine.jsonl"), "--limit", "1")
    quiet = bench.run("-q", "prepare", "--input", str(bench.root / "mine.jsonl"), "--all")
    assert (quiet.code, quiet.err) == (0, "")


def test_the_preview_comes_before_anything_is_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("batchgen.ledger.store.Store.replace_seeds", full)
    done = prepare(bench, "mine.jsonl", [TRIPLES[0]._asdict()])
    assert (done.code, done.out) == (75, "")
    assert "  question: How do I boil an egg?" in done.err


def test_the_shape_is_that_of_the_first_row_that_has_one(tmp_path: Path) -> None:
    rows = [{}, {"chosen": None, "rejected": None, "prompt": "q"}, *map(sharegpt, TRIPLES), TRIPLES[0]._asdict()]
    WRITERS["x.jsonl"](tmp_path / "x.jsonl", rows)
    seeds, report = read(tmp_path / "x.jsonl")
    assert seeds == TRIPLES
    assert report.examples == {RowError.NO_CHOSEN.value: [1, 2, 6]}


# --- rows that are left out -------------------------------------------------------------------------------------------

LEFT_OUT: list[tuple[Callable[[Seed], dict[str, Any]], dict[str, Any], str]] = [
    (hh_rlhf, {"chosen": HH.format("q", "a") + HH.format("q2", "a2")}, "more than one turn"),
    (hh_rlhf, {"chosen": HH.format("another", "a")}, "chosen and rejected answer different questions"),
    (hh_rlhf, {"chosen": "\n\nHuman: q"}, "the last message is not the assistant's"),
    (hh_rlhf, {"chosen": "\n\nAssistant: a", "rejected": "\n\nAssistant: b"}, "no message of the user"),
    (hh_rlhf, {"rejected": HH.format(TRIPLES[0].question, "")}, "answer is blank"),
    (hh_rlhf, {"rejected": None}, "rejected is not a text or messages"),
    (hh_rlhf, {"rejected": 5}, "rejected is not a text or messages"),
    (ultrafeedback, {"chosen": []}, "chosen is not a text or messages"),
    (ultrafeedback, {"chosen": ["text"]}, "chosen is not a text or messages"),
    (ultrafeedback, {"chosen": [said("assistant", "c")]}, "chosen and rejected answer different questions"),
    (ultrafeedback, {"chosen": [said("user", "q"), said("tool", "c")]}, "the last message is not the assistant's"),
    (
        ultrafeedback,
        {"chosen": [said("user", "q"), said("assistant", "a")] * 2, "rejected": [said("assistant", "a")]},
        "more than one turn",
    ),
    (ultrafeedback, {"chosen": [said("user", TRIPLES[0].question), {"role": "assistant"}]}, "correction is missing"),
    (sharegpt, {"conversations": [told("human", "q"), told("gpt", "a"), told("human", "q")]}, "more than one turn"),
    (sharegpt, {"conversations": [told("system", "s")]}, "no message of the user"),
    (sharegpt, {"conversations": None}, "no message of the user"),
    (sharegpt, {"chosen": {"from": "gpt", "value": [{"type": "text"}]}}, "correction is not text"),
    (
        openai_prompt,
        {"prompt": [said("user", "q"), said("assistant", "a")], **openai_no_prompt(TRIPLES[0])},
        "more than one turn",
    ),
    (texts, {"prompt": " "}, "question is blank"),
    (transcript_prompt, {"prompt": HH.format("q", "a") + "\n\nHuman: q\n\nAssistant:"}, "more than one turn"),
]


@pytest.mark.parametrize(("shape", "change", "reason"), LEFT_OUT)
def test_a_row_that_is_left_out_and_why(
    tmp_path: Path, shape: Callable[[Seed], dict[str, Any]], change: dict[str, Any], reason: str
) -> None:
    rows = [shape(TRIPLES[0]), {**shape(TRIPLES[0]), **change}, shape(TRIPLES[1])]
    WRITERS["x.jsonl"](tmp_path / "x.jsonl", rows)
    seeds, report = read(tmp_path / "x.jsonl")
    assert (seeds, report.examples) == (TRIPLES[:2], {reason: [2]})


JSON = st.recursive(
    st.none() | st.booleans() | st.text(max_size=4) | st.sampled_from(["\n\nHuman: q", "[{}]", '{"role": 1}', "user"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["prompt", "conversations", "messages", "chosen", "rejected"]), JSON))
@settings(deadline=None)
def test_any_row_has_a_triple_or_a_reason(row: dict[str, Any]) -> None:
    for model in (row, *(shape(TRIPLES[0]) for shape in SHAPES)):
        if shape := Columns().recognize(model):
            found = shape.read(row)
            assert isinstance(found, RowError) or shape.title.startswith("Aligner") or tuple(found) == FIELDS


# --- other shapes, with --columns -------------------------------------------------------------------------------------

NESTED: Rows = [
    {"a.b": {"q": row.question}, "a": {"b": {"q": "not this"}}, "list": [[row.answer], {"c": row.correction}], "n": 1}
    for row in TRIPLES
]
NESTED_PATHS = dict(zip(FIELDS, ("a.b.q", "list.0.0", "list.-1.c"), strict=True))
GIVEN = "question=a.b.q,answer=list.0.0,correction=list.-1.c"


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv"])
def test_paths_into_objects_and_lists(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, NESTED)
    assert read(tmp_path / name, NESTED_PATHS) == (TRIPLES, SeedReport(3, 3))


def test_paths_into_parquet_beside_values_that_python_has_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    when = pl.Series([datetime(2026, 1, 1, tzinfo=UTC)] * 3)
    frame = pl.DataFrame([ultrafeedback(row) for row in TRIPLES]).with_columns(
        pl.struct(pl.col("chosen"), when.alias("when"), pl.lit(b"\xff").alias("bytes")).alias("deep.er")
    )
    frame.write_parquet(tmp_path / "x.parquet")
    paths = {
        "question": "deep.er.chosen.0.content",
        "answer": "rejected.-1.content",
        "correction": "messages.1.content",
    }
    assert read(tmp_path / "x.parquet", paths)[0] == TRIPLES
    monkeypatch.setattr(row_files, "MESSAGES_SLICE", 2)
    assert read(tmp_path / "x.parquet", paths)[0] == TRIPLES
    WRITERS["x.parquet"](tmp_path / "y.parquet", [texts(row) for row in TRIPLES])
    assert (
        read(tmp_path / "y.parquet", {"question": "prompt", "answer": "chosen", "correction": "rejected"})[1].kept == 3
    )


def test_prepare_with_columns(bench: Bench) -> None:
    rows = [*NESTED, {**NESTED[0], "list": []}, {**NESTED[0], "list": [[7], {"c": "c"}]}]
    done = prepare(bench, "mine.json", rows, "--columns", GIVEN, "--json")
    assert (done.code, done.json["kept"]) == (0, 3)
    assert done.json["left_out"] == {"answer is missing": 1, "answer is not text": 1}
    assert "Read as question = a.b.q, answer = list.0.0, correction = list.-1.c.\n" in done.err
    assert prepare(bench, "mine.json", rows, "--columns", GIVEN, "--json").json["unchanged"]
    swapped = "question=a.b.q,answer=list.-1.c,correction=list.0.0"
    assert prepare(bench, "mine.json", rows, "--columns", swapped).code == 0  # other columns are other seeds
    assert bench.rows("round1/round1_single_turn.jsonl")[0]["answer"] == TRIPLES[0].correction


@pytest.mark.parametrize("name", WRITERS)
def test_a_path_that_finds_nothing_in_any_row_is_refused(bench: Bench, name: str) -> None:
    rows = [texts(row) for row in TRIPLES]
    done = prepare(
        bench, f"mine{Path(name).suffix}", rows, "--columns", "question=promt,answer=rejected,correction=chosen"
    )
    assert (done.code, done.out) == (2, "")
    assert "promt" in done.err
    assert "prompt, chosen, rejected" in done.err
    assert "--columns question=prompt,answer=rejected,correction=chosen" in done.err
    assert not (bench.root / "data" / "batchgen.sqlite").exists()


@pytest.mark.parametrize("name", WRITERS)
def test_a_shape_that_is_not_known_is_refused_with_a_line_to_copy(bench: Bench, name: str) -> None:
    name = f"mine{Path(name).suffix}"
    rows = [{"instruction": row.question, "bad": row.answer, "good": {"text": row.correction}} for row in TRIPLES]
    done = prepare(bench, name, rows)
    assert (done.code, done.out) == (2, "")
    assert "instruction, bad, good" in done.err
    option = done.err.split("--columns ")[1].split()[0]
    assert option == f"question=instruction,answer=bad,correction=good{'' if name.endswith('.csv') else '.text'}"
    if name.endswith(".csv"):
        option += ".text"
    assert prepare(bench, name, rows, "--columns", option).code == 0
    assert [row["correction"] for row in bench.rows("round1/round1_single_turn.jsonl")] == [
        row.correction for row in TRIPLES
    ]


@pytest.mark.parametrize("name", WRITERS)
def test_pairs_without_a_known_prompt_are_refused_with_all_columns(bench: Bench, name: str) -> None:
    rows = [{"query": row.question, "chosen": row.correction, "rejected": row.answer} for row in TRIPLES]
    done = prepare(bench, f"mine{Path(name).suffix}", rows)
    assert done.code == 2
    assert "query, chosen, rejected" in done.err
    assert "--columns question=query,answer=rejected,correction=chosen" in done.err


def test_a_csv_header_is_checked_by_its_names(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("prompt,chosen,rejected\nq,c,a\nrejected,chosen,prompt\na2,c2,q2\n")
    assert read(path)[0] == [Seed("q", "a", "c"), Seed("q2", "a2", "c2")]
    assert read(path)[1].examples == {"repeated header": [3]}
    path.write_text("chosen,rejected,chosen\nq,c,a\n")
    with pytest.raises(InputError, match="needs chosen, rejected, once each; found: chosen, rejected, chosen"):
        read(path)
    path.write_text("text,text\nq,c\n")
    with pytest.raises(InputError, match="needs text, once each; found: text, text"):
        read(path, dict.fromkeys(FIELDS, "text"))


# --- several files, memory --------------------------------------------------------------------------------------------


def test_several_files_of_a_folder(bench: Bench) -> None:
    folder = bench.root / "set"
    folder.mkdir(parents=True)
    for number, row in enumerate(TRIPLES):
        WRITERS["x.jsonl"](folder / f"train-{number}.jsonl", [{}, hh_rlhf(row)])
    done = bench.run("prepare", "--input", str(folder), "--file", "train-*.jsonl", "--all", "--json")
    assert (done.code, done.json["conversations"], done.json["read"]) == (0, 3, 6)
    assert done.json["examples"] == {RowError.NO_CHOSEN.value: [f"train-{number}.jsonl:1" for number in range(3)]}
    assert done.json["files"] == [str(folder / f"train-{number}.jsonl") for number in range(3)]
    one = bench.run("prepare", "--input", str(folder), "--file", "train-1.jsonl", "--all", "--json")
    assert (one.json["conversations"], one.json["source"]) == (1, str(folder / "train-1.jsonl"))
    for file, words in (("train-7.jsonl", "no file 'train-7.jsonl'"), ("", "is a directory")):
        refused = bench.run("prepare", "--input", str(folder), "--file", file)
        assert (refused.code, refused.out) == (2, "")
        assert words in refused.err


def test_preference_pairs_are_read_in_constant_memory(tmp_path: Path) -> None:
    noise = random.Random(1)
    rows = [ultrafeedback(Seed("q", noise.randbytes(400).hex(), "c")) for _ in range(2000)]
    WRITERS["x.jsonl"](tmp_path / "x.jsonl", rows)
    assert (tmp_path / "x.jsonl").stat().st_size > 2_000_000
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_seeds(tmp_path / "x.jsonl", SeedReport())) == 2000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


# --- from pairs to an export ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_preference_pairs_grow_into_a_dataset(bench: Bench, tmp_path: Path) -> None:
    bench.configure(ROUNDS)
    assert prepare(bench, "mine.jsonl", [hh_rlhf(row) for row in TRIPLES]).code == 0
    bench.ticks()
    assert bench.status()["complete"] == len(TRIPLES)
    done = bench.run("export", "--format", "messages", "--output", str(tmp_path / "out"), "--json")
    assert done.code == 0
    [file] = done.json["files"]
    exported = pl.read_ndjson(file["path"]).sort("id")["messages"].to_list()
    shown = [[message["content"] for message in messages if message["role"] != "system"][:2] for messages in exported]
    assert shown == [[row.question, row.correction] for row in TRIPLES]


# --- the page about seeds ---------------------------------------------------------------------------------------------

PAGE = (REPOSITORY / "docs" / "seeds.md").read_text("utf-8")
EXAMPLES = re.findall(r"```json\n(.*?)\n```", PAGE, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_of_the_page_is_the_same_triple(bench: Bench, example: str) -> None:
    [options] = re.findall(r"--columns \S+", PAGE.split("```sh")[2]) if example is EXAMPLES[-1] else [""]
    done = prepare(bench, "pairs.jsonl", [json.loads(example)], *options.split())
    assert done.code == 0
    shape, triple = done.err.splitlines()
    assert triple in PAGE.splitlines()
    if "hh-rlhf" in shape:
        assert shape in PAGE.splitlines()


def test_the_page_names_every_reason() -> None:
    reasons = {reason.value for reason in RowError} - {RowError.NO_CHOSEN.value, RowError.NO_REJECTED.value}
    assert {reason for reason in reasons if reason not in PAGE} == set()
    assert len(EXAMPLES) == 7
