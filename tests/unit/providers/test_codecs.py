"""Test how the codecs decode result lines and jobs: recorded payloads (tests/payloads), and the names in the SDKs."""

from __future__ import annotations

import json
import re
from time import monotonic
from typing import Any, get_args

import pytest
from google.genai import types
from hypothesis import given, settings
from hypothesis import strategies as st
from together.types import BatchCreateResponse, BatchJob, batch_job
from together.types.chat import chat_completion

from batchgen.core.dialogue import Stage, echo_of
from batchgen.core.errors import SetupError
from batchgen.core.jsonl import MAX_TOKEN_COUNT, parse_reply_fields, split_lines, token_count
from batchgen.core.outcomes import Reason, Reply, Usage, validate_text
from batchgen.core.prompts import Message, Prompt
from batchgen.core.text import MAX_DETAIL_CHARACTERS
from batchgen.providers import PROVIDERS, chat_codec, find_provider, gemini_codec, openai_codec, together_codec
from batchgen.providers.base import Job, JobState, Parameters, Provider
from batchgen.runtime.settings import PROVIDERS as SETTINGS_PROVIDERS
from tests.support.bench import REPOSITORY

PAYLOADS = REPOSITORY / "tests" / "payloads"
LLAMA = "meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo"
CODECS = [gemini_codec.PROVIDER, together_codec.PROVIDER, PROVIDERS["deepinfra"]]


def payloads(name: str) -> Any:
    """The cases of a payload file as parameters, with their names as ids."""
    return [pytest.param(case, id=case["name"]) for case in json.loads((PAYLOADS / name).read_bytes())]


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


