"""The two codecs and the reading of refusals, against payloads of the wire (tests/payloads) and the SDKs' own words."""

from __future__ import annotations

import json
from pathlib import Path
from time import monotonic
from typing import Any, get_args

import pytest
from google.genai import types
from hypothesis import given, settings
from hypothesis import strategies as st
from together.types import BatchCreateResponse, BatchJob, batch_job
from together.types.chat import chat_completion

from batchgen.dialogue import Conversation, Stage, Turn
from batchgen.errors import KeyRefused, QuotaReached, SetupError, Temporary
from batchgen.outcomes import DETAIL_CHARACTERS, Reason, Reply, Usage, accept
from batchgen.prompts import Message, Prompt, prompt
from batchgen.providers import PROVIDERS, gemini, provider, together
from batchgen.providers.base import (
    CreateRefused,
    FileGone,
    Job,
    JobMissing,
    JobState,
    LinesRefused,
    ModelGone,
    Parameters,
    Provider,
    label,
)
from batchgen.providers.reading import MOST_TOKENS, count, read_lines, request_line, unwrap
from batchgen.providers.transport import Refusal, meaning, retry_after, speaks_of_model, speaks_of_quota, unreachable

PAYLOADS = Path(__file__).with_name("payloads")
LLAMA = "meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo"
CODECS = [gemini.PROVIDER, together.PROVIDER]


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
    asked = prompt(Conversation(1, DIALOGUES[stage]), stage, target_characters=400, history_messages=16)
    key = f"r1-000001.r2.{stage}.a1.0a1b2c3d"
    return row.line(key, asked._replace(system=f"Write a {stage}."), Parameters(model, ceiling, 1.0))


@pytest.mark.parametrize(
    ("row", "models"),
    [
        (gemini.PROVIDER, ("gemini-2.5-flash-lite", "gemini-2.0-flash", "gemini-3.1-flash-lite")),
        (together.PROVIDER, (LLAMA, LLAMA, "Qwen/Qwen3.5-9B")),
    ],
    ids=["gemini", "together"],
)
def test_request_lines_byte_for_byte(row: Provider, models: tuple[str, str, str]) -> None:
    lines = [request(row, stage, model, 128) for stage, model in zip(Stage, models, strict=True)]
    assert b"\n".join([*lines, b""]) == (PAYLOADS / f"{row.name}_requests.jsonl").read_bytes()


@pytest.mark.parametrize("stage", Stage)
def test_gemini_takes_every_field_of_the_request(stage: Stage) -> None:
    """The SDK's models forbid what they do not know: a misspelt field would make the create call a 400."""
    sent = json.loads(request(gemini.PROVIDER, stage, "gemini-3.1-flash-lite", 128))["request"]
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
        ("gemini-10.1-flash", {"thinkingConfig": {"thinkingLevel": "minimal"}}),
        ("gemma-4", {}),
    ],
)
def test_thinking_is_switched_off_in_each_generation_s_own_words(model: str, thinking: object) -> None:
    assert gemini.thinking_off(model) == thinking


@pytest.mark.parametrize(
    ("model", "switched"),
    [(LLAMA, False), ("Qwen/Qwen3.5-9B", True), ("openai/gpt-oss-120b", True), ("Qwen/Qwen2.5-7B-Instruct", False)],
)
def test_reasoning_is_switched_off_where_there_is_any(model: str, switched: bool) -> None:  # noqa: FBT001
    body = json.loads(request(together.PROVIDER, Stage.ANSWER, model, 128))["body"]
    assert ("reasoning" in body) is switched


TEXT = st.text(st.characters(codec="utf-8"))
MESSAGES = st.lists(st.builds(Message, st.sampled_from(["user", "assistant"]), TEXT), min_size=1).map(tuple)


