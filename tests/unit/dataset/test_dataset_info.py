"""Test `dataset_info.json`: the entries of LLaMA-Factory beside an export, and those of somebody else in it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from batchgen.dataset.dataset_info import DATASET_INFO, write_dataset_info
from batchgen.dataset.formats import FORMATS
from tests.support.bench import REPOSITORY
from tests.support.finished_run import export

if TYPE_CHECKING:
    from tests.support.bench import Bench

READABLE = [form for form, each in FORMATS.items() if each.dataset_info is not None]
DICTIONARY = (REPOSITORY / "docs" / "data-dictionary.md").read_text("utf-8")
# The keys of an entry that LLaMA-Factory's data/README.md documents and a text export may use.
KEYS = {"file_name", "formatting", "ranking", "columns", "tags"}
COLUMNS = {
    "alpaca": {"prompt", "query", "response", "history", "system", "chosen", "rejected"},
    "sharegpt": {"messages", "system", "tools", "chosen", "rejected"},
}
TAGS = {"role_tag", "content_tag", "user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag"}


def entries(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / DATASET_INFO).read_bytes())
    return found


def write(form: str, path: Path) -> list[str]:
    """Describe one file, as after an export to `path`."""
    return write_dataset_info(form, path, [path])


def struct_fields(kind: Any) -> set[str]:
    """Return the names of the fields of a message, or of the messages of a list."""
    struct = kind.inner if isinstance(kind, pl.List) else kind
    assert isinstance(struct, pl.Struct)
    return {field.name for field in struct.fields}


# ---------------------------------------------------------------- what an entry says


def test_llamafactory_reads_all_formats_but_two() -> None:
    assert set(FORMATS) - set(READABLE) == {"preference", "parquet"}


@pytest.mark.parametrize("form", READABLE)
def test_an_entry_has_documented_keys_and_names_columns_that_exist(form: str, tmp_path: Path) -> None:
    assert write(form, tmp_path / "one.jsonl") == ["one"]
    (entry,) = entries(tmp_path).values()
    schema = FORMATS[form].schema(3)
    assert entry["file_name"] == "one.jsonl"
    assert entry.keys() <= KEYS
    assert entry["columns"].keys() <= COLUMNS[entry["formatting"]]
    assert set(entry["columns"].values()) <= schema.keys()
    assert entry.get("ranking", False) == ("chosen" in entry["columns"]) == ("rejected" in entry["columns"])
    tags = entry.get("tags", {})
    assert tags.keys() <= TAGS
    if entry["formatting"] == "sharegpt":
        wanted = {tags.get("role_tag", "from"), tags.get("content_tag", "value")}
        lists = [schema[column] for name, column in entry["columns"].items()]
        assert [struct_fields(kind) for kind in lists] == [wanted] * len(lists)


@pytest.mark.slow
def test_a_folder_has_an_entry_for_each_split(finished: Bench, tmp_path: Path) -> None:
    answer = export(finished, "llamafactory", tmp_path / "dpo", "--test-share", "0.3")
    assert answer["dataset_names"] == list(entries(tmp_path / "dpo")) == ["dpo_train", "dpo_test"]
    assert [entry["file_name"] for entry in entries(tmp_path / "dpo").values()] == ["train.jsonl", "test.jsonl"]
    again = finished.run("export", "--format", "messages", "--output", str(tmp_path / "chat.jsonl"))
    assert "dataset_info.json for LLaMA-Factory: chat\n" in again.out
    assert export(finished, "preference", tmp_path / "trl")["dataset_names"] == []
    assert not (tmp_path / "trl" / DATASET_INFO).exists()


# ---------------------------------------------------------------- what was in the file before


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=4)
OTHERS = st.dictionaries(
    st.text(max_size=4) | st.sampled_from(["one", "one.jsonl", "one.jsonl-2"]),
    st.dictionaries(st.text(max_size=4), JSON, max_size=3).map(lambda entry: {**entry, "file_name": "other.json"}),
    max_size=5,
)


@given(others=OTHERS, forms=st.lists(st.sampled_from(sorted(FORMATS)), min_size=1, max_size=3))
def test_entries_of_others_stay_as_they_were(others: dict[str, Any], forms: list[str]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "one.jsonl"
        path.with_name(DATASET_INFO).write_text(json.dumps(others), "utf-8")
        for form in forms:
            names = write(form, path)
            found = entries(Path(folder))
            assert {name: found.pop(name)["file_name"] for name in names} == dict.fromkeys(names, "one.jsonl")
            assert len(names) == (form in READABLE)
            assert found == others
        assert list(Path(folder).iterdir()) == [path.with_name(DATASET_INFO)]


def test_another_format_at_the_same_path_replaces_the_entry(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    write("llamafactory", path)
    write("sharegpt", path)
    assert entries(tmp_path) == {"one": {"file_name": "one.jsonl", **(FORMATS["sharegpt"].dataset_info or {})}}
    assert write("preference", path) == []
    assert entries(tmp_path) == {}  # LLaMA-Factory would misread the file by the old entry


def test_the_same_format_again_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    write("aligner", path)
    described = entries(tmp_path)
    described["one"]["num_samples"] = 1000  # the user's own
    (tmp_path / DATASET_INFO).write_text(json.dumps(described), "utf-8")
    before = (tmp_path / DATASET_INFO).stat()
    assert write("aligner", path) == ["one"]
    assert (tmp_path / DATASET_INFO).stat() == before


def test_names_are_unique_and_can_be_listed(tmp_path: Path) -> None:
    assert write("aligner", tmp_path / "one.jsonl") == ["one"]
    assert write("aligner", tmp_path / "one.parquet") == ["one.parquet"]
    assert write("aligner", tmp_path / "a, b 中文.jsonl") == ["a_b_中文"]  # a comma separates names
    assert write("aligner", tmp_path / os.fsdecode(b"\xff.jsonl")) == ["_"]
    assert (tmp_path / DATASET_INFO).read_bytes().isascii()
    assert entries(tmp_path)["_"]["file_name"] == os.fsdecode(b"\xff.jsonl")
    assert len(entries(tmp_path)) == 4


@pytest.mark.parametrize("content", [b"", b"{torn", b"[1]", b"\xff", b'{"features": {}, "citation": ""}', None])
def test_a_file_that_is_something_else_stays(
    content: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As `datasets` writes one of the same name with save_to_disk. None: a folder."""
    path = tmp_path / DATASET_INFO
    path.mkdir() if content is None else path.write_bytes(content)
    assert write("preference", tmp_path / "one.jsonl") == []
    assert caplog.text == ""
    assert write("messages", tmp_path / "one.jsonl") == []
    assert "holds no datasets of LLaMA-Factory" in caplog.text
    assert path.is_dir() if content is None else path.read_bytes() == content


