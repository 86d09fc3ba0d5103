"""Commands and options. No logic: a command parses, calls one function, prints its value.

Nothing heavy is imported at the top: cron pays for every import at every tick.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchgen import __version__
from batchgen.dialogue import FIRST_ROUND, Stage
from batchgen.errors import BatchgenError, SetupError
from batchgen.exits import interrupted, os_error, speak_utf8, tell
from batchgen.outcomes import Reason
from batchgen.words import counted

if TYPE_CHECKING:
    from batchgen.session import Session
    from batchgen.settings import Settings

KEY_VARIABLES = ("GEMINI_API_KEY", "TOGETHER_API_KEY")
REASONS = [reason.value for reason in Reason if reason is not Reason.ACCEPTED]
EXPORT_FORMATS = ("messages", "sharegpt", "preference", "aligner", "parquet")


class Context:
    """The options before the command."""

    def __init__(self, root: Path, config: Path | None, *, verbose: bool, quiet: bool) -> None:
        self.root, self.config, self.verbose, self.quiet = root, config, verbose, quiet

    def settings(self) -> Settings:
        from batchgen.settings import load

        return load(self.root, self.config)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--root", type=click.Path(path_type=Path), envvar="BATCHGEN_ROOT", default=Path(), show_default="here")
@click.option("--config", type=click.Path(path_type=Path), help="Default: ROOT/batchgen.toml.")
@click.option("-v", "--verbose", is_flag=True, help="Log more, with times.")
@click.option("-q", "--quiet", is_flag=True, help="Log warnings only.")
@click.version_option(__version__, prog_name="batchgen")
@click.pass_context
def cli(context: click.Context, root: Path, config: Path | None, *, verbose: bool, quiet: bool) -> None:
    """Grow question/answer/correction triples into multi-turn dialogues over the Gemini and Together batch APIs.

    \b
    A first run, no key needed:
      batchgen demo
    A real one:
      batchgen prepare --input aligner/aligner-20K --limit 200
      batchgen submit --stage question
      batchgen collect --advance        # the cron line, until `batchgen status` says finished
      batchgen verify

    Exit status: 0 done or nothing to do, 1 verify found something, 2 usage or configuration, 3 needs a person,
    75 temporary trouble (the next tick goes on).
    """
    from batchgen.logs import configure, learn

    for name in KEY_VARIABLES:
        learn(os.environ.get(name, "").strip())
    configure(verbose=verbose, quiet=quiet)
    context.obj = Context(root.absolute(), config, verbose=verbose, quiet=quiet)


@contextmanager
def working(context: Context, *, create: bool = False) -> Iterator[Session]:
    """A session that holds the root's lock; only with `create` in a root that holds no run yet.

    Raises Locked when another command has the lock, SetupError when nothing is prepared.
    """
    from batchgen.files import Layout, exclusive
    from batchgen.session import Session
    from batchgen.settings import environment
    from batchgen.store import Store, translating

    settings, layout = context.settings(), Layout(context.root)
    if not create and not layout.store.exists():
        raise unprepared(layout.root)
    with exclusive(layout), translating(layout.store):
        session = Session(layout, settings, Store.open(layout.store), environment(context.root))
        try:
            yield session
        finally:
            session.close()


def prepared(session: Session) -> None:
    if not session.conversations:
        raise unprepared(session.layout.root)
    if session.store.meta("rebuilding"):
        raise SetupError("The store is half rebuilt.", do="Run it again: batchgen rebuild")


def unprepared(root: Path) -> SetupError:
    return SetupError(f"Nothing is prepared in {root} yet.", do="Run: batchgen prepare --input aligner/aligner-20K")


def refresh_files(session: Session) -> None:
    from batchgen.rounds import refresh

    refresh(session)


def answer(value: Any, *, as_json: bool, text: str) -> None:
    """The command's answer on stdout; nothing when there is nothing to tell (cron mails every line)."""
    if as_json:
        click.echo(json.dumps(value, ensure_ascii=False))
    elif text:
        click.echo(text)


def conclude(session: Session) -> None:
    """Tell every trouble that did not stop the command, and leave with the status of the worst."""
    worst = session.worst()
    for trouble in session.troubles:
        if trouble is not worst:
            tell(trouble)
    if worst is not None:
        raise worst


json_option = click.option("--json", "as_json", is_flag=True, help="Answer as one JSON object.")


# ---------------------------------------------------------------- the run


