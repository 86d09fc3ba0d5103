"""Test the meaning of refusals, failed jobs and broken connections, with the messages of the providers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.core.errors import KeyRefused, QuotaClosed, QuotaReached, SetupError, Temporary
from batchgen.core.text import MAX_DETAIL_CHARACTERS
from batchgen.providers.base import (
    CreateRefused,
    FileGone,
    JobNotFound,
    LinesRefused,
    ModelGone,
)
from batchgen.providers.http_errors import (
    HttpFailure,
    connection_error,
    error_from_response,
    is_model_error,
    parse_retry_after,
    tls_context,
)
from batchgen.providers.quotas import is_permanent_quota, is_quota_error, names_a_quota, quota_sentence

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
    # quotas: the provider accepts no more for now
    ("gemini", CREATE, 429, QUOTA, QuotaReached),
    ("gemini", UPLOAD, 429, "Quota exceeded for metric file_storage_bytes RESOURCE_EXHAUSTED", QuotaReached),
    ("gemini", READ, 429, "Too many requests for model gemini-2.5-flash-lite is not supported", QuotaReached),
    ("together", CREATE, 429, "request frequency", QuotaReached),
    ("together", UPLOAD, 429, "<html>slow down</html>", QuotaReached),
    ("deepinfra", CREATE, 429, "Too many batches: 100 may be open at once.", QuotaReached),
    # quotas that waiting does not fix
    ("gemini", CREATE, 429, f"{QUOTA} * Quota exceeded for metric: free_tier_requests, limit: 0", QuotaClosed),
    ("gemini", PROBE, 429, "Your prepayment credits are depleted. RESOURCE_EXHAUSTED", QuotaClosed),
    ("gemini", PROBE, 429, "Your project has exceeded its monthly spending cap.", QuotaClosed),
    ("gemini", CREATE, 429, "Quota exceeded for metric: requests, limit: 0.5", QuotaReached),
    ("gemini", CREATE, 429, "Quota exceeded for metric: requests, limit: 100", QuotaReached),
    ("together", CREATE, 429, "You exceeded your current quota insufficient_quota", QuotaClosed),
    ("together", PROBE, 429, "Credit limit exceeded, please add credits", QuotaClosed),
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
    ("gemini", READ, 404, "Requested entity was not found. NOT_FOUND", JobNotFound),
    ("together", READ, 404, "Job not found", JobNotFound),
    ("deepinfra", CREATE, 404, "No such file: file-abc", JobNotFound),
    ("deepinfra", READ, 404, "No such batch: batch_abc", JobNotFound),
    ("deepinfra", PROBE, 404, "The model 'nobody/knows' does not exist.", ModelGone),
    ("deepinfra", UPLOAD, 401, "Invalid API key.", KeyRefused),
    ("deepinfra", READ, 400, "A batch that is completed cannot be cancelled.", CreateRefused),
    # an explicit error response to the request itself
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
    ("gemini", CREATE, 400, "User location is not supported for the API use. FAILED_PRECONDITION", SetupError),
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
    # unclear responses, or errors inside the provider
    ("gemini", READ, 500, "An internal error has occurred. INTERNAL", Temporary),
    ("gemini", READ, 503, "The model is overloaded. Please try again later. UNAVAILABLE", Temporary),
    ("gemini", READ, 503, "models/gemini-2.5-flash-lite is not available UNAVAILABLE", Temporary),
    ("gemini", READ, 504, "Deadline expired before operation could complete. DEADLINE_EXCEEDED", Temporary),
    ("gemini", CREATE, 502, "<!DOCTYPE html><title>Error 502</title>", Temporary),
    ("gemini", READ, 201, "", Temporary),
    ("together", READ, 302, "", Temporary),
    ("together", CREATE, 408, "timeout", Temporary),
    ("together", READ, 409, "Cannot cancel job - already in terminal state: CANCELLED", Temporary),
    # a page of a proxy does not come from the provider
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
    found = error_from_response(HttpFailure(name, doing, status, message))
    assert type(found) is kind
    if isinstance(found, LinesRefused):
        assert found.lines


def test_refused_lines_are_told_one_by_one() -> None:
    message = "Error on line 1: no such field: 'a'\nmore of it\nError on line 12: bad\nError on line 2: worse"
    found = error_from_response(HttpFailure("gemini", CREATE, 400, message))
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
    found = error_from_response(HttpFailure("gemini", doing, 429, message, retry_after_seconds=61.0))
    assert words in str(found)
    assert isinstance(found, QuotaReached)
    assert found.retry_after_seconds == 61


@pytest.mark.parametrize(
    ("message", "closed", "named"),
    [
        (QUOTA, False, False),
        ("* Quota exceeded for metric: free_tier_requests, limit: 0, model: m", True, True),
        ("limit of enqueued_tokens is 10000000", False, True),
        ("quotaId: GenerateRequestsPerDayPerProjectPerModel-FreeTier", False, True),
        ("Billing is disabled for this project", True, False),
        ("Limit 01", False, False),
    ],
)
def test_what_is_said_of_a_quota(message: str, closed: bool, named: bool) -> None:  # noqa: FBT001
    assert (is_permanent_quota(message), names_a_quota(message)) == (closed, named)


@given(st.text(), st.text(min_size=MAX_DETAIL_CHARACTERS))
def test_what_names_a_quota_survives_the_shortening(before: str, advice: str) -> None:
    named = "Quota exceeded for metric: free_tier_requests, limit: 0, model: m"
    words = quota_sentence(f"{before}\n{advice}. \n* {named}")
    assert len(words) <= MAX_DETAIL_CHARACTERS
    assert named in words or is_permanent_quota(f"{before}\n{advice}")


@settings(deadline=None)
@given(st.integers(100, 599), st.text(st.characters()))
def test_every_refusal_has_a_meaning_and_one_line(status: int, message: str) -> None:
    found = error_from_response(HttpFailure("gemini", CREATE, status, message))
    assert isinstance(found, (CreateRefused, JobNotFound, ModelGone, SetupError, Temporary))
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
    assert (is_model_error(error), is_quota_error(error)) == (model, quota)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1.5", 1.5),
        ("-3", None),
        ("0", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", None),
        ("soon", None),
        ("", None),
        (None, None),
        ("inf", None),
        ("nan", None),
        ("Mon, 01 Jan 0001 00:00:00 -0000", None),
        ("Fri, 31 Dec 99999 00:00:00 GMT", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after({} if value is None else {"retry-after": value}) == seconds


@settings(deadline=None)
@given(st.text())
def test_no_header_can_upset_retry_after(value: str) -> None:
    found = parse_retry_after({"retry-after": value})
    assert found is None or found > 0


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
    found = connection_error("gemini", READ, error)
    assert isinstance(found, kind)
    assert words in f"{found} {found.do}"


def test_trusted_certificates_are_read_again_when_their_file_has_changed(one_certificate: Path) -> None:
    first = tls_context()
    assert tls_context() is first
    os.utime(one_certificate, (1, 1))
    assert tls_context() is not first
