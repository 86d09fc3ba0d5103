"""Test what is kept of the card of the seeds' dataset, from `prepare` over `rebuild` to the card of an export."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.dataset.hub.seed_terms import LICENSE_ID, SEED_TERMS_FACT, SeedTerms, _terms
from tests.support.bench import Bench, Result, seeds
from tests.support.finished_run import export
from tests.support.fork_server import Forks
from tests.support.hub import Fault, Hub, running_hub
from tests.support.seed_files import SEEDS, as_jsonl

CARD = """---
license: other
license_name: my terms
license_link: https://example.org/terms
language: [en, zh, no]
tags: [not-for-all-audiences, chat]
---
# Seeds
"""
TERMS = {
    "licenses": ["other"],
    "license_name": "my terms",
    "license_link": "https://example.org/terms",
    "languages": ["en", "zh"],  # YAML reads `no` as a boolean
    "not_for_all": True,
}


def prepare(forks: Forks, bench: Bench, dataset: str, home: Path, endpoint: str) -> Result:
    """Run `prepare` in another process: the library of the hub reads these variables when it is imported."""
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = ["--root", str(bench.root), "prepare", "--input", dataset, "--all"]
    return forks.command(*command, variables=bench.environment | settings)


def prepared(forks: Forks, bench: Bench, home: Path, card: bytes | None, *faults: Fault) -> Result:
    """Prepare a run from a dataset of the hub with this card."""
    hub = Hub({"some/seeds": {"train.jsonl": as_jsonl(SEEDS), **({} if card is None else {"README.md": card})}})
    hub.faults += faults
    with running_hub(hub) as (endpoint, _):
        return prepare(forks, bench, "some/seeds", home, endpoint)


def kept(bench: Bench) -> Any:
    facts = orjson.loads((bench.root / "requests" / "run.json").read_bytes())
    return json.loads(facts[SEED_TERMS_FACT]) if SEED_TERMS_FACT in facts else None


@pytest.mark.slow
def test_prepare_keeps_what_the_card_of_the_seeds_says(forks: Forks, bench: Bench, tmp_path: Path) -> None:
    done = prepared(forks, bench, tmp_path / "hf", CARD.encode())
    assert done.code == 0, done
    assert kept(bench) == TERMS
    (bench.root / "data" / "batchgen.sqlite").unlink()
    assert bench.run("rebuild").code == 0
    bench.run("submit", "--stage", "question")
    bench.ticks()
    export(bench, "messages", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    for words in (
        "language:\n- en\n- zh\nlicense: other\n",
        "license_name: my terms\nlicense_link: https://example.org/terms\n",
        "- not-for-all-audiences\n",
        "source_datasets:\n- some/seeds\n",
        "`other`, as the card of the seeds (some/seeds) says.",
        "The card of some/seeds says that the seeds are not for all audiences",
    ):
        assert words in text, words


@pytest.mark.parametrize(
    ("card", "faults", "told"),
    [
        (None, (), ""),
        (b"# no metadata", (), ""),
        (b"---\nlicense: [\n---\n", (), "The card of some/seeds cannot be read"),
        (b"---\nlicense: \xff\n---\n", (), "The card of some/seeds cannot be read"),
        (b"---\n- a list\n---\n", (), "The card of some/seeds cannot be read"),
        (CARD.encode(), (Fault("HEAD /datasets/some/seeds/resolve/main/README.md", 403, times=9),), "cannot be read"),
    ],
)
def test_a_card_that_says_nothing_stops_nothing(
    card: bytes | None, faults: tuple[Fault, ...], told: str, forks: Forks, bench: Bench, tmp_path: Path
) -> None:
    done = prepared(forks, bench, tmp_path / "hf", card, *faults)
    assert done.code == 0, done
    assert "Traceback" not in done.err
    assert told in done.err
    assert not kept(bench)


def test_the_card_of_the_default_dataset_is_not_asked_for(forks: Forks, bench: Bench, tmp_path: Path) -> None:
    hub = Hub({"aligner/aligner-20K": {"train.jsonl.xz": lzma.compress(as_jsonl(SEEDS)), "README.md": CARD.encode()}})
    with running_hub(hub) as (endpoint, asked):
        assert prepare(forks, bench, "aligner/aligner-20K", tmp_path, endpoint).code == 0
    assert [each for each in asked if "README" in each] == []
    assert kept(bench) is None


@pytest.mark.slow
def test_a_folder_is_not_taken_for_a_dataset_of_the_hub(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "private" / "notes").mkdir(parents=True)
    (tmp_path / "private" / "notes" / "train.jsonl").write_bytes(as_jsonl(SEEDS))
    monkeypatch.chdir(tmp_path)
    assert bench.run("prepare", "--input", "private/notes", "--file", "train.jsonl", "--all").code == 0
    bench.run("submit", "--stage", "question")
    bench.ticks()
    export(bench, "messages", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "single-turn triples of notes" in text
    assert "private" not in text
    assert "source_datasets" not in text


def test_a_file_has_no_card(bench: Bench) -> None:
    assert bench.prepare(seeds(3)).code == 0
    assert kept(bench) is None
    assert bench.prepare(seeds(3)).out.endswith("prepared already; nothing changed.\n")


ANY = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3))


@given(st.fixed_dictionaries(dict.fromkeys(("license", "license_name", "license_link", "language", "tags"), ANY)))
def test_any_metadata_is_read(stated: dict[str, Any]) -> None:
    terms = _terms(stated)
    assert all(map(LICENSE_ID.fullmatch, terms.licenses))
    assert isinstance(terms, SeedTerms)
    if isinstance(stated["license"], str) and LICENSE_ID.fullmatch(stated["license"]):
        assert terms.licenses == (stated["license"],)
