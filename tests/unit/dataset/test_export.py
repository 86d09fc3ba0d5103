"""Export a finished run in every format, and load it as training programs do."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from huggingface_hub import DatasetCard

from batchgen.dataset import card
from batchgen.dataset.dataset_info import DATASET_INFO
from batchgen.dataset.formats import FORMATS, FlaggedConversation
from batchgen.dataset.quality.flags import LABELS
from batchgen.engine.session import Session
from batchgen.ledger.rows import BatchState
from batchgen.ledger.store import Store
from batchgen.runtime.files import Layout
from batchgen.runtime.settings import load_settings
from tests.support.bench import GEMINI_KEY, TOGETHER_KEY, Bench, seeds
from tests.support.finished_run import COUNT, EQUAL, HOSTILE, TWINS, export, problems, records
from tests.support.slow import slow


@pytest.fixture
def load_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`datasets.load_dataset`, offline, with its cache in the test's own directory."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()

    def load(path: str, **options: Any) -> Any:
        return datasets.load_dataset(path, cache_dir=str(tmp_path / "cache"), **options)

    return load


def history(bench: Bench) -> dict[str, list[dict[str, str]]]:
    return {row["id"]: row["rounds"] for row in bench.rows("round3/round3_history.jsonl")}


# ---------------------------------------------------------------- the forms


def test_the_run_is_as_meant(finished: Bench) -> None:
    status = finished.status()
    assert (status["complete"], status["rejected"], status["finished"]) == (COUNT - 1, 1, True)
    assert HOSTILE.strip() in history(finished)["r1-000001"][2]["answer"]


@pytest.mark.slow
def test_parquet_is_three_arrays_of_n_by_rounds(
    finished: Bench, tmp_path: Path, load_dataset: Callable[..., Any]
) -> None:
    export(finished, "parquet", tmp_path / "wide.parquet")
    frame = pl.read_parquet(tmp_path / "wide.parquet")
    truth = history(finished)
    loaded = load_dataset("parquet", data_files=str(tmp_path / "wide.parquet"), split="train")
    for field in ("question", "answer", "correction"):
        assert frame[field].dtype == pl.Array(pl.String, 3)
        assert frame[field].to_numpy().shape == (COUNT - 1, 3)
        assert loaded.features[field].length == 3
        texts = [[turn[field] for turn in truth[identity]] for identity in frame["id"]]
        assert frame[field].to_list() == texts
        assert list(loaded[field]) == texts
        assert {tuple(models) for models in frame[f"{field}_models"].to_list()} == {
            (None, *[finished.status()["models"]["together" if field == "answer" else "gemini"]] * 2)
        }
    assert list(loaded["flags"]) == frame["flags"].to_list()


@pytest.mark.parametrize("form", ["messages", "parquet", *map(slow, sorted(FORMATS.keys() - {"messages", "parquet"}))])
def test_every_form_loads_as_a_split_dataset(
    form: str, finished: Bench, tmp_path: Path, load_dataset: Callable[..., Any]
) -> None:
    answer = export(finished, form, tmp_path / form, "--test-share", "0.3")
    rows = {each["split"]: each["rows"] for each in answer["files"]}
    loaded = load_dataset(str(tmp_path / form))
    assert {split: part.num_rows for split, part in loaded.items()} == rows
    assert set(loaded["train"].column_names) == set(FORMATS[form].schema(3))
    truth = {split: records(tmp_path / form / f"{split}{Path(answer['files'][0]['path']).suffix}") for split in rows}
    assert {split: part.to_list() for split, part in loaded.items()} == truth
    sides = {split: set(part["id"]) for split, part in loaded.items()}
    assert sides["train"].isdisjoint(sides["test"])
    assert len(sides["train"] | sides["test"]) == answer["conversations"] == COUNT - 1
    assert problems(finished, tmp_path / form) == []
    if answer["dataset_names"]:  # LLaMA-Factory loads each file by its name
        entries = json.loads((tmp_path / form / DATASET_INFO).read_bytes())
        names = [str(tmp_path / form / entries[name]["file_name"]) for name in answer["dataset_names"]]
        found = [load_dataset("json", data_files=[name], split="train").num_rows for name in names]
        assert found == list(rows.values())


@pytest.mark.parametrize("form", ["messages", "parquet", *map(slow, sorted(FORMATS.keys() - {"messages", "parquet"}))])
def test_jsonl_and_parquet_say_the_same(form: str, finished: Bench, tmp_path: Path) -> None:
    for suffix in (".jsonl", ".parquet"):
        export(finished, form, tmp_path / f"one{suffix}")
        assert problems(finished, tmp_path / f"one{suffix}") == []
    assert records(tmp_path / "one.jsonl") == records(tmp_path / "one.parquet")
    assert pl.read_parquet(tmp_path / "one.parquet").schema == FORMATS[form].schema(3)


def test_messages_and_sharegpt_show_the_corrections(finished: Bench, tmp_path: Path) -> None:
    export(finished, "messages", tmp_path / "messages.jsonl")
    export(finished, "sharegpt", tmp_path / "sharegpt.jsonl")
    truth = history(finished)
    for row, other in zip(records(tmp_path / "messages.jsonl"), records(tmp_path / "sharegpt.jsonl"), strict=True):
        said = [(role, turn[field]) for turn in truth[row["id"]] for role, field in SPEAKERS]
        assert [(each["role"], each["content"]) for each in row["messages"]] == said
        assert list(row) == ["id", "messages", "flags"]
        assert [each["value"] for each in other["conversations"]] == [text for _, text in said]
        assert [each["from"] for each in other["conversations"]] == ["human", "gpt"] * 3
        assert list(other) == ["id", "conversations"]


SPEAKERS = (("user", "question"), ("assistant", "correction"))


def test_preference_is_conversational_with_an_explicit_prompt(finished: Bench, tmp_path: Path) -> None:
    answer = export(finished, "preference", tmp_path / "pairs.jsonl")
    rows, truth = records(tmp_path / "pairs.jsonl"), history(finished)
    assert answer["left_out"] == {"chosen_equals_rejected": len(EQUAL)}
    assert len(rows) == answer["rows"] == (COUNT - 1) * 3 - len(EQUAL)
    assert {(row["id"], row["round"]) for row in rows}.isdisjoint((f"r1-{n:06}", 1) for n in EQUAL)
    for row in rows:
        turns = truth[row["id"]][: row["round"]]
        said = [{"role": role, "content": turn[field]} for turn in turns for role, field in SPEAKERS]
        assert row["prompt"] + row["chosen"] == said
        assert [each["role"] for each in row["prompt"]] == (["user", "assistant"] * row["round"])[:-1]
        assert row["rejected"] == [{"role": "assistant", "content": turns[-1]["answer"]}]
        assert row["chosen"] != row["rejected"]


def test_llamafactory_is_the_same_preference_in_sharegpt_turns(finished: Bench, tmp_path: Path) -> None:
    counts = export(finished, "preference", tmp_path / "pairs.jsonl")
    answer = export(finished, "llamafactory", tmp_path / "turns.jsonl")
    assert {name: answer[name] for name in ("rows", "left_out", "flags")} == {
        name: counts[name] for name in ("rows", "left_out", "flags")
    }
    roles = {"user": "human", "assistant": "gpt"}
    for row, pair in zip(records(tmp_path / "turns.jsonl"), records(tmp_path / "pairs.jsonl"), strict=True):
        turns = {
            name: [{"from": roles[each["role"]], "value": each["content"]} for each in pair[name]]
            for name in ("prompt", "chosen", "rejected")
        }
        assert list(row) == ["conversations", "chosen", "rejected", "id", "round"]
        assert row["conversations"] == turns["prompt"]
        assert row["conversations"][-1]["from"] == "human"
        assert ([row["chosen"]], [row["rejected"]]) == (turns["chosen"], turns["rejected"])
        assert (row["id"], row["round"]) == (pair["id"], pair["round"])


def test_aligner_is_the_triple_with_its_history(finished: Bench, tmp_path: Path) -> None:
    export(finished, "aligner", tmp_path / "triples.jsonl")
    rows = {(row["id"], row["round"]): row for row in records(tmp_path / "triples.jsonl")}
    one, two, three = history(finished)["r1-000001"]
    assert rows["r1-000001", 1] == {**one, "id": "r1-000001", "round": 1}
    assert rows["r1-000001", 3]["question"] == (
        f"USER: {one['question']}\nASSISTANT: {one['correction']}\n"
        f"USER: {two['question']}\nASSISTANT: {two['correction']}\nUSER: {three['question']}"
    )
    assert rows["r1-000001", 3]["answer"] == three["answer"]
    assert len(rows) == (COUNT - 1) * 3


def test_who_wrote_a_text_is_known_row_by_row(finished: Bench, tmp_path: Path) -> None:
    with closing(Store.open(Layout(finished.root).store)) as store:
        batch = next(batch for batch in store.batches(BatchState.COLLECTED) if str(batch.step) == "round 2 answer")
        changed = {f"r1-{number:06}" for number, _, _ in store.dialogues.texts_from_batch(batch)}
        store.update(batch, model="another")
    assert 0 < len(changed) < COUNT - 1
    export(finished, "parquet", tmp_path / "wide.parquet")
    rows = records(tmp_path / "wide.parquet")
    assert {row["id"] for row in rows if row["answer_models"][1] == "another"} == changed
    assert all(row["answer_models"][2] != "another" for row in rows)
    assert problems(finished, tmp_path / "wide.parquet") == []


# ---------------------------------------------------------------- the split and the flags


@pytest.mark.slow
def test_the_split_is_the_same_whatever_is_written(finished: Bench, tmp_path: Path) -> None:
    sides = []
    for name, form, options in (
        ("a", "messages", ()),
        ("b", "messages", ()),
        ("c", "preference", ()),
        ("d", "messages", ("--flags", "drop:correction_equals_answer")),
        ("e", "messages", ("--split-seed", "7")),
    ):
        export(finished, form, tmp_path / name, "--test-share", "0.3", *options)
        sides.append({row["id"] for row in records(tmp_path / name / "test.jsonl")})
    assert (tmp_path / "a" / "test.jsonl").read_bytes() == (tmp_path / "b" / "test.jsonl").read_bytes()
    assert sides[0] == sides[1] == sides[2]
    assert sides[3] == sides[0] - {f"r1-{number:06}" for number in EQUAL}
    assert sides[4] != sides[0]
    twins = {f"r1-{number:06}" for number in TWINS}
    assert all(twins <= side or twins.isdisjoint(side) for side in sides)


def test_flagged_records_are_left_out_on_request(finished: Bench, tmp_path: Path) -> None:
    kept = export(finished, "messages", tmp_path / "kept.jsonl")
    assert kept["flags"]["correction_equals_answer"] == len(EQUAL)
    flagged = {row["id"] for row in records(tmp_path / "kept.jsonl") if "correction_equals_answer" in row["flags"]}
    assert flagged == {f"r1-{number:06}" for number in EQUAL}
    dropped = export(finished, "messages", tmp_path / "dropped.jsonl", "--flags", "drop:correction_equals_answer")
    assert dropped["left_out"] == {"correction_equals_answer": len(EQUAL)}
    assert flagged.isdisjoint(row["id"] for row in records(tmp_path / "dropped.jsonl"))
    turns = export(finished, "aligner", tmp_path / "turns.jsonl", "--flags", "drop:correction_equals_answer,refusal")
    assert turns["rows"] == (COUNT - 1) * 3 - len(EQUAL)  # only the turn itself is left out
    assert turns["conversations"] == COUNT - 1


@pytest.mark.parametrize("flags", ["drop:nonsense", "drop:", "keep:refusal", "refusal", "drop:refusal:question"])
def test_flags_that_do_not_exist_are_refused(flags: str, finished: Bench, tmp_path: Path) -> None:
    result = finished.run("export", "--format", "messages", "--output", str(tmp_path / "x.jsonl"), "--flags", flags)
    assert result.code == 2
    assert "question_repeats" in result.err
    assert "one field of a flag: refusal:answer, refusal:correction, " in result.err  # the same text every time
    assert not (tmp_path / "x.jsonl").exists()


@pytest.mark.parametrize("share", ["nan", "1", "-0.1", "many"])
def test_a_share_that_is_none(share: str, finished: Bench, tmp_path: Path) -> None:
    result = finished.run("export", "--format", "messages", "--output", str(tmp_path / "out"), "--test-share", share)
    assert result.code == 2
    assert "--test-share" in result.err
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- where it may be written


@pytest.mark.parametrize(
    ("output", "options", "words"),
    [
        ("data.csv", (), "cannot hold an export"),
        ("DATA.JSONL", (), "cannot hold an export"),
        ("one.jsonl", ("--test-share", "0.5"), "several files"),
        ("run/data/round3/round3_history.jsonl", (), "the run's own folders"),
        ("run/results", (), "the run's own folders"),
        ("mine", (), "README.md was not written by an export"),
        ("split", (), "holds test.jsonl of another export"),
    ],
)
def test_nothing_of_somebody_else_is_overwritten(
    output: str, options: tuple[str, ...], words: str, finished: Bench, tmp_path: Path
) -> None:
    for folder, name in (("mine", "README.md"), ("split", "test.jsonl")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("mine", "utf-8")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file() and "lock" not in path.name}
    result = finished.run("export", "--format", "messages", "--output", str(tmp_path / output), *options)
    assert result.code == 2
    assert words in result.err
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path in before}


def test_exporting_again_replaces_the_whole_export(finished: Bench, tmp_path: Path) -> None:
    for _ in range(2):
        export(finished, "messages", tmp_path / "out", "--test-share", "0.2")
    names = ["README.md", DATASET_INFO, "test.jsonl", "train.jsonl"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert problems(finished, tmp_path / "out") == []


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_broken_export_leaves_the_old_file(
    suffix: str, finished: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"one{suffix}"
    export(finished, "messages", path)
    before = path.read_bytes()
    made: list[FlaggedConversation] = []

    def record(dialogue: FlaggedConversation) -> dict[str, Any]:
        made.append(dialogue)
        if len(made) > 3:
            raise OSError(28, "No space left on device")
        return FORMATS["sharegpt"].record(dialogue)

    monkeypatch.setitem(FORMATS, "messages", FORMATS["messages"]._replace(record=record))
    assert finished.run("export", "--format", "messages", "--output", str(path)).code == 75
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.glob("one*")] == [path.name]


@pytest.mark.parametrize("command", [("export", "--format", "messages"), ("report",)])
def test_an_empty_output_is_refused(command: tuple[str, ...], finished: Bench) -> None:
    """An unset variable of a script must not write into the current folder."""
    result = finished.run(*command, "--output", "")
    assert result.code == 2
    assert "--output" in result.err


def test_nothing_complete_is_nothing_to_export(bench: Bench, tmp_path: Path) -> None:
    assert bench.run("export", "--format", "messages", "--output", str(tmp_path / "x.jsonl")).code == 2
    bench.prepare(seeds(3))
    result = bench.run("export", "--format", "messages", "--output", str(tmp_path / "x.jsonl"))
    assert result.code == 2
    assert "No conversation has all 3 rounds yet" in result.err
    assert not (tmp_path / "x.jsonl").exists()


def test_an_unfinished_run_exports_what_is_complete_and_says_so(finished: Bench, tmp_path: Path) -> None:
    finished.run("retry")
    result = finished.run("export", "--format", "messages", "--output", str(tmp_path / "x.jsonl"), "--json")
    assert (result.code, result.json["finished"], result.json["rows"]) == (0, False, COUNT - 1)
    assert "not finished" in result.err


def test_the_answer_for_people(finished: Bench, tmp_path: Path) -> None:
    result = finished.run("export", "--format", "preference", "--output", str(tmp_path / "x.jsonl"))
    assert "11 conversations exported as preference, 31 rows:" in result.out
    assert "left out: 2 chosen_equals_rejected" in result.out


def test_the_command_offers_every_format(finished: Bench) -> None:
    assert f"--format [{'|'.join(FORMATS)}]" in finished.run("export", "--help").out


# ---------------------------------------------------------------- the card


def set_fact(bench: Bench, name: str, value: str) -> None:
    with closing(Store.open(Layout(bench.root).store)) as store:
        store.set_fact(name, value)


def test_the_card_tells_what_the_hub_and_a_reader_want(finished: Bench, tmp_path: Path) -> None:
    set_fact(finished, "source", "aligner/aligner-20K")
    export(finished, "messages", tmp_path / "out", "--test-share", "0.2", "--flags", "drop:correction_equals_answer")
    loaded = DatasetCard.load(tmp_path / "out" / "README.md")
    data, text = loaded.data.to_dict(), loaded.text
    assert data["license"] == "cc-by-nc-4.0"
    assert data["language"] == ["en"]
    assert data["size_categories"] == "n<1K"
    assert data["source_datasets"] == ["aligner/aligner-20K"]
    assert data["tags"][-1] == "not-for-all-audiences"
    assert data["task_categories"] == ["text-generation"]
    files = [{"split": split, "path": f"{split}.jsonl"} for split in ("train", "test")]
    assert data["configs"] == [{"config_name": "default", "data_files": files}]
    rows = {split: len(records(tmp_path / "out" / f"{split}.jsonl")) for split in ("train", "test")}
    assert {each["name"]: each["num_examples"] for each in data["dataset_info"]["splits"]} == rows
    models = finished.status()["models"]
    for words in (
        *models.values(),
        "see earlier turns without their answers",
        "Speak as the user",
        "Stay plausible",
        "Write only the new answer",
        "1 of 12 conversations were rejected",
        "| answer | empty | 1 |",
        "| correction_equals_answer | 2 |",
        "Content warning\n\nThe seeds come from safety data: questions and answers may be violent, sexual, hateful",
        "`cc-by-nc-4.0`, inherited from aligner-20K (PKU-Alignment): non-commercial use, with attribution. Seeds of",
        f"cost ${finished.status()['cost']['spent_usd']:.4f}",
        "batchgen export --format messages --output out --flags drop:correction_equals_answer --test-share 0.2",
        *(f"`{label}`" for label in LABELS),
    ):
        assert words in text, words
    for secret in (GEMINI_KEY, TOGETHER_KEY, str(tmp_path)):
        assert secret not in loaded.content


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("aligner/aligner-20K", "aligner/aligner-20K"),
        ("/home/me/secret/seeds.jsonl", "seeds.jsonl"),
        ("data/train.jsonl.xz", "train.jsonl.xz"),
        ("../seeds", "seeds"),
    ],
)
def test_the_card_does_not_tell_where_files_lay(source: str, told: str, finished: Bench) -> None:
    with closing(Store.open(Layout(finished.root).store)) as store:
        store.set_fact("source", source)
        assert card._source(Session(Layout(finished.root), load_settings(finished.root), store, {})) == told


def card_of(bench: Bench, folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """The metadata and the text of the card of a new export."""
    export(bench, "messages", folder, *options)
    loaded = DatasetCard.load(folder / "README.md")
    return loaded.data.to_dict(), loaded.text


def test_the_card_of_other_seeds_says_that_their_licence_is_not_known(finished: Bench, tmp_path: Path) -> None:
    data, text = card_of(finished, tmp_path / "out")
    assert "license" not in data
    assert "not-for-all-audiences" not in data["tags"]
    assert "The licence is that of the seeds (seeds.jsonl), which is unknown to the program." in text
    assert "The content is that of the seeds (seeds.jsonl), which is unknown to the program" in text
    assert "safety data" not in text
    assert "aligner-20K" not in text


@pytest.mark.parametrize("source", ["aligner/aligner-20K", "seeds.jsonl"])
def test_the_licence_that_the_user_names_is_stated(source: str, finished: Bench, tmp_path: Path) -> None:
    set_fact(finished, "source", source)
    data, text = card_of(finished, tmp_path / "out", "--license", "cc-by-4.0")
    assert data["license"] == "cc-by-4.0"
    assert "`cc-by-4.0`, as stated by whoever made this export." in text
    assert "batchgen export --format messages --output out --license cc-by-4.0" in text
    assert "cc-by-nc-4.0" not in text
    assert ("safety data" in text) == (source == "aligner/aligner-20K")


@pytest.mark.parametrize("license_id", ["two words", "-x", "a\nb", "x" * 101])
def test_a_licence_that_is_no_identifier_is_refused(license_id: str, finished: Bench, tmp_path: Path) -> None:
    output = str(tmp_path / "x.jsonl")
    result = finished.run("export", "--format", "messages", "--output", output, "--license", license_id)
    assert result.code == 2
    assert "is no identifier of a licence" in result.err


@pytest.mark.parametrize(
    ("scripts", "languages"),
    [
        ({"latin": 95, "han": 5}, ["en", "zh"]),
        ({"latin": 2, "han": 98}, ["zh"]),
        ({"other": 3}, ["und"]),
        ({}, ["und"]),
    ],
)
def test_languages_are_those_that_many_dialogues_begin_in(scripts: dict[str, int], languages: list[str]) -> None:
    assert card._languages(scripts) == languages
