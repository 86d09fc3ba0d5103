"""What the clients of all providers share: TLS, retries, and turning HTTP errors into ours."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from functools import lru_cache
from math import isfinite
from pathlib import Path
from time import time
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit, urlunsplit

from batchgen.core.errors import (
    Ambiguous,
    BatchgenError,
    KeyRefused,
    NotReady,
    QuotaClosed,
    QuotaReached,
    SetupError,
    Temporary,
)
from batchgen.core.text import one_line
from batchgen.providers.base import CreateRefused, FileGone, JobNotFound, LinesRefused, ModelGone
from batchgen.providers.quotas import PLAN_ADVICE, is_permanent_quota, names_a_quota, quota_sentence
from batchgen.runtime.logging_setup import redact

T = TypeVar("T")

READ_ATTEMPTS = 3


def tls_context() -> ssl.SSLContext:
    """Return one TLS context for all clients, whose defaults differ (OS store, certifi's list).

    It uses SSL_CERT_FILE / SSL_CERT_DIR alone if set, otherwise the store of the operating system with certifi's list.
    The clients of a process share it until a certificate file changes: to read the list takes 40 ms.
    """
    own = os.environ.get("SSL_CERT_FILE")
    if own and not Path(own).is_file():
        raise SetupError(f"SSL_CERT_FILE={own}: no such file.", do="Point it at a file of CA certificates (PEM).")
    used = ssl.get_default_verify_paths()  # of the environment, else of the operating system
    changed = tuple((path, Path(path).stat().st_mtime_ns) for path in (used.cafile, used.capath) if path)
    return _load_trusted(changed, with_certifi=not own and not os.environ.get("SSL_CERT_DIR"))


@lru_cache(maxsize=1)
def _load_trusted(_changed: tuple[tuple[str, int], ...], *, with_certifi: bool) -> ssl.SSLContext:
    """Load the certificates. `_changed`: the files and folders that are read, with the times of their last change."""
    context = ssl.create_default_context()
    if with_certifi:
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and " " not in url
    except ValueError:
        return False


_VERSION = re.compile(r"/v\d+(?:(?:alpha|beta)\d*)?$")


def strip_version(url: str) -> str:
    """Return `url` without slashes and an API version at its end: the SDKs append the version themselves."""
    return _VERSION.sub("", url.rstrip("/")).rstrip("/")


@contextmanager
def translate_setup_errors(provider: str, url: str) -> Iterator[None]:
    """Raise SetupError if making a client fails because of an unusable address or proxy."""
    if not is_http_url(url):
        raise SetupError(f"{provider}: {url!r} is not an http(s) address.", do="Write it as https://host[:port].")
    try:
        yield
    except BatchgenError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a library makes of a malformed value
        raise SetupError(
            f"{provider}: its client cannot be set up ({one_line(redact(str(error)))}).",
            do="Check the base URL and the proxy variables; `batchgen doctor` shows them.",
        ) from None


def retry_reads(call: Callable[[], T]) -> T:
    """Repeat `call` with back-off after temporary errors. For reads and uploads only, never for a create call."""
    import stamina  # here: a tick with nothing in flight makes no network call

    for attempt in stamina.retry_context(
        on=_is_worth_retrying, attempts=READ_ATTEMPTS, timeout=None, wait_initial=0.5, wait_max=5.0, wait_jitter=0.5
    ):
        with attempt:
            return call()
    raise AssertionError("unreachable: retry_context ends by returning or raising")


def retry_once_if_refused(call: Callable[[], T]) -> T:
    """Repeat `call` once if it is refused: an earlier error during an upload may be the cause."""
    try:
        return call()
    except CreateRefused:
        return call()


class TimedOut(Temporary):
    """No complete answer within the time-out. It is not repeated at once, which would hold the lock longer."""


def _is_worth_retrying(error: Exception) -> bool:
    # QuotaReached is not retried at once: further calls would count against the quota, too.
    return isinstance(error, Temporary) and not isinstance(error, QuotaReached | TimedOut)


class HttpFailure(NamedTuple):
    """An HTTP answer that is not a success. `action` names the call for people: "create a batch"."""

    provider: str
    action: str
    status: int
    message: str
    retry_after_seconds: float | None = None

    def __str__(self) -> str:
        return f"{self.provider}, {self.action}: HTTP {self.status}: {quota_sentence(self.message)}"


_API_KEY_PATTERN = re.compile(
    r"api[ _]key|reported as leaked|denied access|\bunauthorized|\b(?:trial|insufficient|no) credits?\b", re.IGNORECASE
)
# What is wrong must directly follow the model's name. "no such field: 'model_options'" and "this setting is not
# supported by the model" are errors of the request: treating them as a lost model would stop the stage.
_MODEL_PATTERN = re.compile(
    r"non-serverless|unable to access model|model_not_(?:available|found)|(?:no such|unknown)[ _]model\b"
    r"|invalid[ _]model\b(?! (?:param|config|input|output))"
    r"|not support(?:ed)? publisher model|batch(?: api| mode)? is not supported"
    r"|\bmodels?(?:[/ :]+[\"'`]?[\w./:@-]+[\"'`]?)? (?:(?:is|was|are|has been) )?"
    r"(?:not found|not (?:currently )?(?:available|supported|served)|no longer|does not exist"
    r"|retired|deprecated|removed)",
    re.IGNORECASE,
)
_FILE_PATTERN = re.compile(
    r"access the file\b|\bfile .{0,80}(?:not found|not exist|expired)", re.IGNORECASE | re.DOTALL
)
_FILE_NOT_READY_PATTERN = re.compile(
    r"\bfile\b.{0,80}?(?:\bnot (?:yet )?(?:in (?:an? |the )?)?(?:active|ready|processed)\b"
    r"|\b(?:still |being )process|\bprocessing state|\bstate:? processing)",
    re.IGNORECASE | re.DOTALL,
)
_PLACE_WORDS = re.compile(
    r"\blocation is not (?:supported|available|offered)"
    r"|\bnot (?:supported|available|offered) (?:in|at|for) (?:your|the|this) (?:country|region|location)",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"\s*<(?:!doctype|html|\?xml)", re.IGNORECASE)
_LINE_ERROR_PATTERN = re.compile(r"Error on line (\d+): (.*?)(?=\nError on line |\Z)", re.DOTALL)
UNCLEAR_STATUSES = frozenset({408, 409, 425})  # a 4xx after which the effect may still have happened


def error_from_response(refusal: HttpFailure) -> Exception:  # noqa: PLR0911 - a table of cases, read from the top
    """Return the exception for a refusal.

    The words that are looked for are those of the providers' documents and of error responses that were reported.
    """
    status, message = refusal.status, refusal.message
    key_refused = KeyRefused(
        str(refusal),
        do=f"Check {refusal.provider.upper()}_API_KEY, its project and its billing. Then run: batchgen doctor",
    )
    if status == 429:  # noqa: PLR2004
        return _quota(refusal)
    if status in (401, 402):
        return key_refused
    # An HTML or XML page comes from a proxy or a file store in between, not from the provider.
    if not 400 <= status < 500 or status in UNCLEAR_STATUSES or _MARKUP.match(message):  # noqa: PLR2004 - HTTP's own classes
        return Temporary(str(refusal), do="The next tick tries again.")
    if _PLACE_WORDS.search(message):
        return SetupError(
            str(refusal),
            do="Use the API from a country where it is offered; some require billing. Then run: batchgen doctor",
        )
    if lines := {int(line): one_line(text) for line, text in _LINE_ERROR_PATTERN.findall(message)}:
        return LinesRefused(str(refusal), lines)
    if _MODEL_PATTERN.search(message):
        return ModelGone(one_line(message))
    if _FILE_PATTERN.search(message):
        return FileGone(one_line(message))
    if _FILE_NOT_READY_PATTERN.search(message):  # its state is read again before the next create call
        return Temporary(str(refusal), do="The next tick tries again.")
    if status == 403 or _API_KEY_PATTERN.search(message):  # noqa: PLR2004 - the key's project may not do this
        return key_refused
    return JobNotFound(str(refusal)) if status == 404 else CreateRefused(str(refusal))  # noqa: PLR2004


def no_api_error(refusal: HttpFailure, url: str, variable: str) -> SetupError:
    """Return the error for a 404 to the start of an upload.

    That call names no file that could be missing, so the API is not at `url`, which the variable `variable` sets.
    """
    return SetupError(
        f"{refusal} The API is not at {mask_password(url)}.",
        do=f"Correct or unset {variable}.",
    )


def mask_password(url: str) -> str:
    """Return an address without its password."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2]))


def address_text(url: str | None) -> str:
    """Return the address of a provider for people: without its password; None is the provider's own."""
    return mask_password(url) if url else "the provider's own"


def error_from_create_response(refusal: HttpFailure) -> Exception:
    """Return the exception for a refused create call; the batch may exist unless the response is an explicit error."""
    if not 400 <= refusal.status < 500 or refusal.status in UNCLEAR_STATUSES:  # noqa: PLR2004 - HTTP's own classes
        return Ambiguous(f"{refusal}; the batch may exist.")
    return error_from_response(refusal)


def is_model_error(message: str) -> bool:
    """Return whether a provider's message says that it does not serve a model."""
    return bool(_MODEL_PATTERN.search(message))


def _quota(refusal: HttpFailure) -> BatchgenError:
    """Return the error for a 429: a quota that resets, or one that does not."""
    if is_permanent_quota(refusal.message):
        return QuotaClosed(str(refusal), do=PLAN_ADVICE)
    said = f"{refusal} {_quota_hint(refusal)}".rstrip()
    return QuotaReached(said, retry_after_seconds=refusal.retry_after_seconds)


def _quota_hint(refusal: HttpFailure) -> str:
    """Return the quota that the refused call makes most likely, for a message that names none."""
    if "file_storage" in refusal.message or "upload" in refusal.action:
        return (
            "This is probably the FILE quota (storage or uploads): `batchgen clean` deletes input files no longer used."
        )
    if names_a_quota(refusal.message):
        return ""
    if "create" in refusal.action:
        return "This is probably the limit of enqueued tokens or of concurrent batches; what was not submitted waits."
    return "This is probably the limit of calls per minute."


def parse_retry_after(headers: dict[str, str]) -> float | None:
    """Return the seconds of a Retry-After header (number or HTTP date), None without one that is in the future."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time()
        except (ValueError, OverflowError):
            return None
    return seconds if isfinite(seconds) and seconds > 0 else None


def connection_error(provider: str, doing: str, error: Exception) -> BatchgenError:
    """Return the error for a transport failure."""
    reason = one_line(redact(str(_root_cause(error)))) or type(_root_cause(error)).__name__
    reason = _ERRNO.sub("", reason) + _called_address(error)
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return SetupError(
            f"{provider}, {doing}: this machine does not trust the certificate shown ({reason}).",
            do="Behind a proxy, point SSL_CERT_FILE at its CA certificate (REQUESTS_CA_BUNDLE is not read).",
        )
    kind = TimedOut if "Timeout" in type(error).__name__ else Temporary
    return kind(f"{provider}, {doing}: {reason}", do="The next tick tries again.")


_ERRNO = re.compile(r"^\[Errno -?\d+\] ")


def _called_address(error: BaseException | None) -> str:
    """Return the server that could not be reached as " (https://HOST)", "" if the error does not know it."""
    while error is not None:
        with suppress(RuntimeError):  # httpx: the request was not set
            if request := getattr(error, "request", None):
                return f" ({request.url.scheme}://{request.url.netloc.decode()})"
        error = error.__cause__
    return ""


def unreadable_response_error(provider: str, doing: str, error: Exception) -> BatchgenError:
    """Return the error for an answer that the SDK could not read."""
    return NotReady(
        f"{provider}, {doing}: the answer cannot be read ({type(error).__name__}).",
        do="The next tick tries again.",
    )


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