@pytest.mark.parametrize("row", CODECS, ids=lambda row: row.name)
@settings(deadline=None)
@given(asked=st.builds(Prompt, TEXT, MESSAGES, st.sampled_from(["", "question"])))
def test_a_request_is_one_line_for_every_reader(row: Provider, asked: Prompt) -> None:
    line = row.line("k", asked, Parameters("m", 1, 0.0))
    text = line.decode()
    assert text.splitlines() == [text]  # splitlines also cuts at U+2028, U+2029 and U+0085
    sent = json.loads(text)
    if row is gemini.PROVIDER:
        assert [part["text"] for content in sent["request"]["contents"] for part in content["parts"]] == [
            message.text for message in asked.messages
        ]
    else:
        assert [message["content"] for message in sent["body"]["messages"]] == [
            asked.system,
            *(message.text for message in asked.messages),
        ]


def test_line_separators_are_escaped() -> None:
    assert request_line({"a": "x\u2028\u2029\u0085y\n"}) == b'{"a":"x\\u2028\\u2029\\u0085y\\n"}'


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
    assert gemini.reply(json.dumps(case["line"]).encode(), tuple(filter(None, [case["field"]]))) == expected(case)


@pytest.mark.parametrize("case", payloads("together_rows.json"))
def test_together_rows(case: Any) -> None:
    assert together.reply(json.dumps(case["line"]).encode(), tuple(filter(None, [case["field"]]))) == expected(case)


def row_of(codec: Provider, text: str, key: str = "k") -> dict[str, Any]:
    """A result row in which the model said `text`."""
    if codec is gemini.PROVIDER:
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
    for line in read_lines(b"\xef\xbb\xbf\n" + raw + b"\r\n\r\n  \n" + raw):
        assert accept(Stage.ANSWER, codec.reply(line, "")) == Reply("k", Reason.ACCEPTED, accepted)


def test_lines_are_split_at_line_feeds_only() -> None:
    assert read_lines('\ufeff{"a":"\u2028\u0085"}\r\n\n \n{}'.encode()) == ['{"a":"\u2028\u0085"}\r'.encode(), b"{}"]


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
    if codec is gemini.PROVIDER:
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
    assert len(reply.detail) <= DETAIL_CHARACTERS
    assert reply.detail.isprintable() or not reply.detail.isascii()
    assert all(0 <= tokens <= 3 * MOST_TOKENS for tokens in reply.usage)
    judged = accept(Stage.QUESTION, reply)
    judged.text.encode()
    assert bool(judged.text) is (judged.reason is Reason.ACCEPTED)


@pytest.mark.parametrize("codec", CODECS, ids=lambda row: row.name)
@given(data=st.data(), field=st.sampled_from([(), ("question",), ("correction", "question")]))
@settings(max_examples=200, deadline=None)
def test_no_row_of_json_can_upset_a_codec(codec: Provider, data: st.DataObject, field: tuple[str, ...]) -> None:
    raw = json.dumps(data.draw(VALUES | shapes(codec))).encode()
    for line in read_lines(raw):
        assert_storable(codec.reply(line, field))


@pytest.mark.parametrize("codec", CODECS, ids=lambda row: row.name)
@settings(deadline=None)
@given(raw=st.binary(), field=st.sampled_from([(), ("question",), ("correction", "question")]))
def test_no_bytes_can_upset_a_codec(codec: Provider, raw: bytes, field: tuple[str, ...]) -> None:
    for line in read_lines(raw):
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
    for found in (gemini.job(value), gemini.job(row), together.job(value), together.job({"id": value, "error": value})):
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
    assert count(value) == tokens


def test_a_reply_of_blanks_inside_a_fence_is_read_quickly() -> None:
    """Repetition loops of a constrained decoder end like this; a regular expression took hours on it."""
    read = Reply("k", Reason.ACCEPTED)
    started = monotonic()
    assert unwrap("```" + "\n" * 20_000 + "x", "question", read).reason is Reason.MALFORMED
    assert unwrap("```json" + " \n" * 20_000 + "```", "question", read).reason is Reason.MALFORMED
    assert monotonic() - started < 1
    for short in ("`", "```", "````", "`````", "``````"):
        assert unwrap(short, "question", read).reason is Reason.MALFORMED


