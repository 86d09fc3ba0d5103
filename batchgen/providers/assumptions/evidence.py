"""`rehearsal.json`: what a rehearsal has seen of each provider, and what it concludes. It can be attached to a report.

No key, no text of a dialogue and no instructions: names of states, jobs, files and JSON members, counts, times, and
messages of the provider about the rehearsal's own calls.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct, field

from batchgen.core.errors import SetupError
from batchgen.runtime.files import write_durably
from batchgen.runtime.logging_setup import redact

FOLDER = "rehearsal"
FILE = "rehearsal.json"
ENDED_BEFORE = "EndedBefore"  # the kind of error of a cancel call that came too late


class Outcome(Struct):
    """What one call led to: the HTTP status (0: none came), the kind of error ("": success), the provider's message.

    `passing`: the error is one that a later call may not meet.
    """

    status: int = 0
    error: str = ""
    message: str = ""
    passing: bool = False

    def __str__(self) -> str:
        code = f"HTTP {self.status}" if self.status else "no answer"
        return f"{code}: {self.message}" if self.message else code


class JobNotes(Struct):
    """One job of the rehearsal. Times are seconds after its create call was answered; None: not seen.

    `states` are its words in the order in which they were shown, `labels` what a listing shows of it (name, file),
    `results` where its results are named, `rows_told` how many result rows it reports.
    """

    name: str = ""
    file: str = ""
    created_at: float = 0.0  # seconds since 1970 UTC
    create_seconds: float | None = None  # how long the create call took; None: it was found in a listing
    members: list[str] = field(default_factory=list)  # of the answer to the create call
    states: list[tuple[float, str]] = field(default_factory=list)
    unknown_states: list[str] = field(default_factory=list)
    missing_at: float | None = None  # the last listing without it, before it was listed
    listed_at: float | None = None
    vanished_at: float | None = None  # a listing without it, after it was listed
    labels: list[str] = field(default_factory=list)
    ended: str = ""
    error: str = ""
    results: list[str] = field(default_factory=list)
    nameless_seconds: float = 0.0  # from the first look at the ended job to the last one at which it named no results
    rows_told: int | None = None
    deleted: bool = False


class UploadNotes(Struct):
    """One upload: its file, when, how long the file is kept as the answer says, and members of the answer."""

    file: str
    at: float
    kept_seconds: float | None = None
    mime_type: str = ""
    members: list[str] = field(default_factory=list)


class CreatedJob(Struct):
    """A create call that only the rehearsal makes.

    `state`: "" before it, `creating` from the write of the intent on, then `created`, `refused`, or `unclear` for ever.
    """

    state: str = ""
    file: str = ""
    intent_at: float = 0.0
    job: str = ""
    outcome: Outcome | None = None
    cleaned: bool = False


class PagedListing(Struct):
    """A listing in small pages: jobs asked for on a page, pages that came, jobs expected and found."""

    size: int
    pages: int
    expected: int
    found: int
    problem: str = ""


class ProbeNotes(Struct):
    """The calls that only the rehearsal makes. Each is made once; None: not yet."""

    unknown_job: Outcome | None = None
    dead_model: Outcome | None = None
    second_upload: Outcome | None = None
    second_file: str = ""
    cancel: CreatedJob = field(default_factory=CreatedJob)
    cancel_call: Outcome | None = None
    dead_create: CreatedJob = field(default_factory=CreatedJob)
    delete_file: Outcome | None = None
    file_after: Outcome | None = None
    delete_job: Outcome | None = None
    job_after: Outcome | None = None
    paged: PagedListing | None = None
    kept_file: Outcome | None = None
    kept_seconds: float = 0.0
    result_bytes: tuple[int, int] | None = None  # as the service says, and as they were downloaded
    tries: dict[str, int] = field(default_factory=dict)  # temporary errors of a probe so far


class Evidence(Struct):
    """What was seen of one provider."""

    address: str = ""
    sdk: str = ""
    jobs: dict[str, JobNotes] = field(default_factory=dict)
    uploads: list[UploadNotes] = field(default_factory=list)
    asked: dict[str, Outcome] = field(default_factory=dict)  # one-token calls, by model
    unclear_creates: list[str] = field(default_factory=list)
    refused_creates: list[str] = field(default_factory=list)
    listing: Outcome | None = None  # of the last listing
    listing_failures: int = 0  # without a success between them
    listing_members: list[str] = field(default_factory=list)  # of a page; "[]" for an array
    listing_pages: int = 0
    downloads: dict[str, int] = field(default_factory=dict)  # bytes by remote file
    quotas: list[str] = field(default_factory=list)  # messages with HTTP status 429
    headers: list[str] = field(default_factory=list)  # names of response headers
    probes: ProbeNotes = field(default_factory=ProbeNotes)


class CheckedAssumption(Struct):
    """One row of the table: whether the assumption is held, broken or not seen yet, and what was seen.

    `needed`: a run goes wrong without it. `rare`: it is seen only if something unusual happens.
    """

    provider: str
    name: str
    state: str
    assumes: str
    seen: str
    needed: bool
    source: str
    rare: bool = False


class Record(Struct):
    """The content of `rehearsal.json`. Times are in seconds since 1970 UTC."""

    version: str = ""
    started_at: float = 0.0
    updated_at: float = 0.0
    conversations: int = 0
    finished: bool = False
    models: dict[str, str] = field(default_factory=dict)  # by stage
    spent_usd: float = 0.0
    checks: list[CheckedAssumption] = field(default_factory=list)
    providers: dict[str, Evidence] = field(default_factory=dict)


def record_path(root: Path) -> Path:
    """Return the path of the record of a rehearsal of the run in `root`."""
    return root / FOLDER / FILE


def read_record(root: Path) -> Record | None:
    """Return the record of the run in `root`; None if there is none. Raises SetupError if it cannot be read."""
    path = record_path(root)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise SetupError(
            f"{path}: not a record of a rehearsal ({error}).", do=f"Delete {path.parent}, and rehearse again."
        ) from None


def write_record(root: Path, record: Record) -> None:
    """Write the record durably. Keys are masked."""
    text = msgspec.json.format(msgspec.json.encode(record), indent=1)
    write_durably(record_path(root), [redact(text.decode()).encode(), b"\n"])
