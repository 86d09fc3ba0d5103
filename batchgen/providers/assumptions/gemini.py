"""What this program assumes of the Gemini Developer API."""

from __future__ import annotations

from batchgen.providers.assumptions import job_checks, probe_checks, row_checks
from batchgen.providers.assumptions.assumption import (
    DOCUMENTED,
    REPORTED,
    UNVERIFIED,
    Assumption,
    Finding,
    Seen,
    broken,
    held,
    unseen,
)
from batchgen.providers.base import JobState

DEAD_MODEL = "gemini-1.0-pro"  # shut down in 2025
BATCH = "ai.google.dev/gemini-api/docs/batch-api"
FILES = "ai.google.dev/gemini-api/docs/files"


def _upload_type(seen: Seen) -> Finding:
    """Whether the first MIME type that is tried was taken."""
    types = sorted({file.mime_type for file in seen.notes.uploads})
    if not types:
        return unseen()
    words = ", ".join(types) or "no type in the answer"
    return held(words) if types in (["application/jsonl"], [""]) else broken(f"taken as {words}")


ROWS = (
    Assumption(
        "model.answers",
        "A model of the list answers a request for one token.",
        f"users' reports of a 404 for new keys: {REPORTED}",
        job_checks.model_answers,
    ),
    Assumption(
        "upload.type",
        "The API version v1beta takes uploads of the type application/jsonl.",
        f"{FILES}, python-genai issues 1547 and 1590: {REPORTED}; v1: {UNVERIFIED}",
        _upload_type,
        needed=False,
    ),
    Assumption(
        "upload.kept",
        "An input file is kept for two days, so that a batch can be created from it later.",
        f"{FILES}: {DOCUMENTED}",
        job_checks.upload_is_kept,
    ),
    Assumption(
        "upload.again",
        "The same bytes can be uploaded again, as after a lost answer.",
        UNVERIFIED,
        probe_checks.second_upload,
    ),
    Assumption(
        "create.answered",
        "A create call is answered with the new job.",
        f"{BATCH}: {DOCUMENTED}",
        job_checks.create_is_answered,
    ),
    Assumption(
        "listing.appears",
        "A new job is in a listing before reconcile_grace_seconds have passed.",
        UNVERIFIED,
        job_checks.job_is_listed,
    ),
    Assumption(
        "listing.label",
        "A listing shows the display name of a job.",
        f"{BATCH}: {DOCUMENTED}",
        job_checks.label_is_listed("name"),
    ),
    Assumption(
        "listing.whole",
        "A listing can be read to its end, and a job stays in it.",
        f"{BATCH}: {DOCUMENTED}",
        job_checks.listing_is_whole,
    ),
    Assumption(
        "listing.pages",
        "A listing in small pages brings the same jobs.",
        f"source of google-genai 3.4.0: {UNVERIFIED}",
        job_checks.listing_has_pages,
    ),
    Assumption(
        "states.known",
        "Each word for the state of a job is known.",
        f"{BATCH}: {DOCUMENTED}",
        job_checks.states_are_known,
    ),
    Assumption(
        "states.forward",
        "A job does not go back to an earlier state.",
        UNVERIFIED,
        job_checks.states_go_forward,
        needed=False,
    ),
    Assumption(
        "results.named",
        "A job that succeeded names its results: a file, or rows in the job itself.",
        f"{BATCH}: {DOCUMENTED}; inline: {REPORTED}",
        job_checks.results_are_named,
    ),
    Assumption(
        "results.counted",
        "A job reports how many rows its results have.",
        f"recorded operations: {REPORTED}",
        job_checks.rows_are_counted,
        needed=False,
    ),
    Assumption(
        "rows.keys",
        "Each request has exactly one row, under its own key.",
        f"{BATCH}: {DOCUMENTED}; a reply under a wrong key: {REPORTED}",
        row_checks.rows_have_keys,
    ),
    Assumption(
        "rows.order",
        "Rows come in any order.",
        f"python-genai issue 1909: {REPORTED}",
        row_checks.row_order,
        needed=False,
    ),
    Assumption(
        "rows.fields",
        "A row has a response with candidates, or an error.",
        f"{BATCH}: {DOCUMENTED}",
        row_checks.rows_are_readable,
    ),
    Assumption(
        "rows.finish",
        "Each reason why a reply ended is known.",
        f"ai.google.dev/api/generate-content: {DOCUMENTED}",
        row_checks.finish_is_known,
    ),
    Assumption(
        "rows.json",
        "A reply keeps to its responseSchema.",
        f"ai.google.dev/gemini-api/docs/structured-output: {DOCUMENTED}",
        row_checks.json_is_kept,
    ),
    Assumption(
        "rows.echo",
        "A reply repeats the two characters that its schema fixes.",
        UNVERIFIED,
        row_checks.echo_is_kept,
        needed=False,
    ),
    Assumption(
        "rows.model",
        "A row names the model that was asked.",
        f"recorded rows: {REPORTED}",
        row_checks.model_comes_back,
        needed=False,
    ),
    Assumption(
        "usage.told",
        "A row says how many tokens are billed.",
        f"{BATCH}: {DOCUMENTED}",
        row_checks.usage_is_told("promptTokenCount", "candidatesTokenCount"),
    ),
    Assumption(
        "usage.sum",
        "Thoughts are not part of the candidates' tokens.",
        f"ai.google.dev/gemini-api/docs/thinking: {DOCUMENTED}",
        row_checks.usage_adds_up(
            "totalTokenCount",
            "promptTokenCount",
            "candidatesTokenCount",
            "thoughtsTokenCount",
            "toolUsePromptTokenCount",
        ),
        needed=False,
    ),
    Assumption(
        "usage.thoughts",
        "A model does not think, because the request switches it off or to its least.",
        f"ai.google.dev/gemini-api/docs/thinking: {DOCUMENTED}; 3.6-flash: {UNVERIFIED}",
        row_checks.no_thoughts,
        needed=False,
    ),
    Assumption(
        "sampling.limit",
        "No reply is longer than maxOutputTokens.",
        f"ai.google.dev/api/generate-content: {DOCUMENTED}",
        row_checks.limit_is_kept,
    ),
    Assumption(
        "sampling.taken",
        "No request is refused for its temperature or its thinkingConfig.",
        f"ai.google.dev/api/generate-content: {DOCUMENTED}",
        row_checks.parameters_are_taken,
    ),
    Assumption(
        "dead.probe",
        "A one-token call to a model that is not served is refused, and the message names the model.",
        f"users' reports: {REPORTED}",
        probe_checks.dead_model_probe,
    ),
    Assumption(
        "dead.create",
        "A create call for a model that is not served is refused, and the message names the model.",
        f"users' reports: {REPORTED}",
        probe_checks.dead_model_create,
    ),
    Assumption(
        "job.unknown",
        "A job that does not exist is answered with 404.",
        f"users' reports: {REPORTED}",
        probe_checks.unknown_job,
    ),
    Assumption("cancel.taken", "A new job can be cancelled.", f"{BATCH}: {DOCUMENTED}", probe_checks.cancel_is_taken),
    Assumption(
        "cancel.end",
        "A job that is cancelled at once ends as cancelled.",
        UNVERIFIED,
        probe_checks.cancel_ends_as(JobState.CANCELLED),
        needed=False,
    ),
    Assumption(
        "delete.file",
        "A deleted input file is gone.",
        f"{FILES}: {DOCUMENTED}",
        probe_checks.delete_file,
        needed=False,
    ),
    Assumption(
        "delete.job",
        "A deleted job is gone.",
        f"{BATCH}: {DOCUMENTED}",
        probe_checks.delete_job,
        needed=False,
    ),
    Assumption(
        "rows.blocked",
        "A blocked prompt is a row with a promptFeedback, and its prompt tokens are counted.",
        UNVERIFIED,
        row_checks.blocked_prompt,
        needed=False,
        rare=True,
    ),
    Assumption(
        "job.expired",
        "An expired job has no results.",
        f"{BATCH}: {DOCUMENTED}",
        job_checks.expired_job,
        needed=False,
        rare=True,
    ),
    Assumption(
        "quota.refusal",
        "A refusal for a quota has the HTTP status 429.",
        f"ai.google.dev/gemini-api/docs/rate-limits: {DOCUMENTED}",
        job_checks.quota_refusal,
        needed=False,
        rare=True,
    ),
)
