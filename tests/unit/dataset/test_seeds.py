"""Test seed files: every format and compression, files that are refused, and constant memory."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import random
import tracemalloc
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.core.errors import InputError
from batchgen.dataset.rows import row_files
from batchgen.dataset.rows.row_files import file_sha256
from batchgen.dataset.seeds import Seed, SeedReport, read_seeds, sample_seeds
from tests.support.bench import REPOSITORY, SHARED
from tests.support.seed_files import (
    GOOD,
    PACKERS,
    SEEDS,
    WRITERS,
    as_csv,
    as_json,
    as_jsonl,
    as_parquet,
    read,
    refused,
    write,
)
from tests.support.slow import slow

EXAMPLES = REPOSITORY / "batchgen" / "examples.jsonl"


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of hypothesis."""
    return tmp_path_factory.mktemp("scratch")


# --- containers and compressions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize(("kind", "writer"), WRITERS)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "bom"])
def test_round_trip(tmp_path: Path, kind: str, writer: Callable[..., bytes], packing: str, mark: bytes) -> None:
    path = write(tmp_path, f"train{kind}{packing}", PACKERS[packing](mark + writer(SEEDS)))
    assert read(path) == (SEEDS, SeedReport(read=8, kept=8, copies=2))


def test_round_trip_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "a[1]*?.parquet", as_parquet(SEEDS))
    assert read(path)[0] == SEEDS
    monkeypatch.setattr(row_files, "PARQUET_SLICE", 3)
    assert read(path) == (SEEDS, SeedReport(read=8, kept=8, copies=2))


@pytest.mark.parametrize("packing", [".gz", ".xz", ".zst"])
def test_archives_of_several_parts(tmp_path: Path, packing: str) -> None:
    parts = b"".join(PACKERS[packing](as_jsonl(SEEDS[at : at + 3])) for at in range(0, len(SEEDS), 3))
    assert read(write(tmp_path, f"x.jsonl{packing}", parts))[0] == SEEDS


TEXTS = st.text(st.characters(codec="utf-8"))
TRIPLES = st.lists(st.tuples(TEXTS, TEXTS, TEXTS).map(Seed._make), max_size=5)


