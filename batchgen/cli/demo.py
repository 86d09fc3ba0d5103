"""Implement `demo`: the whole pipeline on the local batch service."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable, Mapping
from contextlib import closing
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen.cli.exit_status import print_troubles
from batchgen.cli.serving import make_backend
from batchgen.core.errors import SetupError
from batchgen.core.wording import as_invoked, pluralize
from batchgen.dataset.prepare import PrepareOptions, prepare
from batchgen.dataset.verify import verify
from batchgen.engine.session import Session
from batchgen.engine.tick import tick_until_done
from batchgen.ledger.connection import translate_sqlite_errors
from batchgen.ledger.store import Store
from batchgen.providers import PROVIDERS
from batchgen.reports.progress import show_progress
from batchgen.runtime import clock
from batchgen.runtime.files import Layout, exclusive_lock, write_durably
from batchgen.runtime.settings import load_settings

if TYPE_CHECKING:
    from batchgen.emulator.server import LocalService

log = logging.getLogger("batchgen")

EXAMPLES = "examples.jsonl"
DEMO_CONFIG = """\
# Short prompts and replies at a low temperature, because a small model on this machine reads and writes them.
history_messages = 2
[question]
max_output_tokens = 60
temperature = 0.4
[answer]
max_output_tokens = 80
target_characters = 150
temperature = 0.4
[correction]
max_output_tokens = 96
target_characters = 150
temperature = 0.4
"""
BACKEND_DESCRIPTIONS = {
    "smollm": "a very small local model (SmolLM2, 135 million parameters)",
    "scripted": "a script that answers with nonsense at once",
}


def demo(root: Path, conversations: int, backend: str, *, live: bool, say: Callable[[str], None]) -> None:
    """Grow example seeds into dialogues with the local service; show where the files are and one dialogue.

    An interrupted demo is continued; a finished one is shown again. Without a model nothing is written.
    """
    from batchgen.emulator.server import LocalService

    layout = Layout(root)
    config = root / "batchgen.toml"
    with closing(make_backend(backend)) as writer, exclusive_lock(layout), translate_sqlite_errors(layout.store):
        _require_no_other_run(layout)
        say(backend_note(backend))
        if not config.exists():
            write_durably(config, [DEMO_CONFIG.encode()])
        with LocalService(writer, job_seconds=1.0, data_dir=root / "service") as service:
            _run_pipeline(layout, service, conversations, live=live, say=say)


def _require_no_other_run(layout: Layout) -> None:
    """Raise SetupError if the folder has a run with other seeds: the demo would change its configuration and seeds."""
    if (store := Store.read(layout.store)) is None:
        return
    with closing(store):
        source = store.fact("source")
    if source and Path(source).name != EXAMPLES:
        raise SetupError(
            f"{layout.root} has a run with other seeds ({source}). Nothing was changed.",
            do="Choose another folder for the demo: batchgen demo --output DIR",
        )


def backend_note(backend: str) -> str:
    """Return who writes the texts of a demo, and what they are good for."""
    shows = "It shows how the pipeline works" + (
        ", not what the data will be like." if backend in BACKEND_DESCRIPTIONS else "."
    )
    return f"The text of this demo comes from {BACKEND_DESCRIPTIONS.get(backend, backend)}. {shows}"


def _run_pipeline(
    layout: Layout, service: LocalService, conversations: int, *, live: bool, say: Callable[[str], None]
) -> None:
    store = Store.open(layout.store)
    with (
        Session(layout, load_settings(layout.root), store, _service_environment(service)) as session,
        as_file(files("batchgen") / EXAMPLES) as examples,
    ):
        done = prepare(session, PrepareOptions(str(examples), conversations, sample_seed=0, shuffle=False))
        seeds = pluralize(done.conversations, "example conversation")
        say(f"{seeds} in {_relative_path(layout.root)}; each is grown by six requests.")
        with print_troubles(session.troubles), show_progress(session, live=live) as show:
            tick_until_done(session, advance=True, sleep=clock.sleep, show=show)
        for problem in verify(session):
            log.warning("%s", problem)
        say(_result_text(session))


def _service_environment(service: LocalService) -> Mapping[str, str]:
    """Return the environment that points both SDKs at the service, past any proxy."""
    os.environ["NO_PROXY"] = ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1,localhost"]))
    urls = {"gemini": service.gemini_url, "together": service.together_url}
    keys = {PROVIDERS[name].key_variable: "local-demo" for name in urls}
    return {**keys, **{PROVIDERS[name].url_variable: url for name, url in urls.items()}}


def _result_text(session: Session) -> str:
    """Return where the files are, and the first finished conversation."""
    rounds, layout = session.settings.rounds, session.layout
    lines = ["", f"dataset:  {_relative_path(layout.history(rounds))}", f"rejected: {_relative_path(layout.rejected)}"]
    lines += [
        f"requests: {_relative_path(layout.root / 'requests')}",
        f"results:  {_relative_path(layout.root / 'results')}",
    ]
    lines.append(
        as_invoked(
            f"to read:  batchgen --root {shlex.quote(str(_relative_path(layout.root)))} report    # one HTML page"
        )
    )
    first = next(session.store.dialogues.all(rounds * 3), None)
    if first is None:
        return "\n".join([*lines, "", "No conversation was finished; see the rejected ones."])
    lines += ["", f"One finished conversation, {session.names().id(first.number)}:"]
    for number, turn in enumerate(first.turns, start=1):
        lines += ["", *(f"  {number} {name:<11}{_short(text)}" for name, text in turn._asdict().items())]
    return "\n".join(lines)


def _relative_path(path: Path) -> Path:
    """Return a path as a user would type it here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _short(text: str, characters: int = 300) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= characters else flat[: characters - 1] + "…"
