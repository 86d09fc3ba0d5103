"""Check the finished dataset. Reads only.

Every line of every file must be valid, in order, match its schema, and have the texts of the store. Every text bought
must be in the raw result line it came from. The files that `rebuild` needs must exist.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from batchgen.core.dialogue import STAGES, Stage
from batchgen.core.jsonl import split_lines
from batchgen.core.outcomes import Reason, validate_text
from batchgen.core.prompts import reply_fields
from batchgen.core.text import clean_text
from batchgen.core.wording import pluralize
from batchgen.dataset.audit.verdicts import audit_lines
from batchgen.dataset.manifest import manifest_matches
from batchgen.dataset.round_lines import histories, receipt_line, rejected_lines, single_turns
from batchgen.dataset.schemas import validator
from batchgen.ledger.rows import AUDIT_FACT, LIVE_STATES, Batch, BatchState
from batchgen.ledger.run import Run
from batchgen.ledger.status import status
from batchgen.providers import find_provider
from batchgen.runtime.files import hash_file, rebuild_command
from batchgen.runtime.logging_setup import log
from batchgen.runtime.progress_log import log_progress

if TYPE_CHECKING:
    from jsonschema_rs import Draft202012Validator

MOST_PROBLEMS = 100


def verify(run: Run, unchecked: Collection[Path] = ()) -> list[str]:
    """Return the problems, one line each, at most MOST_PROBLEMS; empty if there is none.

    Files in `unchecked` are known to be older than the store: a warning names them, and they are not checked.
    """
    if unchecked:
        log.warning(
            "Not checked, because they are older than the store and this user cannot write them again: %s",
            ", ".join(map(str, unchecked)),
        )
    problems: list[str] = []
    for problem in _problems(run, unchecked):
        problems.append(problem)
        if len(problems) == MOST_PROBLEMS:
            return [*problems, "... and perhaps more"]
    return problems


def _problems(run: Run, unchecked: Collection[Path]) -> Iterator[str]:
    if flaws := run.store.integrity_problems():
        yield f"{run.layout.store}: damaged ({flaws[0]}); build it again: {rebuild_command(run.layout.store)}"
        return
    yield from _check_finished(run)
    yield from _derived(run, unchecked)
    if not manifest_matches(run):
        yield f"{run.layout.root / 'requests'}: rebuild needs run.json and seeds.jsonl.zst of this run"
    batches = run.store.batches()
    for batch in log_progress(batches, f"of {len(batches):,} batches checked"):
        yield from _check_batch(run, batch)
    yield from _check_exports(run)


def _derived(run: Run, unchecked: Collection[Path]) -> Iterator[str]:
    """Return the files that are written from the store, except those in `unchecked`."""
    for number in range(1, run.settings.rounds + 1):
        if number > 1 and not run.store.totals.settled_at(number * len(STAGES) - 1)[0]:
            continue
        single, history = run.layout.single_turn(number), run.layout.history(number)
        if single not in unchecked:
            yield from _check_file(single, _split_lines(single_turns(run, number)), "single_turn", None)
        if history not in unchecked:
            yield from _check_file(history, _split_lines(histories(run, number)), "history", number)
    if run.layout.rejected not in unchecked:
        yield from _check_file(run.layout.rejected, rejected_lines(run), "rejected", None)
    if run.store.fact(AUDIT_FACT) and run.layout.audit not in unchecked:
        yield from _check_file(run.layout.audit, audit_lines(run), "audit", None)
    if run.layout.receipt not in unchecked:
        yield from _check_receipt(run)


def _split_lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the lines of blocks of lines."""
    for piece in pieces:
        yield from piece.splitlines(keepends=True)


def _check_receipt(run: Run) -> Iterator[str]:
    try:
        same = run.layout.receipt.read_bytes() == receipt_line(run)
    except OSError as error:
        yield f"{run.layout.receipt}: {error.strerror}"
        return
    if not same:
        yield f"{run.layout.receipt}: differs from the store"


