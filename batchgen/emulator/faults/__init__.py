"""Faults of one call, of one job, or of single rows. Each can be written as JSON.

    faults.add(CallFault(provider="gemini", endpoint="create", action=Status(503), times=3))
    faults.add(CallFault(endpoint="create", action=Drop(), after_effect=True))     # the job exists, the answer is lost
    faults.job(states=["BATCH_STATE_FOO", None], end="BATCH_STATE_EXPIRED", share=0.4)
    faults.rows("blocked_prompt", key=r"\\.question\\.", share=0.1)

As JSON (POST /_control/faults) every fault and every action has its kind in "type".
"""

from __future__ import annotations

import re
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from batchgen.emulator.faults.actions import (
    Action,
    Body,
    Delay,
    Drip,
    Drop,
    Empty,
    Hang,
    Html,
    LateCommit,
    Merge,
    Status,
    Strip,
    Truncate,
    Unwrap,
)
from batchgen.emulator.http_values import Request

# Includes the actions, because every call fault needs one.
__all__ = [
    "ALWAYS",
    "NO_JOB_FAULT",
    "Action",
    "AnyFault",
    "Body",
    "CallFault",
    "Delay",
    "Drip",
    "Drop",
    "Empty",
    "Faults",
    "Hang",
    "Html",
    "JobFault",
    "LateCommit",
    "Merge",
    "RowFault",
    "RowOutcome",
    "ScriptedState",
    "Status",
    "Strip",
    "Truncate",
    "Unwrap",
    "parse_faults",
]

ALWAYS = 0


class CallFault(msgspec.Struct, frozen=True, kw_only=True, tag="call"):
    """`action` for the calls of `endpoint`: from the `nth` matching call on, `times` times (ALWAYS = 0).

    endpoint: upload_start, upload_data, upload_finish, upload_whole (one request), file_get, file_list, file_delete,
    download, create, get, list, cancel, delete, probe, models; "" is any. `contains` narrows it to requests with that
    text in path or body.
    Faults are asked in the order they were added and a call that one of them takes is not counted by those behind:
    503 twice, then 404 three times is just two faults.
    """

    action: Action
    provider: str = ""
    endpoint: str = ""
    nth: int = 1
    times: int = 1
    after_effect: bool = False
    contains: str = ""

    @property
    def after(self) -> bool:
        """Return whether the call takes effect (the job is created and paid for) before the fault acts."""
        return self.after_effect or self.action.after

    def matches(self, provider: str, endpoint: str, request: Request) -> bool:
        if self.provider not in {"", provider} or self.endpoint not in {"", endpoint}:
            return False
        return not self.contains or self.contains in request.path or self.contains.encode() in request.body


ScriptedState = str | None | tuple[str | None, float]


class JobFault(msgspec.Struct, frozen=True, kw_only=True, tag="job"):
    """What happens to the jobs of `provider` and `model` that hold a request key matching the regex `key`.

    states       raw states shown first: a state (None: no state at all) lasts one poll, (state, seconds) that time
    end          final raw state, for example BATCH_STATE_FAILED; "" is the provider's state for success
    share        share of the rows that are answered; None: all after a success, none otherwise
    error        the operation's error object (Gemini), the job's error text (Together), a text or the items of
                 errors.data (services of OpenAI's shape)
    output       where a Gemini job names its results: both, response, metadata, inline, none
    output_after_seconds    the results are named only so long after the end
    empty_error_file        `error_file_id: ""` where there is no error file (not at Gemini)
    cancel       what a cancel leads to: cancelled, succeeded (unserved rows fail with code 1), ignored,
                 late (first CANCELLED, but results after `late_seconds`); "": as the provider does
    unlisted_seconds        how long the job is missing from listings, though get returns it
    """

    provider: str = ""
    model: str = ""
    key: str = ""
    nth: int = 1
    times: int = ALWAYS
    states: tuple[ScriptedState, ...] = ()
    end: str = ""
    share: float | None = None
    error: Any = None
    output: Literal["both", "response", "metadata", "inline", "none"] = "both"
    output_after_seconds: float = 0.0
    empty_error_file: bool = False
    cancel: Literal["", "cancelled", "succeeded", "ignored", "late"] = ""
    late_seconds: float = 60.0
    unlisted_seconds: float = 0.0

    def matches(self, provider: str, model: str, keys: Sequence[str]) -> bool:
        if self.provider not in {"", provider} or self.model not in {"", model}:
            return False
        return not self.key or any(re.search(self.key, key) for key in keys)


