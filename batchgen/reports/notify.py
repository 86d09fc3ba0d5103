"""Tell someone once when a run is finished, or needs a person: `[notify]` in `batchgen.toml`.

A message has the state, counts and dollars: no text, no key, no path, no name. Each way (`url`, `command`) remembers in
the store which state it told last, and where.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from batchgen.core.errors import BatchgenError, NeedsPerson, SetupError
from batchgen.runtime.logging_setup import log

if TYPE_CHECKING:
    from batchgen.engine.session import Session

FINISHED, NEEDS_PERSON = "finished", "needs_person"
FAIL_SUFFIX = "{/fail}"  # in a URL: "/fail" if a person is needed, otherwise nothing
URL_SECONDS, COMMAND_SECONDS = 10, 60  # time-outs
NOT_NOW = frozenset({408, 425, 429, 500, 502, 503, 504})  # the next tick tries again


@contextmanager
def notifying(session: Session) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each tick. An error that ends the block is told too, and raised again."""
    try:
        yield partial(notify, session)
    except BatchgenError as error:
        with suppress(Exception):  # the user must see the first error
            session.trouble(error)
            notify(session)
        raise


def notify(session: Session) -> None:
    """Tell the state of the run in each configured way that has not told it yet.

    A call that fails logs a warning. It is repeated at the next tick only if it surely reached nobody.
    """
    settings = session.settings.notify
    if not (settings.url or settings.command):
        return
    from batchgen.ledger.status import status

    found = status(session.store, session.settings, session.now())
    state = _state(session, found)
    if settings.url:
        _tell(session, "url", settings.url, state, lambda: _post(settings.url, state, found))
    if settings.command:
        _tell(session, "command", settings.command, state, lambda: _run(settings.command, state))


def _state(session: Session, found: Mapping[str, Any]) -> str:
    """Return FINISHED, NEEDS_PERSON, or "" for a run that goes on by itself."""
    if found["finished"]:
        return FINISHED
    persons = any(isinstance(error, (NeedsPerson, SetupError)) for error in session.troubles)
    return NEEDS_PERSON if persons else ""


def _tell(session: Session, way: str, address: str, state: str, send: Callable[[], bool]) -> None:
    """Tell a state by `way`, unless it was told last, to the same address or command. The state "" is not told."""
    store, fact = session.store, f"notified:{way}"
    # Only a hash of the address: it is as good as a password to some services. Older programs stored the state alone.
    told = f"{state} {sha256(address.encode()).hexdigest()[:16]}"
    before = store.fact(fact) or ""
    if before in {state, told}:
        return
    if not state:
        # A temporary trouble may hide the other one for a tick.
        if not session.troubles:
            store.delete_fact(fact)
        return
    store.set_fact(fact, told)  # before the call: a kill in between must not make it twice
    if not send():
        store.set_fact(fact, before)


def _post(url: str, state: str, found: Mapping[str, Any]) -> bool:
    """POST the state as JSON. Returns False if it surely did not arrive."""
    import httpx

    body = {
        "state": state,
        "conversations": found["conversations"],
        "complete": found["complete"],
        "rejected": found["rejected"],
        "in_flight": sum(row["in_flight"] for row in found["steps"]),
        "usd": found["cost"]["spent_usd"],
    }
    address = url.replace(FAIL_SUFFIX, "/fail" if state == NEEDS_PERSON else "")
    try:
        with httpx.stream("POST", address, json=body, timeout=URL_SECONDS) as response:
            status = response.status_code
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        # Not the error's text: it may show the address, which is as good as a password to some services.
        log.warning("[notify] url could not be called: %s", type(error).__name__)
        unsent = (
            httpx.ConnectError,
            httpx.ConnectTimeout,
            httpx.ProxyError,
            httpx.InvalidURL,
            httpx.UnsupportedProtocol,
        )
        return not isinstance(error, unsent)
    if not httpx.codes.is_success(status):
        log.warning("[notify] url answered %d", status)
    return status not in NOT_NOW


def _run(command: str, state: str) -> bool:
    """Run the command without a shell and without our keys. Returns False if it could not be started."""
    import os
    import shlex
    import subprocess

    from batchgen.runtime.environment import SECRET_VARIABLES

    kept = {name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES}
    try:
        done = subprocess.run(  # noqa: S603 - the user's own command, from the user's own file
            shlex.split(command),
            env={**kept, "BATCHGEN_STATE": state},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        log.warning("[notify] command was stopped after %d s", COMMAND_SECONDS)
        return True
    except (OSError, ValueError) as error:
        log.warning("[notify] command could not be started: %s", error)
        return False
    if done.returncode:
        log.warning("[notify] command ended with status %d", done.returncode)
    return True