def _check_exports(run: Run) -> Iterator[str]:
    """Check every export of this run that still exists."""
    # Here: these import polars, which the rest of `verify` does not need.
    from batchgen.dataset.export import written_exports
    from batchgen.dataset.verify_exports import verify_exports

    for path in written_exports(run):
        yield from verify_exports(path, run)


def _check_finished(run: Run) -> Iterator[str]:
    answer = status(run.store, run.settings, run.now())
    if answer["finished"]:
        return
    live = sum(batch["state"] in LIVE_STATES for batch in answer["batches"])
    waiting = answer["conversations"] - answer["complete"] - answer["rejected"]
    conversations, batches = pluralize(waiting, "conversation"), pluralize(live, "batch")
    yield f"not finished: {conversations} ready or in flight, {batches} in flight"


def _check_file(path: Path, expected: Iterator[bytes], schema: str, rounds: int | None) -> Iterator[str]:
    """Check a derived file line by line, against its schema and against the store."""
    try:
        stream = path.open("rb")
    except OSError as error:
        yield f"{path}: {error.strerror}"
        return
    check = validator(schema)
    with stream:
        lines = log_progress(zip_longest(stream, expected), f"lines of {path.name} checked")
        for number, (line, wanted) in enumerate(lines, start=1):
            if line is None:
                yield f"{path}:{number}: a line is missing"
            elif wanted is None:
                yield f"{path}:{number}: this line should not exist"
            else:
                yield from (f"{path}:{number}: {flaw}" for flaw in _check_line(line, wanted, check, rounds))


def _check_line(line: bytes, wanted: bytes, check: Draft202012Validator, rounds: int | None) -> Iterator[str]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        yield f"not JSON ({error})"
        return
    if not check.is_valid(value):
        yield from (error.message[:200] for error in check.iter_errors(value))
    if rounds is not None and isinstance(value, dict) and len(value.get("rounds", ())) != rounds:
        yield f"{len(value.get('rounds', ()))} rounds instead of {rounds}"
    if line != wanted:
        yield "differs from the store"


def _check_batch(run: Run, batch: Batch) -> Iterator[str]:
    """Check one batch: its request file is what was sent, and each text is in its raw results."""
    requests = run.layout.requests(batch.step, batch.name)
    if batch.job.intent_at is not None:
        if not requests.exists():
            yield f"{requests}: the request file is missing"
        elif hash_file(requests).sha256 != batch.plan.sha256:
            yield f"{requests}: differs from the file that was sent"
    ending = run.layout.ending(batch.step, batch.name)
    if batch.state == BatchState.COLLECTED and not ending.exists():
        yield f"{ending}: the ending of the batch is missing; rebuild needs it"
    accepted = list(run.store.dialogues.texts_from_batch(batch))
    if not accepted:
        return
    results = run.layout.results(batch.step, batch.name)
    if not results.exists():
        yield f"{results}: the result file of {len(accepted)} texts is missing"
        return
    raw, names = _raw_texts(run, batch), run.names()
    for number, step, text in accepted:
        key = names.key(number, batch.step, batch.attempt)
        if (step.stage, text) not in raw.get(key, ()):
            yield f"{names.id(number)} {step}: its text is not in any line {key!r} of {results}"


def _raw_texts(run: Run, batch: Batch) -> dict[str, set[tuple[Stage, str]]]:
    """Return the acceptable texts in the raw result files of a batch, by key.

    A text is what `validate_text` returns for the reply. Older versions did not remove thoughts and stored the whole
    reply.
    """
    provider, stage = find_provider(batch.provider), batch.step.stage
    fields = reply_fields(stage, follow_up=bool(batch.plan.follow_up))
    texts: dict[str, set[tuple[Stage, str]]] = {}
    for path in (run.layout.results(batch.step, batch.name), run.layout.errors(batch.step, batch.name)):
        for line in split_lines(path.read_bytes()) if path.exists() else ():
            raw = provider.reply(line, fields)
            for reply in (validate_text(stage, raw), raw._replace(text=clean_text(raw.text))):
                if reply.reason is Reason.ACCEPTED:
                    found = {(stage, reply.text), (Stage.QUESTION, reply.follow_up)}
                    texts.setdefault(reply.key, set()).update(found)
    return texts