RowOutcome = Literal[
    # what the row says
    "error", "status", "neither", "blocked_prompt", "safety", "recitation", "finish", "truncated", "no_parts",
    "thought_only", "empty", "blank", "text", "malformed_json", "fenced", "separators", "nul", "lone_surrogate",
    "http_status", "extra_fields", "thoughts_and_cache", "merge",
    # which rows the file has
    "missing", "duplicate_same", "duplicate_different", "unknown_key", "no_key", "swapped",
    # how the line is written
    "crlf", "blank_line", "bom", "invalid_utf8", "torn", "not_json",
]  # fmt: skip


class RowFault(msgspec.Struct, frozen=True, kw_only=True, tag="rows"):
    """`outcome` (see RowOutcome) for the rows that match all given fields.

    key is a regex searched in the request key, `where` a predicate on the key (not in JSON), `indexes` are positions
    in the input file, `share` selects that share of the keys (by a hash of the key), `times` is the
    maximum number of rows (ALWAYS = 0: no maximum). code, message, reason and text are used by the outcomes that have
    such a value. `merge` merges `text`, a JSON object, into the answer of the row, as the action Merge does.
    """

    outcome: RowOutcome
    provider: str = ""
    key: str = ""
    indexes: tuple[int, ...] = ()
    share: float = 1.0
    times: int = ALWAYS
    code: int | None = None
    message: str | None = None
    reason: str = ""
    text: str | None = None
    where: Any = None

    def matches(self, provider: str, index: int, key: str) -> bool:
        if self.provider not in {"", provider} or (self.indexes and index not in self.indexes):
            return False
        if self.key and not re.search(self.key, key):
            return False
        if self.where is not None and not self.where(key):
            return False
        return self.share >= 1 or zlib.crc32(key.encode()) / 2**32 < self.share


AnyFault = CallFault | JobFault | RowFault
NO_JOB_FAULT = JobFault()


def parse_faults(value: Any) -> list[AnyFault]:
    """Parse one fault or a list of them, as in POST /_control/faults. Raises msgspec.ValidationError."""
    items = value if isinstance(value, list) else [value]
    return [msgspec.convert(item, AnyFault) for item in items]


@dataclass(slots=True)
class _Armed:
    """A fault, how many matches it has seen, and how often it was used."""

    fault: AnyFault
    seen: int = 0
    struck: int = 0

    def strike(self, nth: int, times: int) -> bool:
        self.seen += 1
        if self.seen < nth or (times and self.struck >= times):
            return False
        self.struck += 1
        return True


class Faults:
    """All active faults. Adding, removing and using them is safe from any thread."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []
        self._lock = threading.Lock()
        self.released = threading.Event()

    def add(self, *faults: AnyFault) -> None:
        """Add faults after the existing ones."""
        with self._lock:
            self._armed.extend(_Armed(fault) for fault in faults)

    def job(self, **fields: Any) -> None:
        """Add a JobFault given by its fields."""
        self.add(msgspec.convert({"type": "job", **fields}, JobFault))

    def rows(self, outcome: RowOutcome, *, where: Callable[[str], bool] | None = None, **fields: Any) -> None:
        """Add a RowFault given by its fields."""
        self.add(msgspec.convert({"type": "rows", "outcome": outcome, "where": where, **fields}, RowFault))

    def clear(self) -> None:
        """Remove all faults and release held responses."""
        with self._lock:
            self._armed.clear()
        self.release()

    def release(self) -> None:
        """Release every response that is held back now."""
        with self._lock:
            released, self.released = self.released, threading.Event()
        released.set()

    def struck(self) -> int:
        """Return how often any fault was used so far."""
        return sum(armed.struck for armed in self._armed)

    def take_call_fault(self, provider: str, endpoint: str, request: Request) -> CallFault | None:
        """Return the fault for this call, if any, and count it."""
        with self._lock:
            for armed in self._armed:
                fault = armed.fault
                if not isinstance(fault, CallFault) or not fault.matches(provider, endpoint, request):
                    continue
                if armed.strike(fault.nth, fault.times):
                    return fault
        return None

    def plan(self, provider: str, model: str, keys: Sequence[str]) -> JobFault:
        """Return the fault for a new job, and count it; NO_JOB_FAULT if there is none."""
        with self._lock:
            for armed in self._armed:
                fault = armed.fault
                if not isinstance(fault, JobFault) or not fault.matches(provider, model, keys):
                    continue
                if armed.strike(fault.nth, fault.times):
                    return fault
        return NO_JOB_FAULT

    def has_row_faults(self, provider: str) -> bool:
        """Return whether any row of this provider can get a fault."""
        return any(isinstance(a.fault, RowFault) and a.fault.provider in {"", provider} for a in self._armed)

    def take_row_faults(self, provider: str, index: int, key: str) -> list[RowFault]:
        """Return the faults of one row, in the order in which they were added."""
        with self._lock:
            return [
                armed.fault
                for armed in self._armed
                if isinstance(armed.fault, RowFault)
                and armed.fault.matches(provider, index, key)
                and armed.strike(1, armed.fault.times)
            ]
