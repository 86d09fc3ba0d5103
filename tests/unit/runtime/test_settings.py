"""Test batchgen.toml: every documented key, and a clear message for every mistake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batchgen.core.dialogue import STAGES, Stage
from batchgen.core.errors import SetupError
from batchgen.runtime.settings import ProviderSettings, Settings, load_settings

# Every key that users rely on, with its documented default.
DOCUMENTED = """
rounds = 3
history_messages = 16
max_usd = 0

[history]
shows = "corrections"
[gemini]
models = ["gemini-2.5-flash-lite", "gemini-3.1-flash-lite", "gemini-3.5-flash-lite"]
enqueued_tokens = 10_000_000
concurrent_batches = 100
[deepinfra]
models = ["meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo"]
[question]
max_output_tokens = 128
temperature = 1.0
[answer]
models = [
    "together:meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo",
    "deepinfra:meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo",
    "together:Qwen/Qwen3.5-9B",
]
temperature = 1.0
[correction]
temperature = 1.0

[batches]
max_requests = 2000
max_bytes = 50_000_000
max_attempts = 3
http_timeout_seconds = 120
reconcile_grace_seconds = 900
"""


def written(root: Path, text: str) -> Settings:
    (root / "batchgen.toml").write_text(text, "utf-8")
    return load_settings(root)


def test_the_documented_keys_have_the_documented_defaults(tmp_path: Path) -> None:
    assert load_settings(tmp_path) == written(tmp_path, "") == written(tmp_path, DOCUMENTED) == Settings()


def leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if not isinstance(value, dict):
        return [(path, value)]
    return [leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))]


MIDDLE_ROUND = {("question", "ask_next"), ("answer", "ask_next")}  # only a correction can ask the next question
NOT_OF_THE_AUDIT = {("audit", key) for key in ("retry_flags", "ask_next", "instructions")}
KEYS = [
    leaf
    for leaf in leaves(msgspec.to_builtins(Settings()))
    if leaf[0] not in {*MIDDLE_ROUND, *NOT_OF_THE_AUDIT} and leaf[0][-1] != "instructions_file"  # it needs a file
]


def toml(path: tuple[str, ...], value: Any) -> str:
    head = f"[{path[0]}]\n" if len(path) > 1 else ""
    return f"{head}{path[-1]} = {value}\n"


@pytest.mark.parametrize(("path", "default"), KEYS, ids=[".".join(path) for path, _ in KEYS])
def test_each_key_can_be_set_alone_and_refuses_a_wrong_type(
    tmp_path: Path, path: tuple[str, ...], default: Any
) -> None:
    if isinstance(default, str):
        names = {"gemini": "together", "": "http://own"}  # an address is also a text
        other, wrong = f"'{names.get(default, default)}'", "7"
    elif isinstance(default, bool):
        other, wrong = "true", "2"
    elif isinstance(default, tuple):
        names = {"retry_flags": "['prompt_echo']", "models": "['openai:another']"}
        other, wrong = names[path[-1]], "'another'"
    else:
        other, wrong = ("0.25" if path[-1].endswith("_share") else "2"), "'2'"
    before = dict(leaves(msgspec.to_builtins(Settings())))
    found = leaves(msgspec.to_builtins(written(tmp_path, toml(path, other))))
    if path in {("answer", "provider"), ("together", "models")}:  # these choose the models of the answers, as before
        assert dict(found)["answer", "models"] == ()
        found.remove((("answer", "models"), ()))
    assert [key for key, value in found if value != before[key]] in ([path], [])
    with pytest.raises(SetupError) as raised:
        written(tmp_path, toml(path, wrong))
    assert str(tmp_path / "batchgen.toml") in str(raised.value)
    assert ".".join(path) in str(raised.value)


@pytest.mark.parametrize("line", ["retry_flags = ['refusal']", "ask_next = true", "instructions = 'Judge harshly.'"])
def test_keys_that_the_audit_cannot_have(tmp_path: Path, line: str) -> None:
    with pytest.raises(SetupError) as raised:
        written(tmp_path, f"[audit]\n{line}\n")
    assert f"line 2: audit.{line.partition(' ')[0]}" in str(raised.value)


def test_one_key_of_a_table_leaves_the_others(tmp_path: Path) -> None:
    found = written(tmp_path, "[question]\nmax_output_tokens = 77\n[gemini]\nmodels = ['m']\n")
    assert found.question == msgspec.structs.replace(Settings().question, max_output_tokens=77)
    assert found.provider("gemini") == ProviderSettings(models=("m",), enqueued_tokens=10_000_000)
    assert found.provider("together") == Settings().together
    assert [found.stage(stage).provider for stage in STAGES] == ["gemini", "together", "gemini"]


@pytest.mark.parametrize(
    ("text", "models"),
    [
        ("[together]\nmodels = ['a', 'b']", ["together:a", "together:b"]),
        (
            "[answer]\nprovider = 'together'",
            ["together:meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo", "together:Qwen/Qwen3.5-9B"],
        ),
        ("[answer]\nprovider = 'groq'\n[groq]\nmodels = ['a']", ["groq:a"]),
        ("[answer]\nmodels = ['groq:a/b:c', 'gemini:d']\n[together]\nmodels = ['e']", ["groq:a/b:c", "gemini:d"]),
    ],
)
def test_the_models_of_a_stage_are_its_own_or_those_of_its_provider(
    tmp_path: Path, text: str, models: list[str]
) -> None:
    assert list(map(str, written(tmp_path, text).choices(Stage.ANSWER))) == models


def test_prices_of_one_s_own(tmp_path: Path) -> None:
    found = written(tmp_path, '[prices."org/model-1.5"]\ninput = 1\noutput = 2.5\n')
    assert {name: (price.input, price.output, price.cached_input) for name, price in found.prices.items()} == {
        "org/model-1.5": (1.0, 2.5, None)
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n# three\nroundz = 3", "line 3: unknown key `roundz`."),
        ("[question]\ntemprature = 1", "line 2: unknown key `question.temprature`."),
        ("[qestion]\ntemperature = 1", "line 1: unknown key `qestion`."),
        ("[batches.more]\na = 1", "line 1: unknown key `batches.more`."),
        ("'a b' = 1", 'line 1: unknown key `"a b"`.'),
        ("[prices.m]\ninput = 1", "line 1: prices.m needs the key `output`."),
        ('[prices."a/b c"]\ninput = 1', 'line 1: prices."a/b c" needs the key `output`.'),
        ("[prices.m]\ninput = 1\noutput = 1\nbatch = 1", "line 4: unknown key `prices.m.batch`."),
        ("[prices.m]\ninput = 1\noutput = '1'", 'line 3: prices.m.output must be a number, not "1".'),
        ("[prices.m]\ninput = 1\noutput = nan", "line 3: prices.m.output must be a number >= 0.0, not NaN."),
        ("[prices]\nm = 1", "line 2: prices.m must be a section, not 1."),
        ("prices = 1", "line 1: prices must be a section, not 1."),
        ("[question]\nask_next = true", "line 2: question.ask_next must be false:"),
        ("[correction]\nask_next = 1", "line 2: correction.ask_next must be true or false, not 1."),
        ("[question]\nmax_rejected_share = 0", "question.max_rejected_share must be a number > 0.0, not 0."),
        ("[question]\nretry_flags = [\n'a',\n1]", "line 2: question.retry_flags[1] must be a text, not 1."),
        ("[question]\n\nretry_flags = ['near_duplicate']", "line 3: question.retry_flags: near_duplicate cannot be"),
        ("rounds = 1", "line 1: rounds must be a whole number >= 2, not 1."),
        ("rounds = 51", "rounds must be a whole number <= 50, not 51."),
        ("rounds = true", "rounds must be a whole number, not true."),
        ("rounds = 2.5", "rounds must be a whole number, not 2.5."),
        ("rounds = 2026-01-01", 'rounds must be a whole number, not "2026-01-01".'),
        ("history_messages = 1", "history_messages must be a whole number >= 2, not 1."),
        ("[history]\nshows = 'answers'", 'line 2: history.shows must be corrections or everything, not "answers".'),
        ("[history]\nshow = 1", "line 2: unknown key `history.show`."),
        ("max_usd = -1", "max_usd must be a number >= 0.0, not -1."),
        ("max_usd = nan", "max_usd must be a number >= 0.0, not NaN."),
        (f"max_usd = {'1' * 400}", "line 1: max_usd: Number out of range."),
        ("[gemini]\nmodels = []", "line 2: gemini.models must be a list of length >= 1, not []."),
        ("[gemini]\nmodels = ['']", 'gemini.models[0] must be a text of length >= 1, not "".'),
        ("[gemini]\nmodels = [1]", "gemini.models[0] must be a text, not 1."),
        ("gemini = 3", "line 1: gemini must be a section, not 3."),
        ("[[gemini]]\nmodels = ['a']", 'line 1: gemini must be a section, not [{"models": ["a"]}].'),
        ("[question]\nprovider = 'novita'", "line 2: question.provider must be one of gemini, together, deepinfra,"),
        ("[question]\nprovider = 'openai'", "line 2: question.provider: no model of openai is named."),
        ("[answer]\nmodels = ['together']", 'answer.models[0] must be PROVIDER:MODEL, not "together".'),
        ("[answer]\nmodels = ['openai:a', 'x:b']", 'answer.models[1] must be PROVIDER:MODEL, not "x:b".'),
        ("[question]\ntemperature = 2.1", "question.temperature must be a number <= 2.0, not 2.1."),
        ("[question]\ntemperature = nan", "question.temperature must be a number >= 0.0, not NaN."),
        ("[question]\nmax_output_tokens = 0", "question.max_output_tokens must be a whole number >= 1, not 0."),
        ("[batches]\nmax_requests = 0", "batches.max_requests must be a whole number >= 1, not 0."),
        ("[batches]\nhttp_timeout_seconds = 0", "batches.http_timeout_seconds must be a number > 0.0, not 0."),
        ("[batches]\nhttp_timeout_seconds = inf", "batches.http_timeout_seconds must be a number <= 3600.0, not"),
        ("[batches]\nreconcile_grace_seconds = -1", "batches.reconcile_grace_seconds must be a number >= 0.0, not -1."),
        ("rounds = \n", "line 1: this is not TOML: Invalid value"),
        ("rounds = 3\nrounds = 4\n", "line 2: this is not TOML"),
        ("[gemini\n", "line 1: this is not TOML"),
        ("max_usd = 1\n[gemini]\nmodels = ['a'", "line 3: this is not TOML"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SetupError, match=re.escape(words)) as raised:
        written(tmp_path, text)
    assert str(raised.value).startswith(f"{tmp_path / 'batchgen.toml'}, line ")
    assert raised.value.do
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "do"),
    [
        ("[question]\ntemprature = 1", "Did you mean `temperature`?"),
        ("[gemini]\nmodel = ['a']", "Did you mean `models`?"),
        ("[together]\nxyz = 1", "Keys of this section: models, enqueued_tokens, concurrent_batches, api_version."),
    ],
)
def test_a_misspelt_key_is_told_what_it_may_be(tmp_path: Path, text: str, do: str) -> None:
    with pytest.raises(SetupError) as raised:
        written(tmp_path, text)
    assert raised.value.do == do


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    assert written(tmp_path, "\ufeffrounds = 5\n").rounds == 5


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "batchgen.toml").write_bytes(b"rounds = 3\n# '\xff'")
    with pytest.raises(SetupError, match=r"batchgen\.toml, line 2: this is not UTF-8"):
        load_settings(tmp_path)


def test_a_directory_in_the_file_s_place(tmp_path: Path) -> None:
    (tmp_path / "batchgen.toml").mkdir()
    with pytest.raises(SetupError, match=r"batchgen\.toml: Is a directory"):
        load_settings(tmp_path)


@pytest.mark.parametrize("stage", STAGES)
def test_instructions_of_a_file_beside_the_configuration(tmp_path: Path, stage: Stage) -> None:
    (tmp_path / "own.txt").write_bytes("\ufeff  Ask {this} in {length}.\n\n".encode())
    text = f'[{stage}]\ninstructions_file = "own.txt"\ntarget_characters = 70\n'
    found = written(tmp_path, text)
    assert found.stage(stage).instructions == "Ask {this} in {length}."
    assert found.own_instructions() == {stage: "Ask {this} in 70."}
    elsewhere = tmp_path / "elsewhere.toml"
    elsewhere.write_text(text, "utf-8")
    assert load_settings(tmp_path / "no such root", elsewhere).own_instructions() == found.own_instructions()


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('instructions = "a"\ninstructions_file = "own.txt"', 4, "[answer] has both `instructions` and"),
        ('instructions = " \\n "', 3, "answer.instructions is empty."),
        ('instructions_file = ""', 3, "answer.instructions_file is empty."),
        ('instructions_file = "empty.txt"', 3, "empty.txt is empty."),
        ('instructions_file = "none.txt"', 3, "none.txt: No such file or directory."),
        ('instructions_file = "folder"', 3, "folder: Is a directory."),
        ('instructions_file = "a\\u0000b"', 3, "embedded null byte."),
        ('instructions_file = "latin.txt"', 3, "latin.txt, line 2 is not UTF-8."),
        ("instructions_file = 7", 3, "answer.instructions_file must be a text, not 7."),
        ("instructions = ['a']", 3, "answer.instructions must be a text"),
        ("instruction = 'a'", 3, "unknown key `answer.instruction`."),
    ],
)
def test_instructions_that_cannot_be_used(tmp_path: Path, text: str, line: int, words: str) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "own.txt").write_text("a")
    (tmp_path / "latin.txt").write_bytes(b"a\nb\xe9")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SetupError) as raised:
        written(tmp_path, f"rounds = 3\n[answer]\n{text}\n")
    assert f"{tmp_path / 'batchgen.toml'}, line {line}: " in str(raised.value)
    assert words in str(raised.value)
    assert raised.value.do


def test_only_the_default_file_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    with pytest.raises(SetupError, match=re.escape(f"{path}: no such file")):
        load_settings(tmp_path, path)
    path.write_text("rounds = 4")
    assert load_settings(tmp_path, path).rounds == 4
    assert load_settings(tmp_path / "no such root") == Settings()
