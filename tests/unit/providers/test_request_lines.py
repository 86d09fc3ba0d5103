"""Test the request lines that the codecs write: recorded bytes, each model's options, texts of every kind."""

from __future__ import annotations

import json

import pytest
from google.genai import types
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.core.dialogue import STAGES, Conversation, HistoryShows, Stage, Turn
from batchgen.core.jsonl import encode_request_line
from batchgen.core.prompts import Message, Prompt, build_prompt
from batchgen.providers import PROVIDERS, gemini_codec, together_codec
from batchgen.providers.base import Parameters, Provider
from tests.support.bench import REPOSITORY

PAYLOADS = REPOSITORY / "tests" / "payloads"
LLAMA = "meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo"
CODECS = [gemini_codec.PROVIDER, together_codec.PROVIDER, PROVIDERS["deepinfra"]]
DONE = Turn(
    "How do I descale a kettle?",
    'Pour "bleach" in and boil it.',
    "Boil equal parts water and vinegar,\nthen rinse twice.",
)
ASKED = DONE, Turn("Was kostet Essig? 多少钱？")
ANSWERED = DONE, Turn("Was kostet Essig? 多少钱？", "About $100 a spoon.")
DIALOGUES = {Stage.QUESTION: (DONE,), Stage.ANSWER: ASKED, Stage.CORRECTION: ANSWERED}


def request(row: Provider, stage: Stage, model: str, ceiling: int) -> bytes:
    asked = build_prompt(
        Conversation(1, DIALOGUES[stage]),
        stage,
        target_characters=400,
        history_messages=16,
        shows=HistoryShows.EVERYTHING,  # the recorded lines show the answers of earlier turns
    )
    key = f"r1-000001.r2.{stage}.a1.0a1b2c3d"
    return row.line(key, asked._replace(system=f"Write a {stage}."), Parameters(model, ceiling, 1.0))


@pytest.mark.parametrize(
    ("row", "models"),
    [
        (gemini_codec.PROVIDER, ("gemini-2.5-flash-lite", "gemini-2.0-flash", "gemini-3.1-flash-lite")),
        (together_codec.PROVIDER, (LLAMA, LLAMA, "Qwen/Qwen3.5-9B")),
        (PROVIDERS["deepinfra"], (LLAMA, LLAMA, LLAMA)),
        (PROVIDERS["openai"], ("gpt", "gpt", "gpt")),
    ],
    ids=["gemini", "together", "deepinfra", "openai"],
)
def test_request_lines_byte_for_byte(row: Provider, models: tuple[str, str, str]) -> None:
    lines = [request(row, stage, model, 128) for stage, model in zip(STAGES, models, strict=True)]
    assert b"\n".join([*lines, b""]) == (PAYLOADS / f"{row.name}_requests.jsonl").read_bytes()


@pytest.mark.parametrize("stage", STAGES)
def test_gemini_takes_every_field_of_the_request(stage: Stage) -> None:
    """The SDK's models reject unknown fields, for which the create call would get a 400."""
    sent = json.loads(request(gemini_codec.PROVIDER, stage, "gemini-3.1-flash-lite", 128))["request"]
    assert set(sent) == {"systemInstruction", "contents", "generationConfig"}
    types.GenerationConfig.model_validate(sent["generationConfig"])
    for content in (sent["systemInstruction"], *sent["contents"]):
        types.Content.model_validate(content)


@pytest.mark.parametrize(
    ("model", "thinking"),
    [
        ("gemini-2.0-flash-lite", {}),
        ("gemini-2.5-flash-lite", {"thinkingConfig": {"thinkingBudget": 0}}),
        ("models/gemini-2.5-flash", {"thinkingConfig": {"thinkingBudget": 0}}),
        ("gemini-3-flash", {"thinkingConfig": {"thinkingLevel": "minimal"}}),
        ("gemini-3.1-flash-lite", {"thinkingConfig": {"thinkingLevel": "minimal"}}),
        ("gemini-3.5-flash-lite", {"thinkingConfig": {"thinkingLevel": "minimal"}}),
        ("gemini-3-pro", {"thinkingConfig": {"thinkingLevel": "low"}}),
        ("gemini-3.7-flash", {"thinkingConfig": {"thinkingLevel": "low"}}),
        ("models/gemini-3.8-flash", {"thinkingConfig": {"thinkingLevel": "low"}}),
        ("gemini-4-hydrogen", {"thinkingConfig": {"thinkingLevel": "low"}}),
        ("gemini-10.1-flash-lite", {"thinkingConfig": {"thinkingLevel": "low"}}),
        ("gemma-4", {}),
    ],
)
def test_thinking_is_switched_off_in_each_generation_s_own_words(model: str, thinking: object) -> None:
    assert gemini_codec.thinking_off(model) == thinking