# ---------------------------------------------------------------- what the data dictionary shows


def test_the_dictionary_shows_the_entries_that_are_written(finished: Bench, tmp_path: Path) -> None:
    (shown,) = re.findall(r"### LLaMA-Factory\n.*?```json\n(.*?)```", DICTIONARY, re.DOTALL)
    for form in READABLE:
        assert export(finished, form, tmp_path / f"{form}.jsonl")["dataset_names"] == [form]
    assert json.loads(shown) == entries(tmp_path)


def test_the_dictionary_has_an_axolotl_stanza_for_each_format() -> None:
    """Of all formats but parquet, whose columns are arrays; with columns and message fields that exist."""
    (text,) = re.findall(r"### axolotl\n(.*?)\n### ", DICTIONARY, re.DOTALL)
    stanzas = {
        Path(each["path"]).stem: each
        for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
        for each in yaml.safe_load(block)["datasets"]
    }
    assert stanzas.keys() == FORMATS.keys() - {"parquet"}
    for form, stanza in stanzas.items():
        schema = FORMATS[form].schema(3)
        options = stanza["type"] if isinstance(stanza["type"], dict) else stanza
        fields = [value for name, value in options.items() if name.startswith("field_")]
        assert fields, form
        assert set(fields) <= schema.keys(), form
        if messages := stanza.get("field_messages"):
            mapping = stanza.get("message_property_mappings", {"role": "role", "content": "content"})
            assert set(mapping.values()) == struct_fields(schema[messages]), form
