"""Test the sources of seeds (a path or a dataset of the Hugging Face hub) and how a sample is drawn."""

from __future__ import annotations

import hashlib
import logging
import lzma
import os
import subprocess
import sys
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from batchgen.core.errors import InputError
from batchgen.dataset import seed_sources
from batchgen.dataset.rows.row_files import file_sha256
from batchgen.dataset.seed_sources import named_files, resolve, train_files
from batchgen.dataset.seeds import Seed, SeedReport, read_seeds, sample_seeds
from tests.support.bench import REPOSITORY, Bench
from tests.support.fork_server import Forks
from tests.support.hub import Hub, running_hub
from tests.support.seed_files import GOOD, SEEDS, as_csv, as_jsonl, read, write

# --- draw -------------------------------------------------------------------------------------------------------------

TEN = [Seed(str(n), "a", "c") for n in range(10)]


def drawn(limit: int | None, *, sample_seed: int = 42, shuffle: bool = True, rows: list[Seed] = TEN) -> str:
    return " ".join(
        seed.question for seed in sample_seeds(iter(rows), limit=limit, sample_seed=sample_seed, shuffle=shuffle)
    )


def test_everything_in_file_order_without_a_limit() -> None:
    assert drawn(None) == drawn(None, shuffle=False) == "0 1 2 3 4 5 6 7 8 9"


def test_the_first_in_file_order_without_shuffling() -> None:
    assert drawn(3, shuffle=False) == "0 1 2"
    assert drawn(30, shuffle=False) == "0 1 2 3 4 5 6 7 8 9"


def test_a_sample_is_the_same_everywhere_and_grows_at_its_end() -> None:
    assert drawn(4) == "1 9 7 3"
    assert drawn(10) == drawn(99) == "1 9 7 3 2 8 0 5 4 6"
    for sample_seed in range(20):
        samples = [drawn(limit, sample_seed=sample_seed).split() for limit in range(1, 11)]
        assert all(samples[-1][:limit] == sample for limit, sample in enumerate(samples, start=1))
        assert sorted(samples[-1]) == drawn(None).split()


def test_samples_are_uniform_in_rows_and_in_order() -> None:
    places: Counter[tuple[int, str]] = Counter()
    for sample_seed in range(1000):
        places.update(enumerate(drawn(3, sample_seed=sample_seed).split()))
    assert len(places) == 30
    # Each of 10 rows at each of 3 places: 100 +- 9.5 expected. The seeds are fixed, so this test is deterministic.
    assert all(60 < count < 140 for count in places.values())
    assert sum((count - 100) ** 2 / 100 for count in places.values()) < 60


def test_draw_takes_no_more_than_it_needs() -> None:
    taken: list[str] = []
    source = (taken.append(seed.question) or seed for seed in TEN)  # type: ignore[func-returns-value]
    assert list(sample_seeds(source, limit=3, sample_seed=1, shuffle=False)) == TEN[:3]
    assert taken == ["0", "1", "2"]
    assert next(sample_seeds(source, limit=None, sample_seed=1, shuffle=True)) == TEN[3]
    assert taken == ["0", "1", "2", "3"]


def test_reading_stops_where_the_limit_is_reached(tmp_path: Path) -> None:
    report = SeedReport()
    rows = read_seeds(write(tmp_path, "x.jsonl", f"{GOOD}\n{GOOD}\n{{\n"), report)
    assert len(list(sample_seeds(rows, limit=2, sample_seed=1, shuffle=False))) == 2
    assert report == SeedReport(2, 2, copies=1)


# --- location of a source ---------------------------------------------------------------------------------------------


def test_a_path_that_exists_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seed_sources, "_download_dataset", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "aligner").mkdir()
    write(tmp_path, "aligner/aligner-20K", "x")
    assert resolve("aligner/aligner-20K") == [Path("aligner/aligner-20K")]


NO_PATHS = [
    "x.jsonl",
    "owner/x.jsonl",
    "owner/x.csv.GZ",
    "./owner/name",
    "../owner/name",
    "/owner/name",
    "~/owner/name",
]
NO_DATASETS = ["", "name", "a/b/c", "owner/", "-/x", "a b/x", "a\0/b", "owner/name\n", "https://example.org/x"]


