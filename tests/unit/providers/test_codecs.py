"""Test the two codecs with recorded payloads (tests/payloads) and with the names that the SDKs define."""

from __future__ import annotations

import json
from time import monotonic
from typing import Any, get_args

import pytest
from google.genai import types
from hypothesis import given, settings
from hypothesis import strategies as st
from together.types import BatchCreateResponse, BatchJob, batch_job
from together.types.chat import chat_completion

from batchgen.core.dialogue import Conversation, HistoryShows, Stage, Turn
from batchgen.core.errors import SetupError
from batchgen.core.jsonl import MAX_TOKEN_COUNT, encode_request_line, parse_reply_fields, split_lines, token_count
from batchgen.core.outcomes import Reason, Reply, Usage, validate_text
from batchgen.core.prompts import Message, Prompt, build_prompt
from batchgen.core.text import MAX_DETAIL_CHARACTERS
from batchgen.providers import PROVIDERS, find_provider, gemini_codec, together_codec
from batchgen.providers.base import (
    Job,
    JobState,
    Parameters,
    Provider,
    lookup_key,
)
from tests.support.bench import REPOSITORY

PAYLOADS = REPOSITORY / "tests" / "payloads"
LLAMA = "meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo"
CODECS = [gemini_codec.PROVIDER, together_codec.PROVIDER]


def payloads(name: str) -> Any:
    """The cases of a payload file, each under its own name."""
    return [pytest.param(case, id=case["name"]) for case in json.loads((PAYLOADS / name).read_bytes())]


# ---------------------------------------------------------------- request lines


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
    ],
    ids=["gemini", "together"],
)
def test_request_lines_byte_for_byte(row: Provider, models: tuple[str, str, str]) -> None:
    lines = [request(row, stage, model, 128) for stage, model in zip(Stage, models, strict=True)]
    assert b"\n".join([*lines, b""]) == (PAYLOADS / f"{row.name}_requests.jsonl").read_bytes()


@pytest.mark.parametrize("stage", Stage)
def test_gemini_takes_every_field_of_the_request(stage: Stage) -> None:
    """The SDK's models forbid what they do not know: a misspelt field would make the create call a 400."""
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
    assert (found.key, found.model) == ("k", LLAMA if codec is together_codec.PROVIDER else "")
    assert (found.fields, found.max_output_tokens) == (tuple(asked.fields), most)
    assert found.texts == (asked.system, *(message.text for message in asked.messages))
    (other,) = (each for each in CODECS if each is not codec)
    assert other.asked(row) is None


def test_line_separators_are_escaped() -> None:
    assert encode_request_line({"a": "x\u2028\u2029\u0085y\n"}) == b'{"a":"x\\u2028\\u2029\\u0085y\\n"}'


# ---------------------------------------------------------------- result lines


def expected(case: Any) -> Reply:
    wanted = case["reply"]
    return Reply(
        key=wanted["key"],
        reason=Reason(wanted["reason"]),
        text=wanted.get("text", ""),
        detail=wanted.get("detail", ""),
        usage=Usage(*wanted.get("usage", ())),
        model=wanted.get("model", ""),
    )


@pytest.mark.parametrize("case", payloads("gemini_rows.json"))
def test_gemini_rows(case: Any) -> None:
    assert gemini_codec.parse_result(
        json.dumps(case["line"]).encode(), tuple(filter(None, [case["field"]]))
    ) == expected(case)


@pytest.mark.parametrize("case", payloads("together_rows.json"))
def test_together_rows(case: Any) -> None:
    assert together_codec.parse_result(
        json.dumps(case["line"]).encode(), tuple(filter(None, [case["field"]]))
    ) == expected(case)


def row_of(codec: Provider, text: str, key: str = "k") -> dict[str, Any]:
    """A result row in which the model said `text`."""
    if codec is gemini_codec.PROVIDER:
        response = {"candidates": [{"content": {"parts": [{"text": text}]}, "finishReason": "STOP"}]}
        return {"key": key, "response": response}
    body = {"choices": [{"finish_reason": "stop", "message": {"content": text}}]}
    return {"custom_id": key, "response": {"status_code": 200, "body": body}}