# ---------------------------------------------------------------- jobs


def job_of(case: Any) -> Job:
    wanted = dict(case["job"])
    wanted["state"] = JobState(wanted["state"])
    wanted["inline"] = tuple(line.encode() for line in wanted.get("inline", ()))
    return Job(**wanted)


@pytest.mark.parametrize("case", payloads("gemini_jobs.json"))
def test_gemini_jobs(case: Any) -> None:
    assert gemini.job(case["operation"]) == job_of(case)


@pytest.mark.parametrize("case", payloads("together_jobs.json"))
def test_together_jobs(case: Any) -> None:
    assert together.job(case["raw"]) == job_of(case)


def test_an_inline_row_that_orjson_cannot_write_is_kept() -> None:
    rows = [{"metadata": {"key": "k"}, "response": {"odd": 2**70, "text": "\ud800"}}]
    operation = {"name": "batches/a", "response": {"inlinedResponses": {"inlinedResponses": rows}}}
    (line,) = gemini.job(operation).inline
    assert json.loads(line) == rows[0]
    assert gemini.reply(line, "").key == "k"


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
        found = together.job(job.to_dict())
        assert found[:6] == ("b", JobState.SUCCEEDED, "COMPLETED", "file-1", "file-2", "")
        assert found.created_at.startswith("2026-09-02")


# ---------------------------------------------------------------- checklists: the SDKs' own enumerations


def test_every_state_the_gemini_sdk_can_name_is_mapped() -> None:
    names = {state.value.removeprefix("JOB_STATE_") for state in types.JobState}
    assert set(gemini.STATES) == names
    for name in names:
        for prefix in ("BATCH_STATE_", "JOB_STATE_", ""):
            found = gemini.job({"name": "batches/a", "metadata": {"state": prefix + name}})
            assert found.state is gemini.STATES[name]
            assert found.raw_state == ("JOB_STATE_" if prefix else "") + name
    ended = {name for name, state in gemini.STATES.items() if state.ended}
    assert ended == {"SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"}


def test_every_state_together_can_name_is_mapped() -> None:
    annotation = BatchJob.model_fields["status"].annotation
    documented = {name for literal in get_args(annotation) for name in get_args(literal)}
    assert documented == {"VALIDATING", "IN_PROGRESS", "COMPLETED", "FAILED", "EXPIRED", "CANCELLED"}
    assert batch_job.BatchJob is BatchJob
    assert set(together.STATES) == documented | {"CANCELING", "CANCELLING"}
    ended = {name for name, state in together.STATES.items() if state.ended}
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
    assert named == GEMINI_UNKNOWN | set(gemini.FINISH)
    assert not GEMINI_UNKNOWN & set(gemini.FINISH)
    assert [name for name, reason in gemini.FINISH.items() if reason is Reason.ACCEPTED] == ["STOP"]
    for name in named:
        row = row_of(gemini.PROVIDER, "text")
        row["response"]["candidates"][0]["finishReason"] = name
        reply = gemini.reply(json.dumps(row).encode(), "")
        assert reply.reason is gemini.FINISH.get(name, Reason.UNKNOWN_FINISH)
        assert bool(reply.text) is (name == "STOP")


def test_every_finish_reason_of_together_is_placed() -> None:
    annotation = chat_completion.Choice.model_fields["finish_reason"].annotation
    named = {name for literal in get_args(annotation) for name in get_args(literal)}
    assert named == {"stop", "eos", "length", "tool_calls", "function_call"}
    assert set(together.FINISH) == (named - {"tool_calls", "function_call"}) | {"content_filter"}


@pytest.mark.parametrize("word", [*(reason.value for reason in types.BlockedReason), "BRAND_NEW"])
def test_every_block_of_a_prompt_is_one(word: str) -> None:
    raw = json.dumps({"key": "k", "response": {"promptFeedback": {"blockReason": word}}}).encode()
    assert gemini.reply(raw, "question") == Reply("k", Reason.BLOCKED_PROMPT, detail=word)