@pytest.mark.parametrize(
    ("model", "sent"),
    [
        ("gemini-2.5-flash-lite", True),
        ("gemini-3.1-flash-lite", True),
        ("gemini-3.5-flash-lite", False),
        ("gemini-3.7-flash", False),
        ("models/gemini-4-neon", False),
        ("gemma-4", True),
    ],
)
def test_no_temperature_is_sent_to_a_generation_that_refuses_it(model: str, sent: bool) -> None:  # noqa: FBT001
    body = json.loads(request(gemini_codec.PROVIDER, Stage.ANSWER, model, 128))["request"]
    assert ("temperature" in body["generationConfig"]) is sent


@pytest.mark.parametrize(
    ("model", "switched"),
    [(LLAMA, False), ("Qwen/Qwen3.5-9B", True), ("openai/gpt-oss-120b", True), ("Qwen/Qwen2.5-7B-Instruct", False)],
)
def test_reasoning_is_switched_off_where_there_is_any(model: str, switched: bool) -> None:  # noqa: FBT001
    body = json.loads(request(together_codec.PROVIDER, Stage.ANSWER, model, 128))["body"]
    assert ("reasoning" in body) is switched


TEXT = st.text(st.characters(codec="utf-8"))
MESSAGES = st.lists(st.builds(Message, st.sampled_from(["user", "assistant"]), TEXT), min_size=1).map(tuple)


@pytest.mark.parametrize("row", CODECS, ids=lambda row: row.name)
@settings(deadline=None)
@given(asked=st.builds(Prompt, TEXT, MESSAGES, st.sampled_from([(), ("question",)])))
def test_a_request_is_one_line_for_every_reader(row: Provider, asked: Prompt) -> None:
    line = row.line("k", asked, Parameters("m", 1, 0.0))
    text = line.decode()
    assert text.splitlines() == [text]  # splitlines also cuts at U+2028, U+2029 and U+0085
    sent = json.loads(text)
    if row is gemini_codec.PROVIDER:
        assert [part["text"] for content in sent["request"]["contents"] for part in content["parts"]] == [
            message.text for message in asked.messages
        ]
    else:
        assert [message["content"] for message in sent["body"]["messages"]] == [
            asked.system,
            *(message.text for message in asked.messages),
        ]


@settings(deadline=None)
@given(asked=st.builds(Prompt, TEXT, MESSAGES, st.sampled_from([(), ("question",)])), most=st.integers(1, 8192))
@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_a_request_line_is_read_back(codec: Provider, asked: Prompt, most: int) -> None:
    row = json.loads(codec.line("k", asked, Parameters(LLAMA, most, 1.0)))
    found = codec.asked(row)
    assert found is not None
    assert (found.key, found.model) == ("k", "" if codec is gemini_codec.PROVIDER else LLAMA)
    assert (found.fields, found.max_output_tokens) == (tuple(asked.fields), most)
    assert found.texts == (asked.system, *(message.text for message in asked.messages))
    assert [other for other in CODECS if other.asked(row) is not None] == [codec]


def test_line_separators_are_escaped() -> None:
    assert encode_request_line({"a": "x\u2028\u2029\u0085y\n"}) == b'{"a":"x\\u2028\\u2029\\u0085y\\n"}'


@pytest.mark.parametrize("stage", [Stage.ANSWER, Stage.QUESTION])
def test_no_other_request_has_an_echo(stage: Stage) -> None:
    asked = build_prompt(Conversation(1, DIALOGUES[stage]), stage, target_characters=400, history_messages=16)
    for row in CODECS if stage is Stage.ANSWER else CODECS[1:]:
        with_echo = row.line("k", asked._replace(echo="0a"), Parameters(LLAMA, 1, 1.0))
        assert with_echo == row.line("k", asked, Parameters(LLAMA, 1, 1.0))
