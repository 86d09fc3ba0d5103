"""What follows from a clear no to an upload or a create call: nothing was bought, so nothing is waited for."""

from __future__ import annotations

from typing import NoReturn

from batchgen.core.errors import StageStopped, Temporary
from batchgen.engine.session import Session
from batchgen.engine.settlement import settle
from batchgen.ledger.holds import halt_scope
from batchgen.ledger.rows import Batch, BatchState, Hold
from batchgen.providers.base import FileFailed, FileGone, JobMissing, LinesRefused, ModelGone

UPLOADS = 3  # of a file that the provider cannot process, before somebody is called


class Stop(Exception):
    """Nothing more of this model can be submitted in this command; the trouble is noted."""


def take_no(session: Session, batch: Batch, error: Exception) -> NoReturn:
    """Release `batch`, or put it back to before its upload. Raises Stop, or Temporary where the next tick goes on."""
    if isinstance(error, FileGone | JobMissing):
        _upload_again(session, batch, f"the uploaded file is gone ({error})")
    if isinstance(error, FileFailed) and batch.counters.failed_uploads < UPLOADS:
        _upload_again(session, batch, str(error), failed=1)
    if isinstance(error, LinesRefused):
        _refuse_lines(session, batch, error)
    if isinstance(error, ModelGone):
        _model_gone(session, batch, str(error))
    _halt(session, batch, str(error))


def _upload_again(session: Session, batch: Batch, why: str, *, failed: int = 0) -> NoReturn:
    tried = batch.counters.failed_uploads + failed
    session.store.update(batch, state=BatchState.PLANNED, remote_file=None, uploaded_at=None, failed_uploads=tried)
    raise Temporary(f"{session.describe(batch)}: {why}.", do="The next tick uploads it again.")


def _refuse_lines(session: Session, batch: Batch, error: LinesRefused) -> NoReturn:
    """The provider named bad lines: those conversations are left behind, the others go in a new batch."""
    rows = session.store.held(batch.number)
    refused = {rows[line - 1].number: text for line, text in error.lines.items() if 0 < line <= len(rows)}
    if not refused:
        _halt(session, batch, str(error))
    settle.release(session, batch, BatchState.REFUSED, error=str(error), refused=refused)
    raise Temporary(
        f"{session.describe(batch)}: {len(refused)} of its requests were refused ({error}).",
        do="See data/rejected.jsonl; the others are submitted again.",
    )


def _model_gone(session: Session, batch: Batch, message: str) -> NoReturn:
    settle.release(
        session, batch, BatchState.REFUSED, error=f"{batch.provider} does not serve {batch.model}: {message}"
    )
    session.model_gone(batch.provider, batch.model, message)
    raise Stop


def _halt(session: Session, batch: Batch, message: str) -> NoReturn:
    """A refusal that would come again: the step waits for a person instead of asking at every tick."""
    settle.release(session, batch, BatchState.REFUSED, error=message)
    session.store.holds.put(Hold(halt_scope(batch.position), None, 1, f"{batch.step} was refused: {message}"))
    session.trouble(StageStopped(f"{session.describe(batch)}: {message}", do="Mend the cause, then: batchgen retry"))
    raise Stop
