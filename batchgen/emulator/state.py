"""The state of the service: all mutable state is here, with the queries that tests use."""

from __future__ import annotations

import hmac
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal, NamedTuple

import msgspec

from batchgen.emulator.backends.builtin import Answer, Backend, Prompt, Scripted
from batchgen.emulator.backends.counts import Counts
from batchgen.emulator.faults import NO_JOB_FAULT, Faults, JobFault
from batchgen.emulator.http_values import Response
from batchgen.emulator.services import SERVICES
from batchgen.emulator.storage import Answers, MemoryStore, Store

REMEMBERED_REQUESTS = 100_000
ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
# Models that their providers have shut down: no service serves them, so that a client can see how that is said.
RETIRED_MODELS = frozenset({"gemini-1.0-pro", "togethercomputer/llama-2-70b-chat", "meta-llama/Llama-2-7b-chat-hf"})
PENDING_SHARE = 0.2  # share of job_seconds in which a job is pending; after that it is running

Phase = Literal["pending", "running", "cancelling", "ended"]


class StoredFile(msgspec.Struct, kw_only=True):
    """An uploaded file or a result file. Times are seconds since the epoch; expires 0: never."""

    id: str
    provider: str
    owner: str
    name: str
    mime_type: str = ""
    purpose: str = ""
    size: int
    sha256: str
    created: float
    active_at: float = 0.0
    expires: float = 0.0
    ready: bool = True  # Together: the file is processed


class Job(msgspec.Struct, kw_only=True):
    """A batch. `state` is the provider's state once the job has ended; until then `phase` says where it is.

    `keys` are the request keys in file order ("" for a line without one): these requests were bought.
    """

    id: str
    provider: str
    owner: str
    model: str
    name: str
    endpoint: str = ""
    input_file: str
    sha256: str
    size: int
    serial: int
    created: float
    keys: list[str]
    plan: JobFault = NO_JOB_FAULT
    phase: Phase = "pending"
    state: str = ""
    error: Any = None
    ended_at: float = 0.0
    cancelled_at: float = 0.0
    cancel: str = ""  # what a cancel did, as in JobFault.cancel; also "finishes": all rows are answered, then success
    window: str = ""  # completion_window, as it was asked
    metadata: dict[str, str] | None = None
    result_seconds: float = 0.0  # how long the result files are kept; 0 is the provider's rule
    served: int = 0
    failed: int = 0
    output: str = ""  # id of the result file, "" when there is none
    errors: str = ""  # id of the error file, "" when there is none
    deleted: bool = False
    shown: int = 0  # how many of plan.states have been shown
    shown_since: float = 0.0


@dataclass(slots=True)
class Progress:
    """The rows of a running job; deleted when it ends. `answers` are result lines by index in the input."""

    lines: Sequence[bytes]
    answers: Answers
    next_index: int = 0  # rows handed to workers so far, in file order
    again: list[tuple[float, int, int]] = field(default_factory=list)  # a heap: (send at, row, refusals so far)


@dataclass(slots=True)
class Upload:
    """An unfinished upload. Gemini sends `declared` bytes in order; Together all at once, with a `checksum`."""

    provider: str
    owner: str
    name: str
    identity: str = ""
    mime_type: str = ""
    purpose: str = ""
    declared: int = 0
    checksum: str = ""
    data: bytearray = field(default_factory=bytearray)


class LoggedRequest(NamedTuple):
    """One request in the log; `owner` is the fingerprint of its key, `status` is 0 if no response was sent."""

    provider: str
    endpoint: str
    method: str
    path: str
    status: int
    owner: str
    at: float


class CreateCall(NamedTuple):
    """One create call; `job` is the id of the created job, "" if there is none; `retry` is the SDK's retry count."""

    provider: str
    owner: str
    status: int
    job: str
    at: float
    retry: str
    body: bytes


