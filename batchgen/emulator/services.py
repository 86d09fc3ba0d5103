"""The services that speak OpenAI's batch protocol: one row of data for each.

A row has what differs between them. Sources: docs.deepinfra.com/batch/introduction and a recorded run of its API
(2026-09), developers.openai.com (batch), the batch pages of Nebius, Parasail and Doubleword (read 2026-11). Where no
document says what a service does, its row has what OpenAI does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DAY_SECONDS = 86400.0


@dataclass(frozen=True, slots=True)
class Service:
    """How one service differs from the others.

    error_form        the body of an error: {"error": {...}}, or {"detail": ...} as FastAPI makes it
    counts_at_first   whether request_counts is there while the input file is being checked; otherwise it is null
    empty_files       whether the output and the error file of a completed batch are named even when they are empty
    result_ids        the ids of result files: {job} is the batch, {kind} is output or error, {new} a new name
    cancel_running    what a cancel does to a batch that is in progress, as in JobFault.cancel: "finishes" answers all
                      rows and ends completed
    lists_metadata    whether a listing has the metadata of its batches
    windows           the values of completion_window that are accepted, with their seconds
    max_lines, max_bytes     limits of one input file
    max_total_bytes   limit of all files of a key; 0 is no limit
    max_open          limit of the batches of a key that have not ended; 0 is no limit
    max_custom_id     the longest custom_id, in characters; 0 is no limit
    result_seconds    how long result files are kept; 0 is for ever
    """

    error_form: Literal["error", "detail"] = "error"
    counts_at_first: bool = True
    empty_files: bool = False
    result_ids: str = "file-{new}"
    cancel_running: Literal["cancelled", "finishes"] = "cancelled"
    lists_metadata: bool = True
    windows: tuple[tuple[str, float], ...] = (("24h", DAY_SECONDS),)
    max_lines: int = 50_000
    max_bytes: int = 200_000_000
    max_total_bytes: int = 0
    max_open: int = 0
    max_custom_id: int = 0
    result_seconds: float = 0.0


SERVICES: dict[str, Service] = {
    "deepinfra": Service(
        error_form="detail",
        counts_at_first=False,
        empty_files=True,
        result_ids="{job}_{kind}",
        cancel_running="finishes",
        lists_metadata=False,  # no source says that it is there: nobody may need it
        max_total_bytes=2_000_000_000,
        max_open=100,
        result_seconds=30 * DAY_SECONDS,
    ),
    "openai": Service(),
    "groq": Service(),
    "parasail": Service(),
    "nebius": Service(max_lines=5_000_000, max_bytes=10_000_000_000),
    "inference": Service(),
    "doubleword": Service(windows=(("1h", 3600.0), ("24h", DAY_SECONDS)), max_custom_id=64),
}
