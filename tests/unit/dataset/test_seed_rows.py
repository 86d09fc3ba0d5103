"""Test single rows of seed files: rows that are left out and why, texts that are changed, and the report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import polars as pl
import pytest

from batchgen.core.errors import InputError
from batchgen.dataset import seeds
from batchgen.dataset.rows import row_files
from batchgen.dataset.seeds import Seed, SeedReport, read_seeds
from tests.support.seed_files import GOOD, as_jsonl, read, refused, write

NO_SEEDS = {
    '{"question":"q","answer":"a","corr': "unreadable",
    GOOD + GOOD: "unreadable",
    "not json": "unreadable",
    '{"question":"\\ud83d","answer":"a","corr': "unreadable",
    '{"question":"tab\tinside","answer":"a","correction":"c"}': "unreadable",
    "[" * 5000 + "\\u0000": "unreadable",
    "3": "not an object",
    "NaN": "not an object",
    "null": "not an object",
    '"unreadable"': "not an object",
    "[]": "not an object",
    '["q","a","c"]': "not an object",
    "{}": "question is missing",
    '{"question":"q","answer":"a"}': "correction is missing",
    '{"question":"q","answer":null,"correction":"c"}': "answer is missing",
    '{"Question":"q","answer":"a","correction":"c"}': "question is missing",
    '{"question":1,"answer":"a","correction":"c"}': "question is not text",
    '{"question":NaN,"answer":"a","correction":"c"}': "question is not text",
    '{"question":"q","answer":-Infinity,"correction":"c"}': "answer is not text",
    '{"question":"question","answer":" answer","correction":"correction"}': "repeated header",
    '{"question":"q","answer":["a"],"correction":"c"}': "answer is not text",
    '{"question":"q","answer":"a","correction":false}': "correction is not text",
    '{"question":"","answer":"a","correction":"c"}': "question is blank",
    '{"question":"q","answer":" \\n\\t\\u3000\\u2028","correction":"c"}': "answer is blank",
    '{"question":"q","answer":"a","correction":"\\u0000\\u001f \\r"}': "correction is blank",
    '{"question":"\\u200b\\ufeff","answer":"a","correction":"c"}': "question is blank",
}


@pytest.mark.parametrize(("line", "reason"), NO_SEEDS.items(), ids=range(len(NO_SEEDS)))
def test_a_line_left_out_costs_no_other(tmp_path: Path, line: str, reason: str) -> None:
    rows, report = read(write(tmp_path, "x.jsonl", f"\ufeff{GOOD}\r\n\n{line}\n  \n{GOOD}"))
    assert rows == [Seed("q", "a", "c")] * 2
    assert report == SeedReport(3, 2, {reason: 1}, {reason: [3]}, copies=1)


@pytest.mark.parametrize(
    ("row", "reason"),
    [(row, reason) for row, reason in NO_SEEDS.items() if reason != "unreadable"],
)
def test_an_element_left_out_costs_no_other(tmp_path: Path, row: str, reason: str) -> None:
    rows, report = read(write(tmp_path, "x.json", f"\ufeff\n[{GOOD},\n\n{row} , {GOOD}\n]\n"))
    assert rows == [Seed("q", "a", "c")] * 2
    assert report == SeedReport(3, 2, {reason: 1}, {reason: [2]}, copies=1)


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
@pytest.mark.parametrize("value", ["NaN", "-Infinity", '[{"a":Infinity}]', "1" * 5000, "-1e999"])
def test_a_number_that_nobody_needs_costs_no_row(tmp_path: Path, name: str, value: str) -> None:
    """Other programs write these numbers into JSON, and `datasets` and pandas read them."""
    rows = [
        f'{GOOD[:-1]},"score":{value}}}',
        GOOD,
        f'{{"score":{value},"question":"\\ud83d","answer":"a","correction":"c"}}',
    ]
    found, report = read(write(tmp_path, name, "\n".join(rows) if name == "x.jsonl" else f"[{','.join(rows)}]"))
    assert found == [Seed("q", "a", "c"), Seed("q", "a", "c"), Seed("\ufffd", "a", "c")]
    assert report.left_out == {}


@pytest.mark.fault(
    48,
    "two seed files put together with cat: a byte order mark and a header inside",
    injected="seed file",
    seen="the mark is taken off; the header is left out as a repeated header, with its line; no other row is lost",
)
@pytest.mark.parametrize("second", ["question,answer,correction", 'correction, "id",answer,question'])
def test_two_csv_files_in_one(tmp_path: Path, second: str) -> None:
    """The rows after a second header are read by its column names, in any order."""
    names = [name.strip(' "') for name in second.split(",")]
    row = ",".join({"question": '"q,\n\ufeff2"', "answer": "a2", "correction": "c2"}.get(name, "7") for name in names)
    text = f'\ufeff"question","answer","correction"\r\nq1,a1,c1\r\n\ufeff{second}\r\n{row}\n\ufeff"q\n3",a3,c3\n'
    if "id" in names:
        text = text.replace('\ufeff"q\n3",a3,c3', '\ufeff"c\n3",8,a3,q3')
    rows, report = read(write(tmp_path, "x.csv", text))
    last = Seed("q3", "a3", "c\n3") if "id" in names else Seed("q\n3", "a3", "c3")
    assert rows == [Seed("q1", "a1", "c1"), Seed("q,\n\ufeff2", "a2", "c2"), last]
    assert report.examples == {"repeated header": [3]}


def test_two_json_lines_files_in_one(tmp_path: Path) -> None:
    rows, report = read(write(tmp_path, "x.jsonl", f"\ufeff{GOOD}\n\ufeff{GOOD}\n\ufeff\n"))
    assert rows == [Seed("q", "a", "c")] * 2
    assert report == SeedReport(2, 2, copies=1)


@pytest.mark.parametrize("junk", [b"\xff", b"\xc3", b"\xed\xa0\xbd", b"\xf8\x88\x80\x80\x80"])
@pytest.mark.parametrize(
    ("name", "parts", "line"),
    [
        ("x.jsonl", (b"", GOOD.encode() + b"\n", b""), 2),
        ("x.json", (b"[", GOOD.encode() + b",", b"{}]"), 2),
        ("x.csv", (b"question,answer,correction\n", b'"q","a","c"\n', b""), 3),
    ],
)
def test_invalid_utf8_costs_one_row(
    tmp_path: Path, junk: bytes, name: str, parts: tuple[bytes, bytes, bytes], line: int
) -> None:
    before, row, after = parts
    data = before + row + row.replace(b'"a"', b'"' + junk + b'"') + row + after
    rows, report = read(write(tmp_path, name, data))
    assert rows == [Seed("q", "a", "c")] * 2
    assert report.examples["unreadable"] == [line]


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_lone_surrogates_are_replaced_and_counted(tmp_path: Path, name: str) -> None:
    rows = [
        '{"question":"\\ud83d","answer":"\\ude00\\ud83d!","correction":"\\ud83d\\ude00 \\uD83D"}',
        '{"question":"q","answer":"a","correction":"c","\\udfff":"\\ud800"}',
        '{"question":"\\ud800","answer":"","correction":"c"}',
    ]
    text = "\n".join(rows) if name == "x.jsonl" else f"[{','.join(rows)}]"
    found, report = read(write(tmp_path, name, text))
    assert found == [Seed("\ufffd", "\ufffd\ufffd!", "\U0001f600 \ufffd"), Seed("q", "a", "c")]
    assert report == SeedReport(3, 2, {"answer is blank": 1}, {"answer is blank": [3]}, replaced_surrogates=4)


def test_control_characters_and_line_ends(tmp_path: Path) -> None:
    row = {
        "question": " \ufeffa\0b\x1bc\x7f\x80 ",
        "answer": "1\r\n2\r3\n4\t5",
        "correction": "\x0b\x0cx\u2028y\u200d",
    }
    rows, _ = read(write(tmp_path, "x.jsonl", json.dumps(row)))
    assert rows == [Seed("\ufeffabc", "1\n2\n3\n4\t5", "x\u2028y\u200d")]


def test_extra_keys_are_ignored(tmp_path: Path) -> None:
    row = {
        "id": "r1-000001",
        "question": "q",
        "history": [["u", "a"]],
        "answer": "a",
        "correction": "c",
        "source": None,
    }
    assert read(write(tmp_path, "x.jsonl", json.dumps(row)))[0] == [Seed("q", "a", "c")]


def test_the_hint_for_a_csv_says_how_one_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        list(read_seeds(write(tmp_path, "x.csv", "question;answer;correction\na;b;c\n"), SeedReport()))
    assert "commas" in caught.value.do
    with pytest.raises(InputError) as caught:
        list(read_seeds(write(tmp_path, "x.jsonl", "no json\n"), SeedReport()))
    assert "commas" not in caught.value.do


def test_csv_lines_are_physical(tmp_path: Path) -> None:
    text = (
        "id, correction ,answer,question\r\n"  # 1
        "1,c1,a1,q1\r\n"
        '2,"c2\r\nis ""two"" lines, long",a2,q2\r\n'  # 3 and 4
        "\r\n"
        "3,c3,,q3\r\n"  # 6
        '4,"c\n\n4",q4\r\n'  # 7 to 9
        "5,an unquoted, comma,a5,q5\r\n"  # 10
        "6,c6,a6,q6"
    )
    rows, report = read(write(tmp_path, "x.csv", text))
    assert rows == [Seed("q1", "a1", "c1"), Seed("q2", "a2", 'c2\nis "two" lines, long'), Seed("q6", "a6", "c6")]
    assert report.examples == {"answer is blank": [6], "wrong number of columns": [7, 10]}


def test_parquet_rows_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_files, "PARQUET_SLICE", 2)
    frame = pl.DataFrame({"n": [1, 2, 3, 4, 5], "answer": ["a", None, " ", "a", "a"]})
    frame.with_columns(question=pl.lit("q"), correction=pl.lit("c")).write_parquet(tmp_path / "x.parquet")
    rows, report = read(tmp_path / "x.parquet")
    assert rows == [Seed("q", "a", "c")] * 3
    assert report.examples == {"answer is missing": [2], "answer is blank": [3]}
    frame.with_columns(question=pl.col("n"), correction=pl.lit("c")).write_parquet(tmp_path / "x.parquet")
    assert "5 question is not text" in refused(tmp_path / "x.parquet")


def test_report_keeps_twenty_lines_per_reason(tmp_path: Path) -> None:
    _, report = read(write(tmp_path, "x.jsonl", f"{GOOD}\n" + "{\n" * 1000 + "[]\n" * 3))
    assert report.left_out == {"unreadable": 1000, "not an object": 3}
    assert report.examples == {"unreadable": [*range(2, 22)], "not an object": [1002, 1003, 1004]}
    assert json.loads(json.dumps(dataclasses.asdict(report)))["read"] == 1004


def test_report_fills_as_rows_pass(tmp_path: Path) -> None:
    report = SeedReport()
    rows = read_seeds(write(tmp_path, "x.jsonl", f"{{\n{GOOD}\n{GOOD}\n"), report)
    assert report == SeedReport()
    next(rows)
    assert (report.read, report.kept, report.left_out) == (2, 1, {"unreadable": 1})


def test_copies_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "MAX_REMEMBERED_QUESTIONS", 2)
    path = write(tmp_path, "x.jsonl", as_jsonl(Seed(question, "a", "c") for question in "abcabca"))
    assert read(path)[1].copies == 3


def test_left_out_is_a_value() -> None:
    report = SeedReport()
    report.leave_out(7, "unreadable")
    assert (report.left_out, report.examples) == ({"unreadable": 1}, {"unreadable": [7]})