def test_the_provider_table() -> None:
    assert list(PROVIDERS) == ["gemini", "together"]
    assert [label(row, name="b-1", remote_file="file-1") for row in PROVIDERS.values()] == ["b-1", "file-1"]
    for name, row in PROVIDERS.items():
        assert provider(name) is row
        assert row.max_line_bytes <= row.max_file_bytes
    with pytest.raises(SetupError, match="nobody"):
        provider("nobody")


# ---------------------------------------------------------------- what a refusal means


NOT_MINE = "You do not have permission to access the File abc123 or it may not exist. PERMISSION_DENIED"
NOT_SERVED = (
    "Unable to access non-serverless model meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo. Please"
    " visit https://api.together.ai/models/... to create and start a new dedicated endpoint for it. model_not_available"
)
QUOTA = "You exceeded your current quota, please check your plan and billing details. RESOURCE_EXHAUSTED"
NO_FIELD = "Error on line 3: invalid JSON, near column 1032: no such field: 'model_options'. Model not found?"
CREDITS = "This job would exceed your free trial credits. Please upgrade to a paid account through Settings"
CREATE, READ, UPLOAD, PROBE = (
    "create a batch",
    "look at a batch",
    "upload a request file",
    "ask the model for one token",
)

MEANINGS: list[tuple[str, str, int, str, type[Exception]]] = [
    # quotas: the provider takes no more for now
    ("gemini", CREATE, 429, QUOTA, QuotaReached),
    ("gemini", UPLOAD, 429, "Quota exceeded for metric file_storage_bytes RESOURCE_EXHAUSTED", QuotaReached),
    ("gemini", READ, 429, "Too many requests for model gemini-2.5-flash-lite is not supported", QuotaReached),
    ("together", CREATE, 429, "request frequency", QuotaReached),
    ("together", UPLOAD, 429, "<html>slow down</html>", QuotaReached),
    # keys
    ("gemini", CREATE, 400, "API key not valid. Please pass a valid API key. INVALID_ARGUMENT", KeyRefused),
    ("gemini", READ, 400, "INVALID_ARGUMENT API_KEY_INVALID", KeyRefused),
    ("gemini", READ, 400, "API key expired. Please renew the API key. INVALID_ARGUMENT", KeyRefused),
    ("gemini", PROBE, 403, "Your API key was reported as leaked. Please use another API key.", KeyRefused),
    ("gemini", PROBE, 403, "Your project has been denied access. Please contact support.", KeyRefused),
    ("gemini", READ, 403, "The caller does not have permission PERMISSION_DENIED", KeyRefused),
    (
        "gemini",
        READ,
        403,
        "Generative Language API has not been used in project 1 before",
        KeyRefused,
    ),
    ("gemini", READ, 401, "Request had invalid authentication credentials. UNAUTHENTICATED", KeyRefused),
    ("together", UPLOAD, 401, CREDITS, KeyRefused),
    ("together", READ, 401, "Invalid API key provided", KeyRefused),
    ("together", PROBE, 402, "Credit limit exceeded for the model is not available", KeyRefused),
    ("together", CREATE, 400, CREDITS, KeyRefused),
    ("together", PROBE, 403, "third_party_data_sharing_blocked", KeyRefused),
    # models
    ("gemini", CREATE, 400, "Do not support publisher model gemini-2.5-flash-lite", ModelGone),
    (
        "gemini",
        PROBE,
        404,
        "models/gemini-9 is not found for API version v1beta, or is not supported for generateContent. NOT_FOUND",
        ModelGone,
    ),
    ("gemini", CREATE, 404, "models/x is not found", ModelGone),
    ("gemini", PROBE, 404, "This model models/gemini-2.0-flash is no longer available to new users.", ModelGone),
    ("gemini", CREATE, 404, "Publisher Model `projects/p/models/x` was not found or your project", ModelGone),
    ("together", PROBE, 400, NOT_SERVED, ModelGone),
    ("together", PROBE, 404, "The model `nonexistent/model-xyz` does not exist model_not_found", ModelGone),
    ("together", PROBE, 404, "Unable to access model nonexistent/model-xyz. Please visit https://", ModelGone),
    ("together", PROBE, 400, "Invalid model specified invalid_model", ModelGone),
    ("together", PROBE, 422, "Model Qwen/Qwen3.5-9B has been deprecated", ModelGone),
    # lines
    ("gemini", CREATE, 400, NO_FIELD, LinesRefused),
    ("gemini", CREATE, 400, "Error on line 1: API key field: unauthorized file x not found", LinesRefused),
    # files
    ("gemini", READ, 403, NOT_MINE, FileGone),
    ("gemini", CREATE, 403, NOT_MINE, FileGone),
    ("together", READ, 404, "File file-6f50f9d1 not found not_found", FileGone),
    ("together", CREATE, 400, "The input file has expired", FileGone),
    # jobs
    ("gemini", READ, 404, "Requested entity was not found. NOT_FOUND", JobMissing),
    ("together", READ, 404, "Job not found", JobMissing),
    # a clear no to the request itself
    ("gemini", CREATE, 400, "Request contains an invalid argument. INVALID_ARGUMENT", CreateRefused),
    (
        "gemini",
        CREATE,
        400,
        'Invalid JSON payload received. Unknown name "x": Cannot find field.',
        CreateRefused,
    ),
    ("gemini", CREATE, 400, "Thinking level is not supported for this model.", CreateRefused),
    ("gemini", CREATE, 400, "response_schema is not supported by the model gemini-2.5-flash-lite", CreateRefused),
    ("gemini", CREATE, 400, "model gemini-2.5-flash-lite: thinking_level is not supported", CreateRefused),
    ("gemini", CREATE, 400, "Invalid model parameters: temperature must be below 2", CreateRefused),
    ("gemini", CREATE, 400, "User location is not supported for the API use. FAILED_PRECONDITION", CreateRefused),
    ("gemini", CREATE, 400, "Request payload size exceeds the limit: 20971520 bytes.", CreateRefused),
    (
        "gemini",
        READ,
        400,
        "* GetFileRequest.name: File ID (name excluding 'files/') cannot be more",
        CreateRefused,
    ),
    ("together", PROBE, 422, "missing 'model' field in body or not a string", CreateRefused),
    ("together", PROBE, 400, "Maximum four stop sequences allowed", CreateRefused),
    ("together", UPLOAD, 413, "Payload too large", CreateRefused),
    # nobody knows what happened, or the provider is in trouble
    ("gemini", READ, 500, "An internal error has occurred. INTERNAL", Temporary),
    ("gemini", READ, 503, "The model is overloaded. Please try again later. UNAVAILABLE", Temporary),
    ("gemini", READ, 503, "models/gemini-2.5-flash-lite is not available UNAVAILABLE", Temporary),
    ("gemini", READ, 504, "Deadline expired before operation could complete. DEADLINE_EXCEEDED", Temporary),
    ("gemini", CREATE, 502, "<!DOCTYPE html><title>Error 502</title>", Temporary),
    ("gemini", READ, 201, "", Temporary),
    ("together", READ, 302, "", Temporary),
    ("together", CREATE, 408, "timeout", Temporary),
    ("together", READ, 409, "Cannot cancel job - already in terminal state: CANCELLED", Temporary),
    # a page of something in between is not the provider's word
    ("gemini", READ, 404, "<!DOCTYPE html>\n<title>Error 404 (Not Found)!!1</title>", Temporary),
    ("together", READ, 403, "<html><body>error code: 1010</body></html>", Temporary),
    (
        "together",
        UPLOAD,
        403,
        '<?xml version="1.0"?><Error><Message>Request has expired</Message></Error>',
        Temporary,
    ),
    ("together", UPLOAD, 400, '<?xml version="1.0"?><Error><Code>RequestTimeout</Code></Error>', Temporary),
]