@cli.command()
@click.option("--input", "source", default="aligner/aligner-20K", show_default=True, help="A file or a dataset id.")
@click.option("--limit", type=click.IntRange(min=1), default=200, show_default=True, help="How many rows to draw.")
@click.option("--all", "everything", is_flag=True, help="Take every row, in file order.")
@click.option("--sample-seed", type=int, default=42, show_default=True, help="Seed of the random draw.")
@click.option("--no-shuffle", is_flag=True, help="Take the first rows in file order instead of drawing.")
@json_option
@click.pass_obj
def prepare(  # noqa: PLR0913 - one parameter an option
    context: Context, source: str, limit: int, *, everything: bool, sample_seed: int, no_shuffle: bool, as_json: bool
) -> None:
    """Read single-turn triples, keep the good ones, write round 1.

    \b
    Files: .jsonl, .json (array), .csv, each also .gz/.xz/.zst, and .parquet; or a Hugging Face dataset id.
      batchgen prepare --input train.jsonl.xz --limit 200
      batchgen prepare --input aligner/aligner-20K --all
    """
    from batchgen.prepare import Options, describe
    from batchgen.prepare import prepare as run

    options = Options(source, None if everything else limit, sample_seed, not no_shuffle)
    with working(context, create=True) as session:
        done = run(session, options)
        value, text = describe(done)
        answer(value, as_json=as_json, text=text)


@cli.command()
@json_option
@click.pass_obj
def estimate(context: Context, *, as_json: bool) -> None:
    """Tokens, dollars and batches per step, before anything is paid. No network."""
    from batchgen.estimate import describe
    from batchgen.estimate import estimate as run

    with working(context) as session:
        prepared(session)
        value, text = describe(session, run(session))
        answer(value, as_json=as_json, text=text)


@cli.command()
@click.option("--stage", type=click.Choice([stage.value for stage in Stage]), required=True, help="What to ask for.")
@click.option("--round", "number", type=click.IntRange(min=FIRST_ROUND), help="Only this round.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent and what it would cost; send nothing.")
@json_option
@click.pass_obj
def submit(context: Context, stage: str, number: int | None, *, dry_run: bool, as_json: bool) -> None:
    """Send every conversation that is ready for a stage: request files, uploads, batches.

    \b
      batchgen submit --stage question --dry-run
      batchgen submit --stage correction --round 2
    """
    from batchgen.pipeline import submit_steps
    from batchgen.previews import describe
    from batchgen.submit import preview

    with working(context) as session:
        prepared(session)
        wanted = [step for step in session.steps() if step.stage == stage and number in (None, step.round)]
        if not wanted:
            raise SetupError(f"Round {number} is not bought: this run has {session.settings.rounds} rounds.")
        if dry_run:
            value, text = describe(preview(session, wanted), show_request=context.verbose)
            answer(value, as_json=as_json, text=text)
            return
        sent = submit_steps(session, wanted)
        answer({"submitted": sent}, as_json=as_json, text=f"{counted(sent, 'batch')} submitted." if sent else "")
        ready = any(session.store.ready_attempts(step) for step in wanted)
        if not sent and not session.troubles and not as_json:
            click.echo(
                f"Nothing goes out for the {stage} stage now: see `batchgen status` for what it waits for."
                if ready
                else f"No conversation is ready for the {stage} stage.",
                err=True,
            )
        conclude(session)


@cli.command()
@click.option("--advance", is_flag=True, help="Then submit every stage that has become ready (the cron line).")
@click.option("--wait", is_flag=True, help="Keep polling until nothing is in flight; with --advance until finished.")
@json_option
@click.pass_obj
def collect(context: Context, *, advance: bool, wait: bool, as_json: bool) -> None:
    """Poll every batch in flight, read what has ended, write the round files.

    \b
      */5 * * * *  batchgen --root /data/run1 collect --advance
    """
    from batchgen.pipeline import tick

    with working(context) as session:
        prepared(session)
        if wait:
            _wait(session, context, advance=advance, as_json=as_json)
        else:
            done = tick(session, advance=advance)
            text = f"{counted(done.collected, 'batch')} collected, {done.submitted} submitted." if done.moved else ""
            answer(
                {"collected": done.collected, "submitted": done.submitted, "written": [str(p) for p in done.written]},
                as_json=as_json,
                text=text,
            )
        conclude(session)


@cli.command()
@click.pass_obj
def run(context: Context) -> None:
    """Everything that is left to do, in the foreground (`prepare` must have run).

    Ctrl-C loses nothing: run it again, or let cron go on with `collect --advance`.
    """
    with working(context) as session:
        prepared(session)
        _wait(session, context, advance=True, as_json=False)
        conclude(session)


def _wait(session: Session, context: Context, *, advance: bool, as_json: bool) -> None:
    from batchgen import clock
    from batchgen.pipeline import wait
    from batchgen.progress import showing, summary
    from batchgen.status import status as read

    live = sys.stderr.isatty() and not context.quiet
    with showing(session, live=live) as show:
        wait(session, advance=advance, sleep=clock.sleep, show=show)
    value = read(session.store, session.settings, session.now())
    answer(value, as_json=as_json, text=summary(value))


