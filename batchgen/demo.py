"""`serve` and `demo`: the local batch service in front of a model here, and the whole pipeline through it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen import clock
from batchgen.errors import SetupError
from batchgen.files import Layout, exclusive, write_durably
from batchgen.pipeline import wait
from batchgen.prepare import Options, prepare
from batchgen.progress import showing
from batchgen.providers import PROVIDERS
from batchgen.session import Session
from batchgen.settings import load
from batchgen.store import Store, translating
from batchgen.verify import verify

if TYPE_CHECKING:
    from batchgen.local.backends import Backend
    from batchgen.local.server import LocalService

log = logging.getLogger("batchgen")

DEMO_CONFIG = """\
# Short prompts and replies, because a small model on this machine reads and writes them.
history_messages = 2
[question]
max_output_tokens = 48
[answer]
max_output_tokens = 112
target_characters = 200
[correction]
max_output_tokens = 128
target_characters = 200
"""
NOTE = (
    "The text of a demo comes from a very small local model (SmolLM2, 135 million parameters). It shows how the"
    " pipeline works, not what the data will be like."
)


def make_backend(name: str, concurrency: int | None = None) -> Backend:
    """`smollm`, `scripted`, or the URL of an OpenAI-compatible server. Raises SetupError.

    `concurrency` rows are asked at once; None is the backend's own number.
    """
    from batchgen.local import backends, chat

    if name == "scripted":
        return backends.Scripted()
    if name.startswith(("http://", "https://")):
        return chat.OpenAICompatible(name, parallel=concurrency or chat.CONCURRENCY)
    if name == "smollm":
        return backends.SmolLM(parallel=concurrency or backends.SMOLLM_CONCURRENCY)
    raise SetupError(f"--backend {name!r} is unknown.", do="Use smollm, scripted, or http://HOST:PORT/v1.")


def serve(
    ports: tuple[int, int], backend: str, data_dir: Path | None, job_seconds: float, concurrency: int | None
) -> None:
    """Serve until Ctrl-C."""
    from batchgen.local.server import LocalService, run_service

    service = LocalService(
        make_backend(backend, concurrency),
        job_seconds=job_seconds,
        data_dir=data_dir,
        gemini_port=ports[0],
        together_port=ports[1],
        log=log.info,
    )

    run_service(service, ready=_announce)


def _announce(service: LocalService) -> None:
    log.info("export GOOGLE_GEMINI_BASE_URL=%s TOGETHER_BASE_URL=%s", service.gemini_url, service.together_url)
    log.info("export GEMINI_API_KEY=local TOGETHER_API_KEY=local NO_PROXY=127.0.0.1")


def demo(root: Path, conversations: int, backend: str, *, live: bool, say: Callable[[str], None]) -> None:
    """Grow shipped example seeds into dialogues through the local service, and show where they are and how one reads.

    A demo that was interrupted goes on where it was; a finished one is shown again.
    """
    from batchgen.local.server import LocalService

    say(NOTE)
    layout = Layout(root)
    config = root / "batchgen.toml"
    with exclusive(layout), translating(layout.store):
        if not config.exists():
            write_durably(config, [DEMO_CONFIG.encode()])
        with LocalService(make_backend(backend), job_seconds=1.0, data_dir=root / "service") as service:
            _grow(layout, service, conversations, live=live, say=say)


def _grow(layout: Layout, service: LocalService, conversations: int, *, live: bool, say: Callable[[str], None]) -> None:
    with _session(layout, _reaching(service)) as session, as_file(files("batchgen") / "examples.jsonl") as examples:
        done = prepare(session, Options(str(examples), conversations, sample_seed=0, shuffle=False))
        say(f"{done.conversations} example conversations in {layout.root}; each is grown by six requests.")
        with showing(session, live=live) as show:
            wait(session, advance=True, sleep=clock.sleep, show=show)
        if worst := session.worst():
            raise worst
        for problem in verify(session):
            log.warning("%s", problem)
        say(_report(session))


def _reaching(service: LocalService) -> Mapping[str, str]:
    """The environment that points both SDKs at the service, past any proxy."""
    os.environ["NO_PROXY"] = ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1,localhost"]))
    urls = {"gemini": service.gemini_url, "together": service.together_url}
    keys = {row.key_variable: "local-demo" for row in PROVIDERS.values()}
    return {**keys, **{row.url_variable: urls[row.name] for row in PROVIDERS.values()}}


@contextmanager
def _session(layout: Layout, environment: Mapping[str, str]) -> Iterator[Session]:
    session = Session(layout, load(layout.root), Store.open(layout.store), environment)
    try:
        yield session
    finally:
        session.close()


def _report(session: Session) -> str:
    """Where the files are, and the first finished conversation."""
    rounds = session.settings.rounds
    lines = ["", f"dataset:  {session.layout.history(rounds)}", f"rejected: {session.layout.rejected}"]
    lines += [f"requests: {session.layout.root / 'requests'}", f"results:  {session.layout.root / 'results'}"]
    lines.append(f"to read:  python cli.py --root {session.layout.root} report    # one HTML page")
    first = next(session.store.dialogues(rounds * 3), None)
    if first is None:
        return "\n".join([*lines, "", "No conversation was finished; see the rejected ones."])
    lines += ["", f"One finished conversation, {session.names().id(first.number)}:"]
    for number, turn in enumerate(first.turns, start=1):
        lines += ["", *(f"  {number} {name:<11}{_short(text)}" for name, text in turn._asdict().items())]
    return "\n".join(lines)


def _short(text: str, characters: int = 300) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= characters else flat[: characters - 1] + "…"