@pytest.mark.parametrize(
    ("name", "doing", "status", "message", "kind"), MEANINGS, ids=[f"{row[2]}-{row[3][:40]}" for row in MEANINGS]
)
def test_what_a_refusal_means(name: str, doing: str, status: int, message: str, kind: type[Exception]) -> None:
    found = meaning(Refusal(name, doing, status, message))
    assert type(found) is kind
    if isinstance(found, LinesRefused):
        assert found.lines


def test_refused_lines_are_told_one_by_one() -> None:
    message = "Error on line 1: no such field: 'a'\nmore of it\nError on line 12: bad\nError on line 2: worse"
    found = meaning(Refusal("gemini", CREATE, 400, message))
    assert isinstance(found, LinesRefused)
    assert found.lines == {1: "no such field: 'a' more of it", 12: "bad", 2: "worse"}


@pytest.mark.parametrize(
    ("doing", "message", "words"),
    [
        (UPLOAD, "quota", "FILE quota"),
        (CREATE, "file_storage_bytes", "FILE quota"),
        (CREATE, QUOTA, "enqueued tokens"),
        (READ, QUOTA, "calls per minute"),
    ],
)
def test_a_quota_answer_says_which_quota_it_may_be(doing: str, message: str, words: str) -> None:
    found = meaning(Refusal("gemini", doing, 429, message, retry_after_seconds=61.0))
    assert words in str(found)
    assert isinstance(found, QuotaReached)
    assert found.retry_after_seconds == 61


