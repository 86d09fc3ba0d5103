"""Implement `rehearse`: seeds through all steps with the real providers, and a table of what is assumed of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

import msgspec

from batchgen.cli.commands.base import print_answer
from batchgen.cli.exit_status import print_error, print_troubles
from batchgen.core.dialogue import STAGES
from batchgen.core.errors import BudgetReached, NeedsPerson, SetupError
from batchgen.core.outcomes import Usage
from batchgen.dataset.prepare import PrepareOptions, prepare
from batchgen.engine.maintenance import clean
from batchgen.engine.rehearsal import Rehearsal
from batchgen.engine.tick import FIRST_PAUSE_SECONDS, PAUSE_GROWTH, longest_pause, tick, tick_until_done
from batchgen.ledger.connection import translate_sqlite_errors
from batchgen.ledger.receipt import cost_summary
from batchgen.ledger.rows import SUBMITTED_STATES
from batchgen.ledger.store import Store
from batchgen.providers.assumptions.assumption import State
from batchgen.providers.assumptions.evidence import FOLDER, Record, read_record, record_path
from batchgen.reports.estimate import estimate
from batchgen.reports.progress import show_progress
from batchgen.runtime import clock
from batchgen.runtime.environment import read_environment
from batchgen.runtime.files import Layout, exclusive_lock
from batchgen.runtime.logging_setup import log
from batchgen.runtime.streams import table_width

if TYPE_CHECKING:
    from batchgen.cli.commands.base import GlobalOptions

ROUNDS = 3
CONVERSATIONS = 2
PROBE_USAGE = Usage(input=200, output=64)  # more than the two short requests of one provider's probes
DELETE = f"To begin again, delete ROOT/{FOLDER}."


def rehearse(context: GlobalOptions, conversations: int | None, max_usd: float, *, wait: bool, as_json: bool) -> int:
    """Begin a rehearsal or carry it on, and print its table. Returns the exit status: 1 if something needed is broken.

    Raises SetupError before anything is paid if it could cost more than `max_usd`.
    """
    with _opened(context, max_usd) as session:
        _prepare(session, conversations)
        _require_affordable(session, "--max-usd" if session.settings.max_usd == max_usd else "max_usd of batchgen.toml")
        try:
            if wait:
                _wait(session, live=not context.quiet and bool(table_width(sys.stderr)))
            else:
                tick(session, advance=True)
                session.look()
        finally:
            session.save()
        if session.record.finished:
            clean(session)  # nothing more is looked at: what was left at the providers would only fill their listings
        _print(session, as_json=as_json)
        for trouble in session.troubles:
            if isinstance(trouble, BudgetReached):
                trouble.do = "Allow more with --max-usd, and with max_usd of batchgen.toml if it is set there."
        if not any(row.needed and row.state == State.BROKEN for row in session.record.checks):
            return 0
        for trouble in session.troubles:
            print_error(trouble)
        session.troubles.clear()
    return 1


@contextmanager
def _opened(context: GlobalOptions, max_usd: float) -> Iterator[Rehearsal]:
    """Open the session in ROOT/rehearsal, with the settings, the keys and the addresses of ROOT."""
    own = context.settings()
    cap = min(max_usd, own.max_usd) if own.max_usd else max_usd
    settings = msgspec.structs.replace(own, rounds=ROUNDS, max_usd=cap)
    layout = Layout(context.root / FOLDER)
    environment = read_environment(context.root)
    with exclusive_lock(layout), translate_sqlite_errors(layout.store):
        record, store = read_record(context.root), Store.open(layout.store)
        if record is None or not store.fact("run"):  # without a run, the record is of a rehearsal that was deleted
            record = Record()
        with (
            Rehearsal(layout, settings, store, environment, record) as session,
            print_troubles(session.troubles),
            translate_sqlite_errors(layout.store),
        ):
            yield session


def _prepare(session: Rehearsal, conversations: int | None) -> None:
    """Fill the folder with shipped seeds, and pin a model for each stage. Raises SetupError."""
    before = session.conversations
    if before and conversations not in (None, before):
        raise SetupError(f"The rehearsal has {before} conversations already, not {conversations}.", do=DELETE)
    with as_file(files("batchgen") / "examples.jsonl") as examples:
        count = before or conversations or CONVERSATIONS
        prepare(session, PrepareOptions(str(examples), count, sample_seed=0, shuffle=False))
    for stage in STAGES:
        session.pin_model(stage)


def _require_affordable(session: Rehearsal, limit: str) -> None:
    """Raise SetupError if what is left to buy, in its longest form, could pass the budget, which `limit` sets."""
    paid, most = cost_summary(session.store, session.settings), session.settings.max_usd
    total, left = paid.spent_usd + paid.reserved_usd, [one for one in estimate(session) if one.requests]
    for one in left:
        rate = session.rate(one.provider, one.model)
        if rate is None:
            price = f'[prices."{one.provider}:{one.model}"] input = ..., output = ...'
            raise SetupError(
                f"{one.model} of {one.provider}: its price is unknown, so that {limit} cannot be checked.",
                do=f"Set it in batchgen.toml: {price} (USD per million tokens).",
            )
        ceiling = one.requests * session.settings.stage(one.step.stage).max_output_tokens
        total += rate.usd(Usage(input=one.input_tokens, output=ceiling))
    rates = (session.rate(*choice) for choice in {session.choice(stage) for stage in STAGES})
    total += sum(rate.usd(PROBE_USAGE) for rate in rates if rate)
    if left and total > most:
        raise SetupError(
            f"The rehearsal may cost ${total:.4f}, more than {limit} allows (${most:g}). Nothing was sent.",
            do=f"Allow more: {limit} {total * 1.1:.3f}",
        )
    if left:
        log.info("the rehearsal costs $%.4f at most", total)


def _wait(session: Rehearsal, *, live: bool) -> None:
    """Tick until the run and all probes have ended, or a person is needed."""
    with show_progress(session, live=live) as show:

        def look() -> None:
            session.look()
            show()

        tick_until_done(session, advance=True, sleep=clock.sleep, show=look)
    if session.pending:
        log.info("the dialogues are complete; waiting for the jobs that only the rehearsal made")
    pause = FIRST_PAUSE_SECONDS
    while session.pending and not any(isinstance(one, NeedsPerson | SetupError) for one in session.troubles):
        session.troubles.clear()
        clock.sleep(pause)
        pause = min(pause * PAUSE_GROWTH, longest_pause(session))
        session.look()


def _print(session: Rehearsal, *, as_json: bool) -> None:
    record, path = session.record, record_path(session.layout.root.parent)
    if as_json:
        value: dict[str, Any] = msgspec.to_builtins(record)
        del value["providers"]  # what was noted is in the file
        print_answer({**value, "file": str(path)}, as_json=True, text="")
        return
    from batchgen.reports.rehearsal_table import print_rehearsal

    flying = len(session.store.batches(*SUBMITTED_STATES))
    print_rehearsal(record, flying, path, table_width(sys.stdout), sys.stdout)
