"""The calls that only a rehearsal makes, once each, beside the run: they cost nothing, or a small part of a cent.

A create call obeys the rule of every create call: the intent is on disk first, exactly one call is made, and if its
answer is unclear, its job is looked for in listings and never created again. What a probe makes, it deletes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from batchgen.core.errors import Ambiguous, BatchgenError, QuotaReached, SetupError, Temporary
from batchgen.core.jsonl import dict_or_empty
from batchgen.core.prompts import Message, Prompt
from batchgen.providers.assumptions.evidence import ENDED_BEFORE, CreatedJob, Outcome, PagedListing
from batchgen.providers.assumptions.observer import Observed, outcome_of
from batchgen.providers.base import REFUSALS, JobNotFound, Parameters, Provider, RemoteFile
from batchgen.runtime.files import write_durably

MOST_TRIES = 3  # of a probe that meets a temporary error; then this error is what was seen
MOST_PAGED_JOBS = 100  # a longer listing has pages of its own
OUTPUT_TOKENS = 16
UNKNOWN_END = "00000000"  # of the id of a job that does not exist
WORDS = "Say yes."
CONFLICT = 409  # the client takes it for a success: the job has ended already


class ProbeKit(NamedTuple):
    """What the probes of one provider need.

    `dead_model` is one that the provider does not serve, `refuses_dead` whether a create call for it is refused (or
    else accepted, and the job fails). `paged`: its listings have pages. `mark` makes the names unique, `folder` is for
    request files, `save` writes the record durably.
    """

    provider: Provider
    model: str
    dead_model: str
    refuses_dead: bool
    paged: bool
    sizes_results: bool
    mark: str
    folder: Path
    grace_seconds: float
    save: Callable[[], None]
    now: Callable[[], float]


class Prober:
    """Makes the probes of one provider, those that are due."""

    def __init__(self, remote: Observed, kit: ProbeKit) -> None:
        self._remote, self._kit, self._probes = remote, kit, remote.notes.probes

    @property
    def pending(self) -> bool:
        """Whether later steps will see more."""
        probes = self._probes
        asked = [probes.unknown_job, probes.dead_model]
        asked += [probes.second_upload] if probes.cancel.file else []
        asked += [probes.kept_file] if self._remote.notes.uploads else []
        return None in asked or not (probes.cancel.cleaned and probes.dead_create.cleaned)

    def step(self) -> None:
        """Make the calls that are due. Raises Temporary if one of them must be made again."""
        if not self._remote.notes.jobs:
            return  # nothing is known to work yet
        self._unknown_job()
        self._dead_model()
        self._create(self._probes.cancel, "cancel", self._kit.model)
        self._second_upload()
        self._cancel()
        self._create(self._probes.dead_create, "dead", self._kit.dead_model)
        self._follow_dead()
        self._follow_cancelled()
        self._page()
        self._look_at_result()
        self._kit.save()

    def last_step(self) -> None:
        """Look, at the end of the run, whether the first input file is still there."""
        notes, probes = self._remote.notes, self._probes
        deleted = {probes.cancel.file, probes.dead_create.file, probes.second_file}
        first = next((one for one in notes.uploads if one.file not in deleted), None)
        if first is not None and probes.kept_file is None:
            probes.kept_file = self._once("kept_file", lambda: self._remote.file(first.file))
            probes.kept_seconds = self._kit.now() - first.at

    # ---- single calls

    def _once(self, name: str, call: Callable[[], object]) -> Outcome | None:
        """Make a call and return what it led to; None if it met a temporary error and is to be made again."""
        outcome = self._remote.tried(call)
        if outcome.passing:
            self._probes.tries[name] = self._probes.tries.get(name, 0) + 1
            if self._probes.tries[name] < MOST_TRIES:
                return None
        return outcome

    def _unknown_job(self) -> None:
        if self._probes.unknown_job is None:
            real = next(iter(self._remote.notes.jobs))
            unknown = real[:-8] + UNKNOWN_END
            self._probes.unknown_job = self._once("unknown_job", lambda: self._remote.get(unknown))

    def _dead_model(self) -> None:
        if self._probes.dead_model is None:
            self._probes.dead_model = self._once("dead_model", lambda: self._remote.probe(self._kit.dead_model))

    def _second_upload(self) -> None:
        """Upload the file of the cancel probe again."""
        if self._probes.second_upload is not None or not self._probes.cancel.file:
            return
        found: list[RemoteFile] = []
        outcome = self._once("second_upload", lambda: found.append(self._upload("cancel", self._kit.model)))
        self._probes.second_upload = outcome
        if found and found[0].file_id != self._probes.cancel.file:
            self._remote.tried(lambda: self._remote.delete_file(found[0].file_id))
        self._probes.second_file = found[0].file_id if found else ""

    # ---- jobs of the rehearsal

    def _upload(self, purpose: str, model: str) -> RemoteFile:
        prompt = Prompt("Answer with one word.", (Message("user", WORDS),), ())
        name = self._name(purpose)
        line = self._kit.provider.line(name, prompt, Parameters(model, OUTPUT_TOKENS, 1.0))
        path = self._kit.folder / f"{name}.jsonl"
        size = write_durably(path, [line, b"\n"]).size
        return self._remote.upload(path, size)

    def _name(self, purpose: str) -> str:
        return f"rehearsal-{self._kit.mark}-{self._kit.provider.name}-{purpose}"

    def _create(self, made: CreatedJob, purpose: str, model: str) -> None:
        """Create a job of one request, once. Raises Temporary before anything was bought; the next step goes on."""
        name = self._name(purpose)
        if made.state == "creating":
            self._find(made, name)
        if made.state:
            return
        try:
            if not made.file:
                file = self._upload(purpose, model)
                made.file = file.file_id
            else:
                file = self._remote.file(made.file)
            if not file.ready:
                return
            made.state, made.intent_at = "creating", self._kit.now()
            self._kit.save()
            made.job = self._remote.create(model=model, file_id=made.file, name=name)
        except Ambiguous:
            return  # its job is looked for at the next step
        except (QuotaReached, Temporary):
            made.state = ""  # nothing was bought
            raise
        except (SetupError, *REFUSALS) as error:
            made.state, made.outcome = "refused", outcome_of(self._remote.responses(), error)
        else:
            made.state = "created"
        self._kit.save()

    def _find(self, made: CreatedJob, name: str) -> None:
        """Look for the job of an unclear create call. It is given up after the grace period, and never made again."""
        for job in self._remote.jobs():
            if {name, made.file} & set(job.labels):
                made.state, made.job = "created", job.remote_id
                self._kit.save()
                return
        if self._kit.now() - made.intent_at > self._kit.grace_seconds:
            made.state = "unclear"

    def _cancel(self) -> None:
        made = self._probes.cancel
        if made.job and self._probes.cancel_call is None:
            outcome = self._once("cancel", lambda: self._remote.cancel(made.job))
            if outcome and (outcome.error or outcome.status == CONFLICT) and self._has_ended(made):
                outcome = Outcome(outcome.status, ENDED_BEFORE)
            self._probes.cancel_call = outcome

    def _follow_dead(self) -> None:
        """Poll the job of the dead model to its end, then delete it. If it was not expected, it is cancelled."""
        made = self._probes.dead_create
        if made.cleaned or not self._has_ended(made):
            if made.job and not made.cleaned and self._kit.refuses_dead:
                self._remote.tried(lambda: self._remote.cancel(made.job))
            return
        if made.job:
            self._remote.tried(lambda: self._remote.delete_job(made.job))
        if made.file:
            self._remote.tried(lambda: self._remote.delete_file(made.file))
        made.cleaned = True

    def _follow_cancelled(self) -> None:
        """Poll the cancelled job to its end. Then delete it and its file, and look whether they are gone."""
        made, probes = self._probes.cancel, self._probes
        if made.cleaned or not self._has_ended(made):
            return
        if made.job:
            deleted: list[bool] = []
            outcome = self._remote.tried(lambda: deleted.append(self._remote.delete_job(made.job)))
            if deleted != [False]:
                probes.delete_job = outcome
                probes.job_after = self._remote.tried(lambda: self._remote.get(made.job))
        if made.file:
            probes.delete_file = self._remote.tried(lambda: self._remote.delete_file(made.file))
            probes.file_after = self._remote.tried(lambda: self._remote.file(made.file))
        made.cleaned = True

    def _has_ended(self, made: CreatedJob) -> bool:
        if made.state in ("refused", "unclear"):
            return True
        if not made.job:
            return False
        jobs = self._remote.notes.jobs
        if made.job not in jobs or not jobs[made.job].ended:
            outcome = self._remote.tried(lambda: self._remote.get(made.job))
            lost = outcome.error == JobNotFound.__name__
            self._probes.tries[made.job] = self._probes.tries.get(made.job, 0) + 1 if lost else 0
            if self._probes.tries[made.job] > MOST_TRIES:  # it was never there
                made.state = "unclear"
        return made.state == "unclear" or (made.job in jobs and bool(jobs[made.job].ended))

    def _enough_jobs(self) -> bool:
        return sum(not job.deleted for job in self._remote.notes.jobs.values()) > 1

    def _page(self) -> None:
        """Read the listing in pages of half its size, and compare."""
        if not self._kit.paged or self._probes.paged is not None or not self._enough_jobs():
            return
        try:
            expected = {job.remote_id for job in self._remote.jobs()}
        except (BatchgenError, *REFUSALS):
            return
        if len(expected) > MOST_PAGED_JOBS:  # more than one page as it is
            pages = self._remote.notes.listing_pages
            self._probes.paged = PagedListing(MOST_PAGED_JOBS, pages, len(expected), len(expected))
            return
        size = max(-(-len(expected) // 2), 1)
        try:
            found, pages = self._remote.jobs_in_pages(size)
        except (BatchgenError, *REFUSALS) as error:
            self._probes.paged = PagedListing(
                size, 0, len(expected), 0, str(outcome_of(self._remote.responses(), error))
            )
            return
        common = expected & {job.remote_id for job in found}
        self._probes.paged = PagedListing(size, pages, len(expected), len(common))

    def _look_at_result(self) -> None:
        """Ask which size a result file has."""
        if not self._kit.sizes_results or self._probes.result_bytes is not None:
            return
        result, size = next(((one, size) for one, size in self._remote.notes.downloads.items() if size), ("", 0))
        if result:
            self._remote.tried(lambda: self._remote.file(result))
            told = dict_or_empty(self._remote.responses()[-1].value if self._remote.responses() else None).get("bytes")
            if isinstance(told, int):
                self._probes.result_bytes = (told, size)