@pytest.mark.parametrize("codec", CODECS, ids=lambda row: row.name)
@pytest.mark.parametrize(
    ("written", "accepted"),
    [
        ("a\u2028b\u2029c\u0085d", "a\u2028b\u2029c\u0085d"),
        ("one\r\ntwo\rthree\n", "one\ntwo\nthree"),
        ("a\x00b\x1b[31mc\u009bd", "ab[31mcd"),
        ("\U0001f469\u200d\U0001f680", "\U0001f469\u200d\U0001f680"),
        ("half \ud83d", "half \ufffd"),
    ],
)
@pytest.mark.parametrize("escaped", [True, False])
def test_awkward_characters_arrive(codec: Provider, written: str, accepted: str, escaped: bool) -> None:  # noqa: FBT001
    raw = json.dumps(row_of(codec, written), ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    for line in split_lines(b"\xef\xbb\xbf\n" + raw + b"\r\n\r\n  \n" + raw):
        assert validate_text(Stage.ANSWER, codec.reply(line, "")) == Reply("k", Reason.ACCEPTED, accepted)


def test_lines_are_split_at_line_feeds_only() -> None:
    assert split_lines('\ufeff{"a":"\u2028\u0085"}\r\n\n \n{}'.encode()) == ['{"a":"\u2028\u0085"}\r'.encode(), b"{}"]


@pytest.mark.parametrize("codec", CODECS, ids=lambda row: row.name)
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"<html>",
        b"\xff\xfe\x00",
        b'{"key":"k","custom_id":"k","response":{"status_code":200,"body":{"choi',
        b'{"key": "\xff"}',
        b"[" * 100_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        b'{"key":' + b"9" * 5_000 + b"}",
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_a_line_nobody_can_read_is_unreadable(codec: Provider, raw: bytes) -> None:
    assert codec.reply(raw, "question").reason is Reason.UNREADABLE


PROTOCOL = """
    key custom_id metadata response error status body status_code code message candidates content parts text thought
    finishReason promptFeedback blockReason usageMetadata promptTokenCount thoughtsTokenCount modelVersion choices
    finish_reason usage prompt_tokens completion_tokens_details refusal model
"""
WORDS = st.sampled_from(PROTOCOL.split())
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.sampled_from(["STOP", "stop", "MAX_TOKENS", '{"question": "\\ud800"}', "9" * 400])
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=6))


def shapes(codec: Provider) -> st.SearchStrategy[Any]:
    """Rows near the protocol's own shape, with anything in any place."""
    if codec is gemini_codec.PROVIDER:
        part = st.fixed_dictionaries({"text": VALUES}, optional={"thought": VALUES})
        content = st.fixed_dictionaries({"parts": st.lists(part, max_size=3) | VALUES}) | VALUES
        candidate = st.fixed_dictionaries({"content": content, "finishReason": LEAVES})
        response = st.fixed_dictionaries(
            {"candidates": st.lists(candidate, max_size=2) | VALUES},
            optional={"usageMetadata": VALUES, "modelVersion": VALUES, "promptFeedback": VALUES},
        )
        return st.fixed_dictionaries({"key": VALUES}, optional={"response": response | VALUES, "error": VALUES})
    choice = st.fixed_dictionaries({"finish_reason": LEAVES, "message": st.fixed_dictionaries({"content": VALUES})})
    body = st.fixed_dictionaries({"choices": st.lists(choice, max_size=2) | VALUES}, optional={"usage": VALUES})
    response = st.fixed_dictionaries({"body": body | VALUES}, optional={"status_code": VALUES})
    return st.fixed_dictionaries({"custom_id": VALUES}, optional={"response": response | VALUES, "error": VALUES})


def assert_storable(reply: Reply) -> None:
    """A store and a log can hold it: valid UTF-8, a bounded detail, counts that add up in 64 bits."""
    for text in (reply.key, reply.detail, reply.model):
        text.encode()
    assert len(reply.detail) <= MAX_DETAIL_CHARACTERS
    assert reply.detail.isprintable() or not reply.detail.isascii()
    assert all(0 <= tokens <= 3 * MAX_TOKEN_COUNT for tokens in reply.usage)
    judged = validate_text(Stage.QUESTION, reply)
    judged.text.encode()
    assert bool(judged.text) is (judged.reason is Reason.ACCEPTED)


@pytest.mark.parametrize("codec", CODECS, ids=lambda row: row.name)
@given(data=st.data(), field=st.sampled_from([(), ("question",), ("correction", "question")]))
@settings(deadline=None)
def test_no_row_of_json_can_upset_a_codec(codec: Provider, data: st.DataObject, field: tuple[str, ...]) -> None:
    raw = json.dumps(data.draw(VALUES | shapes(codec))).encode()
    for line in split_lines(raw):
        assert_storable(codec.reply(line, field))


@pytest.mark.parametrize("codec", CODECS, ids=lambda row: row.name)
@settings(deadline=None)
@given(raw=st.binary(), field=st.sampled_from([(), ("question",), ("correction", "question")]))
def test_no_bytes_can_upset_a_codec(codec: Provider, raw: bytes, field: tuple[str, ...]) -> None:
    for line in split_lines(raw):
        assert_storable(codec.reply(line, field))


