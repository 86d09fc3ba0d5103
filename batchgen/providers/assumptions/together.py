"""What this program assumes of Together's batch API."""

from __future__ import annotations

from batchgen.providers.assumptions import job_checks, probe_checks
from batchgen.providers.assumptions.assumption import DOCUMENTED, REPORTED, UNVERIFIED, Assumption
from batchgen.providers.assumptions.chat import chat_rows
from batchgen.providers.base import JobState

DEAD_MODEL = "togethercomputer/llama-2-70b-chat"  # left the catalogue in 2024
PAGE = "docs.together.ai/docs/inference/batch"

ROWS = (
    *chat_rows(PAGE),
    Assumption(
        "listing.label",
        "A listing shows the input file of a job; names do not come back.",
        f"source of together 3.1.1: {REPORTED}",
        job_checks.label_is_listed("file"),
    ),
    Assumption(
        "cancel.end",
        "A job that is cancelled at once ends as cancelled.",
        f"{PAGE}/manage: {DOCUMENTED}; rows of it: {UNVERIFIED}",
        probe_checks.cancel_ends_as(JobState.CANCELLED),
        needed=False,
    ),
)