class World:
    """The state of one local service. Everything public may be set at any time under `lock`.

    job_seconds               how long a job takes at least; a fifth of it is pending
    token                     the only API key that is accepted, if it is not ""
    valid_keys                API keys that are accepted; None: any
    gone_models               models that are not served (any more), by the provider's names
    served_models             None: every model that is not gone, and not in RETIRED_MODELS
    file_processing_seconds   a Gemini upload is PROCESSING for so long
    refused_mime_types        Gemini refuses uploads of these types, with 400 or (mime_refusal="200") a 200 error body
    deduplicate               Together answers 409 with the old file's id when it knows the checksum
    page_size                 most rows on one page of a listing (Together's have no pages)
    empty_last_page           Gemini's last page token leads to an empty page (an SDK's IndexError)
    max_active_jobs           create answers 429 beyond so many unfinished jobs of a key; 0 is no limit
    cancelling_seconds        how long a job is shown as being cancelled (not at Gemini)
    """

    def __init__(
        self,
        backend: Backend | None = None,
        *,
        clock: Callable[[], float] = time.time,
        store: Store | None = None,
        job_seconds: float = 0.0,
        seed: str = "",
    ) -> None:
        self.lock = threading.RLock()
        self.wake = threading.Condition(self.lock)
        self.backend: Backend = backend or Scripted()
        self.faults = Faults()
        self.store: Store = store or MemoryStore()
        self.clock = clock
        self.log: Callable[[str], None] = lambda _: None
        self.job_seconds = job_seconds
        self.seed = seed
        self.offset = 0.0
        self.serial = 0
        self.files: dict[tuple[str, str], StoredFile] = {}
        self.jobs: dict[str, Job] = {}
        self.progress: dict[str, Progress] = {}
        self.uploads: dict[str, Upload] = {}
        self.requests: deque[LoggedRequest] = deque(maxlen=REMEMBERED_REQUESTS)
        self.posts: list[CreateCall] = []
        self.crashes: list[Exception] = []  # errors in the service or in a backend; LocalService raises the first
        self.late_seconds = 0.0  # set by LateCommit during one create call
        self.counts = Counts()
        self.stopping = False  # no new jobs and single calls are taken
        self.token = ""
        self.valid_keys: set[str] | None = None
        self.gone_models: set[str] = set()
        self.served_models: set[str] | None = None
        self.file_processing_seconds = 0.0
        self.refused_mime_types: set[str] = set()
        self.mime_refusal: Literal["400", "200"] = "400"
        self.deduplicate = True
        self.page_size = 100
        self.empty_last_page = False
        self.max_active_jobs = 0
        self.cancelling_seconds = 15.0

    # Time and names

    def now(self) -> float:
        """Return seconds since 1970 by the clock of this world."""
        return self.clock() + self.offset

    def advance(self, seconds: float) -> None:
        """Move the clock by `seconds`; a negative number sets it back."""
        with self.wake:
            self.offset += seconds
            self.wake.notify_all()

    def new_id(self, length: int) -> str:
        """Return a new unique name: lower-case letters and digits."""
        self.serial += 1
        number = int.from_bytes(sha256(f"{self.seed}:{self.serial}:{self.created_stamp()}".encode()).digest())
        digits = []
        for _ in range(length):
            number, digit = divmod(number, len(ALPHABET))
            digits.append(ALPHABET[digit])
        return "".join(digits)

    def accepts_key(self, key: str) -> bool:
        """Return whether an API key is valid here."""
        if self.token:
            return hmac.compare_digest(key.encode(), self.token.encode())
        return bool(key) and (self.valid_keys is None or key in self.valid_keys)

    def serves(self, model: str) -> bool:
        """Return whether a model (without `models/`) is served."""
        if self.served_models is not None and model not in self.served_models:
            return False
        return model not in self.gone_models and model not in RETIRED_MODELS

    def answer(self, prompt: Prompt) -> Answer:
        """Return the reply of the backend to one prompt, counted. Raises BackendError. Needs no lock."""
        return self.counts.answer(self.backend, prompt)

    # Files and jobs

    def add_file(self, file: StoredFile, data: bytes) -> StoredFile:
        self.store.write_blob(file.sha256, data)
        return self.register_file(file)

    def register_file(self, file: StoredFile) -> StoredFile:
        """Register a file whose contents are in the store."""
        self.files[file.provider, file.id] = file
        self.save(file)
        return file

    def file(self, provider: str, owner: str, identity: str) -> StoredFile | None:
        """Return a file of this owner that has not expired; None for other owners' files."""
        file = self.files.get((provider, identity))
        if file is None or file.owner != owner or (file.expires and self.now() >= file.expires):
            return None
        return file

    def files_of(self, provider: str, owner: str) -> list[StoredFile]:
        """Return the files of an owner, newest first."""
        found = (self.file(provider, owner, name) for kind, name in reversed(self.files) if kind == provider)
        return [file for file in found if file is not None]

    def content(self, file: StoredFile) -> bytes:
        return self.store.read_blob(file.sha256)

    def download(self, file: StoredFile, mime_type: str) -> Response:
        """Return the content of a file as the answer to a download."""
        path = self.store.path(file.sha256)
        return Response(200, {"Content-Type": mime_type}, b"" if path else self.store.read_blob(file.sha256), file=path)

    def lines(self, file: StoredFile) -> Sequence[bytes]:
        """Return the lines of a request file without blank ones."""
        return self.store.lines(file.sha256)

    def remove_file(self, file: StoredFile) -> None:
        del self.files[file.provider, file.id]
        self.store.drop(f"{file.provider}-files", file.id)
        self.drop_unused_blob(file.sha256)

    def drop_unused_blob(self, name: str) -> None:
        """Delete contents that nothing refers to: two files and a job may share them."""
        used = any(file.sha256 == name for file in self.files.values())
        if not used and not any(name == job.sha256 for job in self.jobs.values() if job.id in self.progress):
            self.store.drop_blob(name)

    def add_job(self, job: Job, lines: Sequence[bytes]) -> Job:
        job.plan = self.faults.plan(job.provider, job.model, job.keys)
        self.jobs[job.id] = job
        self.progress[job.id] = Progress(lines, self.store.answers(job.id))
        self.save(job)
        self.wake.notify_all()
        return job

    def job(self, provider: str, owner: str, identity: str) -> Job | None:
        """Return a job of this owner that is created by now; None otherwise."""
        job = self.jobs.get(identity)
        if job is None or job.provider != provider or job.owner != owner or job.deleted or job.created > self.now():
            return None
        return job

    def jobs_of(self, provider: str, owner: str) -> list[Job]:
        """Return the jobs that a listing shows, newest first."""
        now = self.now()
        found = (self.job(provider, owner, identity) for identity in self.jobs)
        listed = [job for job in found if job is not None and now >= job.created + job.plan.unlisted_seconds]
        return sorted(listed, key=lambda job: (job.created, job.serial), reverse=True)

    def active_jobs(self) -> list[Job]:
        """Return the jobs that have not ended, oldest first."""
        return [self.jobs[identity] for identity in self.progress]

    def save(self, record: StoredFile | Job) -> None:
        kind = f"{record.provider}-files" if isinstance(record, StoredFile) else "jobs"
        self.store.save(kind, record.id, msgspec.json.encode(record))

    def load(self) -> None:
        """Load what an earlier process left in the store: finished rows stay finished, open ones continue."""
        for provider in ("gemini", "together", *SERVICES):
            for record in self.store.records(f"{provider}-files"):
                file = msgspec.json.decode(record, type=StoredFile)
                self.files[provider, file.id] = file
        jobs = [msgspec.json.decode(record, type=Job) for record in self.store.records("jobs")]
        for job in sorted(jobs, key=lambda job: job.serial):
            self.jobs[job.id] = job
            self.serial = max(self.serial, job.serial)
            if job.phase != "ended":
                lines = self.store.lines(job.sha256) if job.sha256 else []
                self.progress[job.id] = Progress(lines, self.store.answers(job.id))

    # Queries for tests

    @property
    def batches_bought(self) -> int:
        """Return the number of jobs ever created at all providers, including deleted ones."""
        return len(self.jobs)

    @property
    def bought_keys(self) -> list[str]:
        """Return the request keys of all jobs ever created; a key that occurs twice was paid for twice."""
        return [key for job in self.jobs.values() for key in job.keys]

    @property
    def keys_by_job(self) -> dict[str, list[str]]:
        return {job.id: job.keys for job in self.jobs.values()}

    def jobs_created(self, provider: str = "") -> list[Job]:
        """Return the jobs ever created, in order, of one provider if named."""
        return [job for job in self.jobs.values() if provider in {"", job.provider}]

    def seen(self, provider: str = "", endpoint: str = "") -> list[LoggedRequest]:
        """Return the logged requests of a provider and an endpoint, oldest first; "" is any."""
        return [s for s in self.requests if provider in {"", s.provider} and endpoint in {"", s.endpoint}]

    def summary(self) -> dict[str, Any]:
        """Return the counts for GET /_control/world."""
        jobs = [
            {"id": j.id, "provider": j.provider, "model": j.model, "name": j.name, "input_file": j.input_file}
            | {"phase": j.phase, "state": j.state, "requests": len(j.keys), "served": j.served, "failed": j.failed}
            for j in self.jobs.values()
        ]
        keys = self.bought_keys
        return {
            "now": self.now(),
            "jobs": jobs,
            "posts": len(self.posts),
            "requests": len(self.requests),
            "keys_bought": len(keys),
            "keys_bought_twice": len(keys) - len(set(keys)),
            "files": len(self.files),
            "faults_struck": self.faults.struck(),
        }

    def created_stamp(self) -> int:
        return int(self.now() * 1e6)


def key_fingerprint(key: str) -> str:
    """Return a short hash of an API key, to tell keys apart without storing them."""
    return sha256(key.encode()).hexdigest()[:8]


def rfc3339(seconds: float, digits: int = 9) -> str:
    """Return a time as both providers write it: UTC, fraction of `digits` digits, Z."""
    whole = datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{int((seconds % 1) * 1e9):09d}"[: len(whole) + 1 + digits] + "Z"