@cli.command()
@json_option
@click.pass_obj
def status(context: Context, *, as_json: bool) -> None:
    """Where every conversation and every batch is. Works beside other commands."""
    from batchgen import clock
    from batchgen.files import Layout
    from batchgen.status import as_text
    from batchgen.status import status as read
    from batchgen.store import Store, translating

    path = Layout(context.root).store
    with translating(path):
        store = Store.read(path)
        value = read(store, context.settings(), clock.now())
    answer(value, as_json=as_json, text=as_text(value))


@cli.command()
@json_option
@click.pass_obj
def receipt(context: Context, *, as_json: bool) -> None:
    """What was really paid, per step and model, beside the estimate. Works beside other commands.

    The same facts stand in data/receipt.json. What is in flight is not billed yet: see `batchgen status`.
    """
    from batchgen.dialogue import steps
    from batchgen.files import Layout
    from batchgen.receipt import as_text
    from batchgen.receipt import receipt as read
    from batchgen.store import Store, translating

    path, settings = Layout(context.root).store, context.settings()
    with translating(path):
        store = Store.read(path)
        if store is None:
            raise unprepared(context.root)
        value = read(store, settings, steps(settings.rounds))
    answer(value, as_json=as_json, text=as_text(value))


@cli.command()
@json_option
@click.pass_obj
def verify(context: Context, *, as_json: bool) -> None:
    """Check the finished dataset: schema, shape, and every text against the raw result line it came from."""
    from batchgen.verify import verify as run

    with working(context) as session:
        prepared(session)
        found = run(session)
        answer({"problems": found}, as_json=as_json, text="\n".join(found) or f"{session.layout.data}: all is well.")
        if found:
            sys.exit(1)


@cli.command()
@click.option("--format", "form", type=click.Choice(EXPORT_FORMATS), required=True, help="Who it is for.")
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help="A .jsonl or .parquet file, or a folder."
)
@click.option("--flags", default="keep", show_default=True, help="keep, or drop:NAME,... to leave flagged records out.")
@click.option("--test-share", type=click.FloatRange(0, 1, max_open=True), default=0.0, help="Split off a test set.")
@click.option("--split-seed", type=int, default=42, show_default=True, help="Seed of the split.")
@json_option
@click.pass_obj
def export(  # noqa: PLR0913 - one parameter an option
    context: Context, form: str, output: Path, flags: str, *, test_share: float, split_seed: int, as_json: bool
) -> None:
    """Write the finished dataset in a form that trainers read; into a folder, with its dataset card.

    \b
      batchgen export --format messages --output messages.jsonl
      batchgen export --format preference --output dpo --test-share 0.1 --flags drop:refusal:correction
      batchgen export --format parquet --output dialogues.parquet
    """
    from batchgen.export import Options, describe
    from batchgen.export import export as run

    options = Options(form, output.absolute(), flags, test_share, split_seed)
    with working(context) as session:
        prepared(session)
        value, text = describe(options, run(session, options))
        answer(value, as_json=as_json, text=text)


@cli.command()
@click.option("--stage", type=click.Choice([stage.value for stage in Stage]), help="Only this stage.")
@click.option("--round", "number", type=click.IntRange(min=FIRST_ROUND), help="Only this round.")
@click.option(
    "--reason",
    type=click.Choice(REASONS),
    metavar="REASON",
    help="Only conversations rejected for this reason (see data/rejected.jsonl).",
)
@json_option
@click.pass_obj
def retry(context: Context, stage: str | None, number: int | None, reason: str | None, *, as_json: bool) -> None:
    """Make rejected conversations ready again, with all their attempts before them, and lift halts of their steps.

    \b
      batchgen retry --stage correction --reason truncated
    """
    from batchgen.housekeeping import retry as run

    with working(context) as session:
        prepared(session)
        steps = [step for step in session.steps() if stage in (None, step.stage) and number in (None, step.round)]
        done = run(session, steps, reason)
        text = f"{counted(done.conversations, 'conversation')} ready again, {counted(done.halts, 'halt')} lifted."
        answer(done._asdict(), as_json=as_json, text=text)
        refresh_files(session)


@cli.command()
@json_option
@click.pass_obj
def cancel(context: Context, *, as_json: bool) -> None:
    """Ask the providers to stop every batch in flight. What they finished until then is still collected.

    What they did not finish is ready again: stop cron first, or the next `collect --advance` submits it.
    """
    from batchgen.housekeeping import cancel as run

    with working(context) as session:
        asked = run(session)
        answer({"cancelled": asked}, as_json=as_json, text=f"{counted(asked, 'batch')}: cancellation asked for.")
        conclude(session)