@pytest.mark.parametrize("source", [*NO_PATHS, *NO_DATASETS, "owner/" + "x" * 5000 + ".jsonl"])
def test_what_looks_like_a_path_is_never_asked_for(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seed_sources, "_download_dataset", None)
    with pytest.raises(InputError, match="no such file"):
        resolve(source)


def test_the_train_file_is_found(caplog: pytest.LogCaptureFixture) -> None:
    names = [".gitattributes", "README.md", "test.jsonl", "data/train-00000-of-00001.parquet", "train.txt"]
    assert train_files("o/n", names) == ["data/train-00000-of-00001.parquet"]
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert train_files("o/n", ["b/train.csv", "a/train.json.xz"]) == ["a/train.json.xz"]
    assert "o/n: only a/train.json.xz is read; --file takes another: b/train.csv." in caplog.messages
    with pytest.raises(InputError, match="o/n has no train file"):
        train_files("o/n", ["README.md", "test.jsonl", "train.py"])


@pytest.mark.parametrize(
    "name", ["d/train-{:05}-of-00012.parquet", "train_{}.jsonl", "train.{}.json.gz", "train-{}.csv"]
)
def test_all_parts_of_the_train_file_are_read_in_order(name: str, caplog: pytest.LogCaptureFixture) -> None:
    parts = [name.format(number) for number in range(12)]
    assert train_files("o/n", sorted(parts, reverse=True)) == parts
    assert not caplog.records


def test_parts_of_another_split_are_named_and_not_read(caplog: pytest.LogCaptureFixture) -> None:
    prefs, sft = ([f"data/train_{kind}-0000{n}-of-00002.parquet" for n in (0, 1)] for kind in ("prefs", "sft"))
    assert train_files("o/n", [*sft, *prefs]) == prefs
    [told] = caplog.messages
    assert told == f"o/n: only data/train_prefs.parquet is read; --file takes another: {', '.join(sft)}."


def test_a_file_is_picked_by_its_name_or_a_pattern() -> None:
    names = ["README.md", "b.csv", "train-10.jsonl", "train-2.jsonl", "sub/[x].json"]
    assert named_files("o/n", names, "b.csv") == ["b.csv"]
    assert named_files("o/n", names, "sub/[x].json") == ["sub/[x].json"]  # a name before a pattern
    assert named_files("o/n", names, "train-*") == ["train-2.jsonl", "train-10.jsonl"]
    for file in ("README.md", "c.csv", "sub", "TRAIN-2.jsonl"):
        with pytest.raises(InputError, match=f"o/n has no file '{file}' of a supported format") as caught:
            named_files("o/n", names, file)
        assert caught.value.do == "It has b.csv, sub/[x].json, train-2.jsonl, train-10.jsonl."


def test_a_file_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    first, second = (write(tmp_path, f"sub/train-{number}.jsonl", GOOD) for number in (1, 2))
    assert resolve(str(tmp_path), "sub/train-2.jsonl") == [second]
    assert resolve(str(tmp_path), "*/train-*") == [first, second]
    for source, file in ((tmp_path, "../x.jsonl"), (tmp_path, "none.jsonl"), (first, "train-1.jsonl"), (tmp_path, "")):
        with pytest.raises(InputError):
            resolve(str(source), file)


TRAIN = lzma.compress(as_jsonl(SEEDS))
REPOSITORIES: dict[str, dict[str, bytes]] = {
    "aligner/aligner-20K": {"README.md": b"#", "train.jsonl.xz": TRAIN},
    "some/other": {".gitattributes": b"", "data/train-00000.csv": as_csv(SEEDS), "test.csv": b"x"},
    "some/parts": {
        **{f"data/train-0000{n}-of-00003.jsonl": as_jsonl(SEEDS[n : n + 1]) for n in (2, 0, 1)},
        "data/test-00000-of-00001.jsonl": as_jsonl(SEEDS[3:5]),
    },
    "some/empty": {"README.md": b"#"},
}


def hub() -> AbstractContextManager[tuple[str, list[str]]]:
    """The address of a running hub with these datasets, and the requests that it received."""
    return running_hub(Hub(REPOSITORIES))


CODE = """
import sys
from batchgen.core.errors import InputError
from batchgen.dataset.seed_sources import resolve
assert not {"huggingface_hub", "polars"} & set(sys.modules)
for source in sys.argv[1:]:
    try:
        print(*resolve(*source.split("#")))
    except InputError as error:
        print("InputError:", error)
"""


