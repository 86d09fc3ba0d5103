"""What this program assumes of every service whose batches hold chat completions: Together, and OpenAI's protocol."""

from __future__ import annotations

from dataclasses import replace

from batchgen.providers.assumptions import job_checks, probe_checks, row_checks
from batchgen.providers.assumptions.assumption import DOCUMENTED, UNVERIFIED, Assumption

_ROWS = (
    Assumption(
        "model.answers",
        "A model of the list answers a request for one token.",
        UNVERIFIED,
        job_checks.model_answers,
    ),
    Assumption(
        "upload.kept",
        "An input file is kept until its batch has ended.",
        UNVERIFIED,
        job_checks.upload_is_kept,
    ),
    Assumption(
        "upload.again",
        "The same bytes can be uploaded again, as after a lost answer.",
        UNVERIFIED,
        probe_checks.second_upload,
    ),
    Assumption(
        "create.answered", "A create call is answered with the new job.", DOCUMENTED, job_checks.create_is_answered
    ),
    Assumption(
        "listing.appears",
        "A new job is in a listing before reconcile_grace_seconds have passed.",
        UNVERIFIED,
        job_checks.job_is_listed,
    ),
    Assumption(
        "listing.whole",
        "A listing can be read to its end, and a job stays in it.",
        UNVERIFIED,
        job_checks.listing_is_whole,
    ),
    Assumption("states.known", "Each word for the state of a job is known.", DOCUMENTED, job_checks.states_are_known),
    Assumption(
        "states.forward",
        "A job does not go back to an earlier state.",
        UNVERIFIED,
        job_checks.states_go_forward,
        needed=False,
    ),
    Assumption(
        "results.named", "A job that succeeded names its result file.", DOCUMENTED, job_checks.results_are_named
    ),
    Assumption(
        "results.errors", "Rows that failed are in an error file.", DOCUMENTED, job_checks.error_file, needed=False
    ),
    Assumption(
        "results.size",
        "The size that the service names for a result file is right.",
        UNVERIFIED,
        probe_checks.result_size,
        needed=False,
    ),
    Assumption(
        "rows.keys",
        "Each request has exactly one row, under its own custom_id.",
        DOCUMENTED,
        row_checks.rows_have_keys,
    ),
    Assumption("rows.order", "Rows come in any order.", DOCUMENTED, row_checks.row_order, needed=False),
    Assumption(
        "rows.fields",
        "A row has a response with a body of choices, or an error.",
        DOCUMENTED,
        row_checks.rows_are_readable,
    ),
    Assumption("rows.finish", "Each reason why a reply ended is known.", DOCUMENTED, row_checks.finish_is_known),
    Assumption(
        "rows.model",
        "A row names the model that was asked.",
        DOCUMENTED,
        row_checks.model_comes_back,
        needed=False,
    ),
    Assumption(
        "usage.told",
        "A row says how many tokens are billed.",
        DOCUMENTED,
        row_checks.usage_is_told("prompt_tokens", "completion_tokens"),
    ),
    Assumption(
        "usage.sum",
        "Thoughts are part of the completion tokens.",
        UNVERIFIED,
        row_checks.usage_adds_up("total_tokens", "prompt_tokens", "completion_tokens"),
        needed=False,
    ),
    Assumption(
        "usage.thoughts",
        "A model does not think; where it could, the request switches it off.",
        UNVERIFIED,
        row_checks.no_thoughts,
        needed=False,
    ),
    Assumption("sampling.limit", "No reply is longer than the limit.", DOCUMENTED, row_checks.limit_is_kept),
    Assumption(
        "sampling.taken",
        "No request is refused for its parameters.",
        DOCUMENTED,
        row_checks.parameters_are_taken,
    ),
    Assumption(
        "dead.probe",
        "A one-token call to a model that is not served is refused, and the message names the model.",
        UNVERIFIED,
        probe_checks.dead_model_probe,
    ),
    Assumption(
        "dead.create",
        "A batch for a model that is not served is refused or fails, and the message names the model.",
        UNVERIFIED,
        probe_checks.dead_model_create,
    ),
    Assumption("job.unknown", "A job that does not exist is answered with 404.", UNVERIFIED, probe_checks.unknown_job),
    Assumption("cancel.taken", "A new job can be cancelled.", DOCUMENTED, probe_checks.cancel_is_taken),
    Assumption("delete.file", "A deleted input file is gone.", DOCUMENTED, probe_checks.delete_file, needed=False),
    Assumption(
        "rows.json",
        "A reply keeps to the JSON schema of its request, where it has one.",
        DOCUMENTED,
        row_checks.json_is_kept,
        rare=True,
    ),
    Assumption(
        "job.expired",
        "An expired job brings the rows that were answered in time.",
        UNVERIFIED,
        job_checks.expired_job,
        needed=False,
        rare=True,
    ),
    Assumption(
        "quota.refusal",
        "A refusal for a quota has the HTTP status 429.",
        UNVERIFIED,
        job_checks.quota_refusal,
        needed=False,
        rare=True,
    ),
)


def chat_rows(page: str) -> tuple[Assumption, ...]:
    """Return the assumptions of a service whose documents are at `page`."""
    return tuple(replace(row, source=f"{page}: {DOCUMENTED}") if row.source == DOCUMENTED else row for row in _ROWS)
