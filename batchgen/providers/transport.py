"""What both providers' calls share: trust, patience, and the reading of an HTTP refusal."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from time import time
from typing import NamedTuple, TypeVar

import stamina

from batchgen.errors import BatchgenError, KeyRefused, QuotaReached, SetupError, Temporary
from batchgen.outcomes import short
from batchgen.providers.base import CreateRefused, FileGone, JobMissing, LinesRefused, ModelGone

T = TypeVar("T")

READ_ATTEMPTS = 3


def tls_context() -> ssl.SSLContext:
    """One trust for both SDKs, which by themselves disagree (providers: OS store against certifi's list).

    SSL_CERT_FILE / SSL_CERT_DIR alone when set, else the operating system's store together with certifi's.
    """
    context = ssl.create_default_context()
    if not os.environ.get("SSL_CERT_FILE") and not os.environ.get("SSL_CERT_DIR"):
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def patiently(call: Callable[[], T]) -> T:
    """`call`, again with back-off when it meets temporary trouble. For reads and uploads only: never for a create."""
    for attempt in stamina.retry_context(
        on=_is_passing, attempts=READ_ATTEMPTS, timeout=None, wait_initial=0.5, wait_max=5.0, wait_jitter=0.5
    ):
        with attempt:
            return call()
    raise AssertionError("unreachable: retry_context ends by returning or raising")


def _is_passing(error: Exception) -> bool:
    # A quota answer is a wish to be left alone; asking again at once makes it worse.
    return isinstance(error, Temporary) and not isinstance(error, QuotaReached)


class Refusal(NamedTuple):
    """An HTTP answer that is no success. `doing` names the call for people: "create a batch"."""

    provider: str
    doing: str
    status: int
    message: str
    retry_after_seconds: float | None = None

    def __str__(self) -> str:
        return f"{self.provider}, {self.doing}: HTTP {self.status}: {short(self.message)}"


_KEY_WORDS = re.compile(
    r"api[ _]key|API_KEY_INVALID|reported as leaked|denied access|unauthorized|credit", re.IGNORECASE
)
_MODEL_WORDS = re.compile(
    r"non-serverless|unable to access (?:non-serverless )?model|invalid model|model_not_available"
    r"|not support(?:ed)? \w* ?model"
    r"|models?[/ ].{0,120}(?:not found|not supported|no longer|not available|does not exist|is retired|deprecated)"
    r"|(?:no such|unknown) model|batch is not supported",
    re.IGNORECASE | re.DOTALL,
)
_FILE_WORDS = re.compile(r"access the file|file .{0,80}(?:not found|not exist|expired)", re.IGNORECASE | re.DOTALL)
_LINE = re.compile(r"Error on line (\d+): (.*?)(?=\nError on line |\Z)", re.DOTALL)
UNCLEAR = frozenset({408, 409, 425})  # a 4xx after which the effect may still have happened


def meaning(refusal: Refusal) -> Exception:  # noqa: PLR0911 - a table of cases, read from the top
    """A refusal as the exception that says what follows from it.

    Sources: provider pages, "Error statuses seen" and the live error behaviours; faults A8-A12.
    """
    status, message = refusal.status, refusal.message
    clear_no = 400 <= status < 500 and status not in UNCLEAR  # noqa: PLR2004 - HTTP's own classes
    if status == 429:  # noqa: PLR2004
        return QuotaReached(f"{refusal} {_which_quota(refusal)}", retry_after_seconds=refusal.retry_after_seconds)
    if clear_no and _MODEL_WORDS.search(message):
        return ModelGone(short(message))
    if clear_no and _FILE_WORDS.search(message):
        return FileGone(short(message))
    if status in (401, 402) or (clear_no and _KEY_WORDS.search(message)):
        return KeyRefused(str(refusal), do="Check the key, its project and its billing; nothing was changed.")
    if status == 404:  # noqa: PLR2004
        return JobMissing(str(refusal))
    if clear_no and (lines := {int(line): short(text) for line, text in _LINE.findall(message)}):
        return LinesRefused(str(refusal), lines)
    if clear_no:
        return CreateRefused(str(refusal))
    return Temporary(str(refusal), do="The next tick tries again.")


def speaks_of_model(message: str) -> bool:
    """Whether a provider's message says that it does not serve a model."""
    return bool(_MODEL_WORDS.search(message))


def speaks_of_quota(message: str) -> bool:
    """Whether a job's own error says that a quota was exceeded (google.rpc code 8)."""
    return "RESOURCE_EXHAUSTED" in message or message.startswith("code 8:")


def _which_quota(refusal: Refusal) -> str:
    """Several quotas wear the same coat; the call that was refused tells most (faults A8)."""
    if "file_storage" in refusal.message or "upload" in refusal.doing:
        return (
            "This is probably the FILE quota (storage or uploads): `batchgen clean` deletes input files no longer used."
        )
    if "create" in refusal.doing:
        return "This is probably the limit of enqueued tokens or of concurrent batches; what was not submitted waits."
    return "This is probably the limit of calls per minute."


def retry_after(headers: dict[str, str]) -> float | None:
    """Seconds that a Retry-After header asks for (number or HTTP date), None without one that can be read."""
    value = headers.get("retry-after", "")
    try:
        return max(float(value), 0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(value).timestamp() - time(), 0)
    except ValueError:
        return None


def unreachable(provider: str, doing: str, error: Exception) -> BatchgenError:
    """A transport failure as the error it is to the user."""
    reason = short(_root(error)) or type(_root(error)).__name__
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return SetupError(
            f"{provider}, {doing}: this machine does not trust the certificate shown ({reason}).",
            do="Behind a proxy, point SSL_CERT_FILE at its CA certificate (REQUESTS_CA_BUNDLE is not read).",
        )
    return Temporary(f"{provider}, {doing}: {reason}", do="The next tick tries again.")


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