def resolved(home: Path, endpoint: str, *sources: str, **environment: str) -> list[str]:
    """The result of `resolve` in a new process, because the hub's library reads its environment at import."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment}
    command = [sys.executable, "-W", "error", "-c", CODE, *sources]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**kept, **settings}, timeout=60)
    return done.stdout.splitlines()


@pytest.mark.slow
def test_the_library_of_the_hub_says_everything_once(tmp_path: Path) -> None:
    """Its lines go to the log of the program; its own handler would print each line again."""
    after = "\nimport logging\nprint(logging.getLogger('huggingface_hub').handlers)"
    with hub() as (endpoint, _):
        settings = {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path),
            "PYTHONPATH": str(REPOSITORY),
        }
        command = [sys.executable, "-c", CODE + after, "some/other"]
        said = subprocess.run(command, check=True, capture_output=True, text=True, env=settings, timeout=60).stdout
    assert said.endswith("train-00000.csv\n[]\n")


@pytest.mark.slow
def test_all_train_files_or_the_named_one_come_from_the_hub(tmp_path: Path) -> None:
    names = ["data/test-00000-of-00001.jsonl", "data/train-00002*", "data/train-9.jsonl"]
    aligner = "aligner/aligner-20K#train.jsonl.xz"
    with hub() as (endpoint, _):
        sources = ["some/parts", *(f"some/parts#{name}" for name in names), aligner]
        parts, test, last, none, known = resolved(tmp_path, endpoint, *sources)
    first, *more = map(Path, parts.split())
    assert list(read_seeds(first, SeedReport(), more=more)) == SEEDS[:3]
    assert read(Path(test))[0] == SEEDS[3:5]
    assert Path(last) == more[-1]
    assert none == "InputError: some/parts has no file 'data/train-9.jsonl' of a supported format."
    assert read(Path(known))[0] == SEEDS


@pytest.mark.slow
def test_prepare_reads_all_parts_of_a_dataset(bench: Bench, tmp_path: Path, forks: Forks) -> None:
    with hub() as (endpoint, _):
        settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        command = ["--root", str(bench.root), "prepare", "--input", "some/parts"]
        done = forks.command(*command, "--all", variables=settings)
        missing = forks.command(*command, "--file", "dev.jsonl", variables=settings)
    assert done.code == 0, done
    assert done.out.startswith("3 conversations prepared from 3 files of some/parts (3 rows read).")
    rows = bench.rows("round1/round1_single_turn.jsonl")
    assert [tuple(row[name] for name in Seed._fields) for row in rows] == SEEDS[:3]
    assert (missing.code, missing.out) == (2, "")
    assert "It has data/test-00000-of-00001.jsonl, data/train-00000-of-00003.jsonl," in missing.err


@pytest.mark.slow
def test_datasets_come_from_the_hub(tmp_path: Path) -> None:
    sources = ["aligner/aligner-20K", "some/other", "some/empty", "no/such", "broken/set", "html/page", "json/page"]
    with hub() as (endpoint, asked):
        known, other, *errors = resolved(tmp_path, endpoint, *sources)
    assert read(Path(known))[0] == SEEDS
    assert file_sha256(Path(known)) == hashlib.sha256(TRAIN).hexdigest()
    assert Path(known).is_relative_to(tmp_path)
    assert Path(other).name == "train-00000.csv"
    assert read(Path(other))[0] == SEEDS
    assert [error.split(":")[0] for error in errors] == ["InputError"] * 5
    assert "some/empty has no train file" in errors[0]
    assert "'no/such' is neither a file here nor a dataset that the hub shows" in errors[1]
    assert "broken on purpose" in errors[2]
    assert "html/page could not be fetched" in errors[3]
    assert "json/page could not be fetched" in errors[4]
    assert "GET /api/datasets/aligner/aligner-20K" not in asked
    assert "GET /cdn/aligner/aligner-20K/train.jsonl.xz" in asked
    # The hub is stopped now: cached files still work; any other is an error without a traceback.
    cached, fresh = resolved(tmp_path, endpoint, "aligner/aligner-20K", "some/other")
    assert cached == known
    assert fresh.startswith("InputError: some/other could not be fetched: ")