def in_snake_case(value: Any) -> Any:
    """JSON with its fields named as in protocol buffers: finish_reason for finishReason."""
    if isinstance(value, list):
        return [in_snake_case(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {re.sub("[A-Z]", lambda found: "_" + found[0].lower(), name): in_snake_case(value[name]) for name in value}


@pytest.mark.parametrize("case", payloads("gemini_rows.json"))
def test_gemini_rows_in_the_other_spelling(case: Any) -> None:
    fields = tuple(filter(None, [case["field"]]))
    assert gemini_codec.parse_result(json.dumps(in_snake_case(case["line"])).encode(), fields) == expected(case)


def test_a_gemini_row_in_both_spellings() -> None:
    """The one that holds a value counts; a value of any depth is no error."""
    row = row_of(gemini_codec.PROVIDER, "said")
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    row["response"] |= {"usage_metadata": {"prompt_token_count": 3, "promptTokenCount": None}, "usageMetadata": None}
    row["response"]["candidates"][0] |= {"finish_reason": None, "groundingMetadata": deep}
    found = gemini_codec.parse_result(json.dumps(row).encode(), ())
    assert (found.reason, found.text, found.usage.input) == (Reason.ACCEPTED, "said", 3)


@pytest.mark.parametrize("case", payloads("together_rows.json"))
def test_together_rows(case: Any) -> None:
    assert chat_codec.parse_result(json.dumps(case["line"]).encode(), tuple(filter(None, [case["field"]]))) == expected(
        case
    )


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
    """Rows of nearly the right structure, with any JSON value in any place."""
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
    """Check that the store and the log can hold it: valid UTF-8, a bounded detail, sums of counts below 64 bits."""
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
    """Otherwise a key, model or message that the store cannot hold would make the whole result file fail."""
    half = json.dumps("half \ud83d")
    raw = f'{{"key":{half},"custom_id":{half},"error":{{"code":13,"message":{half}}}}}'.encode()
    reply = codec.reply(raw, "")
    assert (reply.key, reply.detail.removeprefix("code 13: ")) == ("half \ufffd", "half \ufffd")
    assert_storable(reply)


@pytest.mark.parametrize("codec", CODECS, ids=lambda row: row.name)
def test_objects_a_thousand_deep_are_read_too(codec: Provider) -> None:
    """Deeper than Python can print, but not deeper than orjson reads."""
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
    """A constrained decoder in a repetition loop ends like this; a regular expression took hours on it."""
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
    wanted["labels"] = tuple(wanted.get("labels", ()))
    wanted["line_errors"] = {int(line): why for line, why in wanted.get("line_errors", {}).items()}
    wanted["inline_rows"] = tuple(line.encode() for line in wanted.pop("inline", ()))
    return Job(**wanted)


@pytest.mark.parametrize("case", payloads("gemini_jobs.json"))
def test_gemini_jobs(case: Any) -> None:
    assert gemini_codec.parse_job(case["operation"]) == job_of(case)


@pytest.mark.parametrize("case", payloads("together_jobs.json"))
def test_together_jobs(case: Any) -> None:
    assert together_codec.parse_job(case["raw"]) == job_of(case)


@pytest.mark.parametrize("case", payloads("openai_jobs.json"))
def test_jobs_of_openai_s_shape(case: Any) -> None:
    assert openai_codec.parse_job(case["raw"]) == job_of(case)


@pytest.mark.parametrize(
    ("error", "reason", "detail"),
    [
        ({"code": "400", "message": "bad"}, Reason.INVALID_REQUEST, "HTTP 400: bad"),
        ({"code": "500", "message": "oops"}, Reason.PROVIDER_ERROR, "HTTP 500: oops"),
        ({"code": "batch_expired", "message": "too late"}, Reason.MISSING, "too late"),
        ({"code": "batch_cancelled", "message": "stopped"}, Reason.CANCELLED, "stopped"),
    ],
)
def test_rows_of_an_error_file_of_openai_s_shape(error: Any, reason: Reason, detail: str) -> None:
    row = {"custom_id": "k", "response": None, "error": error}
    assert chat_codec.parse_result(json.dumps(row).encode(), ()) == Reply("k", reason, detail=detail)


def test_an_inline_row_that_orjson_cannot_write_is_kept() -> None:
    rows = [{"metadata": {"key": "k"}, "response": {"odd": 2**70, "text": "\ud800"}}]
    operation = {"name": "batches/a", "response": {"inlinedResponses": {"inlinedResponses": rows}}}
    (line,) = gemini_codec.parse_job(operation).inline_rows
    assert json.loads(line) == rows[0]
    assert gemini_codec.parse_result(line, "").key == "k"


def test_together_jobs_through_the_sdk_s_own_models() -> None:
    """`to_dict` of a job from retrieve, list and create: dates are text, model_id has both names."""
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
        assert found[:6] == ("b", JobState.SUCCEEDED, "COMPLETED", ("file-1",), "file-2", "")
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


# For features that we do not use (images, tools, continuations), or unspecific: retried, never accepted.
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
    assert set(chat_codec.FINISH_REASONS) == (named - {"tool_calls", "function_call"}) | {"content_filter"}


@pytest.mark.parametrize("word", [*(reason.value for reason in types.BlockedReason), "BRAND_NEW"])
def test_every_block_of_a_prompt_is_one(word: str) -> None:
    raw = json.dumps({"key": "k", "response": {"promptFeedback": {"blockReason": word}}}).encode()
    assert gemini_codec.parse_result(raw, "question") == Reply("k", Reason.BLOCKED_PROMPT, detail=word)


def test_the_provider_table() -> None:
    assert tuple(PROVIDERS) == SETTINGS_PROVIDERS
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


@pytest.mark.parametrize("fields", [("question",), ("correction", "question")])
@given(number=st.integers(0, 10**7))
def test_gemini_writes_the_echo_first_and_reads_it_back(fields: tuple[str, ...], number: int) -> None:
    echo = echo_of(number)
    row = json.loads(CODECS[0].line("k", Prompt("s", (Message("user", "u"),), fields, echo), Parameters("m", 1, 0.0)))
    schema = row["request"]["generationConfig"]["responseSchema"]
    assert schema["properties"]["m"] == {"type": "STRING", "enum": [echo]}
    assert schema["propertyOrdering"] == schema["required"] == list(schema["properties"]) == ["m", *fields]
    types.Schema.model_validate(schema)
    parsed = CODECS[0].asked(row)
    assert parsed is not None
    assert (parsed.fields, parsed.echoes) == (fields, True)
    said = {"m": echo, **dict.fromkeys(fields, "Why?")}
    reply = CODECS[0].reply(json.dumps(row_of(CODECS[0], json.dumps(said))).encode(), fields)
    assert (reply.reason, reply.text, reply.echo) == (Reason.ACCEPTED, "Why?", echo)
    assert validate_text(Stage.QUESTION, reply).echo == echo


@pytest.mark.parametrize(
    ("members", "echo"),
    [("", ""), ('"m": "0a", ', "0a"), ('"m": 7, ', ""), ('"m": null, "x": [1], ', ""), ('"m": "", ', "")],
)
def test_a_reply_is_as_good_whatever_its_echo_is(members: str, echo: str) -> None:
    row = row_of(CODECS[0], f'{{{members}"question": "Why?"}}')
    reply = CODECS[0].reply(json.dumps(row).encode(), ("question",))
    assert (reply.reason, reply.text, reply.echo) == (Reason.ACCEPTED, "Why?", echo)
    cut = CODECS[0].reply(json.dumps(row_of(CODECS[0], f'{{{members}"question": "Wh')).encode(), ("question",))
    assert (cut.reason, cut.text) == (Reason.MALFORMED, "")