def cleaned(text: str) -> str:
    """The result that `core.text.clean` promises, computed in another way."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(char for char in text if char in "\t\n\x85" or unicodedata.category(char) != "Cc").strip()


def seen(text: str) -> bool:
    """Whether a text has a visible character, computed in another way; unassigned characters may be visible."""
    return any((one.isprintable() and one != " ") or unicodedata.category(one) in {"Cn", "Co"} for one in text)


@given(rows=TRIPLES, case=st.sampled_from([*WRITERS, (".parquet", as_parquet)]))
@settings(deadline=None)
def test_any_text_arrives(scratch: Path, rows: list[Seed], case: tuple[str, Callable[..., bytes]]) -> None:
    kind, writer = case
    path = write(scratch, f"any{kind}", writer([*rows, SEEDS[0]]))
    expected = [Seed(*map(cleaned, row)) for row in [*rows, SEEDS[0]]]
    assert read(path)[0] == [row for row in expected if all(map(seen, row))]


@given(
    data=st.binary(max_size=200),
    kind=st.sampled_from([".jsonl", ".json", ".csv"]),
    packing=st.sampled_from([*PACKERS]),
    packed=st.booleans(),
)
@settings(deadline=None)
def test_noise_is_an_input_error(scratch: Path, data: bytes, kind: str, packing: str, *, packed: bool) -> None:
    path = write(scratch, f"noise{kind}{packing}", PACKERS[packing](data) if packed else data)
    with pytest.raises(InputError):
        read(path)


# --- files that are refused as a whole --------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", [".gz", ".xz", ".zst"])
def test_archive_cut_anywhere(tmp_path: Path, packing: str) -> None:
    whole = PACKERS[packing](as_jsonl(SEEDS[:4]))
    for length in range(1, len(whole), 7):
        assert "cannot be used" in refused(write(tmp_path, f"cut.jsonl{packing}", whole[:length]))
    refused(write(tmp_path, f"cut.jsonl{packing}", whole[:-1]))
    refused(write(tmp_path, f"cut.jsonl{packing}", b""))


def test_archive_cut_late_gives_rows_before_it_is_refused(tmp_path: Path) -> None:
    whole = lzma.compress(as_jsonl(Seed(f"q{n}", f"{n * 7919 % 10_007}", "c") for n in range(5000)), preset=0)
    report = SeedReport()
    rows = read_seeds(write(tmp_path, "x.jsonl.xz", whole[:-20]), report)
    with pytest.raises(InputError, match="ended before"):
        list(rows)
    assert report.kept > 1000


@pytest.mark.parametrize("packing", [".gz", ".xz", ".zst"])
def test_archive_with_one_wrong_byte(tmp_path: Path, packing: str) -> None:
    whole = PACKERS[packing](as_jsonl(SEEDS[:4]))
    refusals = 0
    for at in range(0, len(whole), 3):
        path = write(tmp_path, f"x.jsonl{packing}", whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            rows, _ = read(path)
        except InputError:
            refusals += 1
        else:  # for example a date in a header; zstd has a checksum only if the writer asks for one
            assert rows == SEEDS[:4] or packing == ".zst"
    assert refusals > (len(whole) // 30 if packing == ".zst" else len(whole) // 3 - 20)


@pytest.mark.parametrize("packing", [".gz", ".xz", ".zst"])
def test_what_is_no_archive_at_all(tmp_path: Path, packing: str) -> None:
    refused(write(tmp_path, f"plain.jsonl{packing}", as_jsonl(SEEDS[:2])))
    refused(write(tmp_path, f"pointer.jsonl{packing}", b"version https://git-lfs.github.com/spec/v1\nsize 3"))


def test_array_torn_anywhere(tmp_path: Path) -> None:
    whole = as_json(SEEDS[3:4])
    for length in range(len(whole)):
        refused(write(tmp_path, "x.json", whole[:length]))


@pytest.mark.parametrize("tail", ["[]", ",", "x", "]", '{"question":"q"}'])
def test_array_with_a_tail(tmp_path: Path, tail: str) -> None:
    assert "after row 2" in refused(write(tmp_path, "x.json", as_json(SEEDS[:2]) + tail.encode()))


@pytest.mark.parametrize("data", [f"[{GOOD}[{GOOD}]", "[1 2]", "[,]", "[[}]", "[" * 100_000, "[{} {}]", "[]"])
def test_array_that_is_none(tmp_path: Path, data: str) -> None:
    refused(write(tmp_path, "x.json", data))


def test_parquet_that_is_broken(tmp_path: Path) -> None:
    whole = as_parquet(SEEDS)
    for data in (b"", b"PAR1", whole[: len(whole) // 2], whole[:-1], b"\0" * 1000):
        refused(write(tmp_path, "x.parquet", data))


@pytest.mark.fault(
    46,
    "a Parquet file whose rows are gone and whose footer is whole; polars panics",
    injected="seed file",
    seen="status 2, one line with the file's name; nothing of the panic reaches stderr",
)
def test_a_panic_of_polars_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = as_parquet([Seed(*(random.Random(name).randbytes(5000).hex() for name in Seed._fields))])
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    said = refused(write(tmp_path, "x.parquet", b"PAR1" + whole[-footer:]))
    assert said.startswith("x.parquet cannot be used: polars cannot read it")
    assert len(said) < 400
    assert capfd.readouterr() == ("", "")


@pytest.mark.fault(
    47,
    "a Parquet column that nobody needs has a time zone that polars does not know",
    injected="seed file",
    seen="every row is read",
)
@pytest.mark.parametrize("zone", ["+02:30", "Not/AZone"])
def test_a_parquet_column_that_nobody_needs_never_decides(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], zone: str
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    when = pyarrow.array([0] * len(SEEDS), pyarrow.timestamp("us", tz=zone))
    columns = {"created_at": when, **{name: [getattr(row, name) for row in SEEDS] for name in Seed._fields}}
    parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet")[0] == SEEDS
    columns["answer"] = when
    parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    assert f"{len(SEEDS)} answer is not text" in refused(tmp_path / "x.parquet")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("x.csv", "question,answer\na,b\n", "found: question, answer"),
        ("x.csv", "question;answer;correction\na;b;c\n", "found: question;answer;correction"),
        ("x.csv", "question,answer,correction,answer\na,b,c,d\n", "once each"),
        ("x.csv", "\nquestion,answer,correction\na,b,c\n", "found: none"),
        ("x.csv", "", "it is empty"),
        ("x.csv", "question,answer,correction\n", "it is empty"),
        ("x.csv", 'question,answer,correction\na,b,c\n"d" oh,e,f\n', "begins at line 3"),
        ("x.csv", 'question,answer,correction\n"a\nb",b,c\nd,e,"never\nclosed\n', "begins at line 4"),
        ("x.jsonl", "", "it is empty"),
        ("x.jsonl", "\n \n\r\n", "it is empty"),
        ("x.jsonl", "[1]\n{}\n{}\n", "1 not an object, 2 question is missing"),
        ("x.json", '{"rows": []}', "array of rows"),
        ("x.json", '\n{\n"rows": [\n{"question": "q"}]}\n', "array of rows"),
        ("x.json", " [\n] ", "it is empty"),
        ("x.json", '{"question": "q", "answer": "a"}', "1 correction is missing; line 1 has question, answer."),
        ("x.jsonl", '\n{"Question": "q", "id": 1}\n{}\n', "2 question is missing; line 2 has Question, id."),
        ("x.jsonl", "{}\n", "1 question is missing; line 1 has no keys."),
        ("x.jsonl", "{torn\n", "1 unreadable; see line 1."),
        ("x.csv", "question,answer,correction\na,b\n", "1 wrong number of columns; see line 2."),
        ("x.jsonl", '{"a\\nb\\u001b[1m": 1}\n', "line 1 has ab[1m."),
    ],
)
def test_says_why_a_file_is_refused(tmp_path: Path, name: str, data: str, says: str) -> None:
    assert says in refused(write(tmp_path, name, data))


def test_parquet_with_wrong_columns(tmp_path: Path) -> None:
    pl.DataFrame({"question": ["q"], "text": ["t"]}).write_parquet(tmp_path / "x.parquet")
    assert "found: question, text" in refused(tmp_path / "x.parquet")


@pytest.mark.parametrize("name", ["x.txt", "x", ".jsonl", "x.jsonl.bz2", "x.xz", "x.parquet.gz", "jsonl"])
def test_unknown_kind_is_refused_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="unknown format") as caught:
        read_seeds(write(tmp_path, name, as_jsonl(SEEDS)), SeedReport())
    assert ".jsonl" in caught.value.do


def test_no_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    for name, says in {
        "folder.jsonl": "is a directory",
        "none.jsonl": "does not exist",
        "x.jsonl/y.jsonl": "not",
    }.items():
        with pytest.raises(InputError, match=says):
            read_seeds(tmp_path / name, SeedReport())
        with pytest.raises(InputError, match=says):
            file_sha256(tmp_path / name)


def test_a_pipe_is_refused_before_it_is_waited_for(tmp_path: Path) -> None:
    """It cannot be read twice, and perhaps no process ever writes to it."""
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(InputError, match="is not a file"):
        file_sha256(tmp_path / "pipe.jsonl")


def test_suffixes_in_capitals(tmp_path: Path) -> None:
    assert read(write(tmp_path, "v1.2.TRAIN.JSONL.GZ", gzip.compress(as_jsonl(SEEDS))))[0] == SEEDS


def test_fingerprint_is_of_the_bytes(tmp_path: Path) -> None:
    data = gzip.compress(as_jsonl(SEEDS))
    assert file_sha256(write(tmp_path, "x.jsonl.gz", data)) == hashlib.sha256(data).hexdigest()


# --- memory -----------------------------------------------------------------------------------------------------------


def peak_bytes(rows: Iterator[Seed]) -> int:
    """The peak of Python memory while all rows are read."""
    tracemalloc.start()
    try:
        for _ in rows:
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "packer"),
    [
        ("x.jsonl", bytes),
        slow("x.jsonl.gz", gzip.compress),
        slow("x.jsonl.xz", lambda data: lzma.compress(data, preset=0)),  # the window of preset 6 alone is 8 MB
        slow("x.jsonl.zst", zstandard.compress),
        ("x.csv", bytes),
    ],
)
def test_streams_in_constant_memory(tmp_path: Path, name: str, packer: Callable[[bytes], bytes]) -> None:
    noise = random.Random(1)
    rows = [Seed("q", noise.randbytes(1000).hex(), "c") for _ in range(1500)]
    data = as_csv(rows) if ".csv" in name else as_jsonl(rows)
    path = write(tmp_path, name, packer(data))
    assert len(data) > 3_000_000
    assert peak_bytes(read_seeds(path, SeedReport())) < 1_000_000


def test_sample_holds_no_more_than_its_limit() -> None:
    rows = (Seed(str(n), "a" * 1000, f"{n}" * 100) for n in range(20_000))
    assert peak_bytes(sample_seeds(rows, limit=20, sample_seed=1, shuffle=True)) < 200_000


# --- the shipped examples, and real rows if they exist ----------------------------------------------------------------


def is_chinese(text: str) -> bool:
    return any("\u4e00" <= char <= "\u9fff" for char in text)


def test_shipped_examples() -> None:
    rows, report = read(EXAMPLES)
    assert report == SeedReport(read=36, kept=36, copies=1)
    assert sum(is_chinese(row.question) for row in rows) >= 12
    assert [is_chinese(row.question) for row in rows[:10]].count(True) == 1  # the model of the demo knows English only
    assert sum(row.answer == row.correction for row in rows) == 1
    assert all(130 <= len(row.correction) <= 450 for row in rows)
    data = EXAMPLES.read_bytes()
    assert as_jsonl(rows) == data.replace(b'","', b'", "').replace(b'":"', b'": "')
    text = data.decode()
    hostile = [
        "<script>",
        "{0}",
        "%s",
        "[INST]",
        "gnore previous instructions",
        "\u2028",
        "\u200d",
        "```",
        "| --- |",
        "🙏",
    ]
    assert not [mark for mark in hostile if mark not in text]


FILES = {
    EXAMPLES: 36,
    SHARED / "aligner20k/train.sample200.jsonl.xz": 200,
    SHARED / "aligner20k/round1_single_turn.jsonl": 200,
    SHARED / "aligner20k/aligner_template_2.json": 2,
    SHARED / "oasst1_rm_zh_triples.jsonl": 775,
}


@pytest.mark.parametrize(("path", "count"), [(path, count) for path, count in FILES.items() if path.exists()])
def test_real_rows_arrive_unchanged(path: Path, count: int) -> None:
    rows, report = read(path)
    assert (len(rows), report.left_out, report.replaced_surrogates) == (count, {}, 0)
    assert rows == [Seed(*map(cleaned, row)) for row in rows]
