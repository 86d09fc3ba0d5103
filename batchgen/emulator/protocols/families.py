"""What the engine needs to know about each provider's protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from batchgen.emulator.protocols import gemini_rows, openai_rows, together_rows
from batchgen.emulator.protocols.row_format import RowFormat
from batchgen.emulator.services import DAY_SECONDS, SERVICES, Service


@dataclass(frozen=True, slots=True)
class Family:
    """One provider's protocol, as far as jobs are concerned.

    rows              its line format
    success, failure, cancelled, expired     its words for how a job ends
    cancel_running    what a cancel does to a job that runs, as in Job.cancel; one that waits is cancelled
    cancelling        whether a cancelled job is shown as being cancelled for a while
    limit_seconds     a job that has not ended by then expires, with the rows answered so far if expired_rows
    result_ids        the ids of result files: {job} is the job, {kind} is output or error, {new} a new name
    result_purpose    the purpose of result files
    result_seconds    how long result files are kept; 0 is for ever
    empty_output, empty_errors    whether the file of a job that succeeded is named even without a row in it
    """

    rows: RowFormat
    success: str
    failure: str
    cancelled: str
    expired: str
    cancel_running: str = "cancelled"
    cancelling: bool = True
    limit_seconds: float = math.inf
    expired_rows: bool = False
    result_ids: str = "file-{new}"
    result_purpose: str = "batch-api"
    result_seconds: float = 0.0
    empty_output: bool = False
    empty_errors: bool = False


def _openai_shaped(name: str, service: Service) -> Family:
    return Family(
        rows=openai_rows.row_format(name),
        success="completed",
        failure="failed",
        cancelled="cancelled",
        expired="expired",
        cancel_running=service.cancel_running,
        limit_seconds=DAY_SECONDS,
        expired_rows=True,
        result_ids=service.result_ids,
        result_purpose="batch_output",
        result_seconds=service.result_seconds,
        empty_output=service.empty_files,
        empty_errors=service.empty_files,
    )


FAMILIES: Mapping[str, Family] = {
    "gemini": Family(
        rows=gemini_rows.FORMAT,
        success="BATCH_STATE_SUCCEEDED",
        failure="BATCH_STATE_FAILED",
        cancelled="BATCH_STATE_CANCELLED",
        expired="BATCH_STATE_EXPIRED",
        cancel_running="succeeded",
        cancelling=False,
        limit_seconds=2 * DAY_SECONDS,
        result_ids="batch-{job}",
        result_seconds=42 * DAY_SECONDS,
        empty_output=True,
    ),
    "together": Family(
        rows=together_rows.FORMAT, success="COMPLETED", failure="FAILED", cancelled="CANCELLED", expired="EXPIRED"
    ),
    **{name: _openai_shaped(name, service) for name, service in SERVICES.items()},
}
