"""What this program assumes of the services that speak OpenAI's batch protocol."""

from __future__ import annotations

from batchgen.providers.assumptions import job_checks, probe_checks
from batchgen.providers.assumptions.assumption import DOCUMENTED, REPORTED, UNVERIFIED, Assumption
from batchgen.providers.assumptions.chat import chat_rows
from batchgen.providers.base import JobState

DEAD_MODEL = "meta-llama/Llama-2-7b-chat-hf"  # replaced by three later generations
PAGES = {
    "deepinfra": "docs.deepinfra.com/batch/introduction",
    "openai": "platform.openai.com/docs/guides/batch",
    "groq": "console.groq.com/docs/batch",
    "parasail": "docs.parasail.io/parasail-docs/batch",
    "nebius": "docs.tokenfactory.nebius.com",
    "inference": "docs.inference.net",
    "doubleword": "docs.doubleword.ai",
}


def service_rows(name: str) -> tuple[Assumption, ...]:
    """Return the assumptions of one service."""
    page = PAGES.get(name, name)
    return (
        *chat_rows(page),
        Assumption(
            "listing.label",
            "A listing shows the input file of a job, or the name of its batch as metadata.",
            f"{page}: {DOCUMENTED}; metadata in a listing: {UNVERIFIED}",
            job_checks.label_is_listed("file", "name"),
        ),
        Assumption(
            "listing.pages",
            "A listing in small pages brings the same jobs.",
            f"{page}: {DOCUMENTED}",
            job_checks.listing_has_pages,
        ),
        Assumption(
            "results.counted",
            "A job reports how many rows its results have.",
            f"{page}: {DOCUMENTED}",
            job_checks.rows_are_counted,
            needed=False,
        ),
        Assumption(
            "cancel.end",
            "A job that is cancelled ends as cancelled, or finishes all rows.",
            f"a recorded run of DeepInfra: {REPORTED}; others: {UNVERIFIED}",
            probe_checks.cancel_ends_as(JobState.CANCELLED, JobState.SUCCEEDED),
            needed=False,
        ),
    )
