"""Compare an export and a receipt with the store: `verify` finds every later change."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import polars as pl
import pytest

from batchgen.dataset import export as exporting
from batchgen.dataset import round_files, verify_exports
from batchgen.dataset.formats import FORMATS
from batchgen.ledger.store import Store
from batchgen.runtime.files import Layout
from tests.support.finished_run import REJECTED, export, problems, records

if TYPE_CHECKING:
    from tests.support.bench import Bench


def spoil(path: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    rows = records(path)
    change(rows)
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[1].update(answer="Something else."), "answer: differs from the store"),
        (lambda rows: rows[1].update(round=3), "round 3 does not exist or is there twice"),
        (lambda rows: rows[1].update(round=[4]), "round [4] does not exist"),
        (lambda rows: rows[0].update(id="r1-999999"), "not a conversation of this run"),
        (lambda rows: rows[0].update(id=f"r1-00000{REJECTED}"), "the conversation is not complete"),
        (lambda rows: rows[0].update(id="r1-1"), "not a conversation of this run"),
        (lambda rows: rows[0].update(id=7), "not a conversation of this run"),
        (lambda rows: rows[0].pop("answer"), "not a record of any format"),
        (lambda rows: rows.append(rows[0]), "is there twice"),
        (lambda rows: rows.pop(), "the card says"),
        (lambda rows: rows.__setitem__(0, [1]), "not a record of any format"),
    ],
)
def test_verify_exports_sees(change: Callable[[Any], Any], words: str, finished: Bench, tmp_path: Path) -> None:
    export(finished, "aligner", tmp_path / "out")
    assert problems(finished, tmp_path / "out") == []
    spoil(tmp_path / "out" / "train.jsonl", change)
    found = problems(finished, tmp_path / "out")
    assert found
    assert any(words in problem for problem in found), found


def test_verify_exports_sees_files_that_are_none(finished: Bench, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(finished, "messages", out, "--test-share", "0.3")
    spoil(out / "train.jsonl", lambda rows: rows[0]["flags"].append("nonsense"))
    assert any("unknown flags" in problem for problem in problems(finished, out))
    shutil.copy(out / "train.jsonl", out / "test.jsonl")
    assert any("is also in" in problem for problem in problems(finished, out))
    (out / "train.jsonl").write_bytes(b"{torn\n")
    assert any("cannot be read" in problem for problem in problems(finished, out))
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    assert any("cannot be read" in problem for problem in problems(finished, tmp_path / "torn.parquet"))
    assert any("cannot be read" in problem for problem in problems(finished, tmp_path / "absent.jsonl"))
    (tmp_path / "empty").mkdir()
    assert problems(finished, tmp_path / "empty") == [f"{tmp_path / 'empty'}: no .jsonl or .parquet file"]


def test_an_export_beside_another_is_verified_alone(finished: Bench, tmp_path: Path) -> None:
    export(finished, "messages", tmp_path / "out" / "one.jsonl")
    export(finished, "aligner", tmp_path / "out", "--test-share", "0.3")
    assert finished.run("verify").code == 0
    (tmp_path / "out" / "test.jsonl").unlink()
    assert problems(finished, tmp_path / "out") == [
        f"{tmp_path / 'out'}: the card names test, but there is no such file"
    ]


@pytest.mark.slow
def test_chunks_do_not_change_an_export(finished: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for form, suffix in (("messages", ".jsonl"), ("parquet", ".parquet")):
        export(finished, form, tmp_path / f"whole{suffix}")
        with monkeypatch.context() as patch:
            patch.setattr(exporting, "CHUNK", 2)
            patch.setattr(verify_exports, "CHUNK", 2)
            export(finished, form, tmp_path / f"chunks{suffix}")
            assert problems(finished, tmp_path / f"chunks{suffix}") == []
        assert records(tmp_path / f"whole{suffix}") == records(tmp_path / f"chunks{suffix}")


@pytest.mark.slow
def test_verify_covers_the_exports_that_are_still_there(finished: Bench, tmp_path: Path) -> None:
    """Every format at its path; a changed file is reported, a deleted one is not."""
    for form in FORMATS:
        export(finished, form, tmp_path / form, "--test-share", "0.2")
    single = tmp_path / "one.parquet"
    export(finished, "parquet", single)
    assert finished.run("verify").code == 0
    spoil(tmp_path / "aligner" / "train.jsonl", lambda rows: rows[0].update(correction="Something else."))
    single.write_bytes(b"PAR1")
    found = finished.run("verify", "--json")
    assert found.code == 1
    assert sorted(str(tmp_path) in problem for problem in found.json["problems"]) == [True, True]
    assert "correction: differs from the store" in found.out
    shutil.rmtree(tmp_path / "aligner")
    export(finished, "parquet", single)
    assert finished.run("verify").code == 0


def test_verify_reads_columns_a_few_rows_at_a_time(
    finished: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row is read, also if the last group is full; of a file of another format, none."""
    path = tmp_path / "one.parquet"
    export(finished, "parquet", path)
    rows = pl.read_parquet(path)
    for size in (1, 3, rows.height, rows.height + 1):
        monkeypatch.setattr(verify_exports, "ROW_GROUP", size)
        assert problems(finished, path) == []
        rows.vstack(rows.tail(1)).write_parquet(tmp_path / "twice.parquet")
        (said,) = problems(finished, tmp_path / "twice.parquet")
        assert f"{rows['id'][-1]}: round 3 does not exist or is there twice" in said
    rows.with_columns(pl.col("question").arr.to_list()).write_parquet(path)
    (said,) = problems(finished, path)
    assert "cannot be read (its columns are" in said


def test_verify_sees_a_receipt_that_was_changed(finished: Bench) -> None:
    path = finished.root / "data" / "receipt.json"
    before = path.read_bytes()
    path.write_bytes(before.replace(b'"usd": 0.', b'"usd": 1.', 1))
    assert "receipt.json: differs from the store" in finished.run("verify").out
    path.unlink()
    assert finished.run("verify").code == 1
    assert finished.run("collect").code == 0
    assert path.read_bytes() == before
    assert finished.run("verify").code == 0


@pytest.mark.parametrize("change", ["list", "program"])
def test_verify_writes_the_receipt_anew_after_an_update(
    finished: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: str
) -> None:
    """A shipped price list with other dates, and a store whose program wrote no receipt yet."""
    path = finished.root / "data" / "receipt.json"
    before = path.read_bytes()
    if change == "list":
        shipped = tmp_path / "prices.toml"
        shipped.write_bytes(round_files.PRICE_LIST.read_bytes() + b"# seen again\n")
        monkeypatch.setattr(round_files, "PRICE_LIST", shipped)
        path.write_bytes(before.replace(b"2026", b"2025"))
    else:
        path.unlink()
        with closing(Store.open(Layout(finished.root).store)) as store:
            store.delete_fact(round_files.RECEIPT_INPUTS_FACT)
    assert finished.run("verify").code == 0
    assert path.read_bytes() == before