@cli.command()
@json_option
@click.pass_obj
def clean(context: Context, *, as_json: bool) -> None:
    """Delete input files and finished jobs at the providers. Touches nothing that this run did not create.

    Only what is settled goes: everything that came back is in `results/`. (Together has no call to delete a job.)
    """
    from batchgen.housekeeping import clean as run

    with working(context) as session:
        done = run(session)
        text = f"{counted(done.files, 'input file')} and {counted(done.jobs, 'finished job')} deleted."
        answer({"deleted": done.files, "jobs": done.jobs}, as_json=as_json, text=text)
        conclude(session)


@cli.command()
@click.argument("provider", type=click.Choice(["gemini", "together"]))
@click.argument("model", required=False)
@json_option
@click.pass_obj
def switch(context: Context, provider: str, model: str | None, *, as_json: bool) -> None:
    """Ask another model from now on: MODEL, or the next one of the provider's list that is served.

    A run stays with the model that it began with. When that model is gone its stages halt (status 3) until this
    command, or a changed list in batchgen.toml, names another. What is in flight stays where it is.

    \b
      batchgen switch together
      batchgen switch together Qwen/Qwen3.5-9B
    """
    from batchgen.housekeeping import switch as run

    with working(context) as session:
        prepared(session)
        chosen = run(session, provider, model)
        answer({"provider": provider, "model": chosen}, as_json=as_json, text=f"{provider}: {chosen} from now on.")


@cli.command()
@json_option
@click.pass_obj
def rebuild(context: Context, *, as_json: bool) -> None:
    """Build a lost store again from `requests/` and `results/` alone. No network, nothing is paid.

    \b
      mv data/batchgen.sqlite data/batchgen.sqlite.broken && batchgen rebuild && batchgen verify
    """
    from batchgen.rebuild import rebuild as run

    with working(context, create=True) as session:
        done = run(session)
        text = f"{counted(done.conversations, 'conversation')}, {counted(done.settled, 'batch')} settled again"
        text += f", {done.open} whose end is not known (see status)." if done.open else "."
        answer(done._asdict(), as_json=as_json, text=text)


@cli.command()
@json_option
@click.pass_obj
def doctor(context: Context, *, as_json: bool) -> None:
    """Check keys, addresses, proxy and CA, that each model is really served (a one-token call), limits and prices.

    \b
      batchgen doctor && batchgen submit --stage question
    """
    from batchgen.doctor import describe, examine, verdict
    from batchgen.settings import environment

    found = examine(context.settings(), environment(context.root))
    answer(found, as_json=as_json, text=describe(found))
    if problem := verdict(found):
        raise problem


# ---------------------------------------------------------------- the local service


@cli.command()
@click.option("--gemini-port", type=click.IntRange(0, 65535), default=8801, show_default=True)
@click.option("--together-port", type=click.IntRange(0, 65535), default=8802, show_default=True)
@click.option("--backend", default="smollm", show_default=True, help="smollm, scripted, or the URL of a chat server.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Keep files and jobs here across restarts.")
@click.option("--job-seconds", type=click.FloatRange(min=0), default=2.0, show_default=True, help="Least job duration.")
def serve(gemini_port: int, together_port: int, backend: str, data_dir: Path | None, job_seconds: float) -> None:
    """Both providers' batch APIs on this machine, in front of a small local model or any OpenAI-compatible server.

    \b
      batchgen serve --backend http://127.0.0.1:8000/v1     # vLLM, llama-server, Ollama, ...
      export GOOGLE_GEMINI_BASE_URL=http://127.0.0.1:8801 TOGETHER_BASE_URL=http://127.0.0.1:8802
      export GEMINI_API_KEY=local TOGETHER_API_KEY=local NO_PROXY=127.0.0.1
    """
    from batchgen.demo import serve as run

    run((gemini_port, together_port), backend, data_dir, job_seconds)


@cli.command()
@click.option("--conversations", type=click.IntRange(1, 36), default=10, show_default=True)
@click.option("--backend", default="smollm", show_default=True, help="smollm, scripted, or the URL of a chat server.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, help="Its root.")
@click.pass_obj
def demo(context: Context, conversations: int, backend: str, output: Path) -> None:
    """The whole pipeline on shipped example seeds, through the local service: no key, no network.

    The text comes from a very small model (SmolLM2, 135 million parameters) and is for demonstration only.
    """
    from batchgen.demo import demo as run

    live = sys.stderr.isatty() and not context.quiet
    run(output.absolute(), conversations, backend, live=live, say=click.echo)


def main(arguments: Sequence[str] | None = None, *, standalone_mode: bool = True) -> None:
    """The entry point: runs a command, and turns an error into a line and an exit status.

    `standalone_mode` is click's word; here it changes nothing, a success always returns.
    """
    del standalone_mode
    speak_utf8()
    try:
        code = cli.main(arguments, prog_name="batchgen", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except BatchgenError as error:
        tell(error)
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        code = interrupted(error)
    except OSError as error:
        code = os_error(error)
    if isinstance(code, int) and code:
        sys.exit(code)
