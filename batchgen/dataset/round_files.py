"""Write the files that people read: `data/roundN/*.jsonl`, and in `data/` rejected.jsonl, audit.jsonl, receipt.json.

They are made from the store and can be written again at any time. A round file is replaced as a whole, atomically,
after a conversation completed that round; a large file at most once an hour, until the run is finished.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from zlib import crc32

from batchgen.core import pricing
from batchgen.core.dialogue import STAGES
from batchgen.ledger.rows import AUDIT_FACT, LIVE_STATES
from batchgen.ledger.run import Run
from batchgen.runtime.failpoints import failpoint
from batchgen.runtime.files import atomic_write, write_durably

ROUND, REJECTED, AUDIT, RECEIPT = "round", "rejected", "audit", "receipt"
PRICE_LIST = Path(pricing.__file__).with_name("prices.toml")
# The run fact with what the last receipt was made from, apart from what was billed: both price lists, and the steps.
RECEIPT_INPUTS_FACT = "receipt_prices"


# A file of at most SMALL_FILE_LINES lines is written again at once. A larger one is written when it is LARGE_SECONDS
# old, or when nothing is in flight or ready: the time of a tick must depend on what changed, not on the run's size.
SMALL_FILE_LINES = 20_000
LARGE_SECONDS = 3600.0


def write_due_files(run: Run) -> list[Path]:
    """Write the files that are missing, or older than the store and due. Returns what was written."""
    stale = run.store.outdated_files()
    written: list[Path] = []
    for name, lines, paths in _derived_files(run):
        there = all(path.exists() for path in paths)
        if not there or (
            name in stale and (lines <= SMALL_FILE_LINES or _old(run, paths) or not has_open_conversations(run))
        ):
            written += _write(run, name)
    if RECEIPT in stale or not run.layout.receipt.exists() or _receipt_inputs_changed(run):
        written += _write_receipt(run)
    return written


def write_outdated_files(run: Run) -> list[Path]:
    """Write all files that are older than the store, for a command that reads them. Missing files stay missing.

    Returns the files that stay older than the store, because it is open for reading only.
    """
    stale = run.store.outdated_files()
    waiting = [(name, paths) for name, _, paths in _derived_files(run) if name in stale]
    receipt_waits = RECEIPT in stale or _receipt_inputs_changed(run)
    if run.store.is_read_only:
        return [path for _, paths in waiting for path in paths] + [run.layout.receipt] * receipt_waits
    for name, _ in waiting:
        _write(run, name)
    if receipt_waits:
        _write_receipt(run)
    return []


def _derived_files(run: Run) -> Iterator[tuple[str, int, list[Path]]]:
    """Return (name, expected number of lines, paths) of each round's files, of the rejected list, and of the audit."""
    for number in range(1, run.settings.rounds + 1):
        if lines := _completed_up_to(run, number):
            yield f"{ROUND}{number}", lines, [run.layout.single_turn(number), run.layout.history(number)]
    yield REJECTED, run.store.totals.rejected(), [run.layout.rejected]
    if run.store.fact(AUDIT_FACT):
        yield AUDIT, 0, [run.layout.audit]


def _old(run: Run, paths: Sequence[Path]) -> bool:
    """Return whether the files were written LARGE_SECONDS ago, or in the future: then the clock was set back."""
    return any(not 0 <= run.now() - path.stat().st_mtime < LARGE_SECONDS for path in paths)


def _write(run: Run, name: str) -> list[Path]:
    from batchgen.dataset.round_lines import rejected_lines  # here and below: an idle tick writes nothing

    if name == REJECTED:
        paths = [run.layout.rejected]
        write_durably(run.layout.rejected, rejected_lines(run))
    elif name == AUDIT:
        from batchgen.dataset.audit.verdicts import audit_lines

        paths = [run.layout.audit]
        write_durably(run.layout.audit, audit_lines(run))
    else:
        paths = _write_round(run, int(name.removeprefix(ROUND)))
        failpoint("round_files_written")
    run.store.mark_up_to_date(name)
    return paths


def _write_receipt(run: Run) -> list[Path]:
    from batchgen.dataset.round_lines import receipt_line

    write_durably(run.layout.receipt, [receipt_line(run)])
    run.store.set_fact(RECEIPT_INPUTS_FACT, _receipt_inputs(run))
    run.store.mark_up_to_date(RECEIPT)
    return [run.layout.receipt]


def has_open_conversations(run: Run) -> bool:
    """Return whether any conversation is in flight or ready."""
    return bool(run.store.batches(*LIVE_STATES)) or any(map(run.store.ready_attempts, run.all_steps()))


def _receipt_inputs_changed(run: Run) -> bool:
    """Return whether the receipt was written for other prices or other steps, or by an older version."""
    return run.store.fact(RECEIPT_INPUTS_FACT) != _receipt_inputs(run)


def _receipt_inputs(run: Run) -> str:
    # Only a checksum of the price list is compared: an idle tick need not parse it.
    audit = " audit" if run.store.fact(AUDIT_FACT) else ""
    return f"{crc32(PRICE_LIST.read_bytes()):08x} {run.settings.prices!r} {run.settings.rounds}{audit}"


def _completed_up_to(run: Run, number: int) -> int:
    """Return how many conversations are complete up to that round."""
    return run.conversations if number == 1 else run.store.totals.settled_at(number * len(STAGES) - 1)[0]


def _write_round(run: Run, number: int) -> list[Path]:
    from batchgen.dataset.round_lines import round_lines

    single, history = run.layout.single_turn(number), run.layout.history(number)
    with atomic_write(history) as rounds, atomic_write(single) as turns:
        for its_turns, its_rounds in round_lines(run, number):
            turns.write(its_turns)
            rounds.write(its_rounds)
    return [single, history]