@settings(deadline=None)
@given(st.integers(100, 599), st.text(st.characters()))
def test_every_refusal_has_a_meaning_and_one_line(status: int, message: str) -> None:
    found = meaning(Refusal("gemini", CREATE, status, message))
    assert isinstance(found, (CreateRefused, JobMissing, KeyRefused, ModelGone, Temporary))
    str(found).encode()
    assert str(found).splitlines() in ([], [str(found)])


@pytest.mark.parametrize(
    ("error", "model", "quota"),
    [
        (f"Invalid model ID: {NOT_SERVED}", True, False),
        ("code 8: Resource exhausted", False, True),
        ("code 8: RESOURCE_EXHAUSTED", False, True),
        ("code 13: internal", False, False),
        ("Failed to download input file: ... 404 ...", False, False),
        ("Failed to calculate tokens: input format error: Line 2 (within chunk): Invalid JSON format", False, False),
        ("", False, False),
    ],
)
def test_what_a_failed_job_speaks_of(error: str, model: bool, quota: bool) -> None:  # noqa: FBT001
    assert (speaks_of_model(error), speaks_of_quota(error)) == (model, quota)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1.5", 1.5),
        ("-3", 0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("soon", None),
        ("", None),
        ("inf", None),
        ("nan", None),
        ("Mon, 01 Jan 0001 00:00:00 -0000", 0),
        ("Fri, 31 Dec 99999 00:00:00 GMT", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": value}) == seconds


def test_retry_after_is_optional() -> None:
    assert retry_after({}) is None


@settings(deadline=None)
@given(st.text())
def test_no_header_can_upset_retry_after(value: str) -> None:
    found = retry_after({"retry-after": value})
    assert found is None or found >= 0


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (OSError("connection refused"), Temporary, "connection refused"),
        (caused(RuntimeError("Connection error."), OSError("no route")), Temporary, "no route"),
        (TimeoutError(), Temporary, "TimeoutError"),
        (OSError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"), SetupError, "SSL_CERT_FILE"),
    ],
)
def test_an_unreachable_provider(error: Exception, kind: type[Exception], words: str) -> None:
    found = unreachable("gemini", READ, error)
    assert isinstance(found, kind)
    assert words in f"{found} {found.do}"
