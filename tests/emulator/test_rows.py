"""Test the faults of single rows, and of the result lines that contain them."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, get_args

import orjson
import pytest

from batchgen.emulator.faults import RowOutcome
from batchgen.emulator.protocols import gemini_rows, together_rows
from batchgen.emulator.result_files import LINE_OUTCOMES, ROW_SET_OUTCOMES
from batchgen.emulator.server import LocalService
from tests.support.sdk_calls import (
    by_key,
    gemini_job,
    gemini_output,
    gemini_text,
    parsed,
    together_job,
    together_output,
    together_text,
)

if TYPE_CHECKING:
    from google import genai
    from together import Together

OUTCOMES = frozenset(get_args(RowOutcome))


def gemini_row(service: LocalService, client: genai.Client, outcome: Any, **fields: Any) -> dict[str, Any]:
    """The row k0 after a fault."""
    service.faults.rows(outcome, key="k0", **fields)
    return by_key(gemini_output(client, gemini_job(client)))["k0"]


def test_every_outcome_has_a_meaning_for_both_providers() -> None:
    for form in (gemini_rows.FORMAT, together_rows.FORMAT):
        assert form.edits.keys() | ROW_SET_OUTCOMES | LINE_OUTCOMES == OUTCOMES


@pytest.mark.parametrize(
    ("outcome", "fields", "expected"),
    [
        ("error", {}, {"error": {"code": 13, "message": gemini_rows.INTERNAL_MESSAGE}}),
        ("error", {"code": 1, "message": ""}, {"error": {"code": 1}}),
        ("status", {"code": 3, "message": "no"}, {"status": {"code": 3, "message": "no"}}),
        ("neither", {}, {}),
    ],
)
def test_gemini_rows_without_a_response(
    service: LocalService, gemini: genai.Client, outcome: str, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert gemini_row(service, gemini, outcome, **fields) == {"key": "k0", **expected}


def test_a_blocked_prompt(service: LocalService, gemini: genai.Client) -> None:
    response = gemini_row(service, gemini, "blocked_prompt", reason="SAFETY")["response"]
    assert response["promptFeedback"] == {"blockReason": "SAFETY"}
    assert "candidates" not in response
    assert response["usageMetadata"]["promptTokenCount"] > 0


@pytest.mark.parametrize(
    ("outcome", "fields", "candidate"),
    [
        ("safety", {}, {"finishReason": "SAFETY", "index": 0}),
        ("recitation", {}, {"finishReason": "RECITATION", "index": 0}),
        ("finish", {}, {"finishReason": "BRAND_NEW_REASON", "index": 0}),
        ("finish", {"reason": "SPII", "text": "x"}, {"finishReason": "SPII", "index": 0, "content": "x"}),
        ("truncated", {"text": "half a"}, {"finishReason": "MAX_TOKENS", "index": 0, "content": "half a"}),
        ("no_parts", {}, {"finishReason": "STOP", "index": 0, "content": {"role": "model"}}),
        ("empty", {}, {"finishReason": "STOP", "index": 0, "content": ""}),
        ("blank", {}, {"finishReason": "STOP", "index": 0, "content": " \n\t"}),
        ("text", {"text": "I'm sorry"}, {"finishReason": "STOP", "index": 0, "content": "I'm sorry"}),
    ],
)
def test_gemini_candidates(
    service: LocalService, gemini: genai.Client, outcome: str, fields: dict[str, Any], candidate: dict[str, Any]
) -> None:
    found = gemini_row(service, gemini, outcome, **fields)["response"]["candidates"][0]
    if isinstance(candidate.get("content"), str):
        candidate = {**candidate, "content": {"role": "model", "parts": [{"text": candidate["content"]}]}}
    assert found == candidate


def test_thought_only(service: LocalService, gemini: genai.Client) -> None:
    response = gemini_row(service, gemini, "thought_only")["response"]
    assert all(part["thought"] for part in response["candidates"][0]["content"]["parts"])
    usage = response["usageMetadata"]
    parts = ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount")
    assert usage["totalTokenCount"] == sum(usage[part] for part in parts)


def test_structured_output_that_is_none(service: LocalService, gemini: genai.Client) -> None:
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        json.loads(gemini_text(gemini_row(service, gemini, "malformed_json")))
    service.faults.clear()
    assert gemini_text(gemini_row(service, gemini, "fenced")).startswith("```json\n{")


def test_fields_nobody_knows(service: LocalService, gemini: genai.Client) -> None:
    row = gemini_row(service, gemini, "extra_fields")
    assert row["response"]["usageMetadata"]["serviceTier"]
    assert gemini_text(row)


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(
    ("outcome", "inside"), [("separators", "\u2028\u2029\u0085"), ("nul", "\0"), ("lone_surrogate", "\ud83d")]
)
def test_hostile_characters_inside_texts(
    service: LocalService,
    gemini: genai.Client,
    outcome: Any,
    inside: str,
    plain: bool,  # noqa: FBT001 - by name
) -> None:
    service.faults.rows(outcome, key="k0")
    data = gemini_output(gemini, gemini_job(gemini, plain=plain))
    lines = data.split(b"\n")
    row = next(json.loads(line) for line in lines if b'"key":"k0"' in line)
    text = gemini_text(row)
    assert inside in (text if plain else json.loads(text)["question"])
    assert ("\u2028".encode() in data) == (outcome == "separators")
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("outcome", "fields", "status", "finish", "content"),
    [
        ("truncated", {"text": "half"}, 200, "length", "half"),
        ("empty", {}, 200, "stop", ""),
        ("no_parts", {}, 200, "stop", None),
        ("thought_only", {}, 200, "stop", ""),
        ("safety", {}, 200, "content_filter", ""),
        ("finish", {}, 200, "brand_new_reason", ""),
        ("text", {"text": "x"}, 200, "stop", "x"),
    ],
)
def test_together_choices(  # noqa: PLR0913, PLR0917 - a table's columns
    service: LocalService, together: Together, outcome: Any, fields: Any, status: int, finish: str, content: str | None
) -> None:
    service.faults.rows(outcome, key="k0", **fields)
    row = by_key(together_output(together, together_job(together)), "custom_id")["k0"]
    choice = row["response"]["body"]["choices"][0]
    assert (row["response"]["status_code"], choice["finish_reason"]) == (status, finish)
    assert choice["message"]["content"] == content


def test_together_failures_in_both_files(service: LocalService, together: Together) -> None:
    service.faults.rows("http_status", key="k0", code=400)
    service.faults.rows("error", key="k1", message="Too bad")
    service.faults.rows("neither", key="k2")
    job = together.batches.retrieve(together_job(together, 4))
    rows = by_key(together_output(together, str(job.id)), "custom_id")
    assert rows["k0"]["response"]["status_code"] == 400
    assert "error" in rows["k0"]["response"]["body"]
    assert rows["k2"].keys() == {"id", "custom_id"}
    assert together_text(rows["k3"])
    failed = parsed(together.files.content(str(job.error_file_id)).read())
    assert [row["error"]["message"] for row in failed] == ["Too bad"]


def test_all_rows_in_the_error_file(service: LocalService, together: Together) -> None:
    service.faults.rows("error", provider="together")
    job = together.batches.retrieve(together_job(together))
    assert (job.status, job.output_file_id) == ("COMPLETED", None)
    assert job.error_file_id


def test_which_rows_there_are(service: LocalService, gemini: genai.Client) -> None:
    service.faults.rows("missing", key="k0")
    service.faults.rows("duplicate_same", key="k1")
    service.faults.rows("duplicate_different", key="k2")
    service.faults.rows("unknown_key", key="k3")
    service.faults.rows("no_key", key="k4")
    rows = parsed(gemini_output(gemini, gemini_job(gemini, 6)))
    assert Counter(row.get("key") for row in rows) == Counter(
        {"k1": 2, "k2": 2, "k3": 1, "nobody-sent-this": 1, None: 1, "k5": 1}
    )
    texts = {key: {gemini_text(row) for row in rows if row.get("key") == key} for key in ("k1", "k2")}
    assert (len(texts["k1"]), len(texts["k2"])) == (1, 2)


def test_swapped_answers(service: LocalService, gemini: genai.Client) -> None:
    clean = by_key(gemini_output(gemini, gemini_job(gemini, 3)))
    service.faults.rows("swapped", indexes=[0, 2])
    swapped = by_key(gemini_output(gemini, gemini_job(gemini, 3)))
    assert gemini_text(swapped["k0"]) == gemini_text(clean["k2"])
    assert gemini_text(swapped["k2"]) == gemini_text(clean["k0"])
    assert gemini_text(swapped["k1"]) == gemini_text(clean["k1"])


def test_results_come_in_no_order(gemini: genai.Client) -> None:
    keys = [row["key"] for row in parsed(gemini_output(gemini, gemini_job(gemini, 50)))]
    assert keys != sorted(keys, key=lambda key: int(key[1:]))
    assert len(set(keys)) == 50


def test_how_lines_are_written(service: LocalService, gemini: genai.Client) -> None:
    service.faults.rows("crlf", key="k0")
    service.faults.rows("blank_line", key="k1")
    service.faults.rows("bom", key="k2")
    service.faults.rows("invalid_utf8", key="k3")
    service.faults.rows("not_json", key="k4")
    service.faults.rows("torn", key="k5")
    data = gemini_output(gemini, gemini_job(gemini, 7))
    assert data.startswith(b"\xef\xbb\xbf")  # either line may come first: results are shuffled
    assert data.count(b"\r\n") == 1
    assert b"\n\n" in data
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    assert not data.endswith(b"\n")
    readable = []
    for line in filter(bytes.strip, lines):
        try:
            readable.append(orjson.loads(line)["key"])
        except orjson.JSONDecodeError:
            continue
    assert sorted(readable) == ["k0", "k1", "k2", "k6"]
    assert orjson.loads(next(line for line in lines if line.endswith(b"\r")))["key"] == "k0"


def test_some_of_the_rows(service: LocalService, gemini: genai.Client) -> None:
    service.faults.rows("error", share=0.3)
    job = gemini_job(gemini, 200)
    failed = sum("error" in row for row in parsed(gemini_output(gemini, job)))
    assert 40 < failed < 80


def test_so_many_rows_and_no_more(service: LocalService, gemini: genai.Client) -> None:
    service.faults.rows("error", times=2)
    job = gemini_job(gemini, 5)
    assert sum("error" in row for row in parsed(gemini_output(gemini, job))) == 2
    assert not any("error" in row for row in parsed(gemini_output(gemini, gemini_job(gemini, 5))))


def test_rows_by_a_predicate(service: LocalService, gemini: genai.Client) -> None:
    service.faults.rows("missing", where=lambda key: int(key[1:]) % 2 == 0)
    assert by_key(gemini_output(gemini, gemini_job(gemini, 5))).keys() == {"k1", "k3"}