@pytest.mark.parametrize("codec", CODECS, ids=lambda row: row.name)
def test_half_a_character_anywhere_costs_no_row(codec: Provider) -> None:
    """A key, a model or a message that no store can hold would bring a whole result file down."""
    half = json.dumps("half \ud83d")
    raw = f'{{"key":{half},"custom_id":{half},"error":{{"code":13,"message":{half}}}}}'.encode()
    reply = codec.reply(raw, "")
    assert (reply.key, reply.detail.removeprefix("code 13: ")) == ("half \ufffd", "half \ufffd")
    assert_storable(reply)


@pytest.mark.parametrize("codec", CODECS, ids=lambda row: row.name)
def test_objects_a_thousand_deep_are_read_too(codec: Provider) -> None:
    """Deeper than Python prints, not deeper than orjson reads."""
    raw = b'{"key":"k","custom_id":"k","error":%s}' % (b"[" * 1000 + b"]" * 1000)
    reply = codec.reply(raw, "")
    assert (reply.key, reply.reason) == ("k", Reason.PROVIDER_ERROR)


@settings(deadline=None)
@given(VALUES)
def test_no_json_can_upset_the_reading_of_a_job(value: Any) -> None:
    row = {"name": value, "metadata": {"state": value, "output": value, "batchStats": value}, "error": value}
    for found in (
        gemini_codec.parse_job(value),
        gemini_codec.parse_job(row),
        together_codec.parse_job(value),
        together_codec.parse_job({"id": value, "error": value}),
    ):
        assert isinstance(found, Job)
        assert found.state is JobState.UNKNOWN
        found.error.encode()


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        (7, 7),
        ("7", 7),
        (7.9, 7),
        (None, 0),
        ("", 0),
        (-1, 0),
        ("many", 0),
        ([], 0),
        ({"a": 1}, 0),
        (float("inf"), 0),
        (float("nan"), 0),
        ("9" * 5_000, 0),
        (10**30, 0),
    ],
)
def test_token_counts(value: object, tokens: int) -> None:
    assert token_count(value) == tokens


def test_a_reply_of_blanks_inside_a_fence_is_read_quickly() -> None:
    """Repetition loops of a constrained decoder end like this; a regular expression took hours on it."""
    read = Reply("k", Reason.ACCEPTED)
    started = monotonic()
    assert parse_reply_fields("```" + "\n" * 20_000 + "x", "question", read).reason is Reason.MALFORMED
    assert parse_reply_fields("```json" + " \n" * 20_000 + "```", "question", read).reason is Reason.MALFORMED
    assert monotonic() - started < 1
    for short in ("`", "```", "````", "`````", "``````"):
        assert parse_reply_fields(short, "question", read).reason is Reason.MALFORMED


# ---------------------------------------------------------------- jobs


def job_of(case: Any) -> Job:
    wanted = dict(case["job"])
    wanted["state"] = JobState(wanted["state"])
    wanted["inline_rows"] = tuple(line.encode() for line in wanted.pop("inline", ()))
    return Job(**wanted)


@pytest.mark.parametrize("case", payloads("gemini_jobs.json"))
def test_gemini_jobs(case: Any) -> None:
    assert gemini_codec.parse_job(case["operation"]) == job_of(case)


@pytest.mark.parametrize("case", payloads("together_jobs.json"))
def test_together_jobs(case: Any) -> None:
    assert together_codec.parse_job(case["raw"]) == job_of(case)


def test_an_inline_row_that_orjson_cannot_write_is_kept() -> None:
    rows = [{"metadata": {"key": "k"}, "response": {"odd": 2**70, "text": "\ud800"}}]
    operation = {"name": "batches/a", "response": {"inlinedResponses": {"inlinedResponses": rows}}}
    (line,) = gemini_codec.parse_job(operation).inline_rows
    assert json.loads(line) == rows[0]
    assert gemini_codec.parse_result(line, "").key == "k"


def test_together_jobs_through_the_sdk_s_own_models() -> None:
    """`to_dict` of a job as retrieve, list and create give it: dates as text, model_id under both names."""
    raw = {
        "id": "b",
        "status": "COMPLETED",
        "input_file_id": "file-1",
        "output_file_id": "file-2",
        "error_file_id": "",
        "created_at": "2026-09-02T00:00:00.123456789Z",
        "model_id": LLAMA,
        "project_id": "p",
    }
    constructed: Any = BatchJob.construct
    created: Any = BatchCreateResponse.construct
    for job in (constructed(**raw), created(job=raw, warning="w").job):
        found = together_codec.parse_job(job.to_dict())
        assert found[:6] == ("b", JobState.SUCCEEDED, "COMPLETED", "file-1", "file-2", "")
        assert found.created_at.startswith("2026-09-02")


# ---------------------------------------------------------------- checklists: the SDKs' own enumerations


