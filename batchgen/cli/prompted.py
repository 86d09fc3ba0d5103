"""Open the run, or an example in its place, for the command `prompts`, which only reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson

from batchgen.cli.commands.base import GlobalOptions, open_read_only_session
from batchgen.core.dialogue import Conversation, Turn
from batchgen.core.errors import SetupError
from batchgen.engine.session import Session
from batchgen.ledger.store import Store
from batchgen.runtime.files import Layout, is_there, lost_store_error


@contextmanager
def prompted_session(context: GlobalOptions, wanted: str | None) -> Iterator[tuple[Session, Conversation]]:
    """Open a session that only reads, and yield it with the conversation whose id is `wanted` (None: the first).

    If nothing is prepared, the session is empty and the conversation is an example. Raises SetupError for an id that
    the run does not have, BatchgenError if the store is lost.
    """
    if is_there(Layout(context.root).store):
        with open_read_only_session(context) as session:
            yield session, _find(session, wanted)
        return
    if lost := lost_store_error(Layout(context.root)):
        raise lost
    if wanted is not None:
        raise SetupError(f"--id {wanted}: nothing is prepared in {context.root} yet.", do="Leave out --id.")
    with TemporaryDirectory() as folder:
        layout = Layout(Path(folder))
        layout.store.parent.mkdir()
        with Session(layout, context.settings(), Store.open(layout.store), {}) as session:
            line = (files("batchgen") / "examples.jsonl").read_bytes().partition(b"\n")[0]
            yield session, Conversation(1, (Turn(**orjson.loads(line)),))


def _find(session: Session, wanted: str | None) -> Conversation:
    """Return a conversation of the run by its id. Raises SetupError if there is none."""
    names = session.names()
    digits = (names.id(1) if wanted is None else wanted).removeprefix("r1-")
    number = int(digits) if digits.isdecimal() and len(digits) <= max(names.digits, 1) else 0
    for found in session.store.dialogues.read([number] if number else []):
        return found
    do = f"The ids are {names.id(1)} to {names.id(session.conversations)}."
    raise SetupError(f"--id {wanted}: the run has no such conversation.", do=do)
