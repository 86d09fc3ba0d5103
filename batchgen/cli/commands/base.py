"""What all commands share: global options, a session under the lock of the root, and printing an answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchgen.cli.exit_status import print_troubles
from batchgen.core.errors import BatchgenError, Locked, SetupError

if TYPE_CHECKING:
    from batchgen.core.dialogue import Step
    from batchgen.engine.session import Session
    from batchgen.ledger.store import Store
    from batchgen.runtime.files import Layout
    from batchgen.runtime.settings import Settings


class GlobalOptions:
    """The options before the command."""

    def __init__(self, root: Path, config: Path | None, *, verbose: bool, quiet: bool) -> None:
        self.root, self.config, self.verbose, self.quiet = root, config, verbose, quiet

    def settings(self) -> Settings:
        from batchgen.runtime.settings import load_settings

        return load_settings(self.root, self.config)


class NumberRange(click.FloatRange):
    """A range of numbers without NaN, which click takes for a number in any range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = super().convert(value, param, ctx)
        return self.fail(f"{value} is not a number.", param, ctx) if isnan(found) else found


@contextmanager
def open_session(context: GlobalOptions, *, create: bool = False) -> Iterator[Session]:
    """Open a session under the lock of the root. Only with `create` may the root have no run yet.

    At the end every recorded trouble is printed, and the worst is raised. Raises Locked if another command has the
    lock, SetupError if nothing is prepared, NeedsPerson for a lost store.
    """
    from batchgen.ledger.connection import translate_sqlite_errors
    from batchgen.runtime.files import Layout, exclusive_lock, is_there

    settings, layout = context.settings(), Layout(context.root)
    if not create and not is_there(layout.store):
        raise unprepared_error(layout.root)
    with (
        exclusive_lock(layout),
        translate_sqlite_errors(layout.store),
        _opened(layout, settings) as session,
        print_troubles(session.troubles),
        translate_sqlite_errors(layout.store),
    ):
        yield session


@contextmanager
def _opened(layout: Layout, settings: Settings) -> Iterator[Session]:
    """Open a session for writing. A new store is deleted again if an error leaves it without a run."""
    from batchgen.engine.session import Session
    from batchgen.ledger.store import Store
    from batchgen.runtime.environment import read_environment

    variables, new = read_environment(layout.root), not layout.store.exists()
    unused = False
    try:
        with Session(layout, settings, Store.open(layout.store), variables) as session:
            try:
                yield session
            except BaseException:
                with suppress(Exception):  # the user must see the first error, not that the store cannot be read
                    unused = new and not session.store.fact("run")
                raise
    finally:
        if unused:
            with suppress(OSError):
                layout.store.unlink()


@contextmanager
def open_read_only_session(context: GlobalOptions) -> Iterator[Session]:
    """Open a session that only reads, beside the command with the lock. Raises SetupError if nothing is prepared."""
    from batchgen.engine.session import Session
    from batchgen.ledger.connection import translate_sqlite_errors
    from batchgen.ledger.store import Store
    from batchgen.runtime.files import Layout, can_be_changed

    settings, layout = context.settings(), Layout(context.root)
    with translate_sqlite_errors(layout.store):
        store = Store.read(layout.store)
        if store is not None and store.is_copy and can_be_changed(layout):
            store.close()
            store = _migrate_store(layout)
        if store is None:
            raise unprepared_error(layout.root)
        with Session(layout, settings, store, {}) as session:
            require_prepared(session)
            yield session


@contextmanager
def open_session_or_read(context: GlobalOptions) -> Iterator[Session]:
    """Open a session in which no other command changes anything.

    It has the lock of the root if this user may write there; otherwise it only reads (`store.is_read_only`). Raises
    Locked if another command has the lock, SetupError if nothing is prepared.
    """
    from batchgen.runtime.files import Layout, can_be_changed, is_there, unchanging

    layout = Layout(context.root)
    if not is_there(layout.store) or can_be_changed(layout):
        with open_session(context) as session:
            require_prepared(session)
            yield session
    else:
        with unchanging(layout), open_read_only_session(context) as session:
            yield session


def _migrate_store(layout: Layout) -> Store | None:
    """Migrate the store of an older version, unless a command that runs now has done so."""
    from batchgen.ledger.store import Store
    from batchgen.runtime.files import exclusive_lock

    with suppress(Locked), exclusive_lock(layout):
        Store.open(layout.store).close()
    return Store.read(layout.store)


def require_prepared(session: Session) -> None:
    if not session.conversations:
        raise unprepared_error(session.layout.root)
    session.require_complete_store()


def select_steps(session: Session, stage: str | None, number: int | None) -> list[Step]:
    """Return the steps of the run with this `stage` and round `number`; None means any. Raises SetupError for an
    unknown round.
    """
    rounds = session.settings.rounds
    if number is not None and number > rounds:
        raise SetupError(
            f"--round {number}: this run has {rounds} rounds.", do=f"Round 1 is the seeds; 2 to {rounds} can be named."
        )
    return [step for step in session.all_steps() if stage in (None, step.stage) and number in (None, step.round)]


def unprepared_error(root: Path) -> BatchgenError:
    from batchgen.runtime.files import Layout, lost_store_error

    if lost := lost_store_error(Layout(root)):
        return lost
    return SetupError(f"Nothing is prepared in {root} yet.", do="Run: batchgen prepare --input aligner/aligner-20K")


def print_answer(value: Any, *, as_json: bool, text: str) -> None:
    """Print the command's answer to stdout; print nothing if there is nothing to tell (cron mails every line)."""
    if as_json:
        import json

        click.echo(json.dumps(value, ensure_ascii=False))
    elif text:
        click.echo(text)


json_option = click.option("--json", "as_json", is_flag=True, help="Answer as one JSON object.")