def test_every_state_the_gemini_sdk_can_name_is_mapped() -> None:
    names = {state.value.removeprefix("JOB_STATE_") for state in types.JobState}
    assert set(gemini_codec.JOB_STATES) == names
    for name in names:
        for prefix in ("BATCH_STATE_", "JOB_STATE_", ""):
            found = gemini_codec.parse_job({"name": "batches/a", "metadata": {"state": prefix + name}})
            assert found.state is gemini_codec.JOB_STATES[name]
            assert found.raw_state == ("JOB_STATE_" if prefix else "") + name
    ended = {name for name, state in gemini_codec.JOB_STATES.items() if state.ended}
    assert ended == {"SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"}


def test_every_state_together_can_name_is_mapped() -> None:
    annotation = BatchJob.model_fields["status"].annotation
    documented = {name for literal in get_args(annotation) for name in get_args(literal)}
    assert documented == {"VALIDATING", "IN_PROGRESS", "COMPLETED", "FAILED", "EXPIRED", "CANCELLED"}
    assert batch_job.BatchJob is BatchJob
    assert set(together_codec.JOB_STATES) == documented | {"CANCELING", "CANCELLING"}
    ended = {name for name, state in together_codec.JOB_STATES.items() if state.ended}
    assert ended == {"COMPLETED", "FAILED", "EXPIRED", "CANCELLED"}


# Not ours (images, tools, continuations), or saying nothing about the text: asked again, never accepted.
GEMINI_UNKNOWN = {
    "FINISH_REASON_UNSPECIFIED",
    "OTHER",
    "MALFORMED_FUNCTION_CALL",
    "UNEXPECTED_TOOL_CALL",
    "TOO_MANY_TOOL_CALLS",
    "MISSING_THOUGHT_SIGNATURE",
    "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT",
    "IMAGE_RECITATION",
    "IMAGE_OTHER",
    "NO_IMAGE",
    "ESCALATION",
    "PUP_LIMITED_DISABLED",
    "CONTINUATION",
}


def test_every_finish_reason_of_gemini_is_placed() -> None:
    named = {reason.value for reason in types.FinishReason}
    assert named == GEMINI_UNKNOWN | set(gemini_codec.FINISH_REASONS)
    assert not GEMINI_UNKNOWN & set(gemini_codec.FINISH_REASONS)
    assert [name for name, reason in gemini_codec.FINISH_REASONS.items() if reason is Reason.ACCEPTED] == ["STOP"]
    for name in named:
        row = row_of(gemini_codec.PROVIDER, "text")
        row["response"]["candidates"][0]["finishReason"] = name
        reply = gemini_codec.parse_result(json.dumps(row).encode(), "")
        assert reply.reason is gemini_codec.FINISH_REASONS.get(name, Reason.UNKNOWN_FINISH)
        assert bool(reply.text) is (name == "STOP")


def test_every_finish_reason_of_together_is_placed() -> None:
    annotation = chat_completion.Choice.model_fields["finish_reason"].annotation
    named = {name for literal in get_args(annotation) for name in get_args(literal)}
    assert named == {"stop", "eos", "length", "tool_calls", "function_call"}
    assert set(together_codec.FINISH_REASONS) == (named - {"tool_calls", "function_call"}) | {"content_filter"}


@pytest.mark.parametrize("word", [*(reason.value for reason in types.BlockedReason), "BRAND_NEW"])
def test_every_block_of_a_prompt_is_one(word: str) -> None:
    raw = json.dumps({"key": "k", "response": {"promptFeedback": {"blockReason": word}}}).encode()
    assert gemini_codec.parse_result(raw, "question") == Reply("k", Reason.BLOCKED_PROMPT, detail=word)


def test_the_provider_table() -> None:
    assert list(PROVIDERS) == ["gemini", "together"]
    assert [lookup_key(row, name="b-1", remote_file="file-1") for row in PROVIDERS.values()] == ["b-1", "file-1"]
    for name, row in PROVIDERS.items():
        assert find_provider(name) is row
        assert row.max_line_bytes <= row.max_file_bytes
    with pytest.raises(SetupError, match="nobody"):
        find_provider("nobody")


@pytest.mark.parametrize("codec", CODECS, ids=lambda row: row.name)
@pytest.mark.parametrize("thoughts", ["<think>\n\n</think>\n\n", "\n<think>It asks {why}.</think>"])
def test_json_behind_thoughts_is_read(codec: Provider, thoughts: str) -> None:
    read = codec.reply(json.dumps(row_of(codec, thoughts + '{"question": "Why?"}')).encode(), ("question",))
    assert (read.reason, read.text, read.had_thoughts) == (Reason.ACCEPTED, "Why?", True)
    cut = codec.reply(json.dumps(row_of(codec, '<think>It asks {"question": "Why?"}')).encode(), ("question",))
    assert (cut.reason, cut.detail) == (Reason.MALFORMED, "a <think> block without </think>")
